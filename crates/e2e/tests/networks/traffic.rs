//! Servers that tell who asked, and clients of them, in any network namespace.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use e2e::node::PATIENCE;
use e2e::{Netns, patience, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// After which nobody answers any more: what is dropped on the way stays silent.
const SILENCE: Duration = Duration::from_secs(2);

/// A server, until it is dropped.
pub(crate) struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers each TCP connection with the address that it comes from, at a port of both families.
pub(crate) fn serve_tcp(netns: &Netns, port: u16) -> Server {
    let listener = netns.listen(at("::", port));
    Server(tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes()).await;
        }
    }))
}

/// The same for datagrams, in one family: an answer has to come from the address that was asked.
pub(crate) fn serve_udp(netns: &Netns, address: SocketAddr) -> Server {
    let socket = netns.datagrams(address);
    Server(tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer).await;
        }
    }))
}

/// The address that a server at `server` sees when it is asked from `netns`; or why there is no answer.
pub(crate) async fn ask_tcp(netns: &Netns, server: SocketAddr) -> Result<IpAddr, String> {
    let asked = async {
        let mut text = String::new();
        let mut stream = netns.dial(server).await.map_err(|error| error.to_string())?;
        stream.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
        text.parse().map_err(|_| format!("\"{text}\" is no address"))
    };
    timeout(patience(SILENCE), asked).await.unwrap_or_else(|_| Err("silence".to_owned()))
}

/// The same where there must be an answer, if not at once: a bridge that has just been made tells its neighbours nothing
/// over IPv6 until it knows that its addresses are its own.
pub(crate) async fn reach_tcp(netns: &Netns, server: SocketAddr) -> IpAddr {
    until(PATIENCE, &format!("an answer from {server} over TCP"), || ask_tcp(netns, server)).await
}

/// The same for datagrams.
pub(crate) async fn reach_udp(netns: &Netns, server: SocketAddr) -> IpAddr {
    until(PATIENCE, &format!("an answer from {server} over UDP"), || ask_udp(netns, server)).await
}

/// As [`ask_tcp`], for datagrams.
pub(crate) async fn ask_udp(netns: &Netns, server: SocketAddr) -> Result<IpAddr, String> {
    let any = if server.is_ipv4() { "0.0.0.0" } else { "::" };
    let asked = async {
        let mut buffer = [0; 64];
        let socket = netns.datagrams(at(any, 0));
        socket.connect(server).await.map_err(|error| error.to_string())?;
        socket.send(b"?").await.map_err(|error| error.to_string())?;
        let length = socket.recv(&mut buffer).await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        text.parse().map_err(|_| format!("\"{text}\" is no address"))
    };
    timeout(patience(SILENCE), asked).await.unwrap_or_else(|_| Err("silence".to_owned()))
}

/// An address and a port.
pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}
