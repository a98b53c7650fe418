//! A container's streams: the pipes that its output comes by, and its standard input.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, FileType, OFlags, statat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::attachments::Copies;
use super::clock::Moment;
use super::lines::{Lines, Source};
use super::log::{Log, LogNews, Wanted};
use crate::container::Streams;
use crate::init::open_null;
use crate::wire::{StartContainer, Stdin};
use crate::{FailedStep, Failure, FailureKind};

/// How much is read at once when there is much, in bytes: what a pipe holds.
const LARGE: usize = 64 << 10;
/// How much is read at once otherwise.
const SMALL: usize = 4 << 10;
/// Lines of the log that are written at once, in bytes: what one read of lines of some length becomes.
const BATCH: usize = 128 << 10;
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
pub(super) fn make(start: &mut StartContainer) -> Result<(Output, ChildEnds, Option<Input>), Failure> {
    let log = start.log.take().map(|path| {
        let limits = start.log_limits.take().unwrap_or_default();
        let wanted = Wanted { limits, journal: start.log_copy.take() };
        let name = path.clone();
        Log::open(path, &wanted).map_err(|errno| log_failed(errno, &name))
    });
    let log = log.transpose()?;
    let (process, stdin) = (&start.plan.process, start.stdin);
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

/// Of what is no file the kernel says something different for each kind, and nothing that helps.
fn log_failed(errno: Errno, path: &Path) -> Failure {
    let failure = Failure::system(FailedStep::Log, errno, path.to_string_lossy());
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            Failure { kind: FailureKind::NotRegular, errno: None, ..failure }
        }
        Ok(_) | Err(_) => failure,
    }
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
        copies: Copies<'_>,
    ) -> Vec<LogNews> {
        let Some(at) = self.streams.iter().position(|stream| stream.source == source) else {
            return Vec::new();
        };
        // Those who look on get their turn, too.
        let turn = if copies.are_wanted(source) { 1 } else { TURN };
        let mut way = Way { log: &mut self.log, buffer, copies, news: Vec::new() };
        let stream = &mut self.streams[at];
        let flow = (0..turn).find_map(|_| way.read(stream)).unwrap_or(Flow::Open);
        if flow == Flow::Ended {
            way.end(stream);
        }
        let news = way.news;
        if flow == Flow::Ended {
            self.streams.swap_remove(at);
        }
        news
    }

    /// The container is over: gives up on streams that somebody outside of it still holds, and ends their last lines.
    pub(super) fn close(&mut self, buffer: &mut Buffer, copies: Copies<'_>) -> Vec<LogNews> {
        let mut way = Way { log: &mut self.log, buffer, copies, news: Vec::new() };
        for stream in &mut self.streams {
            // What is there already belongs to the container.
            let _ended = (0..TURN).find_map(|_| way.read(stream));
            way.end(stream);
        }
        let mut news = way.news;
        self.streams.clear();
        news.extend(self.log.iter_mut().flat_map(|log| log.finish(&Moment::now())));
        news
    }

    /// Opens the log anew.
    pub(super) fn reopen(&mut self) -> Result<Vec<LogNews>, Failure> {
        let Some(log) = &mut self.log else { return Ok(Vec::new()) };
        let path = log.path();
        log.reopen(&Moment::now()).map_err(|errno| log_failed(errno, &path))
    }

    /// When something has to be done for the log though there is no output.
    pub(super) fn due(&self) -> Option<Instant> {
        self.log.as_ref()?.due()
    }

    /// Does it.
    pub(super) fn catch_up(&mut self) -> Option<LogNews> {
        self.log.as_mut()?.catch_up(&Moment::now())
    }

    /// What to wait for until journald takes more.
    pub(super) fn journal(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref()?.journal()
    }

    /// journald takes more.
    pub(super) fn flush_journal(&mut self) -> Option<LogNews> {
        self.log.as_mut()?.flush_journal(&Moment::now())
    }
}

/// Whether a stream can bring more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Ended,
}

/// What a stream's bytes go through.
struct Way<'a> {
    log: &'a mut Option<Log>,
    buffer: &'a mut Buffer,
    copies: Copies<'a>,
    news: Vec<LogNews>,
}

impl Way<'_> {
    /// Reads once. `None` says that there may be more at once.
    fn read(&mut self, stream: &mut OutputStream) -> Option<Flow> {
        if self.buffer.read.is_empty() {
            self.buffer.read.resize(SMALL, 0);
        }
        match rustix::io::read(&stream.descriptor, &mut self.buffer.read[..]) {
            // A terminal whose last user has gone answers EIO.
            Ok(0) | Err(Errno::IO) => Some(Flow::Ended),
            Ok(length) => {
                self.pass(stream, length);
                if length < self.buffer.read.len() {
                    return Some(Flow::Open);
                }
                self.buffer.read.resize(LARGE, 0);
                None
            }
            Err(Errno::INTR) => None,
            Err(Errno::AGAIN) => Some(Flow::Open),
            Err(_) => Some(Flow::Ended),
        }
    }

    /// What one read has brought is in the log before it is copied, and the next read takes its place.
    fn pass(&mut self, stream: &mut OutputStream, length: usize) {
        let Buffer { read, lines } = &mut *self.buffer;
        let bytes = &read[..length];
        if let Some(log) = &mut *self.log {
            let moment = Moment::now();
            let mut taken = 0;
            while taken < length {
                lines.clear();
                taken += stream.lines.feed(&bytes[taken..], moment.time(), (lines, BATCH));
                if !lines.is_empty() {
                    self.news.extend(log.append(stream.source, lines, &moment));
                }
            }
        }
        self.copies.copy(stream.source, bytes);
    }

    /// Ends the last line of a stream.
    fn end(&mut self, stream: &mut OutputStream) {
        if let Some(log) = &mut *self.log {
            let moment = Moment::now();
            self.buffer.lines.clear();
            stream.lines.finish(moment.time(), &mut self.buffer.lines);
            if !self.buffer.lines.is_empty() {
                self.news.extend(log.append(stream.source, &self.buffer.lines, &moment));
            }
        }
    }
}

impl Buffer {
    /// Whether it has grown for a busy stream.
    pub(super) fn is_large(&self) -> bool {
        self.read.capacity() > SMALL || self.lines.capacity() > LARGE
    }

    /// Lets go of the memory.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }
}
