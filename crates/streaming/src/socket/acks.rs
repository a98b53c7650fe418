//! What a client's host has acknowledged, by the kernel's figures of a connection: `sock_diag`(7) and `linux/inet_diag.h`. `TCP_INFO` of
//! `tcp`(7) has the same, but none of rustix, nix and socket2 gives it without `unsafe`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// A connection as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acks {
    /// Segments that are under way.
    pub(super) unacknowledged: u32,
    /// Bytes that the client's host would take. A window of zero is that of a client that doesn't read.
    pub(super) window: u32,
    /// How long ago the client's host last acknowledged anything, a question included.
    pub(super) last: Duration,
}

impl Acks {
    /// Whether bytes that the client's host had room for went unanswered for that long.
    pub(super) fn is_silent_for(&self, time: Duration) -> bool {
        self.unacknowledged > 0 && self.window > 0 && self.last >= time
    }
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ALL_STATES: u32 = u32::MAX;
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// `INET_DIAG_INFO`: the attribute that is wanted, and the bit to ask for it.
const INFO: u16 = 2;
const WANT_INFO: u8 = 1 << (INFO - 1);

/// Lengths of `struct nlmsghdr`, and of `struct inet_diag_msg` after it.
const HEADER: usize = 16;
const MESSAGE: usize = 72;

/// Where the fields are in `struct tcp_info` (`linux/tcp.h`): `tcpi_unacked`, `tcpi_last_ack_recv` (milliseconds), `tcpi_snd_wnd` (since
/// Linux 5.4).
const UNACKED: usize = 24;
const LAST_ACK: usize = 56;
const WINDOW: usize = 228;

/// Asks for one connection of this network namespace. It doesn't block: the kernel answers within the question.
pub(super) fn of(ours: SocketAddr, theirs: SocketAddr) -> io::Result<Acks> {
    let socket = socket()?;
    sendto(&socket, &question(ours, theirs), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 4 << 10];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    let answer = answer.get(..length).unwrap_or_default();
    parse(answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the kernel says nothing of a connection"))
}

fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn question(ours: SocketAddr, theirs: SocketAddr) -> Vec<u8> {
    let (family, scope) = match ours {
        SocketAddr::V4(_) => (AF_INET, 0),
        SocketAddr::V6(ours) => (AF_INET6, ours.scope_id()),
    };
    let mut body = vec![family, IPPROTO_TCP, WANT_INFO, 0];
    body.extend(ALL_STATES.to_ne_bytes());
    body.extend(ours.port().to_be_bytes());
    body.extend(theirs.port().to_be_bytes());
    for address in [ours.ip(), theirs.ip()] {
        match address {
            IpAddr::V4(v4) => body.extend([&v4.octets()[..], &[0; 12]].concat()),
            IpAddr::V6(v6) => body.extend(v6.octets()),
        }
    }
    body.extend(scope.to_ne_bytes());
    body.extend(NO_COOKIE);
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut question = Vec::from(length.to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(NLM_F_REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend(body);
    question
}

fn parse(answer: &[u8]) -> Option<Acks> {
    if u16_at(answer, 4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut attributes = answer.get(HEADER + MESSAGE..)?;
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        if u16_at(attributes, 2)? == INFO {
            let info = attributes.get(4..length)?;
            let last = Duration::from_millis(u32_at(info, LAST_ACK)?.into());
            return Some(Acks {
                unacknowledged: u32_at(info, UNACKED)?,
                window: u32_at(info, WINDOW)?,
                last,
            });
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target: IpAddr = if address == "::1" { "::1" } else { "127.0.0.1" }.parse().unwrap();
        let client = TcpStream::connect((target, port)).unwrap();
        (listener.accept().unwrap().0, client)
    }

    /// One that doesn't read isn't one that has gone, however long ago its host's last word is.
    #[test]
    fn a_client_that_does_not_read_has_no_window_and_is_not_silent() {
        for address in ["127.0.0.1", "::1", "::"] {
            let (mut server, client) = pair(address);
            let ask = || of(server.local_addr().unwrap(), server.peer_addr().unwrap()).unwrap();
            let fresh = ask();
            assert!(
                fresh.window > 0 && !fresh.is_silent_for(Duration::from_secs(60)),
                "{address}: {fresh:?}"
            );
            server.set_nonblocking(true).unwrap();
            let begun = std::time::Instant::now();
            let full = loop {
                let _full = server.write(&[0; 64 << 10]);
                let acks = of(server.local_addr().unwrap(), server.peer_addr().unwrap()).unwrap();
                if acks.window == 0 || acks.unacknowledged == 0 && begun.elapsed() > Duration::from_secs(1) {
                    break acks;
                }
                assert!(begun.elapsed() < Duration::from_secs(60), "{address}: {acks:?}");
            };
            assert!(!full.is_silent_for(Duration::ZERO), "{address}: {full:?}");
            drop(client);
        }
    }

    #[test]
    fn what_is_no_answer_says_nothing() {
        let nobody = "127.0.0.1:1".parse().unwrap();
        of(nobody, nobody).unwrap_err();
        for length in 0..HEADER + MESSAGE + 8 {
            let mut answer = vec![0; length];
            if let Some(kind) = answer.get_mut(4) {
                *kind = SOCK_DIAG_BY_FAMILY.to_ne_bytes()[0];
            }
            assert_eq!(parse(&answer), None);
        }
    }
}
