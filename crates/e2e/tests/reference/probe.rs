//! Traffic as the judge of rules: servers that say who they are and whom they see, and questions to them.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::scratch::{Place, Scratch};

/// How long is waited for an answer. Who is there answers at once, when the machine lets it.
const PATIENCE: Duration = Duration::from_millis(2400);
/// How often a datagram is sent that may be lost while addresses are looked up.
const ATTEMPTS: u32 = 3;
/// How soon a server ends that is no longer needed.
const LOOK: Duration = Duration::from_millis(50);

/// What carries a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Tcp,
    Udp,
}

/// Who asks whom.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) from: Place,
    pub(crate) to: String,
    pub(crate) by: By,
}

/// Asks all at once: who answered each, and whom it saw; or what hindered it.
pub(crate) fn ask(scratch: &Scratch, questions: &[Question]) -> Value {
    let answers: Map<String, Value> = thread::scope(|scope| {
        let asked: Vec<_> = questions
            .iter()
            .map(|question| scope.spawn(|| scratch.existing(question.from).run(|| question.ask())))
            .collect();
        let answers = asked.into_iter().map(|answer| answer.join().unwrap());
        questions.iter().map(Question::name).zip(answers).collect()
    });
    Value::Object(answers)
}

impl Question {
    fn name(&self) -> String {
        format!("{} asks {} by {:?}", self.from.name(), self.to, self.by)
    }

    fn ask(&self) -> Value {
        let server: SocketAddr = self.to.parse().unwrap();
        shown(match self.by {
            By::Tcp => ask_tcp(server),
            By::Udp => ask_udp(server),
        })
    }
}

/// The port that a flow comes from.
const FLOW: u16 = 7070;

/// Asks by UDP from one port.
pub(crate) fn flow(server: &str) -> Value {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, FLOW))).unwrap();
    shown(exchange(&socket, server.parse().unwrap()))
}

/// Sends a datagram to a group from one place: whom another one sees.
pub(crate) fn multicast(scratch: &Scratch, from: Place, to: Place, group: &str) -> Value {
    let group: SocketAddr = group.parse().unwrap();
    let receiver = scratch.existing(to).run(|| {
        let any = if group.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = UdpSocket::bind((any, group.port())).unwrap();
        match group.ip() {
            IpAddr::V4(address) => socket.join_multicast_v4(&address, &Ipv4Addr::UNSPECIFIED).unwrap(),
            IpAddr::V6(address) => socket.join_multicast_v6(&address, index("eth0")).unwrap(),
        }
        socket.set_read_timeout(Some(e2e::patience(PATIENCE))).unwrap();
        socket
    });
    scratch.existing(from).run(|| {
        let socket = UdpSocket::bind(if group.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.send_to(b"?", group).unwrap();
    });
    shown(receiver.recv_from(&mut [0; 10]).map(|(_, peer)| format!("sees {}", peer.ip())))
}

/// The number of an interface of the calling thread's namespace.
fn index(name: &str) -> u32 {
    let path = format!("ip -o link show {name} | cut -d: -f1");
    crate::scratch::succeed(&path).trim().parse().unwrap()
}

fn shown(answer: std::io::Result<String>) -> Value {
    match answer {
        Ok(answer) => json!(answer),
        // Whether a reset, an error or silence says so is a matter of moments.
        Err(_) => json!("no answer"),
    }
}

fn ask_tcp(server: SocketAddr) -> std::io::Result<String> {
    let patience = e2e::patience(PATIENCE);
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_udp(server: SocketAddr) -> std::io::Result<String> {
    exchange(&UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?, server)
}

fn exchange(socket: &UdpSocket, server: SocketAddr) -> std::io::Result<String> {
    socket.set_read_timeout(Some(e2e::patience(PATIENCE) / ATTEMPTS))?;
    socket.connect(server)?;
    let mut answer = Err(ErrorKind::TimedOut.into());
    for _ in 0..ATTEMPTS {
        socket.send(b"?")?;
        let mut buffer = [0; 100];
        answer =
            socket.recv(&mut buffer).map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
        if !answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            break;
        }
    }
    answer
}

/// Servers on one port for TCP and UDP, IPv4 and IPv6, until it is dropped.
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// In the calling thread's namespace.
    pub(crate) fn start(name: &str, port: u16) -> Server {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = Arc::new(TcpListener::bind(any).unwrap());
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let tcp = {
            let (listener, name) = (Arc::clone(&listener), name.to_owned());
            thread::spawn(move || serve_tcp(&listener, &name))
        };
        let udp = {
            let (over, name) = (Arc::clone(&over), name.to_owned());
            thread::spawn(move || serve_udp(&socket, &name, &over))
        };
        Server { listener, over, threads: vec![tcp, udp] }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = rustix::net::shutdown(self.listener.as_fd(), rustix::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, name: &str) {
    while let Ok((mut stream, peer)) = listener.accept() {
        let _ = stream.write_all(answer(name, peer).as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
    }
}

fn serve_udp(socket: &UdpSocket, name: &str, over: &AtomicBool) {
    let mut buffer = [0; 100];
    while !over.load(Ordering::Relaxed) {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(answer(name, peer).as_bytes(), peer);
        }
    }
}

fn answer(name: &str, peer: SocketAddr) -> String {
    format!("{name} sees {}", peer.ip().to_canonical())
}
