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

/// An attachment of a network, as it is written beside what is its own: `<network>/<container id>/<ifname>`.
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

    /// As it stands in the tables: the same with long parts shortened, different for different owners all the same.
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

    /// Reads what [`Owner`]'s display wrote; none of the three can hold what separates them.
    pub(super) fn parse(text: &str) -> Option<Owner> {
        let mut parts = text.split('/');
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        let owner = Owner { network: part()?, container_id: part()?, ifname: part()? };
        parts.next().is_none().then_some(owner)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
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

/// FNV-1a, 64 bits: keeps nothing secret, and stays the same from version to version.
fn hash(bytes: &[u8]) -> u64 {
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
    fn what_is_written_is_read() {
        let owner = owner("n", "c");
        assert_eq!(Owner::parse(&owner.to_string()), Some(owner));
        for other in ["", "n", "n/c", "n//eth0", "n/c/eth0/x"] {
            assert_eq!(Owner::parse(other), None);
        }
    }
}
