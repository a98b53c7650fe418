//! Exec, Attach and PortForward as a client of the daemon's addresses has them; over WebSocket, which needs no code of ours.
//!
//! What needs no container is tested in `streaming/tests`, where processes are made up.

use std::time::Duration;

use e2e::streams::{self, Channel, Command, Heard, V5, Wanted, websocket};
use e2e::{Network, Pod, patience, until};
use proto::runtime::v1 as cri;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::net::TcpStream;
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(20);

/// What says that all went well.
const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

/// Goes to the address of a command or an attachment.
async fn connect(url: &str) -> Command {
    Command::open(url, V5, Wanted::default()).await.expect("an upgrade")
}

async fn say(command: &mut Command, text: &str) {
    command.send(Channel::Stdin, text.as_bytes()).await.expect("sent");
}

/// Everything until the session ends in order.
async fn heard(mut command: Command) -> Heard {
    command.hear(|_| false).await
}

/// Everything until the connection ends, as it may.
async fn cut_off(mut command: Command) -> Heard {
    let mut heard = Heard::default();
    let hearing = async {
        while let Ok(Some((channel, bytes))) = command.next().await {
            heard.0[channel as usize].extend_from_slice(&bytes);
        }
    };
    tokio::time::timeout(patience(PATIENCE), hearing).await.expect("an end");
    heard
}

/// What comes from ports on their channels, two each, until the connection ends, as it may where nobody listens yet.
async fn asked(url: &str, request: &[u8]) -> [Vec<u8>; 4] {
    let mut heard = <[Vec<u8>; 4]>::default();
    let asking = async {
        let mut connection = websocket::Connection::open(url, "v4.channel.k8s.io").await.expect("an upgrade");
        let _ended_already = connection.send(0, request).await;
        while let Ok(Some((channel, bytes))) = connection.next().await {
            heard[usize::from(channel)].extend_from_slice(&bytes);
        }
    };
    tokio::time::timeout(patience(PATIENCE), asking).await.expect("an end");
    heard
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
    let mut command = connect(&url).await;
    say(&mut command, "hello\n").await;
    command.end_input().await.expect("sent");
    let heard = heard(command).await;
    assert_eq!(
        (heard.text(Channel::Stdout).as_str(), heard.text(Channel::Stderr).as_str()),
        ("HELLO\n", "wrong\n")
    );
    assert!(heard.text(Channel::Error).contains(r#"{"reason":"ExitCode","message":"7"}"#), "{heard:?}");
    let again = Command::open(&url, V5, Wanted::default()).await.map(drop).unwrap_err();
    assert!(again.to_string().starts_with("HTTP/1.1 404 "), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_one_and_has_its_client_s_size() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    // Sizes go another way than what is typed, and one may overtake the other.
    let script =
        "read go; tty; until [ \"$(stty size)\" = '43 132' ]; do usleep 1000; done; stty size; exit 3";
    let mut request = exec_request(&container, script);
    (request.tty, request.stderr) = (true, false);
    let mut command = connect(&exec(&pod, request).await).await;
    command.send(Channel::Resize, br#"{"Width":132,"Height":43}"#).await.expect("sent");
    say(&mut command, "go\n").await;
    let heard = heard(command).await;
    let text = heard.text(Channel::Stdout);
    assert!(text.contains("/dev/pts/") && text.contains("43 132\r\n"), "{text}");
    assert!(heard.text(Channel::Error).contains("NonZeroExitCode"), "{heard:?}");
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
    let mut attached = connect(&attach(&pod, &container).await).await;
    say(&mut attached, "it\n").await;
    let heard = heard(attached).await;
    let text = heard.text(Channel::Stdout);
    assert!(text.contains("got it\r\n/dev/pts/") && text.ends_with("wrong\r\n"), "{text}");
    assert_eq!((heard.text(Channel::Stderr).as_str(), heard.text(Channel::Error).as_str()), ("", SUCCESS));
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
    let mut command = connect(&url).await;
    command.hear(|heard| heard.text(Channel::Stdout).contains("there")).await;
    drop(command);
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
    let (mut first, mut second) = (connect(&first).await, connect(&second).await);
    let got = |word: &str| {
        let line = format!("got {word}");
        move |heard: &Heard| heard.text(Channel::Stdout).contains(&line)
    };
    // Each is there when it has heard what it said itself, whoever hears it too.
    for (client, word) in [(&mut first, "one"), (&mut second, "two")] {
        say(client, &format!("{word}\n")).await;
        client.hear(got(word)).await;
    }
    first.hear(got("two")).await;
    pod.restart();
    let told = (cut_off(first).await.text(Channel::Error), cut_off(second).await.text(Channel::Error));
    assert_eq!(told, (String::new(), String::new()), "nobody was told an end");
    let mut third = connect(&attach(&pod, &container).await).await;
    say(&mut third, "three\n").await;
    third.hear(got("three")).await;
    drop(connect(&attach(&pod, &container).await).await);
    pod.client.stop(&container, 0).await.unwrap();
    let told = heard(third).await.text(Channel::Error);
    assert_eq!(told, SUCCESS, "the end of the container is no failure of attaching");
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
        let heard = asked(&url, b"GET /page HTTP/1.0\r\n\r\n").await;
        if heard[0].ends_with(b"page\n") { Ok(heard) } else { Err(heard) }
    })
    .await;
    assert!(page[0].starts_with(&8080u16.to_le_bytes()), "{page:?}");
    assert_eq!(page[1], 8080u16.to_le_bytes());
    let refused = String::from_utf8_lossy(&page[3][2..]).into_owned();
    assert!(refused.contains("forwarding port 8081 to pod "), "{refused}");
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
    until(PATIENCE, "the daemon has accepted", || async {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row[1].ends_with(&daemons) && row[2].ends_with(&own));
        if row.as_ref().is_some_and(|row| row[9] != "0") { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
}

/// What a command tells on its error stream whose client came while the daemon had room for its connection only.
async fn refused(pod: &Pod, request: cri::ExecRequest) -> String {
    let url = exec(pod, request).await;
    let daemon = pod.node.pid();
    let stream = streams::connect(&url).await.expect("a connection");
    accepted(&stream).await;
    limit_descriptors(daemon, Some(next_descriptor(daemon)));
    let told = async {
        let mut connection = websocket::Connection::over(stream, &url, "v5.channel.k8s.io").await?;
        let mut told = Vec::new();
        while let Some((channel, bytes)) = connection.next().await? {
            if channel == Channel::Error as u8 {
                told.extend_from_slice(&bytes);
            } else if !bytes.is_empty() {
                return Ok("it had room".into());
            }
        }
        std::io::Result::Ok(told)
    };
    let told = tokio::time::timeout(patience(PATIENCE), told).await;
    limit_descriptors(daemon, None);
    String::from_utf8(told.expect("an end").unwrap_or_default()).unwrap()
}

/// What comes with an answer may find no place in the daemon. That one command ends; nobody else of the pod hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_there_is_no_descriptor_for_ends_alone() {
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let mut bystander =
        connect(&exec(&pod, exec_request(&container, "echo in; read line; echo $line")).await).await;
    bystander.hear(|heard| heard.text(Channel::Stdout) == "in\n").await;
    let mut request = exec_request(&container, "echo begun; sleep 4711");
    (request.tty, request.stderr) = (true, false);
    // What else the daemon has open may change meanwhile: then the want is felt elsewhere, or not at all.
    until(PATIENCE, "the descriptors of a reply to find no place", || async {
        let why = refused(&pod, request.clone()).await;
        let is_it = why.contains("the number of open files is exhausted: starting the command of ");
        if is_it { Ok(()) } else { Err(why) }
    })
    .await;
    say(&mut bystander, "out\n").await;
    let heard = heard(bystander).await;
    assert!(heard.text(Channel::Stdout).ends_with("out\n"), "{heard:?}");
    assert_eq!(heard.text(Channel::Error), SUCCESS);
    until(PATIENCE, "the command is gone", || async {
        let ps = pod.exec(&container, "ps -o args").await;
        if ps.contains("sleep 4711") { Err(ps) } else { Ok(()) }
    })
    .await;
}
