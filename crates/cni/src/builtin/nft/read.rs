//! What there is in a table: its entries and rules, and at which generation of all tables.

use std::io;
use std::ops::ControlFlow;

use super::{
    Entry, NFGENMSG, NFNL_SUBSYS_NFTABLES, NFT_GOTO, NFT_JUMP, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE,
    NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_LIST_ELEM, NFTA_RULE_CHAIN, NFTA_RULE_TABLE, NFTA_RULE_USERDATA,
    NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_USERDATA, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE, Table, Value,
    comment_in, nfgenmsg,
};
use crate::builtin::netlink::{DUMP, Message, Socket, attribute, attributes};

const NFT_MSG_GETTABLE: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFTA_CHAIN_USE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
pub(super) const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;

/// The number of the state that all tables of the network namespace are in: another after each change.
pub(in crate::builtin) fn generation(socket: &mut Socket) -> io::Result<u32> {
    let answers =
        socket.request(Message::new(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, 0, &nfgenmsg(0, 0)))?;
    let number = answers.first().and_then(|answer| attribute(answer, NFGENMSG, NFTA_GEN_ID));
    let number = number.and_then(|number| number.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether there is such a table.
pub(in crate::builtin) fn has_table(socket: &mut Socket, table: &Table) -> io::Result<bool> {
    let mut message = request(NFT_MSG_GETTABLE, 0, table);
    message.attributes.put_str(NFTA_TABLE_NAME, &table.name);
    Ok(if_there(socket.request(message))?.is_some())
}

/// All entries of a map; none where there is no such map.
pub(in crate::builtin) fn entries(socket: &mut Socket, table: &Table, map: &str) -> io::Result<Vec<Entry>> {
    let answers = if_there(socket.request(of_map(DUMP, table, map)))?.unwrap_or_default();
    Ok(answers.iter().flat_map(|answer| listed(answer)).collect())
}

/// The entry of that key; `None` where there is no such entry, or no such map. However many there are, it costs the same.
pub(in crate::builtin) fn entry_at(
    socket: &mut Socket,
    table: &Table,
    (map, key): (&str, &[u8]),
) -> io::Result<Option<Entry>> {
    let mut message = of_map(0, table, map);
    message.attributes.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        list.nest(NFTA_LIST_ELEM, |entry| {
            entry.nest(NFTA_SET_ELEM_KEY, |data| {
                data.put(NFTA_DATA_VALUE, key);
            });
        });
    });
    let answers = if_there(socket.request(message))?.unwrap_or_default();
    Ok(answers.iter().flat_map(|answer| listed(answer)).next())
}

/// Whether a map has any entry; not where there is no such map. No more than the first ones are read, by a socket of its own.
pub(in crate::builtin) fn has_entries(socket: Socket, table: &Table, map: &str) -> io::Result<bool> {
    let mut any = false;
    let streamed = socket.stream(of_map(DUMP, table, map), |answer| {
        any |= listed(answer).next().is_some();
        if any { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if_there(streamed).map(|_| any)
}

fn of_map(flags: u16, table: &Table, map: &str) -> Message {
    let mut message = request(NFT_MSG_GETSETELEM, flags, table);
    message.attributes.put_str(NFTA_SET_ELEM_LIST_TABLE, &table.name).put_str(NFTA_SET_ELEM_LIST_SET, map);
    message
}

fn listed(answer: &[u8]) -> impl Iterator<Item = Entry> {
    let list = attribute(answer, NFGENMSG, NFTA_SET_ELEM_LIST_ELEMENTS);
    list.into_iter().flat_map(|list| attributes(list, 0)).filter_map(|(_, raw)| entry(raw))
}

/// `None` for what isn't there.
fn if_there<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

fn entry(raw: &[u8]) -> Option<Entry> {
    let key = attribute(raw, 0, NFTA_SET_ELEM_KEY).and_then(|key| attribute(key, 0, NFTA_DATA_VALUE))?;
    let value = match attribute(raw, 0, NFTA_SET_ELEM_DATA) {
        Some(data) => value(data)?,
        None => Value::Nothing,
    };
    let comment = attribute(raw, 0, NFTA_SET_ELEM_USERDATA).map(comment_in).unwrap_or_default();
    Some(Entry { key: key.to_vec(), value, comment })
}

fn value(raw: &[u8]) -> Option<Value> {
    if let Some(bytes) = attribute(raw, 0, NFTA_DATA_VALUE) {
        return Some(Value::Data(bytes.to_vec()));
    }
    let verdict = attribute(raw, 0, NFTA_DATA_VERDICT)?;
    let code = i32::from_be_bytes(*attribute(verdict, 0, NFTA_VERDICT_CODE)?.first_chunk()?);
    let chain = text(attribute(verdict, 0, NFTA_VERDICT_CHAIN)?);
    match code {
        NFT_JUMP => Some(Value::Jump(chain)),
        NFT_GOTO => Some(Value::Goto(chain)),
        _ => None,
    }
}

/// How many lead to a chain, entries and rules of anybody's; none where there is no such chain.
pub(in crate::builtin) fn references(socket: &mut Socket, table: &Table, chain: &str) -> io::Result<usize> {
    let mut message = request(NFT_MSG_GETCHAIN, 0, table);
    message.attributes.put_str(NFTA_CHAIN_TABLE, &table.name).put_str(NFTA_CHAIN_NAME, chain);
    let answers = if_there(socket.request(message))?.unwrap_or_default();
    let users = answers.first().and_then(|answer| attribute(answer, NFGENMSG, NFTA_CHAIN_USE));
    let users = users.and_then(|users| users.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes));
    // The kernel counts the chain's own rules among its users.
    let own = rules(socket, table)?.iter().filter(|(of, _)| of == chain).count();
    Ok(usize::try_from(users).unwrap_or(usize::MAX).saturating_sub(own))
}

/// The chain and the comment of each rule of a table; none where there is no such table.
pub(in crate::builtin) fn rules(socket: &mut Socket, table: &Table) -> io::Result<Vec<(String, String)>> {
    let mut message = request(NFT_MSG_GETRULE, DUMP, table);
    message.attributes.put_str(NFTA_RULE_TABLE, &table.name);
    let answers = socket.request(message)?;
    let rule = |answer: &Vec<u8>| {
        // Kernels that know no filter list the rules of all tables.
        let of_table = text(attribute(answer, NFGENMSG, NFTA_RULE_TABLE)?) == table.name;
        let chain = text(attribute(answer, NFGENMSG, NFTA_RULE_CHAIN)?);
        let comment = attribute(answer, NFGENMSG, NFTA_RULE_USERDATA).map(comment_in).unwrap_or_default();
        of_table.then_some((chain, comment))
    };
    Ok(answers.iter().filter_map(rule).collect())
}

fn request(kind: u16, flags: u16, table: &Table) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, &nfgenmsg(table.family.number(), 0))
}

fn text(raw: &[u8]) -> String {
    let text = raw.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
