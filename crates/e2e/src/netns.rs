//! Network namespaces of a test's own: the hosts of nodes under test, what plays the world around them, and pods seen
//! from within.
//!
//! Not here: what is said over the sockets, which is the tests' affair.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use crate::Registry;

/// A network namespace, kept by a descriptor. One that was made here goes with all its links, addresses and rules when
/// the last process and socket in it have gone.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new one, whose loopback interface is up.
    ///
    /// # Panics
    /// When none can be made: that takes root.
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            Self::at(Path::new("/proc/thread-self/ns/net"))
        });
        let made = made.join().expect("a network namespace");
        made.sh("ip link set lo up");
        made
    }

    /// The one that a process lives in.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn of(pid: u32) -> Self {
        Self::at(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    fn at(path: &Path) -> Self {
        Self { file: File::open(path).expect("a network namespace") }
    }

    /// A path by which other processes can enter it while this lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// The number by which the kernel tells namespaces apart, as in `net:[4026531840]`.
    ///
    /// # Panics
    /// When the kernel doesn't tell.
    pub fn inode(&self) -> u64 {
        self.file.metadata().expect("a namespace's number").ino()
    }

    /// Runs something on a thread inside; sockets that it makes and processes that it starts stay inside.
    ///
    /// # Panics
    /// When it does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What a script for the shell prints that runs inside.
    ///
    /// # Panics
    /// When it fails.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", script]).output()).expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Lays a cable to another: a veth pair whose ends have these names and are up.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn connect(&self, name: &str, other: &Netns, others_name: &str) {
        let other_path = other.path();
        self.sh(&format!(
            "ip link add {name} type veth peer name {others_name} netns {}; ip link set {name} up",
            other_path.display()
        ));
        other.sh(&format!("ip link set {others_name} up"));
    }

    /// Names of the interfaces inside that `ip link show <filter>` lists.
    ///
    /// # Panics
    /// When it can't be asked.
    pub fn links(&self, filter: &str) -> Vec<String> {
        let listed: serde_json::Value =
            serde_json::from_str(&self.sh(&format!("ip -json link show {filter}"))).expect("a list of links");
        let names = listed.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        names.map(str::to_owned).collect()
    }

    /// A TCP connection from inside.
    ///
    /// # Errors
    /// As connect(2).
    pub async fn dial(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket =
            self.run(|| if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?;
        socket.connect(address).await
    }

    /// A TCP socket that listens inside.
    ///
    /// # Panics
    /// When the address can't be had.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        let listener = self.run(|| std::net::TcpListener::bind(address)).expect("an address to listen at");
        listener.set_nonblocking(true).expect("a socket");
        TcpListener::from_std(listener).expect("a runtime")
    }

    /// A UDP socket inside.
    ///
    /// # Panics
    /// When the address can't be had.
    pub fn datagrams(&self, address: SocketAddr) -> UdpSocket {
        let socket = self.run(|| std::net::UdpSocket::bind(address)).expect("an address for datagrams");
        socket.set_nonblocking(true).expect("a socket");
        UdpSocket::from_std(socket).expect("a runtime")
    }

    /// Makes a registry answer inside as well, at the address that it has outside, for as long as the calling test's
    /// runtime lives.
    ///
    /// # Panics
    /// When the address can't be had.
    pub fn lend(&self, registry: &Registry) {
        let address: SocketAddr = registry.address().parse().expect("a registry's address");
        let listener = self.listen(address);
        tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut outside) = TcpStream::connect(address).await {
                        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
        });
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}
