//! Exec, Attach and PortForward as a client of the daemon's addresses has them; over WebSocket, which needs no code of ours.
//!
//! What needs no container is tested in `streaming/tests`, where processes are made up.

use std::time::Duration;

use e2e::{Network, Pod, until};
use futures::{SinkExt, StreamExt};
use proto::runtime::v1 as cri;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::{Error, Message};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(20);

/// What says that all went well.
const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

struct Stream(WebSocketStream<TcpStream>);

/// What came on the channels of output, errors and the end.
#[derive(Debug, Default)]
struct Heard([Vec<u8>; 4]);

impl Heard {
    fn text(&self, channel: usize) -> String {
        String::from_utf8_lossy(&self.0[channel]).into_owned()
    }
}

impl Stream {
    async fn open(url: &str, protocol: &str) -> Result<Self, Box<Error>> {
        let address = url.split('/').nth(2).unwrap();
        let stream = TcpStream::connect(address).await.map_err(|error| Box::new(Error::Io(error)))?;
        let request = ClientRequestBuilder::new(url.replacen("http", "ws", 1).parse().unwrap());
        let request = request.with_sub_protocol(protocol);
        Ok(Self(tokio_tungstenite::client_async(request, stream).await.map_err(Box::new)?.0))
    }

    async fn v5(url: &str) -> Self {
        Self::open(url, "v5.channel.k8s.io").await.expect("an upgrade")
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) {
        self.0.send(Message::Binary([&[channel][..], bytes].concat().into())).await.expect("sent");
    }

    /// Until `enough` of what was heard, or the end.
    async fn hear(&mut self, enough: impl Fn(&Heard) -> bool) -> Heard {
        let mut heard = Heard::default();
        let hearing = async {
            while !enough(&heard) {
                match self.0.next().await {
                    Some(Ok(Message::Binary(bytes))) => {
                        heard.0[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                    Some(Ok(_)) => {}
                }
            }
        };
        let in_time = tokio::time::timeout(e2e::patience(PATIENCE), hearing).await.is_ok();
        assert!(in_time, "{:?}", heard.0.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        heard
    }

    async fn heard(mut self) -> Heard {
        self.hear(|_| false).await
    }
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|&word| word.to_owned()).collect()
}

fn exec_request(container: &str, script: &str) -> cri::ExecRequest {
    let cmd = words(&["sh", "-c", script]);
    let container_id = container.to_owned();
    cri::ExecRequest { container_id, cmd, tty: false, stdin: true, stdout: true, stderr: true }
}

async fn exec(pod: &Pod, request: cri::ExecRequest) -> String {
    pod.runtime.clone().exec(request).await.expect("an address").into_inner().url
}

async fn attach(pod: &Pod, container: &str) -> String {
    let container_id = container.to_owned();
    let request = cri::AttachRequest { container_id, stdin: true, tty: false, stdout: true, stderr: true };
    pod.runtime.clone().attach(request).await.expect("an address").into_inner().url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_its_streams_and_tells_its_end() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let url = exec(&pod, exec_request(&container, "tr a-z A-Z; echo wrong >&2; exit 7")).await;
    let mut stream = Stream::v5(&url).await;
    stream.send(0, b"hello\n").await;
    stream.send(255, &[0]).await;
    let heard = stream.heard().await;
    assert_eq!((heard.text(1).as_str(), heard.text(2).as_str()), ("HELLO\n", "wrong\n"));
    assert!(heard.text(3).contains(r#"{"reason":"ExitCode","message":"7"}"#), "{}", heard.text(3));
    let again = Stream::open(&url, "v5.channel.k8s.io").await.map(drop).unwrap_err();
    assert!(matches!(&*again, Error::Http(answer) if answer.status().as_u16() == 404), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_one_and_has_its_client_s_size() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let mut request = exec_request(&container, "read go; tty; stty size; exit 3");
    (request.tty, request.stderr) = (true, false);
    let mut stream = Stream::v5(&exec(&pod, request).await).await;
    stream.send(4, br#"{"Width":132,"Height":43}"#).await;
    stream.send(0, b"go\n").await;
    let heard = stream.heard().await;
    let text = heard.text(1);
    assert!(text.contains("/dev/pts/") && text.contains("43 132\r\n"), "{text}");
    assert!(heard.text(3).contains("NonZeroExitCode"), "{}", heard.text(3));
}

/// As with containerd: the container's terminal counts, and not what a client takes it to have. One that would prepare a terminal of
/// its own for a container without is told before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_of_no_terminal_has_the_container_s() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let mut wanted = pod.script("main", "read line; echo got $line; tty; echo wrong >&2");
    (wanted.stdin, wanted.tty) = (true, true);
    let container = pod.create(wanted).await.unwrap();
    pod.client.start(&container).await.unwrap();
    let mut stream = Stream::v5(&attach(&pod, &container).await).await;
    stream.send(0, b"it\n").await;
    let heard = stream.heard().await;
    let text = heard.text(1);
    assert!(text.contains("got it\r\n/dev/pts/") && text.ends_with("wrong\r\n"), "{text}");
    assert_eq!((heard.text(2).as_str(), heard.text(3).as_str()), ("", SUCCESS));
    let container_id = pod.waiting("plain", |_| {}).await;
    let request = cri::AttachRequest { container_id, stdin: true, tty: true, stdout: true, stderr: false };
    let status = pod.runtime.clone().attach(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().starts_with("tty: "), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_takes_its_command_along() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let url = exec(&pod, exec_request(&container, "sleep 54321 & echo there; wait")).await;
    let mut stream = Stream::v5(&url).await;
    stream.hear(|heard| heard.text(1).contains("there")).await;
    drop(stream);
    until(PATIENCE, "the end of the command and of its child", || async {
        let left = pod.exec(&container, "ps -o args | grep '[5]4321' || true").await;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(pod.exec(&container, "echo on").await, "on", "the container goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_ends_the_client_s_connection_and_not_the_container() {
    let mut pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let mut wanted = pod.script("main", "while read line; do echo got $line; done; echo over; exit 5");
    wanted.stdin = true;
    let container = pod.create(wanted).await.unwrap();
    pod.client.start(&container).await.unwrap();
    let (first, second) = (attach(&pod, &container).await, attach(&pod, &container).await);
    let (mut first, mut second) = (Stream::v5(&first).await, Stream::v5(&second).await);
    // Each is there when it has heard what it said itself, whoever hears it too.
    for (stream, word) in [(&mut first, "one"), (&mut second, "two")] {
        stream.send(0, format!("{word}\n").as_bytes()).await;
        stream.hear(|heard| heard.text(1).contains(&format!("got {word}"))).await;
    }
    first.hear(|heard| heard.text(1).contains("got two")).await;
    pod.restart();
    let (first, second) = (first.heard().await, second.heard().await);
    assert_eq!((first.text(3), second.text(3)), (String::new(), String::new()), "nobody was told an end");
    let mut third = Stream::v5(&attach(&pod, &container).await).await;
    third.send(0, b"three\n").await;
    third.hear(|heard| heard.text(1).contains("got three")).await;
    let detached = attach(&pod, &container).await;
    drop(Stream::v5(&detached).await);
    pod.client.stop(&container, 0).await.unwrap();
    assert_eq!(third.heard().await.text(3), SUCCESS, "the end of the container is no failure of attaching");
    let log = std::path::Path::new(&pod.sandbox.log_directory).join("main.log");
    let log = std::fs::read_to_string(log).unwrap();
    for line in ["got one", "got two", "got three"] {
        assert!(log.contains(line), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_a_pod_are_reached() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let script = "echo page > /tmp/page; exec httpd -f -p 127.0.0.1:8080 -h /tmp";
    let container = pod.create(pod.script("main", script)).await.unwrap();
    pod.client.start(&container).await.unwrap();
    let page = until(PATIENCE, "the page through the forwarded port", || async {
        let request = cri::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![8080, 8081] };
        let url = pod.runtime.clone().port_forward(request).await.unwrap().into_inner().url;
        let mut stream = Stream::open(&url, "v4.channel.k8s.io").await.unwrap();
        stream.send(0, b"GET /page HTTP/1.0\r\n\r\n").await;
        let heard = stream.heard().await;
        if heard.text(0).contains("page\n") { Ok(heard) } else { Err(heard.text(1)) }
    })
    .await;
    assert!(page.0[0].starts_with(&8080u16.to_le_bytes()), "{page:?}");
    assert_eq!(page.0[1], 8080u16.to_le_bytes());
    let refused = String::from_utf8_lossy(&page.0[3][2..]).into_owned();
    assert!(refused.contains("error forwarding port 8081"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_streamed_is_refused_by_its_field() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let fine = exec_request(&container, "true");
    let bad = [
        (cri::ExecRequest { tty: true, ..fine.clone() }, Code::InvalidArgument, "stderr: "),
        (
            cri::ExecRequest { stdin: false, stdout: false, stderr: false, ..fine.clone() },
            Code::InvalidArgument,
            "stdin: ",
        ),
        (cri::ExecRequest { cmd: Vec::new(), ..fine.clone() }, Code::InvalidArgument, "cmd: "),
        (cri::ExecRequest { cmd: vec![String::new()], ..fine.clone() }, Code::InvalidArgument, "cmd[0]: "),
        (
            cri::ExecRequest { cmd: vec!["true".into(), "a\0".into()], ..fine.clone() },
            Code::InvalidArgument,
            "cmd[1]: ",
        ),
        (
            cri::ExecRequest { container_id: "nothing".into(), ..fine },
            Code::NotFound,
            "container \"nothing\"",
        ),
    ];
    for (request, code, words) in bad {
        let status = pod.runtime.clone().exec(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().starts_with(words), "{status}");
    }
    for port in [0, -1, 65_536] {
        let request = cri::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![80, port] };
        let status = pod.runtime.clone().port_forward(request).await.unwrap_err();
        assert!(status.message().starts_with("port[1]: "), "{status}");
    }
    pod.client.stop(&container, 0).await.unwrap();
    let status = pod.runtime.clone().exec(exec_request(&container, "true")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

/// The number of the daemon's next descriptor.
fn next_descriptor(daemon: u32) -> u64 {
    let listed = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap();
    let open: Vec<u64> =
        listed.filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().ok()).collect();
    (0..).find(|number| !open.contains(number)).unwrap()
}

fn limit_descriptors(daemon: u32, soft: Option<u64>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: soft.or(maximum), maximum };
    prlimit(Pid::from_raw(daemon.cast_signed()), Resource::Nofile, limit).unwrap();
}

/// Waits until the daemon has accepted a connection: one that still waits has no inode (proc_net_tcp in the kernel's documentation).
async fn accepted(stream: &TcpStream) {
    let port = |address: std::net::SocketAddr| format!(":{:04X}", address.port());
    let (own, daemons) = (port(stream.local_addr().unwrap()), port(stream.peer_addr().unwrap()));
    until(e2e::patience(PATIENCE), "the daemon has accepted", || async {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row[1].ends_with(&daemons) && row[2].ends_with(&own));
        if row.as_ref().is_some_and(|row| row[9] != "0") { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
}

/// What comes with an answer may find no place in the daemon. That one command ends; nobody else of the pod hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_there_is_no_descriptor_for_ends_alone() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let mut bystander =
        Stream::v5(&exec(&pod, exec_request(&container, "echo in; read line; echo $line")).await).await;
    bystander.hear(|heard| heard.text(1) == "in\n").await;
    let mut request = exec_request(&container, "sleep 4711");
    (request.tty, request.stderr) = (true, false);
    let url = exec(&pod, request).await;
    let daemon = pod.node.pid();
    let stream = TcpStream::connect(url.split('/').nth(2).unwrap()).await.unwrap();
    accepted(&stream).await;
    limit_descriptors(daemon, Some(next_descriptor(daemon)));
    let request = ClientRequestBuilder::new(url.replacen("http", "ws", 1).parse().unwrap());
    let request = request.with_sub_protocol("v5.channel.k8s.io");
    let refused = Stream(tokio_tungstenite::client_async(request, stream).await.unwrap().0).heard().await;
    limit_descriptors(daemon, None);
    let why = refused.text(3);
    assert!(why.contains("the number of open files is exhausted: starting the command of "), "{why}");
    bystander.send(0, b"out\n").await;
    let heard = bystander.heard().await;
    assert_eq!((heard.text(1).as_str(), heard.text(3).as_str()), ("out\n", SUCCESS));
    until(e2e::patience(PATIENCE), "the command is gone", || async {
        let ps = pod.exec(&container, "ps -o args").await;
        if ps.contains("sleep 4711") { Err(ps) } else { Ok(()) }
    })
    .await;
}
