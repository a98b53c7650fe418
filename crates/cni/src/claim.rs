//! One daemon a bridge: a second one would take the first one's pods for leftovers and hand out their addresses.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::error::Error;

/// The right to a bridge, for as long as this lives.
///
/// It is a socket with an abstract name: such names belong to the network namespace, as bridges do, and end with their
/// process however that ends (unix(7)).
#[derive(Debug)]
pub(crate) struct Claim(#[expect(dead_code, reason = "held, not used")] UnixListener);

impl Claim {
    /// Claims a bridge in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::BridgeTaken`], [`Error::Kernel`].
    pub(crate) fn take(bridge: &str) -> Result<Claim, Error> {
        let bound = SocketAddr::from_abstract_name(format!("knarr-bridge-{bridge}"))
            .and_then(|name| UnixListener::bind_addr(&name));
        match bound {
            Ok(socket) => Ok(Claim(socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(Error::BridgeTaken { bridge: bridge.to_owned() })
            }
            Err(source) => Err(Error::Kernel { action: "claim bridge", subject: bridge.to_owned(), source }),
        }
    }
}
