//! The CRI log format: from what a container writes to lines of its log. Pure.
//!
//! A line is `<time> <stream> <tag> <content>`. The tag is `F` when the content ends a line of the
//! container's, `P` when the line goes on in the next log line of the same stream. A reader joins content
//! from `P` to `F`, so a line that a container left without an end gets an `F` when the container has ended.

use memchr::memchr;

/// The most content of one log line in bytes: what other runtimes have, and readers expect (containerd's
/// max_container_log_line_size).
pub(super) const LONGEST: usize = 16 << 10;

/// Which stream a line came by. A terminal has one stream alone, called stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What one stream has written since its last line ended.
#[derive(Debug)]
pub(super) struct Lines {
    source: Source,
    rest: Vec<u8>,
}

/// A line's time and what follows it up to the stream's name, in bytes: `2016-10-06T00:17:09.669794202Z `.
const TIME: usize = 31;
/// Where a line's tag is: behind the stream's name, of which both have six letters, and a blank.
const TAG: usize = TIME + 7;
/// Where a line's content begins.
const CONTENT: usize = TAG + 2;

/// When something was written, as a line begins with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time<'a>(pub(super) &'a str);

impl Source {
    /// Its name in a log.
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What every line of a batch begins with: its time, stream and tag.
fn head(time: Time<'_>, source: Source, tag: char) -> String {
    format!("{} {} {tag} ", time.0, source.name())
}

/// A whole line of the log.
pub(super) fn line(time: Time<'_>, source: Source, content: &str) -> String {
    format!("{}{content}\n", head(time, source, 'F'))
}

/// Whether a line of the log goes on in the next one.
pub(super) fn is_partial(line: &[u8]) -> bool {
    line.get(TAG) == Some(&b'P')
}

/// What a container wrote of a line of the log: without the line's end.
pub(super) fn content(line: &[u8]) -> &[u8] {
    let content = line.get(CONTENT..).unwrap_or_default();
    content.strip_suffix(b"\n").unwrap_or(content)
}

impl Lines {
    /// A stream that has written nothing.
    pub(super) fn new(source: Source) -> Self {
        Self { source, rest: Vec::new() }
    }

    /// Takes what was written at `time` and appends every log line that is complete to `log`, until that has `most` bytes: a line can
    /// be much longer there than it came. Says how much it took.
    pub(super) fn feed(&mut self, bytes: &[u8], time: Time<'_>, (log, most): (&mut Vec<u8>, usize)) -> usize {
        let (whole, part) = (head(time, self.source, 'F'), head(time, self.source, 'P'));
        let mut taken = 0;
        while taken < bytes.len() && log.len() < most {
            let left = &bytes[taken..];
            let room = LONGEST - self.rest.len();
            let reach = left.len().min(room + 1);
            match memchr(b'\n', &left[..reach]) {
                Some(end) => {
                    self.piece(&whole, &left[..end], log);
                    taken += end + 1;
                }
                None if left.len() > room => {
                    self.piece(&part, &left[..room], log);
                    taken += room;
                }
                None => {
                    self.rest.extend_from_slice(left);
                    taken = bytes.len();
                }
            }
        }
        taken
    }

    /// Ends the line that was left without an end.
    pub(super) fn finish(&mut self, time: Time<'_>, log: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            let whole = head(time, self.source, 'F');
            self.piece(&whole, &[], log);
        }
    }

    /// A log line of what is left over and what has come.
    fn piece(&mut self, head: &str, content: &[u8], log: &mut Vec<u8>) {
        log.reserve(head.len() + self.rest.len() + content.len() + 1);
        log.extend_from_slice(head.as_bytes());
        if !self.rest.is_empty() {
            log.extend_from_slice(&self.rest);
            self.rest = Vec::new();
        }
        log.extend_from_slice(content);
        log.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log_of(chunks: &[&[u8]]) -> String {
        let mut lines = Lines::new(Source::Stdout);
        let mut log = Vec::new();
        for chunk in chunks {
            assert_eq!(lines.feed(chunk, Time("T"), (&mut log, usize::MAX)), chunk.len());
        }
        lines.finish(Time("E"), &mut log);
        String::from_utf8(log).unwrap()
    }

    #[test]
    fn lines_end_where_they_end_however_they_come() {
        assert_eq!(log_of(&[b"a\nb", b"c\n\nd"]), "T stdout F a\nT stdout F bc\nT stdout F \nE stdout F d\n");
        assert_eq!(log_of(&[b""]), "");
    }

    #[test]
    fn a_line_of_exactly_the_bound_is_whole_and_one_more_byte_splits_it() {
        let bound = vec![b'x'; LONGEST];
        let whole = log_of(&[&bound, b"\n"]);
        assert_eq!(whole.lines().count(), 1);
        assert!(whole.starts_with("T stdout F "));
        let split = log_of(&[&bound, b"y\n"]);
        let tags: Vec<&str> = split.lines().map(|line| &line[9..10]).collect();
        assert_eq!(tags, ["P", "F"]);
        assert!(split.ends_with(" F y\n"));
    }

    #[test]
    fn a_lines_parts_are_found_again() {
        let time = super::super::clock::Moment::now();
        let mut lines = Lines::new(Source::Stderr);
        let mut log = Vec::new();
        lines.feed(&[b'x'; LONGEST + 1], time.time(), (&mut log, usize::MAX));
        assert!(is_partial(&log));
        assert_eq!(content(&log), [b'x'; LONGEST]);
        let whole = line(time.time(), Source::Stdout, "some words");
        assert!(!is_partial(whole.as_bytes()));
        assert_eq!(content(whole.as_bytes()), b"some words");
        assert!(!is_partial(b""));
        assert_eq!(content(b"short"), b"");
    }

    proptest! {
        // Each case writes tens of kilobytes.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn joining_gives_back_what_was_written(
            chunks in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..9000), 0..8),
            most in 1_000usize..20_000,
        ) {
            let mut lines = Lines::new(Source::Stderr);
            let mut log = Vec::new();
            for chunk in &chunks {
                let mut taken = 0;
                while taken < chunk.len() {
                    let before = log.len();
                    taken += lines.feed(&chunk[taken..], Time("T"), (&mut log, before + most));
                    prop_assert!(log.len() < before + most + LONGEST + CONTENT + 1);
                    prop_assert!(lines.rest.len() <= LONGEST);
                }
            }
            lines.finish(Time("T"), &mut log);
            let mut joined = Vec::new();
            for line in log.split_inclusive(|byte| *byte == b'\n') {
                let content = &line["T stderr X ".len()..line.len() - 1];
                prop_assert!(content.len() <= LONGEST);
                joined.extend_from_slice(content);
                if line["T stderr ".len()] == b'F' {
                    joined.push(b'\n');
                }
            }
            let mut written = chunks.concat();
            if written.last().is_some_and(|last| *last != b'\n') {
                written.push(b'\n');
            }
            prop_assert_eq!(joined, written);
        }
    }
}
