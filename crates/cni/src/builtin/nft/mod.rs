//! nftables over netlink: as much of nfnetlink as our own tables need (linux/netfilter/nf_tables.h).
//!
//! Changes are a [`Batch`]: the kernel applies all of it or nothing. Which tables and rules there are is `firewall`'s
//! affair.

mod rule;

use std::io;

use super::netlink::{Attributes, CREATE, DUMP, EXCL, Message, Refused, Socket, attribute, attributes};
pub(super) use rule::{REGISTER, Rule, Side};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
/// The set holds a value for each key.
const NFT_SET_MAP: u32 = 0x8;
/// The size of nfgenmsg.
const NFGENMSG: usize = 4;

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

/// A map's entry, as encoded for the kernel; a set's has an empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<Message>,
}

impl Batch {
    fn push(&mut self, kind: u16, flags: u16, table: &Table, fill: impl FnOnce(&mut Attributes)) {
        let mut message =
            Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, &nfgenmsg(table.family.number(), 0));
        fill(&mut message.attributes);
        self.messages.push(message);
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Makes a table if there is none.
    pub(super) fn table(&mut self, table: &Table) {
        self.push(NFT_MSG_NEWTABLE, CREATE, table, |message| {
            message.put_str(NFTA_TABLE_NAME, &table.name);
        });
    }

    /// Deletes a table with all that is in it.
    pub(super) fn delete_table(&mut self, table: &Table) {
        self.push(NFT_MSG_DELTABLE, 0, table, |message| {
            message.put_str(NFTA_TABLE_NAME, &table.name);
        });
    }

    /// Makes a map if there is none.
    pub(super) fn map(&mut self, table: &Table, name: &str, kind: MapType) {
        // Only unique within the batch; maps are found by name.
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.push(NFT_MSG_NEWSET, CREATE, table, |message| {
            message
                .put_str(NFTA_SET_TABLE, &table.name)
                .put_str(NFTA_SET_NAME, name)
                .put_be32(NFTA_SET_FLAGS, if kind.value.is_some() { NFT_SET_MAP } else { 0 })
                .put_be32(NFTA_SET_KEY_TYPE, kind.key.number)
                .put_be32(NFTA_SET_KEY_LEN, kind.key.length);
            if let Some(value) = kind.value {
                message.put_be32(NFTA_SET_DATA_TYPE, value.number).put_be32(NFTA_SET_DATA_LEN, value.length);
            }
            message.put_be32(NFTA_SET_ID, id);
        });
    }

    /// Makes a chain if there is none, and empties it.
    pub(super) fn chain(&mut self, table: &Table, name: &str, hook: Option<Hook>) {
        self.push(NFT_MSG_NEWCHAIN, CREATE, table, |message| {
            message.put_str(NFTA_CHAIN_TABLE, &table.name).put_str(NFTA_CHAIN_NAME, name);
            if let Some(hook) = hook {
                message
                    .nest(NFTA_CHAIN_HOOK, |place| {
                        place
                            .put_be32(NFTA_HOOK_HOOKNUM, hook.number)
                            .put(NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
                    })
                    .put_str(NFTA_CHAIN_TYPE, hook.kind);
            }
        });
        self.push(NFT_MSG_DELRULE, 0, table, |message| {
            message.put_str(NFTA_RULE_TABLE, &table.name).put_str(NFTA_RULE_CHAIN, name);
        });
    }

    /// Adds a rule at a chain's end.
    pub(super) fn rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.push(NFT_MSG_NEWRULE, CREATE | super::netlink::APPEND, table, |message| {
            message
                .put_str(NFTA_RULE_TABLE, &table.name)
                .put_str(NFTA_RULE_CHAIN, chain)
                .put_nested(NFTA_RULE_EXPRESSIONS, rule.expressions());
        });
    }

    /// Adds an entry to a map; fails if its key is there. A set may have it already.
    pub(super) fn add_element(&mut self, table: &Table, map: &str, element: &Element) {
        let in_set = element.value.is_empty();
        let flags = if in_set { CREATE } else { CREATE | EXCL };
        self.push(NFT_MSG_NEWSETELEM, flags, table, |message| {
            elements(message, table, map, |entry| {
                entry.nest(NFTA_SET_ELEM_KEY, |data| value(data, &element.key));
                if !in_set {
                    entry.nest(NFTA_SET_ELEM_DATA, |data| value(data, &element.value));
                }
            });
        });
    }

    /// Removes the entry of that key from a map.
    pub(super) fn delete_element(&mut self, table: &Table, map: &str, element: &Element) {
        self.push(NFT_MSG_DELSETELEM, 0, table, |message| {
            elements(message, table, map, |entry| {
                entry.nest(NFTA_SET_ELEM_KEY, |data| value(data, &element.key));
            });
        });
    }

    /// Has the kernel do it. A refusal names the change by its index among those of the batch.
    pub(super) fn commit(mut self, socket: &mut Socket) -> Result<(), Refused> {
        let Some(last) = self.messages.pop() else { return Ok(()) };
        // Only the last is acknowledged: errors are reported unasked.
        self.messages.push(last.acknowledged());
        let frame = |kind| Message::new(kind, 0, &nfgenmsg(0, NFNL_SUBSYS_NFTABLES));
        let mut messages = vec![frame(NFNL_MSG_BATCH_BEGIN)];
        messages.append(&mut self.messages);
        let acknowledged = messages.len() - 1;
        messages.push(frame(NFNL_MSG_BATCH_END));
        let outcome = socket.exchange_until(&messages, acknowledged);
        outcome.map(drop).map_err(|refused| Refused { index: refused.index.saturating_sub(1), ..refused })
    }
}

fn elements(message: &mut Attributes, table: &Table, map: &str, fill: impl FnOnce(&mut Attributes)) {
    message.put_str(NFTA_SET_ELEM_LIST_TABLE, &table.name).put_str(NFTA_SET_ELEM_LIST_SET, map).nest(
        NFTA_SET_ELEM_LIST_ELEMENTS,
        |list| {
            list.nest(NFTA_LIST_ELEM, fill);
        },
    );
}

fn value(data: &mut Attributes, bytes: &[u8]) {
    data.put(NFTA_DATA_VALUE, bytes);
}

/// Whether there is such a table.
pub(super) fn has_table(socket: &mut Socket, table: &Table) -> io::Result<bool> {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE;
    let mut message = Message::new(kind, 0, &nfgenmsg(table.family.number(), 0));
    message.attributes.put_str(NFTA_TABLE_NAME, &table.name);
    match socket.request(message) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// All entries of a map; none where there is no such map.
pub(super) fn list(socket: &mut Socket, table: &Table, map: &str) -> io::Result<Vec<Element>> {
    let mut message = Message::new(
        NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM,
        DUMP,
        &nfgenmsg(table.family.number(), 0),
    );
    message.attributes.put_str(NFTA_SET_ELEM_LIST_TABLE, &table.name).put_str(NFTA_SET_ELEM_LIST_SET, map);
    let answers = match socket.request(message) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        answers => answers?,
    };
    let mut found = Vec::new();
    for answer in &answers {
        let Some(list) = attribute(answer, NFGENMSG, NFTA_SET_ELEM_LIST_ELEMENTS) else { continue };
        for (_, entry) in attributes(list, 0) {
            let part = |kind| attribute(entry, 0, kind).and_then(|data| attribute(data, 0, NFTA_DATA_VALUE));
            if let Some(key) = part(NFTA_SET_ELEM_KEY) {
                let value = part(NFTA_SET_ELEM_DATA).unwrap_or_default().to_vec();
                found.push(Element { key: key.to_vec(), value });
            }
        }
    }
    Ok(found)
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
}
