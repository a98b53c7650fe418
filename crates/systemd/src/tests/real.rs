//! The same against a dbus-daemon, where one is installed: what its policy lets a stranger do is the daemon's to say.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::sent::{Received, Sent};
use super::stand_in::{job_removed, too_long};
use super::{LATE, scope};
use crate::message::{self, PREAMBLE, Writer};
use crate::{Error, Manager};

/// Who may do nothing.
const NOBODY: u32 = 65534;

/// What the variables of the attack's process are called: the bus's socket, whom to attack and how.
const VARIABLES: [&str; 3] = ["SYSTEMD_TEST_BUS", "SYSTEMD_TEST_VICTIM", "SYSTEMD_TEST_ATTACK"];

/// The policy of Debian's system bus, with a hole for systemd as systemd has it.
const POLICY: &str = r#"
  <type>system</type>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.systemd1"/>
    <allow send_destination="org.freedesktop.systemd1"/>
  </policy>"#;

/// Everything that a stranger does.
const ATTACKS: [&str; 4] = ["a forged end", "a forged answer", "the other byte order", "too long"];

struct Daemon {
    process: Child,
    directory: tempfile::TempDir,
}

impl Daemon {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let socket = directory.path().join("bus");
        let configuration = directory.path().join("bus.conf");
        let listen = format!("<listen>unix:path={}</listen>", socket.display());
        std::fs::write(&configuration, format!("<busconfig>{listen}{POLICY}</busconfig>")).unwrap();
        let mut process = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address"])
            .arg(format!("--config-file={}", configuration.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It says where it listens when it does.
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("unix:path="), "{said:?}");
        Self { process, directory }
    }

    fn socket(&self) -> String {
        self.directory.path().join("bus").display().to_string()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Somebody on the bus.
struct Peer(UnixStream);

impl Peer {
    fn new(socket: &str) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n").unwrap();
        // One byte after the other: what follows are messages.
        let (mut said, mut byte) = (Vec::new(), [0]);
        while said.iter().filter(|byte| **byte == b'\n').count() < 2 {
            stream.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        let mut peer = Self(stream);
        peer.call(&Sent::call("Hello"));
        peer
    }

    fn send(&mut self, message: &[u8]) {
        self.0.write_all(message).unwrap();
    }

    /// Calls the bus. What was sent before has been passed on when it answers.
    fn call(&mut self, call: &Sent) {
        self.send(&call.encode());
        while !self.receive().is_some_and(|message| message.is_answer()) {}
    }

    /// The next message, none at the end.
    fn receive(&mut self) -> Option<Received> {
        let mut preamble = [0; PREAMBLE];
        self.0.read_exact(&mut preamble).ok()?;
        let lengths = message::lengths(&preamble).unwrap();
        let mut bytes = preamble.to_vec();
        bytes.resize(PREAMBLE + lengths.header + lengths.body, 0);
        self.0.read_exact(&mut bytes[PREAMBLE..]).unwrap();
        Some(Received::read(&bytes))
    }
}

/// Answers calls in systemd's place until the bus is gone. A job of it fails, after the attack. How often somebody came.
fn be_systemd(mut peer: Peer, socket: &str, attack: &str) -> usize {
    let mut came = 0;
    while let Some(call) = peer.receive() {
        let mut body = Writer::default();
        let answer = match call.member.as_str() {
            "NameAcquired" => continue,
            "StartTransientUnit" => {
                stranger([socket, &call.sender, attack]);
                peer.send(&job_removed(("/j/7", "x.scope", "failed")).encode());
                body.string("/j/7");
                Sent::reply(call.serial).with("o", &body.into_bytes())
            }
            member => {
                came += usize::from(member == "Subscribe");
                Sent::reply(call.serial)
            }
        };
        peer.send(&answer.to(&call.sender).encode());
    }
    came
}

/// Runs this test's program once more as nobody.
fn stranger(values: [&str; 3]) {
    let test = "tests::real::a_stranger_on_the_bus_neither_breaks_nor_forges_anything";
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", test, "--nocapture"]).uid(NOBODY).gid(NOBODY).current_dir("/");
    let output = command.envs(VARIABLES.into_iter().zip(values)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("attacked"), "{output:?}");
}

fn attack(socket: &str, victim: &str, attack: &str) {
    let mut peer = Peer::new(socket);
    let signal = || Sent::signal("a.b", "C").to(victim);
    match attack {
        "a forged end" => peer.send(&job_removed(("/j/7", "x.scope", "done")).to(victim).encode()),
        "a forged answer" => {
            let mut job = Writer::default();
            job.string("/j/66");
            let job = job.into_bytes();
            (1..20).for_each(|serial| peer.send(&Sent::reply(serial).to(victim).with("o", &job).encode()));
        }
        "the other byte order" => peer.send(&signal().encode_big_endian()),
        "too long" => peer.send(&signal().with("ay", &too_long()).encode()),
        other => panic!("{other}"),
    }
    peer.call(&Sent::call("GetId"));
    println!("attacked");
}

#[tokio::test]
async fn a_stranger_on_the_bus_neither_breaks_nor_forges_anything() {
    if let [Ok(socket), Ok(victim), Ok(kind)] = VARIABLES.map(std::env::var) {
        return attack(&socket, &victim, &kind);
    }
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    if !is_root || !Path::new("/usr/bin/dbus-daemon").exists() {
        println!("skipped: a_stranger_on_the_bus needs to be root, and dbus-daemon");
        return;
    }
    for kind in ATTACKS {
        let daemon = Daemon::new();
        let socket = daemon.socket();
        let address = format!("unix:path={socket}");
        let manager = Manager::at(address, LATE);
        let mut peer = Peer::new(&socket);
        let mut name = Writer::default();
        name.string("org.freedesktop.systemd1");
        name.uint32(0);
        peer.call(&Sent::call("RequestName").with("su", &name.into_bytes()));
        let systemd = std::thread::spawn(move || be_systemd(peer, &socket, kind));
        let outcome = manager.start_scope(&scope()).await;
        assert!(
            matches!(&outcome, Err(Error::Job { result, .. }) if result == "failed"),
            "{kind}: {outcome:?}"
        );
        manager.set_cpu_weight("x.scope", 1).await.unwrap();
        drop(daemon);
        assert_eq!(systemd.join().unwrap(), 1, "{kind}: the connection is the same");
    }
}
