//! Attachments: copies of what containers write, for those who look on, and a container's input for them.
//!
//! Output is copied when the log has it, into pipes that the daemon made, and nobody ever waits for a pipe that is full: what it doesn't take
//! is kept here, up to a bound, and beyond that the attachment is cut off. So a client that is slow costs memory for a while, and neither
//! the container nor its log notice it.
//!
//! ```text
//! container ──pipe──► supervisor ──► log
//!                         │ ├──► pipe (full: kept, at most KEPT) ──► daemon ──► a client
//!                         │ └──► pipe ──► daemon ──► another client
//! ```
//! An attachment ends by the daemon's word, with its connection, when nobody reads its pipes any more (POLLERR), when it is too slow, and
//! when its container has ended and everything is in its pipes. Only the last two are told.
//!
//! Not here: what a container's streams are (`streams`), and the requests' answers (`requests`).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;

use super::event_loop::Key;
use super::lines::Source;
use crate::wire::{DetachReason, Event, Stream};
use crate::{FailedStep, Failure, FailureKind};

/// The most that is kept for one attachment, in bytes: with what its pipe holds some seconds of a fast container.
const KEPT: usize = 4 << 20;
/// The most that is kept for all attachments of a pod together, in bytes.
const KEPT_BY_ALL: usize = 16 << 20;
/// The most attachments of a pod: each costs descriptors here, which everything in the pod needs.
const MOST: usize = 64;
/// What is allocated at once for what is kept, in bytes. Below what the allocator maps apart, and given back with what was read.
const CHUNK: usize = 64 << 10;

/// All attachments of a pod.
#[derive(Debug, Default)]
pub(super) struct Attachments(Vec<(Key, Attachment)>);

/// One of them.
#[derive(Debug)]
pub(super) struct Attachment {
    /// The daemon's name for it.
    name: String,
    container: Key,
    /// Whether it has the container's input.
    stdin: bool,
    sinks: Vec<Sink>,
    stage: Stage,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its container runs.
    Open,
    /// Its container has ended; what is kept still goes out.
    Ending,
    /// It is over, and that is to be told.
    Over(DetachReason),
    /// It is over because nobody reads any more.
    Deserted,
}

/// One stream's copy.
#[derive(Debug)]
struct Sink {
    source: Source,
    pipe: OwnedFd,
    kept: Kept,
}

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
struct Kept {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk has gone.
    gone: usize,
    length: usize,
}

/// Nobody reads the pipe any more.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

/// Where a stream of a container's is copied to.
#[derive(Debug)]
pub(super) struct Copies<'a> {
    attachments: &'a mut Attachments,
    container: Key,
}

/// What ends with an attachment.
#[derive(Debug)]
pub(super) struct Gone {
    /// The container whose input it had, if it had it.
    pub(super) input_of: Option<Key>,
    /// What the daemon is told.
    pub(super) event: Option<Event>,
}

impl Attachment {
    /// An attachment with the daemon's pipes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn new(
        (name, container): (String, Key),
        streams: &[Stream],
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, Failure> {
        let sources = streams.iter().filter_map(|stream| match stream {
            Stream::Stdin => None,
            Stream::Stdout => Some(Source::Stdout),
            Stream::Stderr => Some(Source::Stderr),
        });
        let sources: Vec<Source> = sources.collect();
        if sources.len() != descriptors.len() {
            return Err(refused(&format!("{} descriptors for {} streams", descriptors.len(), sources.len())));
        }
        let sinks = sources.into_iter().zip(descriptors).map(|(source, pipe)| Sink::new(source, pipe));
        let sinks = sinks.collect::<Result<Vec<_>, Failure>>()?;
        Ok(Self { name, container, stdin: streams.contains(&Stream::Stdin), sinks, stage: Stage::Open })
    }

    fn kept(&self) -> usize {
        self.sinks.iter().map(|sink| sink.kept.length).sum()
    }

    fn cut_off(&mut self) {
        // What is in the pipes is still read, and the end of the file behind it.
        self.sinks.clear();
        self.stage = Stage::Over(DetachReason::TooSlow);
    }

    /// Looks whether it is over, after something has changed.
    fn settle(&mut self) {
        match self.stage {
            Stage::Ending if self.sinks.iter().all(|sink| sink.kept.is_empty()) => {
                self.sinks.clear();
                self.stage = Stage::Over(DetachReason::Ended);
            }
            Stage::Open | Stage::Ending if self.sinks.is_empty() && !self.stdin => {
                self.stage = Stage::Deserted
            }
            Stage::Open | Stage::Ending | Stage::Over(_) | Stage::Deserted => {}
        }
    }

    fn gone(self) -> Gone {
        let event = match self.stage {
            Stage::Over(why) => Some(Event::Detached { attachment: self.name, why }),
            Stage::Open | Stage::Ending | Stage::Deserted => None,
        };
        Gone { input_of: self.stdin.then_some(self.container), event }
    }
}

impl Attachments {
    /// Whether there may be one more with this name.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, name: &str) -> Result<(), Failure> {
        if self.0.iter().any(|(_, attachment)| attachment.name == name) {
            return Err(refused(&format!("attachment {name:?} is there already")));
        }
        if self.0.len() >= MOST {
            let subject = format!("{MOST} clients are attached to containers of this pod");
            let kind = FailureKind::Exhausted;
            return Err(Failure { kind, step: FailedStep::Stdio, errno: None, subject });
        }
        Ok(())
    }

    pub(super) fn add(&mut self, key: Key, attachment: Attachment) {
        self.0.push((key, attachment));
    }

    /// Where output of a container goes.
    pub(super) fn of(&mut self, container: Key) -> Copies<'_> {
        Copies { attachments: self, container }
    }

    /// What to wait for: room where something is kept, and that nobody reads any more, which is always told.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (Key, BorrowedFd<'_>, PollFlags)> {
        self.0.iter().flat_map(|(key, attachment)| {
            attachment.sinks.iter().map(|sink| {
                let flags = if sink.kept.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                (*key, sink.pipe.as_fd(), flags)
            })
        })
    }

    /// A pipe of an attachment's has room, or nobody reads it any more. Whether there is memory that was kept and isn't any more.
    pub(super) fn ready(&mut self, key: Key) -> bool {
        let Some((_, attachment)) = self.0.iter_mut().find(|(other, _)| *other == key) else { return false };
        let before = attachment.kept();
        attachment.sinks.retain_mut(|sink| sink.flush() != Err(Closed) && sink.has_reader());
        attachment.settle();
        before > 0 && attachment.kept() == 0
    }

    /// A container's output has ended.
    pub(super) fn ended(&mut self, container: Key) {
        for (_, attachment) in self.0.iter_mut().filter(|(_, attachment)| attachment.container == container) {
            if attachment.stage == Stage::Open {
                attachment.stage = Stage::Ending;
            }
            attachment.settle();
        }
    }

    /// Takes out those that are over.
    pub(super) fn over(&mut self) -> Vec<Gone> {
        let is_over = |(_, attachment): &mut (Key, Attachment)| {
            matches!(attachment.stage, Stage::Over(_) | Stage::Deserted)
        };
        self.0.extract_if(.., is_over).map(|(_, attachment)| attachment.gone()).collect()
    }

    /// Ends an attachment, or some of its streams; the container whose input is not used by it any more.
    pub(super) fn detach(&mut self, name: &str, streams: &[Stream]) -> Option<Key> {
        let at = self.0.iter().position(|(_, attachment)| attachment.name == name)?;
        if streams.is_empty() {
            return self.0.swap_remove(at).1.gone().input_of;
        }
        let attachment = &mut self.0[at].1;
        let has = |stream| streams.contains(&stream);
        attachment.sinks.retain(|sink| match sink.source {
            Source::Stdout => !has(Stream::Stdout),
            Source::Stderr => !has(Stream::Stderr),
        });
        let input_of =
            (has(Stream::Stdin) && std::mem::take(&mut attachment.stdin)).then_some(attachment.container);
        attachment.settle();
        input_of
    }

    /// Ends all of them; the containers whose input they had.
    pub(super) fn detach_all(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.0)
            .into_iter()
            .filter_map(|(_, attachment)| attachment.gone().input_of)
            .collect()
    }
}

impl Copies<'_> {
    /// Whether anybody wants a stream.
    pub(super) fn are_wanted(&self, source: Source) -> bool {
        let wants = |attachment: &Attachment| attachment.sinks.iter().any(|sink| sink.source == source);
        self.attachments
            .0
            .iter()
            .any(|(_, attachment)| attachment.container == self.container && wants(attachment))
    }

    /// Copies what a stream has brought.
    pub(super) fn copy(&mut self, source: Source, bytes: &[u8]) {
        let Attachments(all) = &mut *self.attachments;
        let mut by_all: usize = all.iter().map(|(_, attachment)| attachment.kept()).sum();
        for (_, attachment) in all.iter_mut().filter(|(_, attachment)| attachment.container == self.container)
        {
            let before = attachment.kept();
            attachment.sinks.retain_mut(|sink| sink.source != source || sink.push(bytes) != Err(Closed));
            by_all = by_all + attachment.kept() - before;
            if attachment.kept() > KEPT || (by_all > KEPT_BY_ALL && attachment.kept() > before) {
                by_all -= attachment.kept();
                attachment.cut_off();
            }
            attachment.settle();
        }
    }
}

impl Sink {
    /// Of a pipe's writing end, which doesn't block from now on.
    fn new(source: Source, pipe: OwnedFd) -> Result<Self, Failure> {
        let failed = |errno| Failure::system(FailedStep::Stdio, errno, "attachment");
        // Of anything else a write could wait although it is told not to.
        if FileType::from_raw_mode(fstat(&pipe).map_err(failed)?.st_mode) != FileType::Fifo {
            return Err(refused("an attachment's descriptor is no pipe"));
        }
        let flags = fcntl_getfl(&pipe).map_err(failed)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).map_err(failed)?;
        Ok(Self { source, pipe, kept: Kept::default() })
    }

    /// Writes, and keeps what has no room.
    fn push(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        let written = if self.kept.is_empty() { self.write(bytes)? } else { 0 };
        self.kept.push(&bytes[written..]);
        Ok(())
    }

    /// Writes what is kept, as far as there is room.
    fn flush(&mut self) -> Result<(), Closed> {
        while let Some(first) = self.kept.first() {
            let (length, written) = (first.len(), self.write(first)?);
            self.kept.take(written);
            if written < length {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Closed> {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(&self.pipe, &bytes[written..]) {
                Ok(some) => written += some,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Closed),
            }
        }
        Ok(written)
    }

    fn has_reader(&self) -> bool {
        let mut polled = [PollFd::new(&self.pipe, PollFlags::empty())];
        let now = Timespec::default();
        !matches!(poll(&mut polled, Some(&now)), Ok(1..)) || !polled[0].revents().contains(PollFlags::ERR)
    }
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn push(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        while !bytes.is_empty() {
            let room = self.chunks.back().map_or(0, |last| CHUNK - last.len());
            if room == 0 {
                self.chunks.push_back(Vec::with_capacity(CHUNK));
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.chunks.back_mut() {
                last.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    fn first(&self) -> Option<&[u8]> {
        self.chunks.front().map(|first| &first[self.gone..])
    }

    /// Forgets that many bytes of the first chunk.
    fn take(&mut self, count: usize) {
        self.gone += count;
        self.length -= count;
        if self.chunks.front().is_some_and(|first| first.len() <= self.gone) {
            self.chunks.pop_front();
            self.gone = 0;
        }
        if self.chunks.is_empty() {
            *self = Self::default();
        }
    }
}

fn refused(why: &str) -> Failure {
    Failure { kind: FailureKind::System, step: FailedStep::Stdio, errno: None, subject: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn attached(attachments: &mut Attachments, key: Key, stdin: bool) -> OwnedFd {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut streams = vec![Stream::Stdout];
        streams.extend(stdin.then_some(Stream::Stdin));
        let name = format!("a{key}");
        attachments.check(&name).unwrap();
        attachments.add(key, Attachment::new((name, 1), &streams, vec![writing]).unwrap());
        reading
    }

    /// What can be read now, and whether the end of the file is behind it.
    fn read(pipe: &OwnedFd) -> (Vec<u8>, bool) {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            match rustix::io::read(pipe, &mut buffer[..]) {
                Ok(0) => return (all, true),
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN) => return (all, false),
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    fn reasons(gone: &[Gone]) -> Vec<DetachReason> {
        let reason = |gone: &Gone| match &gone.event {
            Some(Event::Detached { why, .. }) => Some(*why),
            _ => None,
        };
        gone.iter().filter_map(reason).collect()
    }

    #[test]
    fn who_does_not_read_is_cut_off_and_others_get_everything() {
        let mut attachments = Attachments::default();
        let (slow, quick) = (attached(&mut attachments, 1, false), attached(&mut attachments, 2, false));
        let piece = [7; 1 << 16];
        let mut seen = 0;
        let cut = (0..100).find_map(|_| {
            attachments.of(1).copy(Source::Stdout, &piece);
            assert!(!attachments.ready(2), "it keeps up");
            seen += read(&quick).0.len();
            let over = attachments.over();
            (!over.is_empty()).then_some(over)
        });
        assert_eq!(reasons(&cut.expect("cut off")), [DetachReason::TooSlow]);
        let (last, ended) = read(&slow);
        assert!(ended && !last.is_empty(), "what was in the pipe, and the end");
        assert!(seen > KEPT && read(&quick) == (Vec::new(), false), "{seen}");
        assert!(attachments.0.iter().all(|(_, attachment)| attachment.kept() == 0));
    }

    #[test]
    fn the_end_comes_behind_what_is_kept() {
        let mut attachments = Attachments::default();
        let pipe = attached(&mut attachments, 1, false);
        attachments.of(1).copy(Source::Stdout, &[1; 1 << 20]);
        attachments.of(1).copy(Source::Stderr, &[2; 10]);
        attachments.ended(1);
        assert!(attachments.over().is_empty(), "there is more than the pipe holds");
        let mut all = Vec::new();
        let told = (0..1000).find_map(|_| {
            all.extend(read(&pipe).0);
            attachments.ready(1);
            Some(attachments.over()).filter(|over| !over.is_empty())
        });
        assert_eq!(reasons(&told.expect("an end")), [DetachReason::Ended]);
        all.extend(read(&pipe).0);
        assert_eq!((all.len(), read(&pipe).1), (1 << 20, true));
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_noticed() {
        let mut attachments = Attachments::default();
        drop(attached(&mut attachments, 1, false));
        drop(attached(&mut attachments, 2, true));
        attachments.ready(1);
        attachments.ready(2);
        let over = attachments.over();
        assert!(matches!(&over[..], [Gone { input_of: None, event: None }]), "{over:?}");
        assert_eq!(attachments.detach("a2", &[]), Some(1), "it may still write");
        assert_eq!(attachments.detach("a2", &[]), None);
    }

    #[test]
    fn input_ends_once_and_output_goes_on() {
        let mut attachments = Attachments::default();
        let pipe = attached(&mut attachments, 1, true);
        assert_eq!(attachments.detach("a1", &[Stream::Stdin]), Some(1));
        assert_eq!(attachments.detach("a1", &[Stream::Stdin]), None);
        attachments.of(1).copy(Source::Stdout, b"on");
        assert_eq!(read(&pipe), (b"on".to_vec(), false));
        assert!(attachments.detach_all().is_empty());
        assert!(read(&pipe).1);
    }

    #[test]
    fn there_are_only_so_many() {
        let mut attachments = Attachments::default();
        let pipes: Vec<_> =
            (0..MOST).map(|key| attached(&mut attachments, u32::try_from(key).unwrap(), false)).collect();
        assert_eq!(attachments.check("one more").unwrap_err().kind, FailureKind::Exhausted);
        drop(pipes);
        for key in 0..MOST {
            attachments.ready(u32::try_from(key).unwrap());
        }
        assert_eq!(attachments.over().len(), MOST);
        attachments.check("one more").unwrap();
    }

    #[test]
    fn all_of_a_pod_keep_only_so_much() {
        let mut attachments = Attachments::default();
        let _pipes: Vec<_> = (0..10).map(|key| attached(&mut attachments, key, false)).collect();
        for _ in 0..62 {
            attachments.of(1).copy(Source::Stdout, &[0; 1 << 16]);
            let kept: usize = attachments.0.iter().map(|(_, attachment)| attachment.kept()).sum();
            assert!(kept <= KEPT_BY_ALL, "{kept}");
        }
        assert!(!attachments.over().is_empty());
    }

    #[test]
    fn what_is_no_pipe_is_refused() {
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(Attachment::new(("a".to_owned(), 1), &[Stream::Stdout], vec![file]).is_err());
        assert!(Attachment::new(("a".to_owned(), 1), &[Stream::Stdout], vec![]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_out_as_it_went_in(
            lengths in proptest::collection::vec(0usize..150_000, 0..8),
            step in 1usize..100_000,
        ) {
            let mut kept = Kept::default();
            let count = |(from, length): (usize, &usize)| (from..from + length).map(|at| at.to_le_bytes()[0]).collect();
            let pushed: Vec<Vec<u8>> = lengths.iter().enumerate().map(count).collect();
            pushed.iter().for_each(|bytes| kept.push(bytes));
            let mut all = Vec::new();
            while let Some(first) = kept.first() {
                let count = first.len().min(step);
                all.extend_from_slice(&first[..count]);
                kept.take(count);
            }
            prop_assert!(kept.is_empty() && kept.chunks.is_empty());
            prop_assert_eq!(all, pushed.concat());
        }
    }
}
