//! What there is in a table: its entries and rules, and at which generation of all tables.

use std::io;

use super::{
    Entry, NFGENMSG, NFNL_SUBSYS_NFTABLES, NFT_GOTO, NFT_JUMP, NFTA_DATA_VALUE, NFTA_DATA_VERDICT,
    NFTA_RULE_CHAIN, NFTA_RULE_TABLE, NFTA_RULE_USERDATA, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_USERDATA,
    NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE, Table, Value, comment_in, nfgenmsg,
};
use crate::builtin::netlink::{DUMP, Message, Socket, attribute, attributes};

const NFT_MSG_GETTABLE: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
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
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE;
    let mut message = Message::new(kind, 0, &nfgenmsg(table.family.number(), 0));
    message.attributes.put_str(NFTA_TABLE_NAME, &table.name);
    match socket.request(message) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// All entries of a map; none where there is no such map.
pub(in crate::builtin) fn entries(socket: &mut Socket, table: &Table, map: &str) -> io::Result<Vec<Entry>> {
    let mut message = request(NFT_MSG_GETSETELEM, table);
    message.attributes.put_str(NFTA_SET_ELEM_LIST_TABLE, &table.name).put_str(NFTA_SET_ELEM_LIST_SET, map);
    let answers = match socket.request(message) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        answers => answers?,
    };
    let lists = answers.iter().filter_map(|answer| attribute(answer, NFGENMSG, NFTA_SET_ELEM_LIST_ELEMENTS));
    Ok(lists.flat_map(|list| attributes(list, 0)).filter_map(|(_, raw)| entry(raw)).collect())
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

/// The chain and the comment of each rule of a table; none where there is no such table.
pub(in crate::builtin) fn rules(socket: &mut Socket, table: &Table) -> io::Result<Vec<(String, String)>> {
    let mut message = request(NFT_MSG_GETRULE, table);
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

fn request(kind: u16, table: &Table) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, DUMP, &nfgenmsg(table.family.number(), 0))
}

fn text(raw: &[u8]) -> String {
    let text = raw.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
