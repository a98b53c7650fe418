//! What is asked of a pod's actor.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::Span;

use crate::container::config::ContainerConfig;
use crate::error::Error;
use crate::id::ContainerId;
use crate::pod::config::PodConfig;
use crate::pod::limits::PodResources;
use crate::resources::Resources;

/// Wishes that may wait in a pod's mailbox; who comes then is told so.
pub(crate) const MAILBOX: usize = 256;

/// Where an answer goes. Nobody waiting for it any more is no failure: the work is done all the same.
pub(crate) struct Reply {
    send: Box<dyn FnOnce(Result<(), Error>) + Send>,
    /// The request that it answers: what is done for it is done within its span.
    request: Span,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

impl Reply {
    /// A reply and its receiving end, which turns success into this value.
    pub(crate) fn channel<T: Send + 'static>(value: T) -> (Self, oneshot::Receiver<Result<T, Error>>) {
        let (sender, receiver) = oneshot::channel();
        let send = move |outcome: Result<(), Error>| {
            let _nobody_waits = sender.send(outcome.map(|()| value));
        };
        (Self { send: Box::new(send), request: Span::current() }, receiver)
    }

    /// A reply with the id that success is turned into.
    pub(crate) fn with_id((sender, request): Asker, id: ContainerId) -> Self {
        let send = move |outcome: Result<(), Error>| {
            let _nobody_waits = sender.send(outcome.map(|()| id));
        };
        Self { send: Box::new(send), request }
    }

    pub(crate) fn request(&self) -> &Span {
        &self.request
    }

    pub(crate) fn send(self, outcome: Result<(), Error>) {
        (self.send)(outcome);
    }
}

/// Where the id of a container goes that is to be made, and the span of the request.
pub(crate) type Asker = (oneshot::Sender<Result<ContainerId, Error>>, Span);

/// A wish.
pub(crate) enum Wish {
    /// To be told when the pod is ready, if it is made from the same request.
    Join { config: Arc<PodConfig>, reply: Reply },
    /// To be stopped.
    Stop(Reply),
    /// To be removed.
    Remove(Reply),
    /// To have a container made.
    Create { config: Box<ContainerConfig>, asker: Asker },
    /// Something of a container.
    Container { id: ContainerId, wish: ContainerWish, reply: Reply },
    /// To change a container's limits.
    Update { id: ContainerId, resources: Box<Resources>, reply: Reply },
    /// To change the pod's own limits.
    UpdatePod { limits: Box<PodResources>, reply: Reply },
    /// To end the actor, not the pod.
    Quit,
}

impl Wish {
    /// Answers that it will not be done.
    pub(crate) fn refuse(self, why: Error) {
        match self {
            Self::Join { reply, .. }
            | Self::Stop(reply)
            | Self::Remove(reply)
            | Self::Container { reply, .. }
            | Self::Update { reply, .. }
            | Self::UpdatePod { reply, .. } => reply.send(Err(why)),
            Self::Create { asker: (sender, _), .. } => {
                let _nobody_waits = sender.send(Err(why));
            }
            Self::Quit => {}
        }
    }
}

/// What is asked of a container.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ContainerWish {
    /// To be started.
    Start,
    /// To be stopped.
    Stop { grace: Duration },
    /// To be removed.
    Remove,
}
