//! Network namespaces of a test's own: one that plays the host, and others that play pods and the world outside.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

/// How long an answer may take on a machine that has much to do.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace that lives as long as this does.
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new one with its loopback up.
    pub fn new() -> Netns {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sh("ip link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Netns { file: file.join().unwrap() }
    }

    /// A new one as the kernel makes it, for tests that make many.
    pub fn bare() -> Netns {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Netns { file: file.join().unwrap() }
    }

    /// That of the calling thread.
    pub fn current() -> Netns {
        Netns { file: File::open("/proc/thread-self/ns/net").unwrap() }
    }

    /// A path that other processes can open too.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs something inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// A server inside that answers each connection with the address it came from.
    pub fn tcp_server(&self, address: &str) {
        let listener = self.run(|| TcpListener::bind(address).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(peer.to_string().as_bytes());
            }
        });
    }

    /// The same for datagrams.
    pub fn udp_server(&self, address: &str) {
        let socket = self.run(|| UdpSocket::bind(address).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
            }
        });
    }

    /// Asks such a server from inside: the address it saw, or why not.
    pub fn ask_tcp(&self, server: SocketAddr) -> Result<IpAddr, String> {
        self.run(|| {
            let limit = PATIENCE;
            let mut stream = TcpStream::connect_timeout(&server, limit).map_err(|error| error.to_string())?;
            stream.set_read_timeout(Some(limit)).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
            answer.parse().map_err(|_| answer)
        })
    }

    /// The same for datagrams.
    pub fn ask_udp(&self, server: SocketAddr) -> Result<IpAddr, String> {
        self.run(|| {
            let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(server).unwrap();
            socket.send(b"?").map_err(|error| error.to_string())?;
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).map_err(|error| error.to_string())?;
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            answer.parse().map_err(|_| answer)
        })
    }
}

/// Runs a test on a thread whose network namespace is its own "host", so that the real one stays untouched.
pub fn on_own_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let host = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the calling thread's namespace.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
