//! nftables over netlink: as much of nfnetlink as our own tables need (linux/netfilter/nf_tables.h).
//!
//! `batch` changes: the kernel applies all of a batch or nothing. `read` lists. `rule` writes rules. Which tables, rules and
//! entries there are is `tables`' affair.

mod batch;
mod read;
mod rule;

pub(super) use batch::Batch;
pub(super) use read::{entries, entry_at, generation, has_entries, has_table, references, rules};
pub(super) use rule::{REGISTER, Rule, Side};

const NFNL_SUBSYS_NFTABLES: u16 = 10;

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
/// The size of nfgenmsg.
const NFGENMSG: usize = 4;
/// A comment among the user data of an entry or a rule (libnftnl, `NFTNL_UDATA_SET_ELEM_COMMENT`,
/// `NFTNL_UDATA_RULE_COMMENT`): kind, length, text, NUL.
const UDATA_COMMENT: u8 = 0;

/// The protocol family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// NFPROTO_IPV4 and NFPROTO_IPV6, the same as the address families.
    pub(super) fn number(self) -> u8 {
        match self {
            Family::Ipv4 => 2,
            Family::Ipv6 => 10,
        }
    }
}

/// Where a base chain hangs: its type, its hook and its priority (nft(8), "CHAINS").
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// The type of a map: that of its keys and of its values. Without values it is a set.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapType {
    pub(super) key: Datatype,
    pub(super) value: Option<Datatype>,
}

/// A concatenation of types. The kernel knows lengths only; the rest is for those who list the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datatype {
    /// nft's own numbers, six bits each, the first uppermost.
    pub(super) number: u32,
    /// In bytes, each part padded to four.
    pub(super) length: u32,
}

/// Types of which keys and values are made, by nft's numbers (nftables, include/datatype.h).
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Ipv4Address,
    Ipv6Address,
    Protocol,
    Port,
}

impl Datatype {
    /// Interfaces' names.
    pub(super) const INTERFACE: Datatype = Datatype { number: 41, length: 16 };

    /// Chains to go on in (`NFT_DATA_VERDICT`).
    pub(super) const VERDICT: Datatype = Datatype { number: 0xffff_ff00, length: 0 };

    pub(super) fn of(parts: &[Part]) -> Datatype {
        let start = Datatype { number: 0, length: 0 };
        parts.iter().fold(start, |so_far, part| {
            let (number, length) = match part {
                Part::Ipv4Address => (7, 4),
                Part::Ipv6Address => (8, 16),
                Part::Protocol => (12, 4),
                Part::Port => (13, 4),
            };
            Datatype { number: so_far.number << 6 | number, length: so_far.length + length }
        })
    }
}

/// A table: what all changes are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) name: String,
}

/// A map's entry, or a set's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    /// As it lies in registers.
    pub(super) key: Vec<u8>,
    pub(super) value: Value,
    /// Shown by whoever lists the table.
    pub(super) comment: String,
}

/// What a map has for a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// A set has keys only.
    Nothing,
    /// As it lies in registers.
    Data(Vec<u8>),
    /// Goes on in that chain, and comes back.
    Jump(String),
    /// Goes on in that chain.
    Goto(String),
}

impl Value {
    /// The chain that it leads to.
    pub(super) fn chain(&self) -> Option<&str> {
        match self {
            Value::Nothing | Value::Data(_) => None,
            Value::Jump(chain) | Value::Goto(chain) => Some(chain),
        }
    }
}

/// User data that nft shows as a comment. Texts of more than 254 bytes don't fit; what is written here is shorter.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut data = vec![UDATA_COMMENT, length];
    data.extend(text.bytes().take(usize::from(length) - 1));
    data.push(0);
    data
}

/// The comment in user data; empty where there is none.
fn comment_in(mut data: &[u8]) -> String {
    while let [kind, length, rest @ ..] = data {
        let Some((value, after)) = rest.split_at_checked(usize::from(*length)) else { break };
        if *kind == UDATA_COMMENT {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return String::from_utf8_lossy(text).into_owned();
        }
        data = after;
    }
    String::new()
}

/// Family, version 0, and a resource number in network byte order.
fn nfgenmsg(family: u8, resource: u16) -> [u8; NFGENMSG] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenations_are_numbered_as_nft_does() {
        let kind = Datatype::of(&[Part::Ipv4Address, Part::Protocol, Part::Port]);
        assert_eq!((kind.number, kind.length), (7 << 12 | 12 << 6 | 13, 12));
        assert_eq!(Datatype::of(&[Part::Ipv6Address, Part::Port]).length, 20);
    }

    #[test]
    fn comments_are_written_as_nft_reads_them() {
        assert_eq!(comment("a/b"), [0, 4, b'a', b'/', b'b', 0]);
        assert_eq!(comment_in(&comment("a/b")), "a/b");
        assert_eq!(comment_in(&[7, 1, 9, 0, 2, b'x', 0]), "x", "after data of another kind");
        let long = "x".repeat(300);
        assert_eq!(comment_in(&comment(&long)), long[..254]);
        for broken in [&[][..], &[0], &[0, 9, b'x'], &[1, 0]] {
            assert_eq!(comment_in(broken), "");
        }
    }
}
