//! What `firewall` needs of entries; goes with it.

use std::io;

use super::batch::{Batch, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM};
use super::read::NFT_MSG_GETSETELEM;
use super::*;
use crate::builtin::netlink::{Attributes, CREATE, DUMP, EXCL, Message, Socket, attribute, attributes};

const NFT_MSG_GETTABLE: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;

/// A map's entry, as encoded for the kernel; a set's has an empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::builtin) struct Element {
    pub(in crate::builtin) key: Vec<u8>,
    pub(in crate::builtin) value: Vec<u8>,
}

impl Batch {
    /// Adds an entry to a map; fails if its key is there. A set may have it already.
    pub(in crate::builtin) fn add_element(&mut self, table: &Table, map: &str, element: &Element) {
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
    pub(in crate::builtin) fn delete_element(&mut self, table: &Table, map: &str, element: &Element) {
        self.push(NFT_MSG_DELSETELEM, 0, table, |message| {
            elements(message, table, map, |entry| {
                entry.nest(NFTA_SET_ELEM_KEY, |data| value(data, &element.key));
            });
        });
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
pub(in crate::builtin) fn has_table(socket: &mut Socket, table: &Table) -> io::Result<bool> {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE;
    let mut message = Message::new(kind, 0, &nfgenmsg(table.family.number(), 0));
    message.attributes.put_str(NFTA_TABLE_NAME, &table.name);
    match socket.request(message) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// All entries of a map; none where there is no such map.
pub(in crate::builtin) fn list(socket: &mut Socket, table: &Table, map: &str) -> io::Result<Vec<Element>> {
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
