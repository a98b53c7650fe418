//! Mappings of user and group numbers: who a process of a user namespace is outside of it, and to whom the files
//! of an id-mapped mount belong.

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::build::refuse;
use crate::spec::oci;

/// As many lines as the kernel takes (user_namespaces(7), since Linux 4.15).
const MOST_LINES: usize = 340;

/// A range of numbers: those from `inside` on are those from `outside` on elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMapping {
    /// The first number in the user namespace, or on disk for a mount.
    pub inside: u32,
    /// The first number on the host.
    pub outside: u32,
    /// How many numbers there are.
    pub length: u32,
}

/// Mappings of users and of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMappings {
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
}

impl IdMappings {
    /// The mappings of an OCI specification; none when both lists are empty or missing.
    pub(super) fn read(
        uids: Option<&[oci::LinuxIdMapping]>,
        gids: Option<&[oci::LinuxIdMapping]>,
    ) -> Option<Self> {
        let read = |mappings: Option<&[oci::LinuxIdMapping]>| -> Vec<IdMapping> {
            let one = |mapping: &oci::LinuxIdMapping| IdMapping {
                inside: mapping.container_id(),
                outside: mapping.host_id(),
                length: mapping.size(),
            };
            mappings.unwrap_or_default().iter().map(one).collect()
        };
        let read = Self { uids: read(uids), gids: read(gids) };
        (!read.uids.is_empty() || !read.gids.is_empty()).then_some(read)
    }

    /// Checks that the kernel will take them. `uids` and `gids` are the paths of the two lists.
    ///
    /// # Errors
    /// The first entry that is empty, goes beyond the last number, or overlaps one before it; a list without
    /// entries, or with more than the kernel takes.
    pub fn check(&self, (uids, gids): (&str, &str)) -> Result<(), Refusal> {
        check(&self.uids, uids)?;
        check(&self.gids, gids)
    }

    /// The user on the host that is `uid` inside.
    pub fn outside_uid(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// The group on the host that is `gid` inside.
    pub fn outside_gid(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }
}

fn outside(mappings: &[IdMapping], inside: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let offset = inside.checked_sub(mapping.inside).filter(|offset| *offset < mapping.length)?;
        mapping.outside.checked_add(offset)
    })
}

fn check(mappings: &[IdMapping], list: &str) -> Result<(), Refusal> {
    if mappings.is_empty() {
        return Err(refuse(list, "is empty"));
    }
    if mappings.len() > MOST_LINES {
        return Err(refuse(list, format!("has more than {MOST_LINES} entries")));
    }
    for (at, mapping) in mappings.iter().enumerate() {
        let refused = |why: &str| Err(refuse(format!("{list}[{at}]"), why));
        if mapping.length == 0 {
            return refused("maps no number");
        }
        // The largest number of 32 bits means "nobody in particular" to the kernel.
        let fits = |first: u32| first.checked_add(mapping.length).is_some();
        if !fits(mapping.inside) || !fits(mapping.outside) {
            return refused("goes beyond the last number");
        }
        let overlaps = |a: u32, b: u32, length: u32| {
            u64::from(a) < u64::from(b) + u64::from(length)
                && u64::from(b) < u64::from(a) + u64::from(mapping.length)
        };
        let before = &mappings[..at];
        if before.iter().any(|other| {
            overlaps(mapping.inside, other.inside, other.length)
                || overlaps(mapping.outside, other.outside, other.length)
        }) {
            return refused("overlaps another entry");
        }
    }
    Ok(())
}

/// As uid_map and gid_map of proc(5) take them.
pub(crate) fn lines(mappings: &[IdMapping]) -> String {
    mappings
        .iter()
        .map(|IdMapping { inside, outside, length }| format!("{inside} {outside} {length}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(inside: u32, outside: u32, length: u32) -> IdMapping {
        IdMapping { inside, outside, length }
    }

    fn refused(uids: Vec<IdMapping>) -> String {
        let ids = IdMappings { uids, gids: vec![one(0, 100_000, 65_536)] };
        ids.check(("uids", "gids")).unwrap_err().to_string()
    }

    #[test]
    fn what_the_kernel_would_not_take_is_refused() {
        assert_eq!(refused(vec![]), "uids: is empty");
        assert_eq!(refused(vec![one(0, 1, 0)]), "uids[0]: maps no number");
        assert_eq!(refused(vec![one(0, u32::MAX, 1)]), "uids[0]: goes beyond the last number");
        assert_eq!(refused(vec![one(5, 7, u32::MAX - 6)]), "uids[0]: goes beyond the last number");
        assert_eq!(refused(vec![one(0, 100, 10), one(9, 200, 1)]), "uids[1]: overlaps another entry");
        assert_eq!(refused(vec![one(0, 100, 10), one(10, 109, 1)]), "uids[1]: overlaps another entry");
        let many = (0..341).map(|n| one(n, 1000 + n, 1)).collect::<Vec<_>>();
        assert_eq!(refused(many.clone()), "uids: has more than 340 entries");
        let ids = IdMappings { uids: many[..340].to_vec(), gids: vec![] };
        assert_eq!(ids.check(("uids", "gids")).unwrap_err().field, "gids");
    }

    #[test]
    fn numbers_are_found_from_inside() {
        let uids = vec![one(0, 100_000, 10), one(20, 5, 2)];
        let ids = IdMappings { uids, gids: vec![one(0, 1, 1)] };
        assert!(ids.check(("u", "g")).is_ok());
        assert_eq!([0, 9, 20, 21].map(|id| ids.outside_uid(id)), [100_000, 100_009, 5, 6].map(Some));
        assert_eq!([10, 19, 22, u32::MAX].map(|id| ids.outside_uid(id)), [None; 4]);
        assert_eq!((ids.outside_gid(0), ids.outside_gid(1)), (Some(1), None));
        assert_eq!(lines(&ids.uids), "0 100000 10\n20 5 2\n");
    }
}
