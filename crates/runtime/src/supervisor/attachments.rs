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

mod sink;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;

use super::event_loop::Key;
use super::lines::Source;
use crate::wire::{DetachReason, Event, Stream};
use crate::{FailedStep, Failure, FailureKind};
use sink::{Closed, Sink};

/// The most that is kept for one attachment, in bytes: with what its pipe holds some seconds of a fast container.
const KEPT: usize = 4 << 20;
/// The most that is kept for all attachments of a pod together, in bytes.
const KEPT_BY_ALL: usize = 16 << 20;
/// The most attachments of a pod: each costs descriptors here, which everything in the pod needs.
const MOST: usize = 64;

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
        self.sinks.iter().map(Sink::kept).sum()
    }

    fn cut_off(&mut self) {
        // What is in the pipes is still read, and the end of the file behind it.
        self.sinks.clear();
        self.stage = Stage::Over(DetachReason::TooSlow);
    }

    /// Looks whether it is over, after something has changed.
    fn settle(&mut self) {
        match self.stage {
            Stage::Ending if self.sinks.iter().all(|sink| sink.kept() == 0) => {
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
                let flags = if sink.kept() == 0 { PollFlags::empty() } else { PollFlags::OUT };
                (*key, sink.as_fd(), flags)
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

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cuts all of them off.
    pub(super) fn cut_off(&mut self) {
        self.0.iter_mut().for_each(|(_, attachment)| attachment.cut_off());
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
        // Who has let go of everything by name waits to hear that it was all.
        if attachment.sinks.is_empty() && !attachment.stdin && !matches!(attachment.stage, Stage::Over(_)) {
            attachment.stage = Stage::Over(DetachReason::Ended);
        }
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

fn refused(why: &str) -> Failure {
    Failure { kind: FailureKind::System, step: FailedStep::Stdio, errno: None, subject: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
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
}
