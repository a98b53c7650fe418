//! Where the configuration comes from: a file, the files of the directory beside it, the command line; each later one wins.
//!
//! `FILE`, then `FILE.d/*.toml` in the order of their names (bytes), then the flags of `knarr serve`. Without `--config` the file is
//! /etc/knarr/config.toml, which needn't be there. All of it is judged as one: what is wrong is told whole, with file and line.
//! Not here: how files are merged (see `tree`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::read::{Misfit, read};
use super::tree::{self, Place, Table, Value};
use super::{Config, Fault, keys};

/// The file that is read unless another is named.
pub(crate) const USUAL: &str = "/etc/knarr/config.toml";

/// Where a configuration comes from. Kept, so that it can be read again.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    file: PathBuf,
    /// One that was named must be there, lest a misspelt path be without effect.
    is_named: bool,
    /// What the command line says.
    flags: Table,
}

/// A configuration that can be used.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Its values.
    pub(crate) config: Config,
    /// The files that were read, in their order.
    pub(crate) files: Vec<PathBuf>,
}

/// All that is wrong with a configuration.
#[derive(Debug)]
pub(crate) struct ConfigError(Vec<Wrong>);

/// One thing.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wrong {
    place: Option<Place>,
    /// The key, or the file, and what is the matter.
    what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration can't be used:")?;
        self.0.iter().try_for_each(|wrong| match &wrong.place {
            Some(place) => write!(f, "\n  {place}: {}", wrong.what),
            None => write!(f, "\n  {}", wrong.what),
        })
    }
}

impl std::error::Error for ConfigError {}

impl Sources {
    /// This file and its directory, or the usual ones.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        let is_named = file.is_some();
        Self { file: file.unwrap_or_else(|| USUAL.into()), is_named, flags: Table::new() }
    }

    /// A flag, where it was given, wins over all files.
    pub(crate) fn flag<T: Into<Value>>(&mut self, key: &str, given: Option<T>) {
        if let Some(given) = given {
            tree::set(&mut self.flags, key, given.into());
        }
    }

    /// Reads and checks everything. Blocks: files are read.
    ///
    /// # Errors
    /// Everything that is wrong; where files can't be read or are no TOML, only that.
    pub(crate) fn load(&self) -> Result<Loaded, ConfigError> {
        let (files, mut wrong) = self.files();
        let mut written = Table::new();
        for file in &files {
            match read_file(file) {
                Ok(table) => tree::merge(&mut written, table),
                Err(mut found) => wrong.append(&mut found),
            }
        }
        if !wrong.is_empty() {
            return Err(ConfigError(wrong));
        }
        tree::merge(&mut written, self.flags.clone());
        let config = judge(&written)?;
        Ok(Loaded { config, files })
    }

    /// Where a daemon that is started from these would listen, whatever else is wrong with them.
    pub(crate) fn listen(&self) -> String {
        let mut written = Table::new();
        for table in self.files().0.iter().filter_map(|file| read_file(file).ok()) {
            tree::merge(&mut written, table);
        }
        read::<Config>(written).0.unwrap_or_default().listen
    }

    /// The files that are there.
    fn files(&self) -> (Vec<PathBuf>, Vec<Wrong>) {
        let is_wanted = self.is_named || self.file.exists();
        let mut files: Vec<PathBuf> = is_wanted.then(|| self.file.clone()).into_iter().collect();
        let directory = self.drop_ins();
        match list(&directory) {
            Ok(mut found) => files.append(&mut found),
            Err(cause) => return (files, vec![unreadable(&directory, &cause)]),
        }
        (files, Vec::new())
    }

    /// The directory beside the file.
    pub(crate) fn drop_ins(&self) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".d");
        name.into()
    }
}

/// Files ending in `.toml` that aren't hidden; what package managers and editors leave beside them doesn't.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let is_hidden =
        |path: &Path| path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    files.retain(|path| path.extension().is_some_and(|end| end == "toml") && !is_hidden(path));
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Table, Vec<Wrong>> {
    let text = std::fs::read_to_string(path).map_err(|cause| vec![unreadable(path, &cause)])?;
    tree::parse(path, &text).map_err(|errors| {
        let wrong = |(place, why)| Wrong { place: Some(place), what: why };
        errors.into_iter().map(wrong).collect()
    })
}

fn unreadable(path: &Path, cause: &io::Error) -> Wrong {
    Wrong { place: None, what: format!("{}: can't be read: {cause}", path.display()) }
}

/// Reads what was written, and checks the values of what could be read.
fn judge(written: &Table) -> Result<Config, ConfigError> {
    let (config, misfits) = read::<Config>(written.clone());
    let mut wrong: Vec<Wrong> = misfits.iter().map(misfit).collect();
    let Some(config) = config else { return Err(ConfigError(wrong)) };
    if let Err(faults) = config.check() {
        let refused: Vec<String> = misfits.into_iter().map(|misfit| misfit.key).collect();
        // What has its default because it could not be read is told once.
        let told = |fault: &Fault| refused.iter().any(|key| fault.key.starts_with(key.as_str()));
        wrong.extend(faults.into_each().into_iter().filter(|fault| !told(fault)).map(|fault| Wrong {
            place: tree::place_of(written, &tree::parts(&fault.key)),
            what: fault.to_string(),
        }));
    }
    wrong.sort();
    if wrong.is_empty() { Ok(config) } else { Err(ConfigError(wrong)) }
}

fn misfit(Misfit { place, key, refusal }: &Misfit) -> Wrong {
    let meant = refusal.known.and_then(|known| keys::meant(key, known));
    let meant = meant.map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
    Wrong { place: Some(place.clone()), what: format!("{key}: {}{meant}", refusal.why) }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Other("a number beyond 63 bits"), Self::Integer)
    }
}

impl From<Vec<String>> for Value {
    fn from(items: Vec<String>) -> Self {
        let item = |text| tree::Node { place: Place::CommandLine, value: Self::Text(text) };
        Self::List(items.into_iter().map(item).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A file with these contents, and its directory with those of others by name.
    fn written(main: &str, others: &[(&str, &str)]) -> (TempDir, Sources) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("knarr.toml");
        std::fs::write(&file, main).unwrap();
        let sources = Sources::new(Some(file));
        std::fs::create_dir(sources.drop_ins()).unwrap();
        for (name, text) in others {
            std::fs::write(sources.drop_ins().join(name), text).unwrap();
        }
        (directory, sources)
    }

    /// The lines of the complaint, without the directory.
    fn complaints((directory, sources): &(TempDir, Sources)) -> Vec<String> {
        let told = sources.load().unwrap_err().to_string();
        let directory = format!("{}/", directory.path().display());
        told.lines().skip(1).map(|line| line.trim().replace(&directory, "")).collect()
    }

    #[test]
    fn files_are_laid_over_each_other_and_flags_over_them() {
        let (_directory, mut sources) = written(
            "root = \"/main\"\nstate = \"/main\"\ncni_bin_dir = [\"/a\", \"/b\"]\n[network]\nnative = true\nnetworks = 2",
            &[
                ("20-b.toml", "state = \"/b\"\ncni_bin_dir = [\"/c\"]"),
                ("10-a.toml", "state = \"/a\"\n[network]\nnetworks = 3"),
                ("30-c.toml.dpkg-old", "state = \"/old\""),
                (".40-d.toml", "state = \"/hidden\""),
            ],
        );
        sources.flag("network.bridge", Some("br0".to_owned()));
        sources.flag("root", None::<String>);
        let loaded = sources.load().unwrap();
        assert_eq!(loaded.files.len(), 3);
        let config = loaded.config;
        assert_eq!((config.root.as_path(), config.state.as_path()), (Path::new("/main"), Path::new("/b")));
        assert_eq!(config.cni_bin_dir, [PathBuf::from("/c")]);
        assert!(config.network.native && config.network.networks == 3 && config.network.bridge == "br0");
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_with_file_and_line() {
        let rig = written(
            "root = \"relative\"\nlog_levle = \"info\"\n[streaming]\nport = 70000\naddress = \"here\"\n",
            &[
                ("10.toml", "builtin = true\n[network]\nnetworks = 99\nnative = \"yes\"\n"),
                (
                    "20.toml",
                    "[handlers.x]\nruntme = 1\n[handlers.x.default_ulimits]\nnofile = { soft = 1 }\n[metrics]\nlisten = \"x\"",
                ),
            ],
        );
        assert_eq!(
            complaints(&rig),
            [
                "knarr.toml:1:8: root: must be an absolute path, not \"relative\"",
                "knarr.toml:2:1: log_levle: there is no such key; did you mean \"log_level\"?",
                "knarr.toml:4:8: streaming.port: must be a number from 0 to 65535, not integer `70000`",
                "knarr.toml:5:11: streaming.address: must be an IP address, not \"here\"",
                "knarr.toml.d/10.toml:1:1: builtin: there is no such key; did you mean \"network.builtin\"?",
                "knarr.toml.d/10.toml:3:12: network.networks: must be 1 to 16, not \"99\"",
                "knarr.toml.d/10.toml:4:10: network.native: must be true or false, not string \"yes\"",
                "knarr.toml.d/20.toml:2:1: handlers.x.runtme: there is no such key; did you mean \"runtime\"?",
                "knarr.toml.d/20.toml:4:10: handlers.x.default_ulimits.nofile: lacks the key \"hard\"",
                "knarr.toml.d/20.toml:6:10: metrics.listen: must be an IP address and a port, such as 127.0.0.1:9323, or empty, not \"x\"",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_told_of_all_files() {
        let rig = written("root = /x", &[("10.toml", "[network\nx = 1")]);
        let told = complaints(&rig);
        assert!(told.iter().any(|line| line.starts_with("knarr.toml:1:")), "{told:?}");
        assert!(told.iter().any(|line| line.starts_with("knarr.toml.d/10.toml:1:")), "{told:?}");
    }

    #[test]
    fn a_wrong_flag_is_told_as_the_command_line_s() {
        let (_directory, mut sources) = written("[streaming]\naddress = \"127.0.0.1\"", &[]);
        sources.flag("streaming.address", Some("there".to_owned()));
        let told = sources.load().unwrap_err().to_string();
        assert!(
            told.ends_with("\n  the command line: streaming.address: must be an IP address, not \"there\""),
            "{told}"
        );
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let told = Sources::new(Some("/nonexistent/x.toml".into())).load().unwrap_err().to_string();
        assert!(told.contains("/nonexistent/x.toml: can't be read"), "{told}");
    }
}
