//! crictl in a terminal, where somebody types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use e2e::node::PATIENCE;
use e2e::{Network, Pod, needs, until};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Crictl;

/// What crictl can speak.
const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// What keys send.
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_P_CTRL_Q: &str = "\x10\x11";

/// Commands whose word is only on the screen when they were carried out: typed, it looks otherwise.
const WHEN_SMALL: &str =
    "until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do usleep 1000; done; echo is'-'small\n";
const WHEN_LARGE: &str =
    "until [ \"$(stty size 2>/dev/null)\" = '43 132' ]; do usleep 1000; done; echo is'-'large\n";

/// A terminal of 80 columns and 24 rows in which a program runs.
struct Terminal {
    master: Arc<File>,
    program: Child,
    screen: Arc<Mutex<String>>,
}

fn set_size(master: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}

impl Terminal {
    fn run(crictl: &Crictl<'_>, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        // Before it begins: it looks once, and from some later moment on hears of changes.
        set_size(&master, 80, 24);
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = File::from(open(name.as_c_str(), flags, Mode::empty()).unwrap());
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let command = crictl.command(arguments);
        // Its own session, of which this is the terminal: who changes the size is heard by whoever runs there.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        let terminal = Self {
            master: Arc::new(File::from(master)),
            program: session.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("setsid"),
            screen: Arc::default(),
        };
        let (from, screen) = (Arc::clone(&terminal.master), Arc::clone(&terminal.screen));
        // Ends with the last who has the terminal open.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = (&*from).read(&mut buffer) {
                screen.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        terminal
    }

    fn types(&self, keys: &str) {
        (&*self.master).write_all(keys.as_bytes()).expect("typing");
    }

    fn resize(&self, columns: u16, rows: u16) {
        set_size(&*self.master, columns, rows);
    }

    fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    async fn shows(&self, word: &str) -> String {
        until(PATIENCE, word, || async {
            let screen = self.screen();
            if screen.contains(word) { Ok(screen) } else { Err(screen) }
        })
        .await
    }

    /// Waits for the end of the program.
    async fn ended(mut self) -> ExitStatus {
        until(PATIENCE, "the end of crictl", || {
            let ended = self.program.try_wait().unwrap().ok_or_else(|| self.screen());
            async { ended }
        })
        .await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already, but for a test that has failed.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_is_at_home() {
    needs!("crictl", "setsid");
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let container = pod.waiting("main", |_| {}).await;
    let crictl = Crictl { node: &pod.node };
    for transport in TRANSPORTS {
        let terminal = Terminal::run(&crictl, &["exec", "-it", "-r", transport, &container, "sh"]);
        terminal.types(WHEN_SMALL);
        terminal.shows("is-small").await;
        terminal.resize(132, 43);
        terminal.types(WHEN_LARGE);
        terminal.shows("is-large").await;
        terminal.types("sleep 54321\n");
        until(PATIENCE, "a command to interrupt", || async {
            let found = pod.exec(&container, "ps -o args | grep '[5]4321' || true").await;
            if found.contains("54321") { Ok(()) } else { Err(found) }
        })
        .await;
        terminal.types(CTRL_C);
        terminal.types("echo go'-'on\n");
        terminal.shows("go-on").await;
        terminal.types("exit 7\n");
        terminal.shows("exit code 7").await;
        assert!(!terminal.ended().await.success());

        let terminal = Terminal::run(&crictl, &["exec", "-it", "-r", transport, &container, "cat"]);
        terminal.types("hello\n");
        terminal.shows("hello\r\nhello\r\n").await;
        terminal.types(CTRL_D);
        assert!(terminal.ended().await.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_attaches_can_leave_and_come_back() {
    needs!("crictl", "setsid");
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let crictl = Crictl { node: &pod.node };
    for transport in TRANSPORTS {
        let mut wanted = pod.script(transport, "exec sh");
        (wanted.stdin, wanted.tty) = (true, true);
        let container = pod.create(wanted).await.unwrap();
        pod.client.start(&container).await.unwrap();
        let attach = ["attach", "-it", "-r", transport, &container];

        let terminal = Terminal::run(&crictl, &attach);
        terminal.types(WHEN_SMALL);
        terminal.shows("is-small").await;
        terminal.resize(132, 43);
        terminal.types("left=behind\n");
        terminal.types(WHEN_LARGE);
        terminal.shows("is-large").await;
        terminal.types(CTRL_P_CTRL_Q);
        terminal.ended().await;

        let terminal = Terminal::run(&crictl, &attach);
        terminal.types("echo was $left\n");
        terminal.shows("was behind").await;
        terminal.types("exit 3\n");
        assert!(terminal.ended().await.success(), "{transport}");
        assert_eq!(pod.client.exited(&container).await.exit_code, 3, "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_forwarded_until_somebody_stops_it() {
    needs!("crictl", "setsid");
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let script = "echo page > /tmp/page; exec httpd -f -p 127.0.0.1:8080 -h /tmp";
    let container = pod.create(pod.script("main", script)).await.unwrap();
    pod.client.start(&container).await.unwrap();
    until(PATIENCE, "the server", || async {
        let served =
            pod.client.exec(&container, &["wget", "-qO-", "http://127.0.0.1:8080/page"], 20).await.unwrap();
        if served.stdout == "page\n" { Ok(()) } else { Err(served) }
    })
    .await;
    let crictl = Crictl { node: &pod.node };
    for transport in TRANSPORTS {
        let terminal = Terminal::run(&crictl, &["port-forward", "-r", transport, &pod.id, "0:8080"]);
        let screen = terminal.shows(" -> 8080").await;
        let port = screen.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\npage\n"), "{transport}: {answer}");
        terminal.types(CTRL_C);
        terminal.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_followed_to_the_end() {
    needs!("crictl", "setsid");
    let pod = Pod::new(Network::BuiltIn, |_| {}).await;
    let script = "echo first; until [ -e /tmp/on ]; do usleep 1000; done; echo second; \
                  until [ -e /tmp/over ]; do usleep 1000; done; echo last; exit 3";
    let container = pod.create(pod.script("main", script)).await.unwrap();
    pod.client.start(&container).await.unwrap();
    let crictl = Crictl { node: &pod.node };
    let terminal = Terminal::run(&crictl, &["logs", "-f", &container]);
    terminal.shows("first").await;
    pod.exec(&container, "touch /tmp/on").await;
    terminal.shows("second").await;
    // It ends with the container, and so may what does this.
    pod.client.exec(&container, &["touch", "/tmp/over"], 20).await.unwrap();
    terminal.shows("last").await;
    assert!(terminal.ended().await.success());
}
