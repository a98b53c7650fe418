//! What of an entry's mode and extended attributes reaches the image: what setting them on a directory tree would have
//! left there, refusals included, so that both forms of a layer are one to whoever looks.

use rustix::io::Errno;

use super::acl::{self, Verdict};
use crate::erofs::xattr::Body;
use crate::unpack::Fault;
use crate::unpack::entry::{Entry, Kind};

/// A node's mode without its kind, and its attributes.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) mode: u16,
    pub(super) xattrs: Body,
}

/// The attributes that an entry's node gets.
pub(super) fn of(entry: &Entry) -> Result<Attributes, Fault> {
    let permissions = u16::try_from(entry.mode & 0o7777).unwrap_or(0);
    let mode = if matches!(entry.kind, Kind::Symlink(_)) { 0o777 } else { permissions };
    let mut attributes = Attributes { mode, xattrs: Body::default() };
    for (name, value) in &entry.xattrs {
        match attributes.checked(&entry.kind, name, value) {
            Ok(true) => {
                let pushed = attributes.xattrs.push(name, value);
                pushed.map_err(|reason| Fault::refused(&entry.name, reason))?;
            }
            Ok(false) => {}
            Err(errno) => return Err(Fault::create(&entry.name, errno)),
        }
    }
    Ok(attributes)
}

impl Attributes {
    /// Whether an attribute is kept. One that speaks to overlay or belongs to the host's security policy isn't.
    fn checked(&mut self, kind: &Kind, name: &[u8], value: &[u8]) -> Result<bool, Errno> {
        if name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
            return Ok(false);
        }
        // The kernel has user attributes on files and directories only (xattr(7)).
        if name.starts_with(b"user.") && !matches!(kind, Kind::Regular { .. } | Kind::Directory) {
            return Ok(false);
        }
        match name {
            b"user." | b"trusted." | b"security." => Err(Errno::INVAL),
            b"security.capability" if !is_capability(value) => Err(Errno::INVAL),
            b"system.posix_acl_access" | b"system.posix_acl_default" => {
                let verdict = match kind {
                    Kind::Symlink(_) => acl::of_link(value),
                    _ if name.ends_with(b"access") => acl::access(value, &mut self.mode),
                    kind => acl::default(value, matches!(kind, Kind::Directory)),
                };
                match verdict {
                    Verdict::Keep => Ok(true),
                    Verdict::Drop => Ok(false),
                    Verdict::Refuse(errno) => Err(errno),
                }
            }
            _ => Ok(true),
        }
    }
}

/// Whether it is a file's capabilities in one of the two revisions that the kernel lets anybody set
/// (linux/capability.h, VFS_CAP_REVISION_2 and VFS_CAP_REVISION_3): a mount would fail to read others.
fn is_capability(value: &[u8]) -> bool {
    matches!((value.len(), value.get(3)), (20, Some(2)) | (24, Some(3)))
}
