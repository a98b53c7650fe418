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

impl Lines {
    /// A stream that has written nothing.
    pub(super) fn new(source: Source) -> Self {
        Self { source, rest: Vec::new() }
    }

    /// Takes what was written at `time` and appends every log line that is complete to `log`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], time: &str, log: &mut Vec<u8>) {
        while let Some(end) = memchr(b'\n', bytes) {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            if self.rest.is_empty() {
                self.whole_line(line, time, log);
            } else {
                let mut all = std::mem::take(&mut self.rest);
                all.extend_from_slice(line);
                self.whole_line(&all, time, log);
            }
        }
        self.rest.extend_from_slice(bytes);
        while self.rest.len() > LONGEST {
            let more = self.rest.split_off(LONGEST);
            let piece = std::mem::replace(&mut self.rest, more);
            self.piece(b'P', &piece, time, log);
        }
    }

    /// Ends the line that was left without an end.
    pub(super) fn finish(&mut self, time: &str, log: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            self.whole_line(&rest, time, log);
        }
    }

    fn whole_line(&self, line: &[u8], time: &str, log: &mut Vec<u8>) {
        let mut line = line;
        while line.len() > LONGEST {
            self.piece(b'P', &line[..LONGEST], time, log);
            line = &line[LONGEST..];
        }
        self.piece(b'F', line, time, log);
    }

    fn piece(&self, tag: u8, content: &[u8], time: &str, log: &mut Vec<u8>) {
        log.extend_from_slice(time.as_bytes());
        log.extend_from_slice(match self.source {
            Source::Stdout => b" stdout ",
            Source::Stderr => b" stderr ",
        });
        log.extend_from_slice(&[tag, b' ']);
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
            lines.feed(chunk, "T", &mut log);
        }
        lines.finish("E", &mut log);
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

    proptest! {
        // Each case writes tens of kilobytes.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn joining_gives_back_what_was_written(
            chunks in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..9000), 0..8)
        ) {
            let mut lines = Lines::new(Source::Stderr);
            let mut log = Vec::new();
            for chunk in &chunks {
                lines.feed(chunk, "T", &mut log);
                prop_assert!(lines.rest.len() <= LONGEST);
            }
            lines.finish("T", &mut log);
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
