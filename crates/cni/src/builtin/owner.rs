//! Who an entry of the tables or a link belongs to.

use std::collections::HashSet;

use crate::attachment::AttachmentId;
use crate::request::Request;

/// The longest parts of a comment. nft takes comments of 128 bytes at most with their NUL, so a table that was saved can be
/// loaded; an interface's name has 15.
const NETWORK: usize = 40;
const CONTAINER: usize = 64;
/// Stands before the hash of a part that was too long; no name has it.
const SHORTENED: char = '~';

/// An attachment of a network, as it is written beside what is its own: `<network>/<container id>/<ifname>`; none of the three can
/// hold what separates them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) network: String,
    pub(super) container_id: String,
    pub(super) ifname: String,
}

impl Owner {
    /// Whom a request is about.
    pub(super) fn of(request: &Request) -> Owner {
        Owner {
            network: request.network().to_owned(),
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
        }
    }

    /// The owner that an attachment of that network is.
    pub(super) fn attached(network: &str, id: &AttachmentId) -> Owner {
        let AttachmentId { container_id, ifname } = id.clone();
        Owner { network: network.to_owned(), container_id, ifname }
    }

    /// As it stands in the tables and beside a link: the same with long parts shortened, different for different owners all the same.
    pub(super) fn comment(&self) -> String {
        let container = shortened(&self.container_id, CONTAINER);
        format!("{}{container}/{}", Owner::comments_of(&self.network), self.ifname)
    }

    /// What the comments of all owners of that network begin with.
    pub(super) fn comments_of(network: &str) -> String {
        format!("{}/", shortened(network, NETWORK))
    }

    /// Tells the comments of a network's owners who aren't kept.
    pub(super) fn left_over(network: &str, keep: &HashSet<AttachmentId>) -> impl Fn(&str) -> bool + use<> {
        let of_network = Owner::comments_of(network);
        let kept: HashSet<String> = keep.iter().map(|id| Owner::attached(network, id).comment()).collect();
        move |comment| comment.starts_with(&of_network) && !kept.contains(comment)
    }
}

fn shortened(part: &str, longest: usize) -> String {
    if part.len() <= longest {
        return part.to_owned();
    }
    let hash = format!("{SHORTENED}{:016x}", hash(part.as_bytes()));
    let kept = part.get(..part.floor_char_boundary(longest - hash.len())).unwrap_or_default();
    format!("{kept}{hash}")
}

/// FNV-1a, 64 bits: spreads names, keeps nothing secret, and stays the same from version to version.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(network: &str, container: &str) -> Owner {
        Owner { network: network.into(), container_id: container.into(), ifname: "eth0".into() }
    }

    #[test]
    fn comments_are_short_and_each_owners_own() {
        assert_eq!(owner("n", "c").comment(), "n/c/eth0");
        assert!(owner("n", "c").comment().starts_with(&Owner::comments_of("n")));
        let long = "x".repeat(200);
        let comment = Owner { ifname: "i".repeat(15), ..owner(&long, &long) }.comment();
        assert!(comment.len() < 128, "{comment}");
        assert!(comment.starts_with(&Owner::comments_of(&long)));
        assert_ne!(owner("n", &format!("{long}y")).comment(), owner("n", &format!("{long}z")).comment());
        assert_ne!(Owner::comments_of(&format!("{long}y")), Owner::comments_of(&format!("{long}z")));
    }

    #[test]
    fn comments_of_a_network_are_left_over_unless_their_owners_are_kept() {
        let long = "x".repeat(200);
        let id = |container: &str| AttachmentId { container_id: container.into(), ifname: "eth0".into() };
        for network in ["n", &long] {
            let keep = HashSet::from([id("a"), id(&format!("{long}y"))]);
            let is_left_over = Owner::left_over(network, &keep);
            for (owner, left) in [
                (owner(network, "a"), false),
                (owner(network, &format!("{long}y")), false),
                (owner(network, &format!("{long}z")), true),
                (owner(network, "b"), true),
                (owner("m", "b"), false),
            ] {
                assert_eq!(is_left_over(&owner.comment()), left, "{owner:?}");
            }
            assert!(!is_left_over(""));
        }
    }
}
