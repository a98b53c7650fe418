//! Interfaces that the host's loopback network is still routed by, though the guard went with tables that somebody took away, and
//! nobody is left for whom it would come back.

use super::{Batch, Family, Map, Sight, Socket, Turn, change};
use crate::builtin::localnet;
use crate::error::Error;

/// Ends that for all that don't stand in the tables.
///
/// Every change of the tables may be by somebody who comes at this moment, and sets what is being taken back: it is looked again
/// until none has come between.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn shut() -> Result<(), Error> {
    let Some(turn) = Turn::if_any(Socket::netfilter)? else { return Ok(()) };
    let mut shut = Vec::new();
    change(turn, Sight::Maps(&[Map::Localnet]), |_, found| {
        let of_ipv4 = || found.iter().filter(|placed| placed.family == Family::Ipv4);
        let is_guarded = |key: &[u8]| of_ipv4().any(|placed| placed.entry.key == key);
        for interface in localnet::opened() {
            if !is_guarded(&interface.key) {
                localnet::shut(&interface)?;
                shut.push(interface);
            }
        }
        for interface in shut.extract_if(.., |interface| is_guarded(&interface.key)) {
            localnet::open(&interface)?;
        }
        Ok((Batch::default(), ()))
    })
}
