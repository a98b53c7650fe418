//! One connection to a bus: let in, named, and read by a task of its own until it breaks or is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::incoming::{BUS, Incoming, JobEnd, SYSTEMD};
use crate::message::{Body, Call, Writer};
use crate::{Error, address};

/// What is sent to all and of use here. Of systemd's signals only the ends of jobs, which are few: a unit's properties change
/// all the time.
const MATCHES: [&str; 2] = [
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged',\
     arg0='org.freedesktop.systemd1'",
];

/// The longest line of the talk before messages.
const LONGEST_LINE: u64 = 4096;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    incoming: Arc<Incoming>,
    serial: AtomicU32,
    reader: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Gives up the connection that a call was made over when it is dropped.
struct Unanswered<'a>(&'a Connection);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Ends of jobs of one unit. Dropping it ends the interest.
pub(crate) struct Jobs<'a> {
    connection: &'a Connection,
    number: u64,
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
        self.connection.incoming.forget_jobs(self.number);
    }
}

impl Connection {
    /// Connects, asks for the ends of jobs, and learns who systemd is on this bus. Safe to cancel.
    pub(crate) async fn open(bus: &str) -> Result<Self, Error> {
        let socket = address::parse(bus)?;
        let failed = |cause| Error::Connect { address: bus.to_owned(), cause };
        let (reader, mut writer) = UnixStream::connect(socket).await.map_err(failed)?.into_split();
        let mut reader = BufReader::new(reader);
        authenticate(bus, &mut reader, &mut writer).await?;
        let incoming = Arc::new(Incoming::default());
        let task = tokio::spawn(incoming.clone().read_all(reader));
        let writer = tokio::sync::Mutex::new(writer);
        let connection = Self { writer, incoming, serial: AtomicU32::new(1), reader: task };
        connection.ask_bus("Hello", None).await?;
        for rule in MATCHES {
            connection.ask_bus("AddMatch", Some(rule)).await?;
        }
        let owner = connection.ask_bus("GetNameOwner", Some(SYSTEMD)).await?;
        connection.incoming.systemd_is(owner.read("s")?.string()?);
        Ok(connection)
    }

    /// Calls a method of the bus itself.
    async fn ask_bus(&self, member: &'static str, argument: Option<&str>) -> Result<Body, Error> {
        let mut writer = Writer::default();
        argument.into_iter().for_each(|text| writer.string(text));
        let (path, signature) = ("/org/freedesktop/DBus", argument.map_or("", |_| "s"));
        let body = writer.into_bytes();
        self.call(&Call { destination: BUS, path, interface: BUS, member, signature, body }).await
    }

    /// Ends it, and everybody's waiting for it.
    pub(crate) fn give_up(&self) {
        self.reader.abort();
        self.incoming.end();
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.incoming.is_over()
    }

    /// Asks for the ends of a unit's jobs from now on.
    pub(crate) fn jobs(&self, unit: &str) -> Jobs<'_> {
        let (number, ends) = self.incoming.jobs(unit);
        Jobs { connection: self, number, ends }
    }

    /// Calls a method and waits for its answer. Safe to cancel: who no longer waits gives up the connection. What was asked
    /// must not be done any more then, and systemd does nothing for whom the bus doesn't know; nor may half a message spoil
    /// those after it.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Body, Error> {
        let unanswered = Unanswered(self);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let answer = self.incoming.ask(serial, call.destination, call.member).ok_or(Error::Closed)?;
        let bytes = call.encode(serial);
        let written = self.writer.lock().await.write_all(&bytes).await;
        if written.is_err() {
            self.incoming.end();
        }
        let answer = answer.await.unwrap_or(Err(Error::Closed));
        std::mem::forget(unanswered);
        answer
    }
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
