//! One plugin's socket: calls in both directions at a time.
//!
//! Whoever made it runs [`Connection::run`], which reads until the end; calls are made from anywhere. What can't be read, or a socket that
//! takes nothing in, ends the connection: then every call that waits is told why.
//!
//! Not here: which calls there are (see `plugin`, `session`), and how long one may take, which the caller says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::trunk;
use crate::ttrpc::{Assembler, Frame, Request, Response, Status, code};

/// How many calls of a plugin are worked at at a time; further ones are refused.
const CALLS: usize = 8;

/// How long a plugin may take to take an answer in.
const ANSWER: Duration = Duration::from_secs(2);

/// What is read at a time, in bytes.
const PIECE: usize = 8 << 10;

/// What a plugin may call.
#[async_trait]
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers a call with the bytes of its message.
    async fn call(&self, request: Request) -> Result<Vec<u8>, Status>;
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum CallError {
    /// The plugin says no.
    #[error("{}", .0.message)]
    Refused(Status),
    /// The question is longer than a message may be.
    #[error("a message that is too long")]
    TooLong,
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// Each answer was in time, and all of them together took too long.
    #[error("others have waited for its answers for {0:?}")]
    Slow(Duration),
    /// The connection has ended.
    #[error("{0}")]
    Gone(String),
}

/// A connection to a plugin. Cloning gives another handle to the same one.
#[derive(Clone)]
pub(crate) struct Connection {
    service: &'static str,
    writer: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    calls: Arc<Mutex<Calls>>,
    ended: Arc<Notify>,
}

#[derive(Default)]
struct Calls {
    last: u32,
    waiting: HashMap<u32, oneshot::Sender<Response>>,
    /// Why there can be no more of them.
    ended: Option<String>,
}

impl Connection {
    /// A connection on a socket, whose other end serves `service`. The half that reads is for [`Connection::run`].
    pub(crate) fn new(socket: UnixStream, service: &'static str) -> (Self, OwnedReadHalf) {
        let (reader, writer) = socket.into_split();
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        (Self { service, writer, calls: Arc::default(), ended: Arc::default() }, reader)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it has ended, if it has.
    pub(crate) fn ended(&self) -> Option<String> {
        self.calls().ended.clone()
    }

    /// Ends it, unless it has ended. Whoever waits for an answer is told why.
    pub(crate) fn end(&self, why: impl Into<String>) {
        let mut calls = self.calls();
        calls.ended.get_or_insert_with(|| why.into());
        calls.waiting.clear();
        drop(calls);
        self.ended.notify_one();
    }

    /// Asks the plugin. Safe to cancel, but for the connection, which has to end when the question was sent in part.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Late`] the connection is of no use any more: the caller ends it.
    pub(crate) async fn call<A: Message + Default>(
        &self,
        method: &str,
        question: &impl Message,
        patience: Duration,
    ) -> Result<A, CallError> {
        let request = Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            payload: question.encode_to_vec(),
            timeout_nano: i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let answer = tokio::time::timeout(patience, self.exchange(request)).await;
        let response = answer.map_err(|_| CallError::Late(patience))??;
        if let Some(status) = response.status.filter(|status| status.code != 0) {
            return Err(CallError::Refused(status));
        }
        let gone = |error: prost::DecodeError| {
            CallError::Gone(format!("an answer to {method} that is none: {error}"))
        };
        crate::bounds::check(method, &response.payload)
            .map_err(|why| CallError::Gone(format!("an answer to {method}: {why}")))?;
        A::decode(response.payload.as_slice()).map_err(gone)
    }

    async fn exchange(&self, request: Request) -> Result<Response, CallError> {
        let answer = {
            if let Some(why) = self.ended() {
                return Err(CallError::Gone(why));
            }
            let mut writer = self.writer.lock().await;
            let (stream, answer) = self.enter()?;
            let Some(bytes) = Frame::Request(stream, request).encode() else {
                self.calls().waiting.remove(&stream);
                return Err(CallError::TooLong);
            };
            write(&mut writer, trunk::PLUGIN, &bytes)
                .await
                .map_err(|error| CallError::Gone(error.to_string()))?;
            answer
        };
        answer.await.map_err(|_| CallError::Gone(self.ended().unwrap_or_default()))
    }

    /// Numbers a call. To be done by whoever holds the writer: the numbers have to go up on the wire.
    fn enter(&self) -> Result<(u32, oneshot::Receiver<Response>), CallError> {
        let mut calls = self.calls();
        if let Some(why) = &calls.ended {
            return Err(CallError::Gone(why.clone()));
        }
        let next = if calls.last == 0 { Some(1) } else { calls.last.checked_add(2) };
        let stream = next.ok_or_else(|| CallError::Gone("it has been asked too often".into()))?;
        calls.last = stream;
        let (sender, answer) = oneshot::channel();
        calls.waiting.insert(stream, sender);
        Ok((stream, answer))
    }

    /// Reads until the connection ends, and says why it did. Not safe to cancel: what was read so far would be lost.
    pub(crate) async fn run(&self, mut socket: OwnedReadHalf, service: Arc<dyn Service>) -> String {
        let mut reading = Reading::new(self, service);
        let mut piece = vec![0; PIECE];
        let why = loop {
            tokio::select! {
                biased;
                () = self.ended.notified() => break self.ended().unwrap_or_default(),
                read = socket.read(&mut piece) => match read {
                    Ok(0) => break "it closed the connection".to_owned(),
                    Ok(length) => if let Err(why) = reading.take(&piece[..length]) { break why },
                    Err(error) => break error.to_string(),
                },
                Some(_) = reading.work.join_next() => {}
            }
        };
        self.end(why);
        // One that is being written to a plugin that doesn't read has the writer.
        drop(reading);
        let _not_connected = self.writer.lock().await.shutdown().await;
        self.ended().unwrap_or_default()
    }

    fn answered(&self, stream: u32, response: Response) {
        // One that nobody waits for is too late, or was never asked for: it harms nobody.
        if let Some(waits) = self.calls().waiting.remove(&stream) {
            let _has_gone = waits.send(response);
        }
    }

    async fn answer(&self, stream: u32, response: Response) {
        let failed = |why: &str| Response {
            status: Some(Status { code: code::RESOURCE_EXHAUSTED, message: why.to_owned() }),
            payload: Vec::new(),
        };
        let bytes = Frame::Response(stream, response).encode();
        let bytes = bytes.or_else(|| Frame::Response(stream, failed("an answer that is too long")).encode());
        let written = async {
            let mut writer = self.writer.lock().await;
            write(&mut writer, trunk::RUNTIME, &bytes.unwrap_or_default()).await
        };
        match tokio::time::timeout(ANSWER, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.end(error.to_string()),
            Err(_) => self.end("it doesn't take its answers"),
        }
    }
}

async fn write(writer: &mut OwnedWriteHalf, connection: u32, message: &[u8]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(message.len() + 16);
    trunk::wrap(connection, message, &mut bytes);
    writer.write_all(&bytes).await
}

/// What has been read so far, and the calls that are worked at.
struct Reading<'a> {
    connection: &'a Connection,
    service: Arc<dyn Service>,
    work: JoinSet<()>,
    trunk: trunk::Reader,
    answers: Assembler,
    requests: Assembler,
}

impl<'a> Reading<'a> {
    fn new(connection: &'a Connection, service: Arc<dyn Service>) -> Self {
        let (trunk, answers, requests) = Default::default();
        Self { connection, service, work: JoinSet::new(), trunk, answers, requests }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some((connection, mut part)) =
            self.trunk.next(&mut bytes).map_err(|error| error.to_string())?
        {
            while let Some(frame) = self.frame(connection, &mut part)? {
                match (connection, frame) {
                    (trunk::PLUGIN, Frame::Response(stream, response)) => {
                        self.connection.answered(stream, response);
                    }
                    (trunk::RUNTIME, Frame::Request(stream, request)) => self.called(stream, request),
                    (_, _) => {
                        return Err("a call on the connection for answers, or the other way round".into());
                    }
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, connection: u32, part: &mut &[u8]) -> Result<Option<Frame>, String> {
        let assembler = match connection {
            trunk::PLUGIN => &mut self.answers,
            trunk::RUNTIME => &mut self.requests,
            // Nobody listens there, as with the other side.
            _ => return Ok(None),
        };
        assembler.next(part).map_err(|error| error.to_string())
    }

    fn called(&mut self, stream: u32, request: Request) {
        let (connection, service) = (self.connection.clone(), self.service.clone());
        let is_full = self.work.len() >= CALLS;
        if self.work.len() >= 2 * CALLS {
            // It doesn't read its answers either.
            return self.connection.end("it calls more often than it takes answers");
        }
        self.work.spawn(async move {
            let answered = match is_full {
                false => service.call(request).await,
                true => {
                    Err(Status { code: code::RESOURCE_EXHAUSTED, message: "too many calls at a time".into() })
                }
            };
            let response = match answered {
                Ok(payload) => Response { status: None, payload },
                Err(status) => Response { status: Some(status), payload: Vec::new() },
            };
            connection.answer(stream, response).await;
        });
    }
}
