//! Whether any table of the network namespace has been changed, by whoever it may be.

use crate::builtin::netlink::Socket;
use crate::builtin::nft;
use crate::error::Error;

use super::{ASK, failed};

/// Compares the generation of all tables with the last one seen.
///
/// The socket is kept: the kernel has who closes one wait for the end of whatever change is under way
/// (net/netfilter/nf_tables_api.c, `nft_rcv_nl_event`), and nobody who asks for the generation.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    socket: Option<Socket>,
    seen: Option<u32>,
}

impl Changes {
    /// Whether there are any since the last call; the first time there are. Waits for nothing.
    ///
    /// # Errors
    /// [`Error::Kernel`]; the next call tries again.
    pub(crate) fn are_there(&mut self) -> Result<bool, Error> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::netfilter_to_keep().map_err(failed(ASK))?,
        };
        let now = nft::generation(&mut socket).map_err(failed(ASK))?;
        self.socket = Some(socket);
        Ok(self.seen.replace(now) != Some(now))
    }
    /// What changes there have been wasn't seen after all.
    pub(crate) fn forget(&mut self) {
        self.seen = None;
    }
}
