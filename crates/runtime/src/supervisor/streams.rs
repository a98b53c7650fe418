//! A container's streams: the pipes that its output comes by, and its standard input.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::attachments::Copies;
use super::clock;
use super::lines::{Lines, Source};
use super::log::Log;
use crate::container::Streams;
use crate::init::open_null;
use crate::plan::ProcessPlan;
use crate::wire::Stdin;
use crate::{FailedStep, Failure};

/// How much is read at once when there is much, in bytes: what a pipe holds.
const LARGE: usize = 64 << 10;
/// How much is read at once otherwise.
const SMALL: usize = 4 << 10;
/// Reads of one stream before others get their turn.
const TURN: usize = 16;

/// Where output goes and what it comes by.
#[derive(Debug)]
pub(super) struct Output {
    log: Option<Log>,
    streams: Vec<OutputStream>,
}

#[derive(Debug)]
struct OutputStream {
    source: Source,
    descriptor: OwnedFd,
    lines: Lines,
}

/// A log that can't be written, for the first time in a row.
#[derive(Debug)]
pub(super) struct LogFailure {
    pub(super) path: PathBuf,
    pub(super) errno: Errno,
}

/// The container's ends of its streams, kept until it has them.
#[derive(Debug, Default)]
pub(super) struct ChildEnds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Bytes on their way from pipes to logs. Empty while nothing is on its way.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    read: Vec<u8>,
    /// How much the last read has brought.
    filled: usize,
    lines: Vec<u8>,
}

/// The writing end of a container's standard input.
#[derive(Debug)]
pub(super) struct Input {
    writing: OwnedFd,
    until: Stdin,
}

impl Input {
    /// A descriptor for somebody who writes. It doesn't block, as all of them.
    pub(super) fn duplicate(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.writing, 0)
    }

    /// Whether it ends when the first one who wrote has gone.
    pub(super) fn is_for_one(&self) -> bool {
        self.until == Stdin::Once
    }
}

impl ChildEnds {
    /// For another program.
    pub(super) fn into_streams(self) -> Result<[OwnedFd; 3], Failure> {
        complete([self.stdin, self.stdout, self.stderr])
    }

    /// As the launch takes them.
    pub(super) fn streams(&self) -> Streams<'_> {
        Streams {
            stdin: self.stdin.as_ref().map(OwnedFd::as_fd),
            stdout: self.stdout.as_ref().map(OwnedFd::as_fd),
            stderr: self.stderr.as_ref().map(OwnedFd::as_fd),
        }
    }
}

/// Three streams; what is not there is the null device.
pub(super) fn complete(streams: [Option<OwnedFd>; 3]) -> Result<[OwnedFd; 3], Failure> {
    let [stdin, stdout, stderr] = streams;
    let or_null = |stream: Option<OwnedFd>| stream.map_or_else(open_null, Ok);
    Ok([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?])
}

/// Makes what a process with this plan needs: pipes for its output, unless it has a terminal, and a pipe for its input where it is to
/// stay open, whose writing end is returned. Without a log, too, there may be somebody who attaches.
pub(super) fn make(
    process: &ProcessPlan,
    log: Option<PathBuf>,
    stdin: Stdin,
) -> Result<(Output, ChildEnds, Option<Input>), Failure> {
    let path = log.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let log = log.map(Log::open).transpose().map_err(|errno| failed(errno, &path))?;
    let mut output = Output { log, streams: Vec::new() };
    let mut child = ChildEnds::default();
    if process.terminal.is_some() {
        return Ok((output, child, None));
    }
    child.stdout = Some(output.pipe(Source::Stdout).map_err(|errno| failed(errno, "stdout"))?);
    child.stderr = Some(output.pipe(Source::Stderr).map_err(|errno| failed(errno, "stderr"))?);
    let input = match stdin {
        Stdin::Null => None,
        Stdin::Open | Stdin::Once => {
            let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno, "stdin"))?;
            // Of this end alone: the container's reads wait for what comes.
            set_nonblocking(&writing).map_err(|errno| failed(errno, "stdin"))?;
            child.stdin = Some(reading);
            Some(Input { writing, until: stdin })
        }
    };
    Ok((output, child, input))
}

fn set_nonblocking(descriptor: &OwnedFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK)
}

fn failed(errno: Errno, subject: &str) -> Failure {
    Failure::system(FailedStep::Stdio, errno, subject)
}

impl Output {
    /// What nobody here reads.
    pub(super) fn none() -> Self {
        Self { log: None, streams: Vec::new() }
    }

    /// The terminal, if that is where output comes from.
    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        let is_terminal = |stream: &&OutputStream| rustix::termios::isatty(&stream.descriptor);
        self.streams.iter().find(is_terminal).map(|stream| stream.descriptor.as_fd())
    }

    fn pipe(&mut self, source: Source) -> Result<OwnedFd, Errno> {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
        self.add(source, reading)?;
        Ok(writing)
    }

    /// Takes a stream in: the reading end of a pipe, or the master side of a terminal.
    pub(super) fn add(&mut self, source: Source, descriptor: OwnedFd) -> Result<(), Errno> {
        // The flag belongs to this end alone: the container's writes still wait for us.
        set_nonblocking(&descriptor)?;
        self.streams.push(OutputStream { source, descriptor, lines: Lines::new(source) });
        Ok(())
    }

    /// What to wait for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        self.streams.iter().map(|stream| (stream.source, stream.descriptor.as_fd()))
    }

    /// Whether every stream has ended.
    pub(super) fn ended(&self) -> bool {
        self.streams.is_empty()
    }

    /// Moves what a stream holds into the log, and then to those who have attached.
    pub(super) fn collect(
        &mut self,
        source: Source,
        buffer: &mut Buffer,
        mut copies: Copies<'_>,
    ) -> Option<LogFailure> {
        let at = self.streams.iter().position(|stream| stream.source == source)?;
        let stream = &mut self.streams[at];
        let time = clock::stamp();
        buffer.lines.clear();
        // What one read has brought is in the log before it is copied, and the next read takes its place.
        let turn = if copies.are_wanted(source) { 1 } else { TURN };
        let ended = (0..turn).find_map(|_| read(stream, buffer, &time)).unwrap_or(Flow::Open) == Flow::Ended;
        if ended {
            stream.lines.finish(&time, &mut buffer.lines);
            self.streams.swap_remove(at);
        }
        let failure = self.append(&buffer.lines);
        copies.copy(source, buffer.last_read());
        failure
    }

    /// Gives up on streams that somebody outside of the container still holds, and ends their last lines.
    pub(super) fn close(&mut self, buffer: &mut Buffer, mut copies: Copies<'_>) -> Option<LogFailure> {
        let time = clock::stamp();
        let mut failure = None;
        for mut stream in std::mem::take(&mut self.streams) {
            // What is there already belongs to the container.
            for turn in 1..=TURN {
                buffer.lines.clear();
                let flow = read(&mut stream, buffer, &time);
                let is_last = flow.is_some() || turn == TURN;
                if is_last {
                    stream.lines.finish(&time, &mut buffer.lines);
                }
                failure = self.append(&buffer.lines).or(failure);
                copies.copy(stream.source, buffer.last_read());
                if is_last {
                    break;
                }
            }
        }
        failure
    }

    /// Opens the log anew.
    pub(super) fn reopen(&mut self) -> Result<(), Failure> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let path = log.path().display().to_string();
        log.reopen().map_err(|errno| Failure::system(FailedStep::Stdio, errno, path))
    }

    fn append(&mut self, lines: &[u8]) -> Option<LogFailure> {
        let log = self.log.as_mut().filter(|_| !lines.is_empty())?;
        let errno = log.append(lines).err()?;
        Some(LogFailure { path: log.path().clone(), errno })
    }
}

/// Whether a stream can bring more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Ended,
}

/// Reads once. `None` says that there may be more at once.
fn read(stream: &mut OutputStream, buffer: &mut Buffer, time: &str) -> Option<Flow> {
    if buffer.read.is_empty() {
        buffer.read.resize(SMALL, 0);
    }
    buffer.filled = 0;
    match rustix::io::read(&stream.descriptor, &mut buffer.read[..]) {
        // A terminal whose last user has gone answers EIO.
        Ok(0) | Err(Errno::IO) => Some(Flow::Ended),
        Ok(length) => {
            stream.lines.feed(&buffer.read[..length], time, &mut buffer.lines);
            buffer.filled = length;
            if length < buffer.read.len() {
                return Some(Flow::Open);
            }
            buffer.read.resize(LARGE, 0);
            None
        }
        Err(Errno::INTR) => None,
        Err(Errno::AGAIN) => Some(Flow::Open),
        Err(_) => Some(Flow::Ended),
    }
}

impl Buffer {
    fn last_read(&self) -> &[u8] {
        &self.read[..self.filled]
    }

    /// Whether it has grown for a busy stream.
    pub(super) fn is_large(&self) -> bool {
        self.read.capacity() > SMALL || self.lines.capacity() > LARGE
    }

    /// Lets go of the memory.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }
}
