//! What comes over a connection: read, and given to whom it is for.
//!
//! Everybody on the bus may send us anything: a match rule chooses among what is sent to all and keeps nothing away that is
//! sent to us alone. So an answer counts when it comes from whom was asked, the end of a job when it comes from systemd, and
//! the rest is passed over without being kept. The bus writes the sender's name itself; nobody else is called as it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::message::{self, Body, Header, LONGEST, LONGEST_HEADER, PREAMBLE, What, broken};

/// The bus, by the name that messages of its own come from.
pub(crate) const BUS: &str = "org.freedesktop.DBus";

/// systemd, by the name that it has for everybody. Its messages come from another, which the bus gave it.
pub(crate) const SYSTEMD: &str = "org.freedesktop.systemd1";

/// The interface of systemd's manager.
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// The end of a job: the job's path and its result.
pub(crate) type JobEnd = (String, String);

/// What a call is answered with.
type Answer = Result<Body, Error>;

/// A call that is not answered yet.
#[derive(Debug)]
struct Asked {
    /// By the name that the call was sent to.
    whom: &'static str,
    method: &'static str,
    answer: oneshot::Sender<Answer>,
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Waiting {
    calls: HashMap<u32, Asked>,
    /// Who waits for the end of a job of a unit, by a number: there may be several for one unit.
    jobs: HashMap<u64, (String, mpsc::UnboundedSender<JobEnd>)>,
    /// The number that the last of them got.
    last: u64,
    /// The name that systemd's messages come from.
    systemd: Option<String>,
    /// The connection has ended; nobody will be answered any more.
    is_over: bool,
}

impl Waiting {
    /// Whether somebody waits for this, and it comes from whom it should.
    fn awaits(&self, header: &Header) -> bool {
        let Some(sender) = header.sender.as_deref() else { return false };
        let is_from = |whom| self.name(whom) == Some(sender);
        let asked = |to| self.calls.get(to).is_some_and(|asked: &Asked| is_from(asked.whom));
        match &header.what {
            What::Return { to } => asked(to),
            // The bus answers for whom it can't or may not pass a call on to.
            What::Error { to, .. } => asked(to) || is_from(BUS),
            What::Signal { interface, member } => match member.as_str() {
                "JobRemoved" => interface == MANAGER && is_from(SYSTEMD),
                "NameOwnerChanged" => interface == BUS && is_from(BUS),
                _ => false,
            },
            What::Other => false,
        }
    }

    /// The name that messages come from that are of whom is called so.
    fn name(&self, of: &'static str) -> Option<&str> {
        if of == SYSTEMD { self.systemd.as_deref() } else { Some(of) }
    }
}

/// The incoming side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Incoming(Mutex<Waiting>);

impl Incoming {
    /// Gives each message to whom it is for, until the connection ends or what comes is no message.
    pub(crate) async fn read_all(self: Arc<Self>, mut reader: BufReader<OwnedReadHalf>) {
        while self.read(&mut reader).await.is_ok() {}
        self.end();
    }

    /// Awaits the answer to a call of a method. None when none will come.
    pub(crate) fn ask(
        &self,
        serial: u32,
        whom: &'static str,
        method: &'static str,
    ) -> Option<oneshot::Receiver<Answer>> {
        let (answer, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.is_over {
            return None;
        }
        waiting.calls.insert(serial, Asked { whom, method, answer });
        Some(receiver)
    }

    /// From now on the ends of a unit's jobs, and the number to forget them by.
    pub(crate) fn jobs(&self, unit: &str) -> (u64, mpsc::UnboundedReceiver<JobEnd>) {
        let (sender, ends) = mpsc::unbounded_channel();
        let mut waiting = self.lock();
        waiting.last += 1;
        let number = waiting.last;
        if !waiting.is_over {
            waiting.jobs.insert(number, (unit.to_owned(), sender));
        }
        (number, ends)
    }

    /// Ends somebody's interest in jobs.
    pub(crate) fn forget_jobs(&self, number: u64) {
        self.lock().jobs.remove(&number);
    }

    /// Takes from now on what comes from `name` for systemd's.
    pub(crate) fn systemd_is(&self, name: &str) {
        self.lock().systemd = Some(name.to_owned());
    }

    /// Tells everybody who waits that nothing comes any more.
    pub(crate) fn end(&self) {
        *self.lock() = Waiting { is_over: true, ..Waiting::default() };
    }

    /// Whether nothing comes any more.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    async fn read(&self, reader: &mut BufReader<OwnedReadHalf>) -> Result<(), Error> {
        let mut preamble = [0; PREAMBLE];
        reader.read_exact(&mut preamble).await.map_err(|_| Error::Closed)?;
        let lengths = message::lengths(&preamble)?;
        if lengths.is_foreign || lengths.header > LONGEST_HEADER {
            return skip(reader, lengths.header + lengths.body).await;
        }
        let mut bytes = preamble.to_vec();
        take(reader, lengths.header, &mut bytes).await?;
        let header = message::header(&bytes).ok().filter(|header| self.lock().awaits(header));
        let Some(header) = header else { return skip(reader, lengths.body).await };
        if lengths.body > LONGEST {
            skip(reader, lengths.body).await?;
            self.deliver(header, Err(broken("it is too long")));
            return Ok(());
        }
        let mut bytes = Vec::new();
        take(reader, lengths.body, &mut bytes).await?;
        let signature = header.signature.clone();
        self.deliver(header, Ok(Body { signature, bytes }));
        Ok(())
    }

    fn deliver(&self, header: Header, body: Answer) {
        let mut waiting = self.lock();
        // Whoever has stopped waiting misses nothing.
        match header.what {
            What::Return { to } => {
                let _gone = waiting.calls.remove(&to).map(|asked| asked.answer.send(body));
            }
            What::Error { to, name } => {
                let Some(Asked { method, answer, .. }) = waiting.calls.remove(&to) else { return };
                let error = |body: Body| Err(Error::Call { method, name, message: body.text() });
                let _gone = answer.send(body.and_then(error));
            }
            What::Signal { member, .. } => match (member.as_str(), body) {
                ("JobRemoved", Ok(body)) => {
                    if let Ok((job, unit, result)) = job_removed(&body) {
                        for (_, jobs) in waiting.jobs.values().filter(|(of, _)| *of == unit) {
                            let _gone = jobs.send((job.clone(), result.clone()));
                        }
                    }
                }
                // Another PID 1, which has other names: nothing that was asked of the last is answered.
                ("NameOwnerChanged", Ok(body)) if is_about_systemd(&body) => {
                    *waiting = Waiting { is_over: true, ..Waiting::default() };
                }
                _ => {}
            },
            What::Other => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads so many bytes. What is kept grows with what comes, not by what is announced.
async fn take(
    reader: &mut BufReader<OwnedReadHalf>,
    length: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), Error> {
    let read = reader.take(length as u64).read_to_end(bytes).await.map_err(|_| Error::Closed)?;
    if read == length { Ok(()) } else { Err(Error::Closed) }
}

/// Passes over so many bytes without keeping any.
async fn skip(reader: &mut BufReader<OwnedReadHalf>, length: usize) -> Result<(), Error> {
    let mut passed = reader.take(length as u64);
    let skipped = tokio::io::copy_buf(&mut passed, &mut tokio::io::sink()).await;
    if skipped.is_ok_and(|skipped| skipped == length as u64) { Ok(()) } else { Err(Error::Closed) }
}

fn job_removed(body: &Body) -> Result<(String, String, String), Error> {
    let mut reader = body.read("uoss")?;
    reader.uint32()?;
    let (job, unit, result) = (reader.string()?, reader.string()?, reader.string()?);
    Ok((job.to_owned(), unit.to_owned(), result.to_owned()))
}

/// Of a name, its old and its new owner.
fn is_about_systemd(body: &Body) -> bool {
    body.read("sss").and_then(|mut reader| reader.string()).is_ok_and(|name| name == SYSTEMD)
}
