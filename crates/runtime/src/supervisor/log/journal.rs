//! A copy of a container's output for journald, by its native protocol: a datagram an entry, `NAME=value` a line
//! (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md).
//!
//! Nobody waits for journald: what it doesn't take at once is kept, up to a bound, and beyond that entries are dropped and counted. An
//! entry is a line of the log, so never longer than a datagram may be; one of a line that goes on says so, as with other runtimes.
//!
//! Not here: limits of the log, which are those of its file. journald has its own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};

use super::limits::Lost;
use crate::supervisor::lines::{Source, content, is_partial};
use crate::wire::JournalCopy;

/// The most that is kept for a journald that is behind, in bytes.
const KEPT: usize = 256 << 10;
/// How long a socket that can't be reached is left alone.
const REST: Duration = Duration::from_secs(1);

/// Priorities of entries (syslog(3)): of standard output, of standard error, as other runtimes have them, and of our own words.
const INFORMATION: char = '6';
const ERROR: char = '3';
const WARNING: char = '4';

/// The copy of one container's output.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// The fields that every entry has, encoded.
    fields: Vec<u8>,
    socket: Option<OwnedFd>,
    /// When the socket was last found out of reach, and why it was.
    refused: Option<(Instant, Errno)>,
    /// Entries on their way, and what is lost with each of them.
    kept: VecDeque<(Vec<u8>, Lost)>,
    kept_bytes: usize,
    /// Entries that were dropped, and that no entry tells of yet.
    lost: Lost,
}

/// journald can't be reached: why, and what was lost by that.
pub(super) type Refused = (Errno, Lost);

/// What became of an entry that is not refused.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Taken,
    /// journald is behind.
    Full,
}

impl Journal {
    pub(super) fn new(copy: &JournalCopy) -> Self {
        let mut fields = Vec::new();
        copy.fields.iter().for_each(|(name, value)| field(&mut fields, name, value.as_bytes()));
        let (path, lost) = (copy.socket.clone(), Lost::default());
        Self { path, fields, socket: None, refused: None, kept: VecDeque::new(), kept_bytes: 0, lost }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What to wait for until it takes more.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| !self.kept.is_empty()).map(AsFd::as_fd)
    }

    /// Copies lines of the log.
    pub(super) fn copy(&mut self, source: Source, lines: &[u8], now: Instant) -> Result<(), Refused> {
        let mut refused: Option<Refused> = None;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            // Nothing waits mostly, and then this is all: one datagram.
            if let Err((errno, lost)) = self.push(source, line, now) {
                let (_, all) = refused.get_or_insert((errno, Lost::default()));
                all.add(lost);
            }
        }
        refused.map_or(Ok(()), Err)
    }

    fn push(&mut self, source: Source, line: &[u8], now: Instant) -> Result<(), Refused> {
        let lost = Lost::of(line);
        if self.kept.is_empty()
            && self.lost.any()
            && let Err((errno, _)) = self.flush(now)
        {
            self.lost.add(lost);
            return Err((errno, lost));
        }
        let entry = (self.entry(source, line), lost);
        // Behind a gap nothing is kept: it is told of when everything before it has gone.
        if self.lost.any() || (!self.kept.is_empty() && self.kept_bytes + entry.0.len() > KEPT) {
            self.lost.add(entry.1);
            return Ok(());
        }
        let is_first = self.kept.is_empty();
        self.keep(entry);
        if is_first { self.flush(now) } else { Ok(()) }
    }

    /// Sends what is kept, as far as journald takes it.
    pub(super) fn flush(&mut self, now: Instant) -> Result<(), Refused> {
        loop {
            let Some((entry, _)) = self.kept.front() else {
                if !self.lost.any() {
                    return Ok(());
                }
                let note = self.note();
                let lost = std::mem::take(&mut self.lost);
                self.keep((note, lost));
                continue;
            };
            let length = entry.len();
            match self.send(now) {
                Ok(Sent::Taken) => {
                    self.kept.pop_front();
                    self.kept_bytes -= length;
                }
                Ok(Sent::Full) => return Ok(()),
                Err(errno) => return Err((errno, self.give_up())),
            }
        }
    }

    /// The container is over. Gives what journald doesn't take now.
    pub(super) fn end(&mut self, now: Instant) -> Lost {
        match self.flush(now) {
            Ok(()) => self.give_up(),
            Err((_, lost)) => lost,
        }
    }

    fn keep(&mut self, entry: (Vec<u8>, Lost)) {
        self.kept_bytes += entry.0.len();
        self.kept.push_back(entry);
    }

    /// What is kept is lost.
    fn give_up(&mut self) -> Lost {
        let mut lost = Lost::default();
        std::mem::take(&mut self.kept).iter().for_each(|(_, entry)| lost.add(*entry));
        self.kept_bytes = 0;
        self.lost.add(lost);
        lost
    }

    /// Sends the first one that is kept. A socket that is not answered any more is looked for again: journald may have made another.
    fn send(&mut self, now: Instant) -> Result<Sent, Errno> {
        let is_new = self.socket.is_none();
        match self.try_send(now) {
            Err(errno) if !is_new && errno != Errno::MSGSIZE => self.try_send(now),
            sent => sent,
        }
    }

    fn try_send(&mut self, now: Instant) -> Result<Sent, Errno> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.reach(now)?,
        };
        let Some((entry, _)) = self.kept.front() else { return Ok(Sent::Taken) };
        match rustix::io::retry_on_intr(|| send(&socket, entry, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
            Ok(_) => {
                self.socket = Some(socket);
                Ok(Sent::Taken)
            }
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                self.socket = Some(socket);
                Ok(Sent::Full)
            }
            Err(errno) => Err(errno),
        }
    }

    fn reach(&mut self, now: Instant) -> Result<OwnedFd, Errno> {
        if let Some((_, errno)) = self.refused.filter(|(at, _)| now.saturating_duration_since(*at) < REST) {
            return Err(errno);
        }
        let reached = open(&self.path);
        self.refused = reached.as_ref().err().map(|errno| (now, *errno));
        reached
    }

    fn entry(&self, source: Source, line: &[u8]) -> Vec<u8> {
        let priority = match source {
            Source::Stdout => INFORMATION,
            Source::Stderr => ERROR,
        };
        let mut entry = self.begin(priority, content(line));
        if is_partial(line) {
            // As Docker and Podman have it.
            field(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        entry
    }

    /// An entry that tells of those that are lost.
    fn note(&self) -> Vec<u8> {
        let text = format!("knarr: {} are missing here: journald did not take them", self.lost);
        self.begin(WARNING, text.as_bytes())
    }

    fn begin(&self, priority: char, message: &[u8]) -> Vec<u8> {
        let mut entry = Vec::with_capacity(self.fields.len() + message.len() + 64);
        entry.extend_from_slice(&self.fields);
        field(&mut entry, "PRIORITY", priority.to_string().as_bytes());
        field(&mut entry, "MESSAGE", message);
        entry
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Appends a field. A value with the end of a line in it goes with its length.
fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&u64::try_from(value.len()).unwrap_or(0).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    const TIME: &str = "2016-10-06T00:17:09.669794202Z";

    fn journal(socket: &Path) -> Journal {
        let fields = [("CONTAINER_NAME".to_owned(), "web".to_owned())].into();
        Journal::new(&JournalCopy { socket: socket.to_owned(), fields })
    }

    fn receive(journald: &UnixDatagram) -> String {
        let mut entry = vec![0; 1 << 16];
        journald.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = journald.recv(&mut entry).unwrap();
        String::from_utf8(entry[..length].to_vec()).unwrap()
    }

    fn line(number: usize) -> String {
        format!("{TIME} stdout F line {number}\n")
    }

    #[test]
    fn an_entry_has_what_journald_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut journal = journal(&path);
        let lines = format!("{TIME} stderr P half\n{TIME} stderr F rest\n");
        journal.copy(Source::Stderr, lines.as_bytes(), Instant::now()).unwrap();
        let fields = "CONTAINER_NAME=web\nPRIORITY=3\nMESSAGE=";
        assert_eq!(receive(&journald), format!("{fields}half\nCONTAINER_PARTIAL_MESSAGE=true\n"));
        assert_eq!(receive(&journald), format!("{fields}rest\n"));
        let mut long = Vec::new();
        field(&mut long, "A", b"b\nc");
        assert_eq!(long, b"A\n\x03\0\0\0\0\0\0\0b\nc\n");
    }

    #[test]
    fn what_a_slow_journald_misses_is_counted_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut journal = journal(&path);
        let now = Instant::now();
        let mut sent = 0;
        while !journal.lost.any() {
            journal.copy(Source::Stdout, line(sent).as_bytes(), now).unwrap();
            sent += 1;
            assert!(journal.kept_bytes <= KEPT);
        }
        assert!(journal.waits_for().is_some());
        journal.copy(Source::Stdout, line(sent).as_bytes(), now).unwrap();
        assert_eq!(journal.lost.lines, 2);
        for number in 0..sent - 1 {
            assert!(receive(&journald).ends_with(&format!("MESSAGE=line {number}\n")));
            journal.flush(now).unwrap();
        }
        assert!(receive(&journald).contains("PRIORITY=4\nMESSAGE=knarr: 2 lines ("));
        assert!(journal.waits_for().is_none() && !journal.lost.any());
        journal.copy(Source::Stdout, line(7).as_bytes(), now).unwrap();
        assert!(receive(&journald).ends_with("MESSAGE=line 7\n"));
    }

    #[test]
    fn a_journald_that_is_not_there_is_looked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut journal = journal(&path);
        let now = Instant::now();
        let one = Lost { lines: 1, bytes: 7 };
        assert_eq!(journal.copy(Source::Stdout, line(1).as_bytes(), now), Err((Errno::NOENT, one)));
        let journald = UnixDatagram::bind(&path).unwrap();
        assert_eq!(journal.copy(Source::Stdout, line(2).as_bytes(), now).unwrap_err().0, Errno::NOENT);
        let later = now + REST;
        journal.copy(Source::Stdout, line(3).as_bytes(), later).unwrap();
        assert!(receive(&journald).contains("MESSAGE=knarr: 2 lines (14 bytes)"));
        assert!(receive(&journald).ends_with("MESSAGE=line 3\n"));
        // It begins anew, with another socket at its place.
        drop(journald);
        std::fs::remove_file(&path).unwrap();
        let journald = UnixDatagram::bind(&path).unwrap();
        journal.copy(Source::Stdout, line(4).as_bytes(), later).unwrap();
        assert!(receive(&journald).ends_with("MESSAGE=line 4\n"));
    }
}
