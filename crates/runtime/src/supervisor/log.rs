//! A container's log: what of its output goes into the file, what is said of the rest, and the copy for journald.
//!
//! Nothing here ever stops a container or waits for anybody. What can't be written, or is more than a limit allows, is dropped in whole
//! lines and counted; where it would have been there is a line that says how much it was, as soon as there is room for one:
//!
//! | dropped because | from | until | the line |
//! |---|---|---|---|
//! | of `rate` | a second's worth has been written | as much has come together again | before the next line, or when that time has come |
//! | of `size` | the file has so many bytes | it is opened anew, or truncated | last in the old file that more is lost, first in the new one how much |
//! | it can't be written | a write fails | one succeeds, tried every [`RETRY`] | before the next line |
//! | it was removed | that is noticed, within [`LOOK`] of output | it is opened anew | first in the new file |
//!
//! The last two are an operator's business and told to the daemon: once for each episode, and at its end with what was lost by it. A line
//! that broke off is ended, and its rest dropped, so that no reader takes what follows for its end. The line is one of standard error,
//! since programs may read standard output.
//!
//! Not here: the lines' format (`lines`), and those who are attached, whom no limit concerns (`attachments`).

mod episode;
mod file;
mod journal;
mod limits;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use memchr::memrchr;
use rustix::io::Errno;

use super::clock::Moment;
use super::lines::{Source, is_partial, line};
use crate::wire::{JournalCopy, LogLimits};
use episode::{Episode, Over};
use file::LogFile;
use journal::{Journal, Refused};
use limits::{Lost, Rate, Why};

/// How often is looked whether the file was removed or truncated, while there is output.
const LOOK: Duration = Duration::from_secs(1);
/// When a file that can't be written is tried again though there is no output.
const RETRY: Duration = Duration::from_secs(5);
/// What the limit of a file leaves for our own words, in bytes: several lines.
const RESERVE: u64 = 1 << 10;

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    file: LogFile,
    limits: Limits,
    streams: [Stream; 2],
    /// What was dropped since the log last said so, and why it first was.
    lost: Lost,
    why: Why,
    /// When writing last failed, and when the file was last looked at.
    failed_at: Instant,
    looked_at: Instant,
    episode: Episode,
    journal: Option<Box<(Journal, Episode)>>,
}

/// What a log is to be.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) limits: LogLimits,
    pub(super) journal: Option<JournalCopy>,
}

#[derive(Debug)]
struct Limits {
    rate: Option<Rate>,
    size: Option<u64>,
    /// Whether the file has reached its size.
    is_full: bool,
}

/// Where a stream's last line stands.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// It goes on: its last piece in the log is a `P`.
    is_open: bool,
    /// It was open when something was dropped, and has to be ended.
    is_broken: bool,
    /// Its rest is dropped, too, for this reason.
    skips: Option<Why>,
}

/// What the daemon is told of a log, or of its copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogNews {
    /// It can't be written: the first time in an episode.
    Failed { path: PathBuf, errno: Errno },
    /// The episode is over.
    Lost { path: PathBuf, lines: u64, bytes: u64 },
}

impl Log {
    /// Opens the log at `path`, which is made where it lacks.
    pub(super) fn open(path: PathBuf, wanted: &Wanted) -> Result<Self, Errno> {
        let now = Instant::now();
        let rate = wanted.limits.rate.map(|limit| Rate::new(limit, now));
        let journal = wanted.journal.as_ref().map(|copy| Box::new((Journal::new(copy), Episode::default())));
        Ok(Self {
            file: LogFile::open(path)?,
            limits: Limits { rate, size: wanted.limits.size, is_full: false },
            streams: [Stream::default(); 2],
            lost: Lost::default(),
            why: Why::Rate(0),
            failed_at: now,
            looked_at: now,
            episode: Episode::default(),
            journal,
        })
    }

    /// Opens the file anew by its path. Only whole lines are ever written, so the change is between two of them. The old file is kept
    /// when the new one can't be opened.
    pub(super) fn reopen(&mut self, moment: &Moment) -> Result<Vec<LogNews>, Errno> {
        self.file.reopen()?;
        self.looked_at = moment.instant;
        self.limits.is_full = self.limits.room(self.file.size()) == 0;
        if self.limits.is_full {
            return Ok(Vec::new());
        }
        match self.settle(moment) {
            Ok(()) => Ok(self.works(moment, Over::ForSure).into_iter().collect()),
            Err(errno) => Ok(self.fails(errno, moment).into_iter().collect()),
        }
    }

    /// Its path.
    pub(super) fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// Takes whole lines of one stream.
    pub(super) fn append(&mut self, source: Source, lines: &[u8], moment: &Moment) -> Vec<LogNews> {
        let mut news = Vec::new();
        if let Some((journal, episode)) = self.journal.as_deref_mut() {
            let copied = journal.copy(source, lines, moment.instant);
            news.extend(told(journal, episode, copied, moment));
        }
        let lines = self.skip(source, lines);
        let rate = self.limits.rate.as_mut();
        let (now, late) = lines.split_at(rate.map_or(lines.len(), |rate| rate.admit(lines, moment.instant)));
        if !now.is_empty() {
            news.extend(self.write(source, now, moment));
        }
        if let Some(rate) = &self.limits.rate {
            let why = Why::Rate(rate.limit());
            self.lose(source, late, why);
        }
        news
    }

    /// What has to be done, as of now, though there is no output: when.
    pub(super) fn due(&self) -> Option<Instant> {
        if !self.file.is_there() || self.limits.is_full {
            return None;
        }
        match (self.episode.told_at(), self.why) {
            (told_at, _) if !self.lost.any() => told_at,
            // Whatever it was at first: what failed just now is not tried again at once.
            (Some(_), _) | (None, Why::Failed(_)) => Some(self.failed_at + RETRY),
            (None, Why::Rate(_)) => self.limits.rate.as_ref().map(Rate::room_at),
            (None, Why::Size(_)) => None,
        }
    }

    /// Does that.
    pub(super) fn catch_up(&mut self, moment: &Moment) -> Option<LogNews> {
        match self.settle(moment) {
            Ok(()) => self.works(moment, Over::ForSure),
            Err(errno) => self.fails(errno, moment),
        }
    }

    /// The container is over: what was lost is said as well as it can be.
    pub(super) fn finish(&mut self, moment: &Moment) -> Vec<LogNews> {
        if self.file.is_there() {
            // It is told below if this fails.
            let _ = self.settle(moment);
        }
        let copy = self.journal.take().and_then(|mut copy| {
            let late = copy.0.end(moment.instant);
            copy.1.lost(late);
            let lost = copy.1.works(moment.instant, Over::ForSure).or(late.any().then_some(late))?;
            Some(lost_news(copy.0.path().to_owned(), lost))
        });
        self.works(moment, Over::ForSure).into_iter().chain(copy).collect()
    }

    /// What to wait for until journald takes more.
    pub(super) fn journal(&self) -> Option<BorrowedFd<'_>> {
        self.journal.as_ref().and_then(|copy| copy.0.waits_for())
    }

    /// journald takes more.
    pub(super) fn flush_journal(&mut self, moment: &Moment) -> Option<LogNews> {
        let (journal, episode) = self.journal.as_deref_mut()?;
        let flushed = journal.flush(moment.instant);
        told(journal, episode, flushed, moment)
    }

    /// Drops what belongs to a line whose beginning was dropped.
    fn skip<'a>(&mut self, source: Source, lines: &'a [u8]) -> &'a [u8] {
        let Some(why) = self.stream(source).skips else { return lines };
        let mut skipped = 0;
        for piece in lines.split_inclusive(|byte| *byte == b'\n') {
            skipped += piece.len();
            if !is_partial(piece) {
                break;
            }
        }
        let (rest, lines) = lines.split_at(skipped);
        self.lose(source, rest, why);
        lines
    }

    fn write(&mut self, source: Source, lines: &[u8], moment: &Moment) -> Option<LogNews> {
        if let Err(errno) = self.look(moment).and_then(|()| self.settle_before(moment)) {
            let news = self.fails(errno, moment);
            self.lose(source, lines, Why::Failed(errno));
            return news;
        }
        let (now, late) = lines.split_at(self.limits.fitting(lines, self.file.size()));
        let news = match self.file.append(now) {
            Ok(()) => {
                self.wrote(source, now);
                // Nothing to write is no sign that it would work.
                if now.is_empty() { None } else { self.works(moment, Over::IfLong) }
            }
            Err(cut) => {
                self.wrote(source, &now[..cut.whole]);
                let news = self.fails(cut.errno, moment);
                self.lose(source, &now[cut.whole..], Why::Failed(cut.errno));
                news
            }
        };
        if let (false, Some(limit)) = (late.is_empty(), self.limits.size) {
            self.lose(source, late, Why::Size(limit));
            self.mark_full(limit, moment);
        }
        news
    }

    /// Looks from time to time what others have done to the file.
    fn look(&mut self, moment: &Moment) -> Result<(), Errno> {
        if moment.instant.saturating_duration_since(self.looked_at) >= LOOK {
            self.looked_at = moment.instant;
            self.file.look()?;
            self.limits.is_full &= self.limits.room(self.file.size()) == 0;
        }
        Ok(())
    }

    fn settle_before(&mut self, moment: &Moment) -> Result<(), Errno> {
        if self.limits.is_full { Ok(()) } else { self.settle(moment) }
    }

    /// Says what was lost, behind the ends of lines that broke off.
    fn settle(&mut self, moment: &Moment) -> Result<(), Errno> {
        if !self.lost.any() {
            return Ok(());
        }
        for source in [Source::Stdout, Source::Stderr] {
            if self.stream(source).is_broken {
                // Each by itself: the disk may have room for this one and for nothing more, and it is not to be ended twice.
                self.say(source, "", moment)?;
                self.stream(source).is_broken = false;
            }
        }
        let note = format!("knarr: {} are missing here: {}", self.lost, self.why);
        self.say(Source::Stderr, &note, moment)?;
        self.lost = Lost::default();
        Ok(())
    }

    /// Adds a line of our own.
    fn say(&mut self, source: Source, words: &str, moment: &Moment) -> Result<(), Errno> {
        self.file.append(line(moment.time(), source, words).as_bytes()).map_err(|cut| cut.errno)
    }

    /// The file has reached its size. There is room left for this.
    fn mark_full(&mut self, limit: u64, moment: &Moment) {
        if !self.limits.is_full {
            self.limits.is_full = true;
            let note = format!("knarr: the log has reached {limit} bytes (size_limit): what follows is lost");
            let _ = self.say(Source::Stderr, &note, moment);
        }
    }

    fn stream(&mut self, source: Source) -> &mut Stream {
        &mut self.streams[usize::from(source == Source::Stderr)]
    }

    /// These are in the file.
    fn wrote(&mut self, source: Source, lines: &[u8]) {
        if let Some(last) = last_line(lines) {
            self.stream(source).is_open = is_partial(last);
        }
    }

    /// These are not going to be.
    fn lose(&mut self, source: Source, lines: &[u8], why: Why) {
        let Some(last) = last_line(lines) else { return };
        let stream = self.stream(source);
        stream.is_broken |= std::mem::take(&mut stream.is_open);
        stream.skips = is_partial(last).then_some(why);
        if !self.lost.any() {
            self.why = why;
        }
        let lost = Lost::of(lines);
        self.lost.add(lost);
        if let Why::Failed(_) = why {
            self.episode.lost(lost);
        }
    }

    fn fails(&mut self, errno: Errno, moment: &Moment) -> Option<LogNews> {
        self.failed_at = moment.instant;
        self.episode.fails(moment.instant).then(|| LogNews::Failed { path: self.path(), errno })
    }

    fn works(&mut self, moment: &Moment, over: Over) -> Option<LogNews> {
        let lost = self.episode.works(moment.instant, over)?;
        Some(lost_news(self.path(), lost))
    }
}

impl Limits {
    /// Bytes that a file of this size has room for.
    fn room(&self, size: u64) -> u64 {
        self.size.map_or(u64::MAX, |limit| limit.saturating_sub(RESERVE).saturating_sub(size))
    }

    /// How many bytes of these lines fit into a file of this size: whole lines.
    fn fitting(&self, lines: &[u8], size: u64) -> usize {
        let room = if self.is_full { 0 } else { usize::try_from(self.room(size)).unwrap_or(usize::MAX) };
        if lines.len() <= room {
            return lines.len();
        }
        memrchr(b'\n', &lines[..room]).map_or(0, |end| end + 1)
    }
}

fn last_line(lines: &[u8]) -> Option<&[u8]> {
    let before = lines.strip_suffix(b"\n")?;
    Some(memrchr(b'\n', before).map_or(lines, |end| &lines[end + 1..]))
}

fn lost_news(path: PathBuf, lost: Lost) -> LogNews {
    LogNews::Lost { path, lines: lost.lines, bytes: lost.bytes }
}

/// What is told of a copy.
fn told(
    journal: &Journal,
    episode: &mut Episode,
    copied: Result<(), Refused>,
    moment: &Moment,
) -> Option<LogNews> {
    let path = || journal.path().to_owned();
    match copied {
        Ok(()) => Some(lost_news(path(), episode.works(moment.instant, Over::IfLong)?)),
        Err((errno, lost)) => {
            let is_first = episode.fails(moment.instant);
            episode.lost(lost);
            is_first.then(|| LogNews::Failed { path: path(), errno })
        }
    }
}

#[cfg(test)]
mod tests;
