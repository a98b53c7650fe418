//! Who floods the daemon with what costs the sender nothing: CVE-2023-44487 on the CRI socket and as it would be on the port for
//! streams (spdystream's frame floods); CVE-2026-53495, a command that leaves a child behind; CVE-2022-23471, a terminal whose
//! command fails.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e::cri::ExecRequest;
use e2e::leaks::descriptors;

use crate::rig::Rig;

/// What the daemon may grow by while it is attacked, in KiB: less than any of these sends.
const GROWTH: u64 = 8 << 10;
/// How long a flood may take to be refused, or to be done with.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_called_off_at_once_cost_little() {
    let rig = Rig::new().await;
    let before = peak(&rig);
    let socket = UnixStream::connect(rig.node.socket()).unwrap();
    socket.set_write_timeout(Some(e2e::patience(PATIENCE))).unwrap();
    let mut sender = socket.try_clone().unwrap();
    let reader = std::thread::spawn(move || answers(socket));
    let sent = sender.write_all(&called_off(100_000));
    rig.client.pods().await.expect("the attack succeeded: others are not answered");
    drop(sender);
    let ended = reader.join().unwrap();
    assert!(
        sent.is_err() || ended,
        "the attack succeeded: the flood is taken in whole, and nobody says a word"
    );
    stays_small(&rig, before, "requests that were called off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_unfold_or_only_keep_busy_end_the_connection() {
    let rig = Rig::new().await;
    let container = rig.running(rig.script("sleep 1000")).await;
    let before = peak(&rig);
    // A frame as long as can be announced; a header block of some 4 KiB, which is no long frame, that becomes 4 MiB; questions without
    // an end.
    let bomb =
        control(1, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &block(&mut packer(), &vec![0; 4 << 20])].concat());
    assert!(bomb.len() < 8 << 10, "{}", bomb.len());
    let ping = [[0x80, 3, 0, 6, 0, 0, 0, 4], [0, 0, 0, 1, 0, 0, 0, 0]].concat();
    // With what the daemon's log says of each.
    let floods = [
        (
            "control frame of type 1 with 16777215 bytes, above the limit",
            [&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..], &vec![0; 0xff_ffff]].concat(),
        ),
        ("header block of stream 1 error.sources=[above the limit", bomb),
        ("flood of pings", ping[..12].repeat(1_000_000)),
    ];
    for (why, bytes) in floods {
        let mut stream = upgraded(&address(&rig, &container, false).await);
        let mut sender = stream.try_clone().unwrap();
        let flood = std::thread::spawn(move || sender.write_all(&bytes).is_ok());
        let mut heard = Vec::new();
        let ended = stream.read_to_end(&mut heard);
        // GOAWAY (type 7), or a reset for what was still to come.
        let farewell = heard.windows(4).any(|frame| frame == [0x80, 3, 0, 7]);
        let reset = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(farewell || reset, "the attack succeeded: no {why}: {ended:?}");
        drop(stream);
        flood.join().unwrap();
        e2e::until(e2e::node::PATIENCE, why, async || {
            let log = std::fs::read_to_string(rig.node.path("daemon.log")).unwrap();
            if log.contains(why) { Ok(()) } else { Err("the daemon says nothing of it") }
        })
        .await;
        rig.client.pods().await.expect("the attack succeeded: others are not answered");
    }
    stays_small(&rig, before, "frames");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_fail_or_leave_children_leave_nothing_in_the_daemon() {
    let rig = Rig::new().await;
    let container = rig.running(rig.script("sleep 1000")).await;
    let round = async || {
        rig.client.exec(&container, &["sh", "-c", "sleep 300 & exit 0"], 10).await.expect("an answer");
        let mut stream = upgraded(&address(&rig, &container, true).await);
        let mut packer = packer();
        for (number, kind) in (1u32..).step_by(2).zip(["error", "stdout", "resize"]) {
            stream.write_all(&opened(&mut packer, number, kind)).unwrap();
        }
        // A size for a terminal whose command can't begin.
        let size = br#"{"Width":80,"Height":24}"#;
        let data = [&[0, 0, 0, 5, 0, 0, 0, size.len() as u8][..], size].concat();
        let _ = stream.write_all(&data);
        // Until its end has been told on the error stream.
        let mut heard = Vec::new();
        while !heard.windows(7).any(|word| word == b"Failure") {
            let mut some = [0; 512];
            let count = stream.read(&mut some).expect("an end");
            assert_ne!(count, 0, "no failure was told: {}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&some[..count]);
        }
    };
    round().await;
    let state = || (descriptors(rig.node.pid()), threads(&rig));
    let before = state();
    for _ in 0..30 {
        round().await;
    }
    e2e::until(e2e::node::PATIENCE, "what thirty commands held to be given back", async || {
        let now = state();
        if now.0 <= before.0 && now.1 <= before.1 {
            Ok(())
        } else {
            Err(format!("{before:?} became {now:?}"))
        }
    })
    .await;
}

/// An HTTP/2 connection (RFC 9113) that opens requests and takes each back: HEADERS (1) with END_HEADERS, RST_STREAM (3) with CANCEL (8).
fn called_off(count: u32) -> Vec<u8> {
    // RFC 7541: POST, http and "/" of the static table (3, 6, 4), and a type as a literal.
    let mut block = vec![0x83, 0x86, 0x84, 0x0f, 0x10, 16];
    block.extend_from_slice(b"application/grpc");
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for stream in (1u32..).step_by(2).take(count as usize).map(u32::to_be_bytes) {
        flood.extend_from_slice(&[0, 0, block.len() as u8, 1, 4]);
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(&block);
        flood.extend_from_slice(&[0, 0, 4, 3, 0]);
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(&[0, 0, 0, 8]);
    }
    flood
}

/// Reads frames until the end. Whether a GOAWAY (7) was among them, or the connection was broken off.
fn answers(mut socket: UnixStream) -> bool {
    let mut head = [0; 9];
    loop {
        match socket.read_exact(&mut head) {
            Ok(()) if head[3] == 7 => return true,
            Ok(()) => {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let _ = std::io::copy(&mut (&mut socket).take(length.into()), &mut std::io::sink());
            }
            Err(error) => return error.kind() != std::io::ErrorKind::UnexpectedEof,
        }
    }
}

/// A SPDY control frame (version 3).
fn control(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0x80, 3, 0, kind, 0][..], &length[1..], body].concat()
}

type Packer = flate2::write::ZlibEncoder<Vec<u8>>;

fn packer() -> Packer {
    Packer::new(Vec::new(), flate2::Compression::best())
}

/// The next header block of a connection: all of them are one compressed stream.
fn block(packer: &mut Packer, bytes: &[u8]) -> Vec<u8> {
    packer.write_all(bytes).unwrap();
    packer.flush().unwrap();
    std::mem::take(packer.get_mut())
}

/// A stream of a remote command: SYN_STREAM with one header.
fn opened(packer: &mut Packer, stream: u32, kind: &str) -> Vec<u8> {
    let mut pairs = 1u32.to_be_bytes().to_vec();
    for text in ["streamtype", kind] {
        pairs.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        pairs.extend_from_slice(text.as_bytes());
    }
    control(1, &[&stream.to_be_bytes()[..], &[0; 6], &block(packer, &pairs)].concat())
}

async fn address(rig: &Rig, container: &str, tty: bool) -> String {
    let cmd = vec![if tty { "/no-such-command" } else { "cat" }.to_owned()];
    let container_id = container.to_owned();
    let request = ExecRequest { container_id, cmd, tty, stdin: !tty, stdout: true, stderr: false };
    rig.client.runtime.clone().exec(request).await.expect("an address").into_inner().url
}

/// A connection that speaks SPDY/3.1 from now on.
fn upgraded(url: &str) -> TcpStream {
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(e2e::patience(PATIENCE))).unwrap();
    write!(
        stream,
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

fn status(rig: &Rig, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", rig.node.pid())).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    value.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// The most memory that the daemon has had, in KiB.
fn peak(rig: &Rig) -> u64 {
    status(rig, "VmHWM")
}

fn threads(rig: &Rig) -> u64 {
    status(rig, "Threads")
}

fn stays_small(rig: &Rig, before: u64, what: &str) {
    let grown = peak(rig).saturating_sub(before);
    assert!(grown <= GROWTH, "the attack succeeded: {what} made the daemon grow by {grown} KiB");
}
