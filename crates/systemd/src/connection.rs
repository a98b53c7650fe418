//! One connection to a bus: let in, named, and read by a task of its own until it breaks or is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::message::{self, Body, Call, Message, PREAMBLE, Writer};
use crate::{Error, address};

/// The bus itself.
const BUS: (&str, &str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");

/// Only the ends of jobs are of use here, and they are few; a unit's properties change all the time.
const MATCH: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
                     interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// The longest line of the talk before messages.
const LONGEST_LINE: u64 = 4096;

/// The end of a job: the job's path and its result.
pub(crate) type JobEnd = (String, String);

/// What a call is answered with: values, or an error's name and text.
type Answer = Result<Body, (String, String)>;

/// Who waits for what.
#[derive(Debug, Default)]
struct Waiting {
    calls: HashMap<u32, oneshot::Sender<Answer>>,
    /// By unit.
    jobs: HashMap<String, mpsc::UnboundedSender<JobEnd>>,
    /// The connection has ended; nobody will be answered any more.
    is_over: bool,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Arc<Mutex<Waiting>>,
    serial: AtomicU32,
    reader: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Ends of jobs of one unit. Dropping it ends the interest.
pub(crate) struct Jobs<'a> {
    connection: &'a Connection,
    unit: String,
    ends: mpsc::UnboundedReceiver<JobEnd>,
}

impl Jobs<'_> {
    /// The result of a job. Safe to cancel.
    pub(crate) async fn result(&mut self, job: &str) -> Result<String, Error> {
        loop {
            match self.ends.recv().await {
                Some((ended, result)) if ended == job => return Ok(result),
                Some(_another) => {}
                None => return Err(Error::Closed),
            }
        }
    }
}

impl Drop for Jobs<'_> {
    fn drop(&mut self) {
        lock(&self.connection.waiting).jobs.remove(&self.unit);
    }
}

impl Connection {
    /// Connects, and asks for the ends of jobs. Safe to cancel.
    pub(crate) async fn open(bus: &str) -> Result<Self, Error> {
        let socket = address::parse(bus)?;
        let failed = |cause| Error::Connect { address: bus.to_owned(), cause };
        let (reader, mut writer) = UnixStream::connect(socket).await.map_err(failed)?.into_split();
        let mut reader = BufReader::new(reader);
        authenticate(bus, &mut reader, &mut writer).await?;
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let task = tokio::spawn(read_all(reader, waiting.clone()));
        let connection = Self {
            writer: tokio::sync::Mutex::new(writer),
            waiting,
            serial: AtomicU32::new(1),
            reader: task,
        };
        let (destination, path, interface) = BUS;
        let call = |member, signature, body| Call { destination, path, interface, member, signature, body };
        connection.call(&call("Hello", "", Vec::new())).await?;
        let mut writer = Writer::default();
        writer.string(MATCH);
        connection.call(&call("AddMatch", "s", writer.into_bytes())).await?;
        Ok(connection)
    }

    /// Ends it, and everybody's waiting for it.
    pub(crate) fn give_up(&self) {
        self.reader.abort();
        end(&self.waiting);
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.waiting).is_over
    }

    /// Asks for the ends of a unit's jobs from now on.
    pub(crate) fn jobs(&self, unit: &str) -> Jobs<'_> {
        let (sender, ends) = mpsc::unbounded_channel();
        let mut waiting = lock(&self.waiting);
        if !waiting.is_over {
            waiting.jobs.insert(unit.to_owned(), sender);
        }
        Jobs { connection: self, unit: unit.to_owned(), ends }
    }

    /// Calls a method and waits for its answer.
    ///
    /// Not safe to cancel but by giving up the connection: half a message may have been written.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Body, Error> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.is_over {
                return Err(Error::Closed);
            }
            waiting.calls.insert(serial, sender);
        }
        let bytes = call.encode(serial);
        let written = self.writer.lock().await.write_all(&bytes).await;
        if written.is_err() {
            end(&self.waiting);
        }
        match answer.await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err((name, message))) => Err(Error::Call { method: call.member, name, message }),
            Err(_nobody_answers) => Err(Error::Closed),
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells everybody who waits that nothing comes any more.
fn end(waiting: &Mutex<Waiting>) {
    *lock(waiting) = Waiting { is_over: true, ..Waiting::default() };
}

/// The talk before messages (D-Bus Specification, "Authentication Protocol"): who we are is what the socket says.
async fn authenticate(
    bus: &str,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> Result<(), Error> {
    let failed = |cause| Error::Connect { address: bus.to_owned(), cause };
    // Without a name after it: the one of the socket's peer.
    writer.write_all(b"\0AUTH EXTERNAL\r\n").await.map_err(failed)?;
    let mut said = line(reader).await.map_err(failed)?;
    if said == "DATA" {
        writer.write_all(b"DATA\r\n").await.map_err(failed)?;
        said = line(reader).await.map_err(failed)?;
    }
    if !said.starts_with("OK ") {
        return Err(Error::Authentication { address: bus.to_owned(), said });
    }
    writer.write_all(b"BEGIN\r\n").await.map_err(failed)
}

async fn line(reader: &mut BufReader<OwnedReadHalf>) -> std::io::Result<String> {
    let mut line = Vec::new();
    reader.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Gives each message to whom it is for, until the connection ends or what comes is no message.
async fn read_all(mut reader: BufReader<OwnedReadHalf>, waiting: Arc<Mutex<Waiting>>) {
    while let Ok(message) = read(&mut reader).await {
        deliver(&waiting, message);
    }
    end(&waiting);
}

async fn read(reader: &mut BufReader<OwnedReadHalf>) -> Result<Message, Error> {
    let mut preamble = [0; PREAMBLE];
    reader.read_exact(&mut preamble).await.map_err(|_| Error::Closed)?;
    let rest = message::rest(&preamble)?;
    let mut bytes = preamble.to_vec();
    // Grows with what comes, not by what is announced.
    let read = reader.take(rest as u64).read_to_end(&mut bytes).await.map_err(|_| Error::Closed)?;
    if read == rest { message::decode(&bytes) } else { Err(Error::Closed) }
}

fn deliver(waiting: &Mutex<Waiting>, message: Message) {
    let mut waiting = lock(waiting);
    // Whoever has stopped waiting misses nothing.
    match message {
        Message::Return { to, body } => {
            let _gone = waiting.calls.remove(&to).map(|call| call.send(Ok(body)));
        }
        Message::Error { to, name, body } => {
            let _gone = waiting.calls.remove(&to).map(|call| call.send(Err((name, body.text()))));
        }
        Message::Signal { interface, member, body } => {
            if interface == "org.freedesktop.systemd1.Manager"
                && member == "JobRemoved"
                && let Ok((job, unit, result)) = job_removed(&body)
            {
                let _gone = waiting.jobs.get(&unit).map(|jobs| jobs.send((job, result)));
            }
        }
        Message::Other => {}
    }
}

fn job_removed(body: &Body) -> Result<(String, String, String), Error> {
    let mut reader = body.read("uoss")?;
    reader.uint32()?;
    let (job, unit, result) = (reader.string()?, reader.string()?, reader.string()?);
    Ok((job.to_owned(), unit.to_owned(), result.to_owned()))
}
