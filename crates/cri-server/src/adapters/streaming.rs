//! `sandbox` as the backend that `streaming` asks for.
//!
//! Not here: what clients speak, which is `streaming`'s, and how a process comes to run, which is `sandbox`'s.

use async_trait::async_trait;
use futures::FutureExt;
use sandbox::{End, Pods, StreamChoice, StreamSession};
use streaming::{AttachRequest, Backend, Duplex, Ended, ExecRequest, Failure, Session, Size, Streams};

use crate::chain;

/// Runs commands in the node's containers, attaches to them, and connects to ports of its pods.
pub(crate) struct PodStreams(pub(crate) Pods);

#[async_trait]
impl Backend for PodStreams {
    async fn exec(&self, request: &ExecRequest) -> Result<Session, Failure> {
        let command = request.command.clone();
        let begun = self.0.exec(&request.container, command, choice(request.streams)).await;
        begun.map(session).map_err(|error| failure(&error))
    }

    async fn attach(&self, request: &AttachRequest) -> Result<Session, Failure> {
        let attached = self.0.attach(&request.container, choice(request.streams)).await;
        attached.map(session).map_err(|error| failure(&error))
    }

    async fn connect(&self, pod: &str, port: u16) -> Result<Box<dyn Duplex>, Failure> {
        let connected = self.0.connect(pod, port).await;
        connected.map(|stream| Box::new(stream) as _).map_err(|error| failure(&error))
    }
}

fn failure(error: &sandbox::Error) -> Failure {
    Failure(chain(error))
}

fn choice(streams: Streams) -> StreamChoice {
    let Streams { stdin, stdout, stderr, tty } = streams;
    StreamChoice { stdin, stdout, stderr, terminal: tty }
}

fn session(session: StreamSession) -> Session {
    let StreamSession { stdin, stdout, stderr, terminal, mut ending } = session;
    let resize = terminal.map(|terminal| -> streaming::Resize {
        Box::new(move |Size { columns, rows }| {
            if let Err(error) = terminal.resize(columns, rows) {
                tracing::debug!(error = chain(&error), "changing the size of a terminal");
            }
        })
    });
    let ended = async move {
        match ending.ended().await {
            Ok(End::Exited(code)) => Ok(Ended::Exited(code)),
            Ok(End::OutputEnded) => Ok(Ended::Detached(None)),
            Ok(End::TooSlow) => Ok(Ended::Detached(Some(
                "its output was not read fast enough, and goes on without you".into(),
            ))),
            Err(error) => Err(failure(&error)),
        }
    };
    Session {
        stdin: stdin.map(|input| Box::new(input) as _),
        stdout: stdout.map(|output| Box::new(output) as _),
        stderr: stderr.map(|output| Box::new(output) as _),
        resize,
        ended: ended.boxed(),
    }
}
