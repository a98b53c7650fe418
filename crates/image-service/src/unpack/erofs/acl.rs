//! Access lists as attributes carry them: checked as the kernel checks them when one is set (linux/posix_acl_xattr.h;
//! acl(5)). The kernel refuses every access to a file whose list it can't read, so none gets into an image.

use rustix::io::Errno;

/// The only version of the form.
const VERSION: u32 = 2;

/// Whose permissions an entry says (linux/posix_acl.h).
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// One entry: whose permissions, and which.
struct Entry {
    tag: u16,
    permissions: u16,
}

/// What setting a list comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is kept.
    Keep,
    /// There is nothing to keep, or nobody to whom it would mean something.
    Drop,
    /// The kernel refuses it with this errno.
    Refuse(Errno),
}

use Verdict::{Drop, Keep, Refuse};

/// Judges a list of access of a node that is no symbolic link, and puts into `mode` what it says. One that says no more
/// than the mode does isn't kept.
pub(super) fn access(value: &[u8], mode: &mut u16) -> Verdict {
    let entries = match parse(value) {
        Ok(entries) if is_valid(&entries) => entries,
        Ok(_) => return Refuse(Errno::INVAL),
        Err(verdict) => return verdict,
    };
    let mut more = false;
    let mut set = |shift: u16, permissions: u16| *mode = *mode & !(7 << shift) | permissions << shift;
    for Entry { tag, permissions } in entries {
        match tag {
            USER_OBJ => set(6, permissions),
            GROUP_OBJ | MASK => set(3, permissions),
            OTHER => set(0, permissions),
            _ => {}
        }
        more |= matches!(tag, USER | GROUP | MASK);
    }
    if more { Keep } else { Drop }
}

/// Judges a list of what a directory hands down; other nodes can't have one.
pub(super) fn default(value: &[u8], is_directory: bool) -> Verdict {
    match parse(value) {
        Ok(_) if !is_directory => Refuse(Errno::ACCESS),
        Ok(entries) if is_valid(&entries) => Keep,
        Ok(_) => Refuse(Errno::INVAL),
        Err(verdict) => verdict,
    }
}

/// Judges a list for a symbolic link, which has none of either kind.
pub(super) fn of_link(value: &[u8]) -> Verdict {
    parse(value).map_or_else(|verdict| verdict, |_| Drop)
}

fn parse(value: &[u8]) -> Result<Vec<Entry>, Verdict> {
    let Some((version, entries)) = value.split_first_chunk() else { return Err(Refuse(Errno::INVAL)) };
    if u32::from_le_bytes(*version) != VERSION || entries.is_empty() {
        return Err(Drop);
    }
    if !entries.len().is_multiple_of(8) {
        return Err(Refuse(Errno::INVAL));
    }
    let parsed: Option<Vec<Entry>> = entries.chunks_exact(8).map(entry).collect();
    parsed.ok_or(Refuse(Errno::INVAL))
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    let (tag, rest) = bytes.split_first_chunk()?;
    let (permissions, id) = rest.split_first_chunk()?;
    let (tag, permissions) = (u16::from_le_bytes(*tag), u16::from_le_bytes(*permissions));
    let known = matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
    let nobody = id == [0xff; 4] && matches!(tag, USER | GROUP);
    (known && !nobody).then_some(Entry { tag, permissions })
}

/// Owner, users, group, groups, mask, others: in this order, each once but users and groups, and with a mask where
/// there are users or groups.
fn is_valid(entries: &[Entry]) -> bool {
    let mut tags: Vec<u16> = entries.iter().map(|entry| entry.tag).collect();
    let named = tags.iter().any(|tag| matches!(*tag, USER | GROUP));
    let masked = tags.contains(&MASK);
    tags.dedup_by(|tag, before| tag == before && matches!(*tag, USER | GROUP));
    let allowed = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
    let expected = allowed.iter().filter(|tag| match **tag {
        USER | GROUP | MASK => tags.contains(tag),
        _ => true,
    });
    let permissions = entries.iter().all(|entry| entry.permissions <= 7);
    permissions && tags.iter().eq(expected) && (masked || !named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&permissions.to_le_bytes());
            bytes.extend_from_slice(&7u32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_list_of_access_changes_the_mode() {
        let mut mode = 0o2644;
        assert_eq!(access(&list(&[(1, 7), (4, 5), (0x20, 1)]), &mut mode), Drop);
        assert_eq!(mode, 0o2751);
        assert_eq!(access(&list(&[(1, 6), (2, 7), (4, 5), (0x10, 6), (0x20, 0)]), &mut mode), Keep);
        assert_eq!(mode, 0o2660, "the mask is what the group's bits show");
    }

    #[test]
    fn lists_that_the_kernel_could_not_read_are_refused() {
        let whole = list(&[(1, 6), (2, 7), (4, 5), (8, 1), (8, 2), (0x10, 6), (0x20, 0)]);
        assert_eq!((default(&whole, true), default(&whole, false)), (Keep, Refuse(Errno::ACCESS)));
        assert_eq!(of_link(&whole), Drop);
        for entries in [
            &[(1, 7), (4, 5)][..],
            &[(1, 8), (4, 5), (0x20, 1)],
            &[(1, 7), (1, 7), (4, 5), (0x20, 1)],
            &[(1, 7), (2, 7), (4, 5), (0x20, 1)],
            &[(4, 7), (1, 5), (0x20, 1)],
            &[(1, 7), (4, 5), (0x40, 1)],
        ] {
            assert_eq!(default(&list(entries), true), Refuse(Errno::INVAL), "{entries:?}");
        }
        for broken in [&b"\x02\0\0"[..], b"\x02\0\0\0abc"] {
            assert_eq!(of_link(broken), Refuse(Errno::INVAL));
        }
        for other in [&b"\x02\0\0\0"[..], b"\x03\0\0\0abcdefgh"] {
            assert_eq!((default(other, false), access(other, &mut 0)), (Drop, Drop));
        }
    }
}
