//! All files of the directories, and which device is in which.
//!
//! A later directory goes before an earlier one, so that what is made at run time (/var/run/cdi) replaces what is configured
//! (/etc/cdi). Two files of one directory with the same device contradict each other, and the device can't be had.

use std::path::{Path, PathBuf};

use super::file::File;
use super::name::Name;

/// Files of one directory that are looked at.
const MOST_FILES: usize = 4096;

/// The files.
pub(super) struct Registry {
    directories: Vec<PathBuf>,
    /// Those that could be read, with the number of their directory.
    files: Vec<(PathBuf, usize, File)>,
    /// Those that couldn't, and why.
    broken: Vec<String>,
}

/// A device that was found.
pub(super) struct Found<'a> {
    /// Which of the files it is in.
    pub(super) number: usize,
    path: &'a Path,
    pub(super) file: &'a File,
    /// Which of the file's devices it is.
    pub(super) device: usize,
}

impl Found<'_> {
    /// A place in the file, for messages.
    pub(super) fn place(&self, below: &str) -> String {
        format!("\"{}\": {below}", self.path.display())
    }
}

impl Registry {
    /// Reads all files; a directory that is missing has none.
    pub(super) fn read(directories: &[PathBuf]) -> Self {
        let mut registry = Self { directories: directories.to_vec(), files: Vec::new(), broken: Vec::new() };
        for (number, directory) in directories.iter().enumerate() {
            for path in names(directory) {
                match File::read(&path) {
                    Ok(file) => registry.files.push((path, number, file)),
                    Err(why) => registry.broken.push(format!("\"{}\": {why}", path.display())),
                }
            }
        }
        registry
    }

    /// # Errors
    /// Why there is no such device.
    pub(super) fn find(&self, name: &Name) -> Result<Found<'_>, String> {
        let holds = |(number, (path, directory, file)): (usize, &'_ (PathBuf, usize, File))| {
            let device = file.devices.iter().position(|device| device.name == name.device)?;
            (file.kind == name.kind).then_some((number, path.clone(), *directory, device))
        };
        let all: Vec<_> = self.files.iter().enumerate().filter_map(holds).collect();
        let highest = all.iter().map(|(_, _, directory, _)| *directory).max();
        let mut best = all.iter().filter(|(_, _, directory, _)| Some(*directory) == highest);
        match (best.next(), best.next()) {
            (None, _) => Err(self.missing(name)),
            (Some((_, one, ..)), Some((_, other, ..))) => {
                Err(format!("\"{name}\" is in both \"{}\" and \"{}\"", one.display(), other.display()))
            }
            (Some((number, _, _, device)), None) => {
                let (path, _, file) = &self.files[*number];
                Ok(Found { number: *number, path, file, device: *device })
            }
        }
    }

    fn missing(&self, name: &Name) -> String {
        let listed: Vec<String> =
            self.directories.iter().map(|directory| format!("\"{}\"", directory.display())).collect();
        let mut why = format!("\"{name}\" is in no file of {}", listed.join(" or "));
        if !self.broken.is_empty() {
            // One of them may be the one that was meant.
            why += &format!("; not readable: {}", self.broken.join("; "));
        }
        why
    }
}

/// The files of a directory that count, in the order of their names.
fn names(directory: &Path) -> Vec<PathBuf> {
    let counts = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json" || ending == "yaml");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(counts).take(MOST_FILES).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, devices: &[&str]) {
        let devices: Vec<_> = devices
            .iter()
            .map(|name| serde_json::json!({ "name": name, "containerEdits": { "env": ["A=1"] } }))
            .collect();
        let file = serde_json::json!({ "cdiVersion": "0.5.0", "kind": "v/c", "devices": devices });
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join(name), file.to_string()).unwrap();
    }

    #[test]
    fn the_later_directory_wins_and_equals_contradict() {
        let place = tempfile::tempdir().unwrap();
        let [fixed, run] = ["fixed", "run"].map(|name| place.path().join(name));
        write(&fixed, "a.json", &["both", "fixed", "twice"]);
        write(&fixed, "b.json", &["twice"]);
        write(&run, "c.json", &["both"]);
        std::fs::write(run.join("broken.yaml"), "kind: [").unwrap();
        std::fs::write(run.join("ignored.txt"), "{").unwrap();
        let registry = Registry::read(&[fixed.clone(), run.clone(), place.path().join("missing")]);
        let find = |device: &str| {
            let name = Name::parse(&format!("v/c={device}")).unwrap();
            registry.find(&name).map(|found| found.path.to_owned())
        };
        assert_eq!(find("both").unwrap(), run.join("c.json"));
        assert_eq!(find("fixed").unwrap(), fixed.join("a.json"));
        let twice = find("twice").unwrap_err();
        assert!(twice.contains("a.json") && twice.contains("b.json"), "{twice}");
        let missing = find("missing").unwrap_err();
        assert!(missing.contains("broken.yaml") && !missing.contains("ignored"), "{missing}");
    }
}
