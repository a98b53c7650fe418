//! The exit record: how a container ended, for a daemon that wasn't there.
//!
//! Written beside and renamed by the supervisor before it tells anyone; read by the daemon when it takes pods
//! up. Not synced: it lies in the state directory, which dies with the boot as the processes do.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::regular;
use crate::wire::Exit;

/// The record's name in the container's directory.
pub const EXIT_FILE: &str = "exit.json";

/// A record is some 200 bytes long.
const LONGEST: u64 = 64 << 10;

/// The version of the record's form.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct ExitRecord {
    version: u32,
    exit: Exit,
}

/// Writes how a container ended into its directory, which is made where it lacks.
///
/// # Errors
/// What the filesystem refuses; an older record stays whole then.
pub fn write_exit(directory: &Path, exit: &Exit) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let record = ExitRecord { version: VERSION, exit: exit.clone() };
    let beside = directory.join("exit.json.tmp");
    regular::write(&beside, &serde_json::to_vec(&record)?)?;
    fs::rename(&beside, directory.join(EXIT_FILE))
}

/// Reads how a container ended; none when it has not, as far as its directory knows.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for a record that can't be understood, otherwise what the filesystem
/// answers.
pub fn read_exit(directory: &Path) -> io::Result<Option<Exit>> {
    let bytes = match regular::first(&directory.join(EXIT_FILE), LONGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record: ExitRecord =
        serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if record.version != VERSION {
        let why = format!("exit record of version {}", record.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Some(record.exit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let container = directory.path().join("containers/c");
        assert_eq!(read_exit(&container).unwrap(), None);
        let exit = Exit {
            container: "c".into(),
            pid: 7,
            start_time: 8,
            exit_code: 137,
            signal: Some(9),
            oom_killed: true,
            started_at: 1,
            finished_at: 2,
        };
        write_exit(&container, &exit).unwrap();
        assert_eq!(read_exit(&container).unwrap(), Some(exit));
        for broken in ["", "{\"version\":2}", "{\"version\":1,\"exit\":{}}"] {
            fs::write(container.join(EXIT_FILE), broken).unwrap();
            assert_eq!(read_exit(&container).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    /// As the first release writes it.
    #[test]
    fn an_exit_record_of_an_earlier_release_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let golden = include_str!("../tests/golden/exit-1.json");
        fs::write(directory.path().join(EXIT_FILE), golden).unwrap();
        let exit = read_exit(directory.path()).unwrap().unwrap();
        assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, Some(9), false));
        let later = golden.replace("\"oom_killed\"", "\"since_later\":1,\"oom_killed\"");
        fs::write(directory.path().join(EXIT_FILE), later).unwrap();
        assert_eq!(read_exit(directory.path()).unwrap(), Some(exit));
    }
}
