//! Changes that the kernel is asked for at once: one system call for all of them, and a name for the one that fails.

use super::netlink::{Message, Socket};
use crate::error::Error;

/// Changes in their order, each as an action on a subject.
#[derive(Debug, Default)]
pub(super) struct Steps {
    messages: Vec<Message>,
    actions: Vec<(&'static str, String)>,
}

impl Steps {
    /// Adds a change.
    pub(super) fn push(&mut self, action: &'static str, subject: impl ToString, message: Message) {
        self.messages.push(message);
        self.actions.push((action, subject.to_string()));
    }

    /// Has them made. All are tried; the first that fails is returned.
    pub(super) fn run(mut self, socket: &mut Socket) -> Result<(), Error> {
        if self.messages.is_empty() {
            return Ok(());
        }
        socket.request_all(self.messages).map_err(|refused| {
            let (action, subject) = self.actions.swap_remove(refused.index.min(self.actions.len() - 1));
            Error::Kernel { action, subject, source: refused.source }
        })
    }
}
