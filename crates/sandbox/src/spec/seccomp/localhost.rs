//! Profiles of the node: files that kubelet names by absolute path.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use runtime::seccomp::{Architecture, Surroundings, kernel, parse};
use runtime::spec::oci::Capability;
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

use super::shared::{self, Key};
use super::{Confinement, Error};
use crate::spec::capabilities;

/// The largest profile that is read, in bytes. Those of Docker and Kubernetes have some 15 KiB.
const LARGEST: u64 = 1 << 20;

const FIELD: &str = "linux.security_context.seccomp.localhost_ref";

/// Whether a path can be one, without looking.
///
/// # Errors
/// [`Error::Refused`].
pub(crate) fn check(path: &str) -> Result<(), Error> {
    match Path::new(path).is_absolute() && !path.contains('\0') {
        true => Ok(()),
        false => Err(Error::refused(FIELD, format!("\"{path}\" is not an absolute path"))),
    }
}

/// Reads and compiles a profile. Touches the host's filesystems: for a blocking thread.
///
/// # Errors
/// [`Error::Refused`] when it can't be read, is no profile, or asks for something that isn't done.
pub(crate) fn load(path: &str, capabilities: &HashSet<Capability>) -> Result<Confinement, Error> {
    let refuse = |why: String| Error::refused(FIELD, format!("the profile \"{path}\": {why}"));
    check(path)?;
    let text = read(Path::new(path)).map_err(refuse)?;
    of_text(&text, capabilities).map_err(refuse)
}

/// Compiles a profile.
///
/// # Errors
/// Why it can't be.
pub(super) fn of_text(text: &[u8], capabilities: &HashSet<Capability>) -> Result<Confinement, String> {
    let surroundings = Surroundings {
        capabilities: capabilities::mask(capabilities),
        machine: Architecture::NATIVE,
        kernel: kernel(),
    };
    let key = Key::Text(Sha256::digest(text).into(), surroundings.capabilities);
    shared::compiled(key, || parse(text, &surroundings))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    // Not blocking: a fifo would wait for a writer, and is no profile.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| errno.to_string())?;
    let found = rustix::fs::fstat(&file).map_err(|errno| errno.to_string())?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err("is not a regular file".to_owned());
    }
    let mut text = Vec::new();
    // What counts is what is read: a file may grow, and some have no size.
    File::from(file).take(LARGEST + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err(format!("is larger than {LARGEST} bytes"));
    }
    Ok(text)
}
