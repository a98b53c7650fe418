//! Reading small files that an operator wrote.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

/// The text of a regular file of at most `limit` bytes, or nothing where there is none. Blocks.
///
/// # Errors
/// The system's, and InvalidData for what is larger, no regular file, or not UTF-8.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<String>> {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(cause) => return Err(cause),
    };
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {limit} bytes")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_small_regular_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(read_bounded(&path, 4).unwrap(), None);
        fs::write(&path, "four").unwrap();
        assert_eq!(read_bounded(&path, 4).unwrap().as_deref(), Some("four"));
        assert_eq!(read_bounded(&path.join("below"), 4).unwrap(), None);
        fs::write(&path, "fives").unwrap();
        assert!(read_bounded(&path, 4).unwrap_err().to_string().contains("larger than 4 bytes"));
        fs::write(&path, [0xff]).unwrap();
        assert!(read_bounded(&path, 4).is_err());
        assert!(read_bounded(Path::new("/dev/null"), 4).is_err());
        assert!(read_bounded(dir.path(), 4).is_err());
    }
}
