//! Docker's way of giving certificates: `*.crt` are authorities, and `x.cert` with `x.key` is ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Tls;

/// The certificates in a directory; none of them there is fine.
pub(super) fn certificates(dir: &Path) -> io::Result<Tls> {
    let mut paths = match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?,
        Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => Vec::new(),
        Err(cause) => return Err(cause),
    };
    paths.sort();
    let has = |path: &&PathBuf, extension: &str| path.extension().is_some_and(|e| e == extension);
    let authorities = paths.iter().filter(|path| has(path, "crt")).cloned().collect();
    let client = paths.iter().find(|path| has(path, "cert")).map(|path| {
        // Without a file of its own, the key is in the certificate's.
        let key = Some(path.with_extension("key")).filter(|key| paths.contains(key));
        (path.clone(), key)
    });
    Ok(Tls { authorities, client, skip_verify: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_keys_are_known_by_their_extensions() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.crt", "a.crt", "me.cert", "me.key", "README"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let at = |name: &str| dir.path().join(name);
        let tls = certificates(dir.path()).unwrap();
        assert_eq!(tls.authorities, [at("a.crt"), at("b.crt")]);
        assert_eq!(tls.client, Some((at("me.cert"), Some(at("me.key")))));
        fs::remove_file(at("me.key")).unwrap();
        assert_eq!(certificates(dir.path()).unwrap().client, Some((at("me.cert"), None)));
    }
}
