//! A container's input that is for one (`stdin_once`): when one of its clients has gone it has ended for all of them.
//!
//! Each has a descriptor of the same pipe, which would stay open for as long as one of them does. All of a container's are here, so
//! that whoever goes takes the others' along, whatever those wait for.
//!
//! Not here: the supervisor's end of the pipe, which it closes when it hears of the first that has gone.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWrite;
use tokio::net::unix::pipe::Sender;

use super::io::Input;

/// The input of one container.
#[derive(Debug, Default)]
pub(crate) struct InputForOne(Mutex<State>);

#[derive(Debug)]
enum State {
    /// Who writes there, by number.
    Open(Vec<Writer>),
    /// One of them has gone.
    Ended,
}

impl Default for State {
    fn default() -> Self {
        Self::Open(Vec::new())
    }
}

#[derive(Debug)]
struct Writer {
    sender: Sender,
    /// Who waits for room.
    waiting: Option<Waker>,
}

impl InputForOne {
    /// Somebody more who writes, with the pipe's writing end; `None` when it has ended meanwhile. To be called within a runtime.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(crate) fn open(self: &Arc<Self>, writing: OwnedFd) -> io::Result<Option<Input>> {
        let sender = Sender::from_owned_fd(writing)?;
        let State::Open(writers) = &mut *self.state() else { return Ok(None) };
        writers.push(Writer { sender, waiting: None });
        Ok(Some(Input::for_one(self.clone(), writers.len() - 1)))
    }

    /// Ends it for all.
    pub(super) fn end(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Ended);
        if let State::Open(writers) = before {
            writers.into_iter().filter_map(|writer| writer.waiting).for_each(Waker::wake);
        }
    }

    pub(super) fn poll_write(
        &self,
        number: usize,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        let writer = match &mut *state {
            State::Open(writers) => writers.get_mut(number),
            State::Ended => None,
        };
        let Some(writer) = writer else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        let written = Pin::new(&mut writer.sender).poll_write(context, bytes);
        writer.waiting = written.is_pending().then(|| context.waker().clone());
        written
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
