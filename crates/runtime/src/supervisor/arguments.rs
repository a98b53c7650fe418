//! The supervisor's command line.

use std::path::PathBuf;

use crate::cgroup::Cgroup;

/// What a supervisor is told when it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// `--pod`: the pod's id, shown in lists of processes.
    pub pod: String,
    /// `--dir`: the pod's directory, absolute; containers' records are written below it.
    pub directory: PathBuf,
    /// `--cgroup`: the leaf that it moves itself into, as JSON; it stays where it is without one.
    pub cgroup: Option<Cgroup>,
    /// `--begin`: when it goes on to become one.
    pub begin: Begin,
    /// `--open-files`: how many files what it makes may have open before it asks for more (soft RLIMIT_NOFILE); as many as the
    /// supervisor may at its start without one.
    pub open_files: Option<u64>,
}

/// What a supervisor waits for before it enters its cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Begin {
    /// Nothing.
    #[default]
    AtOnce,
    /// `called`: that somebody connects to its socket. Until then it is a process that systemd can begin a scope with, and its
    /// leaf need not be there.
    Called,
}

/// The value of `--begin`.
const CALLED: &str = "called";

/// Why the command line is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A flag that doesn't exist, or one without its value.
    #[error("unexpected argument \"{0}\"")]
    Unexpected(String),
    /// A flag that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value that can't be one.
    #[error("{0} has the value \"{1}\"")]
    Value(&'static str, String),
}

impl Arguments {
    /// Reads them.
    ///
    /// # Errors
    /// [`UsageError`] naming the argument.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let (mut pod, mut directory, mut cgroup) = (None, None, None);
        let (mut begin, mut open_files) = (Begin::AtOnce, None);
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or_else(|| UsageError::Unexpected(flag.clone()))?;
            match flag.as_str() {
                "--pod" => pod = Some(id(value)?),
                "--dir" => directory = Some(absolute(value)?),
                "--cgroup" => cgroup = Some(read_cgroup(value)?),
                "--begin" if value == CALLED => begin = Begin::Called,
                "--begin" => return Err(UsageError::Value("--begin", value)),
                "--open-files" => open_files = Some(number(value)?),
                _ => return Err(UsageError::Unexpected(flag)),
            }
        }
        Ok(Self {
            pod: pod.ok_or(UsageError::Missing("--pod"))?,
            directory: directory.ok_or(UsageError::Missing("--dir"))?,
            cgroup,
            begin,
            open_files,
        })
    }

    /// The same as a command line.
    pub fn to_vec(&self) -> Vec<String> {
        let mut line = vec!["--pod".to_owned(), self.pod.clone()];
        line.extend(["--dir".to_owned(), self.directory.display().to_string()]);
        if let Some(cgroup) = self.cgroup.as_ref().and_then(|cgroup| serde_json::to_string(cgroup).ok()) {
            line.extend(["--cgroup".to_owned(), cgroup]);
        }
        if self.begin == Begin::Called {
            line.extend(["--begin".to_owned(), CALLED.to_owned()]);
        }
        line.extend(self.open_files.iter().flat_map(|files| ["--open-files".to_owned(), files.to_string()]));
        line
    }
}

/// Whether a text can be an id. It becomes the name of a directory.
pub(super) fn is_id(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.starts_with('.') && (1..=128).contains(&text.len()) && text.bytes().all(known)
}

fn id(value: String) -> Result<String, UsageError> {
    if is_id(&value) { Ok(value) } else { Err(UsageError::Value("--pod", value)) }
}

fn absolute(value: String) -> Result<PathBuf, UsageError> {
    let path = PathBuf::from(&value);
    if path.is_absolute() { Ok(path) } else { Err(UsageError::Value("--dir", value)) }
}

fn number(value: String) -> Result<u64, UsageError> {
    value.parse().map_err(|_| UsageError::Value("--open-files", value))
}

fn read_cgroup(value: String) -> Result<Cgroup, UsageError> {
    serde_json::from_str(&value).map_err(|_| UsageError::Value("--cgroup", value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Arguments, UsageError> {
        Arguments::parse(line.iter().map(ToString::to_string))
    }

    #[test]
    fn a_command_line_is_read_back() {
        let arguments = parse(&["--dir", "/run/p", "--pod", "p"]).unwrap();
        let (pod, directory) = ("p".into(), "/run/p".into());
        let wanted = Arguments { pod, directory, cgroup: None, begin: Begin::AtOnce, open_files: None };
        assert_eq!(arguments, wanted);
        assert_eq!(Arguments::parse(arguments.to_vec()), Ok(arguments.clone()));
        let later = Arguments { begin: Begin::Called, open_files: Some(1024), ..arguments };
        assert_eq!(Arguments::parse(later.to_vec()), Ok(later));
    }

    #[test]
    fn misuse_is_named() {
        assert_eq!(parse(&["--pod", "p"]), Err(UsageError::Missing("--dir")));
        assert_eq!(parse(&["--pod"]), Err(UsageError::Unexpected("--pod".into())));
        assert_eq!(parse(&["--pot", "p"]), Err(UsageError::Unexpected("--pot".into())));
        assert_eq!(parse(&["--pod", "../p"]), Err(UsageError::Value("--pod", "../p".into())));
        assert_eq!(parse(&["--dir", "run"]), Err(UsageError::Value("--dir", "run".into())));
        assert_eq!(parse(&["--begin", "x"]), Err(UsageError::Value("--begin", "x".into())));
        assert_eq!(parse(&["--open-files", "-1"]), Err(UsageError::Value("--open-files", "-1".into())));
        assert_eq!(parse(&["--cgroup", "{}"]), Err(UsageError::Value("--cgroup", "{}".into())));
    }
}
