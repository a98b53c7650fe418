//! A plugin that does what a test says.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nri::api::{self, Event};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

/// Long enough for any machine; what is waited for comes at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A call that the plugin got.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    payload: Vec<u8>,
    stream: u32,
    /// In nanoseconds.
    pub(crate) timeout: u64,
}

impl Call {
    pub(crate) fn read<M: Message + Default>(&self) -> M {
        M::decode(self.payload.as_slice()).expect("the message of the call")
    }
}

type Waiting = Arc<Mutex<HashMap<u32, oneshot::Sender<Result<Vec<u8>, (u64, String)>>>>>;

pub(crate) struct Stub {
    calls: mpsc::UnboundedReceiver<Call>,
    pub(crate) writer: OwnedWriteHalf,
    waiting: Waiting,
    last: u32,
    reading: tokio::task::AbortHandle,
}

/// The bit of an event.
pub(crate) fn bit(event: Event) -> i32 {
    1 << (event as i32 - 1)
}

impl Stub {
    /// Connects and says nothing.
    pub(crate) async fn silent(socket: &Path) -> Self {
        let (reader, writer) = UnixStream::connect(socket).await.expect("the socket").into_split();
        let (sender, calls) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        let reading = tokio::spawn(read(reader, sender, waiting.clone())).abort_handle();
        Self { calls, writer, waiting, last: 0, reading }
    }

    /// Reads nothing any more, and stays connected.
    pub(crate) fn deafen(&self) {
        self.reading.abort();
    }

    /// Registers, and is configured to hear of these events; 0 for all.
    pub(crate) async fn registered(socket: &Path, (index, name): (&str, &str), events: i32) -> Self {
        let mut stub = Self::silent(socket).await;
        let request = api::RegisterPluginRequest {
            plugin_name: name.into(),
            plugin_idx: index.into(),
            nri_version: "v0.12.0".into(),
        };
        stub.call("RegisterPlugin", &request).await.expect("registered");
        let configure = stub.expect("Configure").await;
        stub.answer(&configure, &api::ConfigureResponse { events }).await;
        stub
    }

    /// Is let in, too.
    pub(crate) async fn joined(socket: &Path, name: (&str, &str), events: &[Event]) -> Self {
        let bits = events.iter().fold(0, |bits, event| bits | bit(*event));
        let mut stub = Self::registered(socket, name, bits).await;
        stub.synchronize().await;
        stub
    }

    /// Takes in all that there is, and wants nothing changed.
    pub(crate) async fn synchronize(&mut self) -> api::SynchronizeRequest {
        let call = self.expect("Synchronize").await;
        let all: api::SynchronizeRequest = call.read();
        self.answer(&call, &api::SynchronizeResponse { more: all.more, ..Default::default() }).await;
        all
    }

    /// The next call.
    pub(crate) async fn next(&mut self) -> Call {
        let next = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
        next.expect("a call in time").expect("a connection")
    }

    /// The next call, or nothing when the runtime has closed the connection.
    pub(crate) async fn next_if_any(&mut self) -> Option<Call> {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("a call or the end in time")
    }

    /// The next call, which has to be this one.
    pub(crate) async fn expect(&mut self, method: &str) -> Call {
        let call = self.next().await;
        assert_eq!(call.method, method);
        call
    }

    /// Waits until the runtime has closed the connection, and gives the calls that came before.
    pub(crate) async fn closed(&mut self) -> Vec<String> {
        let mut calls = Vec::new();
        let closed = async {
            while let Some(call) = self.calls.recv().await {
                calls.push(call.method);
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("the connection ends");
        calls
    }

    /// Whether nothing was asked so far.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    pub(crate) async fn answer(&mut self, call: &Call, answer: &impl Message) {
        let body = field(2, &answer.encode_to_vec());
        self.send(1, call.stream, 2, &body).await;
    }

    pub(crate) async fn refuse(&mut self, call: &Call, code: u8, why: &str) {
        let status = [vec![8, code], field(2, why.as_bytes())].concat();
        self.send(1, call.stream, 2, &field(1, &status)).await;
    }

    /// Calls the runtime.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<Vec<u8>, (u64, String)> {
        let answer = self.begin_call(method, message).await;
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time").expect("a connection")
    }

    /// Calls the runtime and doesn't wait.
    pub(crate) async fn begin_call(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> oneshot::Receiver<Result<Vec<u8>, (u64, String)>> {
        let (sender, answer) = oneshot::channel();
        let stream = self.next_stream();
        self.waiting.lock().unwrap().insert(stream, sender);
        self.send(2, stream, 1, &request(method, message)).await;
        answer
    }

    /// Calls the runtime and wants no answer; says whether the runtime is still there.
    pub(crate) async fn calls_on(&mut self, method: &str, message: &impl Message) -> bool {
        let stream = self.next_stream();
        self.send(2, stream, 1, &request(method, message)).await
    }

    fn next_stream(&mut self) -> u32 {
        self.last += if self.last == 0 { 1 } else { 2 };
        self.last
    }

    /// In frames of three bytes: nobody may rely on where they end. Says whether somebody takes them.
    async fn send(&mut self, connection: u32, stream: u32, kind: u8, body: &[u8]) -> bool {
        let length = u32::try_from(body.len()).unwrap();
        let message = [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], body].concat();
        let mut bytes = Vec::new();
        for part in message.chunks(3) {
            bytes.extend(connection.to_be_bytes());
            bytes.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend(part);
        }
        // One that was cut off may go on talking.
        self.writer.write_all(&bytes).await.is_ok()
    }
}

fn request(method: &str, message: &impl Message) -> Vec<u8> {
    let service = field(1, b"nri.pkg.api.v1alpha1.Runtime");
    [service, field(2, method.as_bytes()), field(3, &message.encode_to_vec())].concat()
}

/// A field of bytes as protocol buffers write it, with a number below 16.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        all.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    all.push(u8::try_from(length).unwrap());
    all.extend(bytes);
    all
}

/// The fields of a message by number: bytes, or a number as eight of them.
fn fields(mut bytes: &[u8]) -> HashMap<u64, Vec<u8>> {
    let number = |bytes: &mut &[u8]| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let (first, rest) = bytes.split_first().expect("a number");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    };
    let mut all = HashMap::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes);
        let value = number(&mut bytes);
        let content = match tag & 7 {
            2 => {
                let (content, rest) = bytes.split_at(usize::try_from(value).unwrap());
                bytes = rest;
                content.to_vec()
            }
            _ => value.to_be_bytes().to_vec(),
        };
        all.insert(tag >> 3, content);
    }
    all
}

fn number(bytes: Option<&Vec<u8>>) -> u64 {
    bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.as_slice().try_into().unwrap()))
}

/// Frames are put together by connection, and messages by their lengths.
async fn read(mut socket: impl AsyncReadExt + Unpin, calls: mpsc::UnboundedSender<Call>, waiting: Waiting) {
    let mut streams: HashMap<u32, Vec<u8>> = HashMap::new();
    while let (Ok(connection), Ok(length)) = (socket.read_u32().await, socket.read_u32().await) {
        let mut part = vec![0; length as usize];
        if socket.read_exact(&mut part).await.is_err() {
            return;
        }
        let bytes = streams.entry(connection).or_default();
        bytes.extend(part);
        while bytes.len() >= 10 {
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            if bytes.len() < 10 + length {
                break;
            }
            let message: Vec<u8> = bytes.drain(..10 + length).collect();
            let stream = u32::from_be_bytes(message[4..8].try_into().unwrap());
            let body = fields(&message[10..]);
            match (connection, message[8]) {
                (1, 1) => {
                    let text =
                        |number| String::from_utf8(body.get(&number).cloned().unwrap_or_default()).unwrap();
                    assert_eq!(text(1), "nri.pkg.api.v1alpha1.Plugin");
                    let payload = body.get(&3).cloned().unwrap_or_default();
                    let call = Call { method: text(2), payload, stream, timeout: number(body.get(&4)) };
                    if calls.send(call).is_err() {
                        return;
                    }
                }
                (2, 2) => {
                    let status = body.get(&1).map(|status| fields(status)).unwrap_or_default();
                    let why = String::from_utf8(status.get(&2).cloned().unwrap_or_default()).unwrap();
                    let answer = match number(status.get(&1)) {
                        0 => Ok(body.get(&2).cloned().unwrap_or_default()),
                        code => Err((code, why)),
                    };
                    if let Some(waits) = waiting.lock().unwrap().remove(&stream) {
                        let _gone = waits.send(answer);
                    }
                }
                other => panic!("a message of {other:?}"),
            }
        }
    }
}
