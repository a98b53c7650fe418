//! Changes of tables, chains, rules and entries that happen together or not at all.

use std::io;
use std::ops::ControlFlow;

use super::{
    Datatype, Entry, Hook, MapType, NFNL_SUBSYS_NFTABLES, NFT_GOTO, NFT_JUMP, NFTA_CHAIN_NAME,
    NFTA_CHAIN_TABLE, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_LIST_ELEM, NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_RULE_USERDATA, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_USERDATA,
    NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE, Rule, Table, Value, comment, nfgenmsg,
};
use crate::builtin::netlink::{APPEND, Attributes, CREATE, EXCL, Message, Socket};

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_BATCH_GENID: u16 = 1;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
pub(super) const NFT_MSG_NEWSETELEM: u16 = 12;
pub(super) const NFT_MSG_DELSETELEM: u16 = 14;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
/// User data of a set that tells nft the byte order of its keys (libnftnl, `NFTNL_UDATA_SET_KEYBYTEORDER`; nftables,
/// include/datatype.h, `BYTEORDER_HOST_ENDIAN`); without, it takes them for big endian, and can't read names.
const UDATA_KEY_BYTE_ORDER: u8 = 0;
const HOST_ENDIAN: u32 = 1;
/// The set holds a value for each key.
const NFT_SET_MAP: u32 = 0x8;

/// How many bytes of entries go into a message. An attribute has 64 KiB at most, and the kernel sends a refused message back
/// whole, which has to fit into what we receive at once.
const ENTRIES: usize = 16 << 10;

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub(in crate::builtin) struct Batch {
    messages: Vec<Message>,
    /// Deletions of chains: the last of all, and what can be left out.
    chains: Vec<Message>,
}

impl Batch {
    pub(super) fn push(&mut self, kind: u16, flags: u16, table: &Table, fill: impl FnOnce(&mut Attributes)) {
        self.messages.push(message(kind, flags, table, fill));
    }

    /// Whether there is nothing to do.
    pub(in crate::builtin) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.chains.is_empty()
    }

    /// Has the chains that were to go stay.
    pub(in crate::builtin) fn keep_chains(&mut self) {
        self.chains.clear();
    }

    /// Makes a table if there is none.
    pub(in crate::builtin) fn table(&mut self, table: &Table) {
        self.push(NFT_MSG_NEWTABLE, CREATE, table, |message| {
            message.put_str(NFTA_TABLE_NAME, &table.name);
        });
    }

    /// Deletes a table with all that is in it.
    pub(in crate::builtin) fn delete_table(&mut self, table: &Table) {
        self.push(NFT_MSG_DELTABLE, 0, table, |message| {
            message.put_str(NFTA_TABLE_NAME, &table.name);
        });
    }

    /// Makes a map if there is none.
    pub(in crate::builtin) fn map(&mut self, table: &Table, name: &str, kind: MapType) {
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
            if kind.key.number == Datatype::INTERFACE.number {
                let [a, b, c, d] = HOST_ENDIAN.to_ne_bytes();
                message.put(NFTA_SET_USERDATA, &[UDATA_KEY_BYTE_ORDER, 4, a, b, c, d]);
            }
        });
    }

    /// Makes a chain if there is none, and empties it.
    pub(in crate::builtin) fn chain(&mut self, table: &Table, name: &str, hook: Option<Hook>) {
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

    /// Deletes a chain with its rules, after all else; refused while anything leads to it.
    pub(in crate::builtin) fn delete_chain(&mut self, table: &Table, name: &str) {
        self.chains.push(message(NFT_MSG_DELCHAIN, 0, table, |message| {
            message.put_str(NFTA_CHAIN_TABLE, &table.name).put_str(NFTA_CHAIN_NAME, name);
        }));
    }

    /// Adds a rule at a chain's end.
    pub(in crate::builtin) fn rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        self.push(NFT_MSG_NEWRULE, CREATE | APPEND, table, |message| {
            message
                .put_str(NFTA_RULE_TABLE, &table.name)
                .put_str(NFTA_RULE_CHAIN, chain)
                .put_nested(NFTA_RULE_EXPRESSIONS, rule.expressions());
            if let Some(text) = rule.comment() {
                message.put(NFTA_RULE_USERDATA, &comment(text));
            }
        });
    }

    /// Adds entries to a map; refused if one of the keys is there.
    pub(in crate::builtin) fn add<'a>(
        &mut self,
        table: &Table,
        map: &str,
        entries: impl Iterator<Item = &'a Entry>,
    ) {
        self.entries((NFT_MSG_NEWSETELEM, CREATE | EXCL), (table, map), entries, |entry, into| {
            into.nest(NFTA_SET_ELEM_KEY, |data| {
                data.put(NFTA_DATA_VALUE, &entry.key);
            });
            if entry.value != Value::Nothing {
                into.nest(NFTA_SET_ELEM_DATA, |data| put_value(data, &entry.value));
            }
            into.put(NFTA_SET_ELEM_USERDATA, &comment(&entry.comment));
        });
    }

    /// Removes the entries of these keys from a map.
    pub(in crate::builtin) fn delete<'a>(
        &mut self,
        table: &Table,
        map: &str,
        entries: impl Iterator<Item = &'a Entry>,
    ) {
        self.entries((NFT_MSG_DELSETELEM, 0), (table, map), entries, |entry, into| {
            into.nest(NFTA_SET_ELEM_KEY, |data| {
                data.put(NFTA_DATA_VALUE, &entry.key);
            });
        });
    }

    /// As many entries to a message as fit.
    fn entries<'a>(
        &mut self,
        (kind, flags): (u16, u16),
        (table, map): (&Table, &str),
        entries: impl Iterator<Item = &'a Entry>,
        fill: impl Fn(&Entry, &mut Attributes),
    ) {
        let mut list = Attributes::default();
        let mut entries = entries.peekable();
        while let Some(entry) = entries.next() {
            list.nest(NFTA_LIST_ELEM, |into| fill(entry, into));
            if list.len() >= ENTRIES || entries.peek().is_none() {
                let list = std::mem::take(&mut list);
                self.push(kind, flags, table, |message| {
                    message
                        .put_str(NFTA_SET_ELEM_LIST_TABLE, &table.name)
                        .put_str(NFTA_SET_ELEM_LIST_SET, map)
                        .put_nested(NFTA_SET_ELEM_LIST_ELEMENTS, &list);
                });
            }
        }
    }

    /// Has the kernel do it, provided that nothing has changed in any table of the network namespace since that generation;
    /// otherwise it is refused with ERESTART.
    pub(in crate::builtin) fn commit_at(&self, socket: &mut Socket, generation: u32) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let frame = |kind| Message::new(kind, 0, &nfgenmsg(0, NFNL_SUBSYS_NFTABLES));
        let mut begin = frame(NFNL_MSG_BATCH_BEGIN);
        begin.attributes.put_be32(NFNL_BATCH_GENID, generation);
        let mut messages = vec![begin];
        messages.extend(self.messages.iter().chain(&self.chains).cloned());
        // Only the last is acknowledged: errors are reported unasked.
        let last = messages.pop().map(Message::acknowledged);
        messages.extend(last);
        let acknowledged = messages.len() - 1;
        messages.push(frame(NFNL_MSG_BATCH_END));
        Ok(socket.exchange_until(&messages, acknowledged, &mut |_| ControlFlow::Continue(()))?)
    }
}

fn message(kind: u16, flags: u16, table: &Table, fill: impl FnOnce(&mut Attributes)) -> Message {
    let head = nfgenmsg(table.family.number(), 0);
    let mut message = Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, &head);
    fill(&mut message.attributes);
    message
}

fn put_value(data: &mut Attributes, value: &Value) {
    let (code, chain) = match value {
        Value::Nothing => return,
        Value::Data(bytes) => {
            data.put(NFTA_DATA_VALUE, bytes);
            return;
        }
        Value::Jump(chain) => (NFT_JUMP, chain),
        Value::Goto(chain) => (NFT_GOTO, chain),
    };
    data.nest(NFTA_DATA_VERDICT, |verdict| {
        verdict.put(NFTA_VERDICT_CODE, &code.to_be_bytes()).put_str(NFTA_VERDICT_CHAIN, chain);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::nft::Family;

    #[test]
    fn entries_are_spread_over_messages() {
        let table = Table { family: Family::Ipv4, name: "t".into() };
        let entry = |n: u16| Entry {
            key: n.to_be_bytes().to_vec(),
            value: Value::Data(vec![0; 8]),
            comment: "n/c/eth0".into(),
        };
        let entries: Vec<Entry> = (0..2000).map(entry).collect();
        let mut batch = Batch::default();
        batch.add(&table, "m", entries.iter());
        assert!((2..20).contains(&batch.messages.len()), "{}", batch.messages.len());
        assert!(batch.messages.iter().all(|message| message.attributes.len() < ENTRIES + 200));
        let mut none = Batch::default();
        none.delete(&table, "m", [].iter());
        assert!(none.is_empty());
    }
}
