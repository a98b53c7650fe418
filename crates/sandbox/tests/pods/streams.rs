//! Somebody who is connected to a command, or to a container's first process.

use std::path::PathBuf;
use std::time::Duration;

use sandbox::{ContainerId, End, Error, PodId, Stdin, StreamChoice, StreamSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, here, shell, until};

/// How long to wait for what must happen.
fn patience() -> Duration {
    here(Duration::from_secs(20))
}

const NONE: StreamChoice = StreamChoice { stdin: false, stdout: false, stderr: false, terminal: false };
const OUT: StreamChoice = StreamChoice { stdout: true, ..NONE };
const IN_OUT: StreamChoice = StreamChoice { stdin: true, stdout: true, ..NONE };
const ALL: StreamChoice = StreamChoice { stderr: true, ..IN_OUT };
const TERMINAL: StreamChoice = StreamChoice { terminal: true, ..IN_OUT };

async fn exec(world: &World, id: &ContainerId, script: &str, choice: StreamChoice) -> StreamSession {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    world.pods().exec(id.as_str(), command, choice).await.expect("a session")
}

async fn attach(world: &World, id: &ContainerId, choice: StreamChoice) -> StreamSession {
    world.pods().attach(id.as_str(), choice).await.expect("attached")
}

/// A container with this standard input.
async fn with_input(world: &World, pod: &PodId, script: &str, stdin: Stdin) -> ContainerId {
    let config = sandbox::ContainerConfig { stdin, ..shell("main", script) };
    let id = world.pods().create_container(pod.as_str(), config).await.expect("created");
    world.pods().start_container(id.as_str()).await.expect("started");
    id
}

async fn say(session: &mut StreamSession, text: &str) {
    session.stdin.as_mut().expect("an input").write_all(text.as_bytes()).await.expect("written");
}

/// Reads until this has come.
async fn expect(session: &mut StreamSession, text: &str) {
    let mut read = String::new();
    let output = session.stdout.as_mut().expect("an output");
    let work = async {
        while !read.contains(text) {
            let mut byte = [0];
            let count = output.read(&mut byte).await.expect("read");
            assert_eq!(count, 1, "an end after {read:?}");
            read.push(char::from(byte[0]));
        }
    };
    let in_time = tokio::time::timeout(patience(), work).await;
    assert!(in_time.is_ok(), "no {text:?} in {read:?}");
}

async fn rest(output: Option<&mut sandbox::Output>) -> String {
    let mut read = Vec::new();
    let work = output.expect("an output").read_to_end(&mut read);
    tokio::time::timeout(patience(), work).await.expect("an end").expect("read");
    String::from_utf8(read).expect("text")
}

async fn end(session: &mut StreamSession) -> End {
    tokio::time::timeout(patience(), session.ended()).await.expect("an end").expect("told")
}

/// Waits until so many processes with this on their command line are left.
async fn left(world: &World, command: &str, count: usize) {
    until(&format!("{count} of {command}"), || {
        let found: Vec<_> = world.processes().into_iter().filter(|line| line.contains(command)).collect();
        if found.len() == count { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_its_streams_and_its_code() {
    let world = World::new().await;
    let pod = world.pod("exec").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let mut session = exec(&world, &id, "cat; echo err >&2; exit 9", ALL).await;
    assert!(session.terminal.is_none());
    session.resize(80, 24).expect("nothing to be resized");
    say(&mut session, "through\n").await;
    expect(&mut session, "through\n").await;
    let early = tokio::time::timeout(Duration::from_millis(50), session.ended()).await;
    assert!(early.is_err(), "it still reads: {early:?}");
    session.stdin.as_mut().unwrap().shutdown().await.unwrap();
    assert_eq!(rest(session.stdout.as_mut()).await, "");
    assert_eq!(rest(session.stderr.as_mut()).await, "err\n");
    assert_eq!(end(&mut session).await, End::Exited(9));
    // What is not asked for is the null device.
    let mut session = exec(&world, &id, "cat; echo out; echo err >&2", OUT).await;
    assert!(session.stdin.is_none() && session.stderr.is_none());
    assert_eq!(rest(session.stdout.as_mut()).await, "out\n");
    assert_eq!(end(&mut session).await, End::Exited(0));
    let missing = world.pods().exec(id.as_str(), vec!["/no/such/command".to_owned()], OUT).await.unwrap_err();
    assert!(matches!(missing, Error::Exec { .. }), "{missing:?}");
    let nothing = world.pods().exec(id.as_str(), Vec::new(), OUT).await.unwrap_err();
    assert!(matches!(nothing, Error::Refused { .. }), "{nothing:?}");
    let unknown = world.pods().exec("unknown", vec!["true".to_owned()], OUT).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_goes_through_a_command_unchanged() {
    const BYTES: usize = 20 << 20;
    let world = World::new().await;
    let pod = world.pod("much").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let mut session = exec(&world, &id, "exec cat", IN_OUT).await;
    let sent: Vec<u8> = (0..BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()[0]).collect();
    let mut input = session.stdin.take().unwrap();
    let mut read = Vec::new();
    let writing = async {
        input.write_all(&sent).await.unwrap();
        drop(input);
    };
    let reading = session.stdout.as_mut().unwrap().read_to_end(&mut read);
    let (_, count) = tokio::join!(writing, reading);
    assert_eq!(count.unwrap(), BYTES);
    assert!(read == sent, "it came back changed");
    assert_eq!(end(&mut session).await, End::Exited(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_a_terminal() {
    let world = World::new().await;
    let pod = world.pod("tty").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let script = "trap 'echo resized' WINCH; echo $TERM; until [ \"$line\" = go ]; do read -t 1 line; done; stty size; exec sleep 1000";
    let mut session = exec(&world, &id, script, TERMINAL).await;
    expect(&mut session, "xterm\r\n").await;
    session.resize(101, 41).unwrap();
    expect(&mut session, "resized\r\n").await;
    say(&mut session, "go\n").await;
    expect(&mut session, "go\r\n41 101\r\n").await;
    say(&mut session, "\u{3}").await;
    assert_eq!(end(&mut session).await, End::Exited(130), "Control-C");
    assert_eq!(rest(session.stdout.as_mut()).await, "^C");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_vanishes_leaves_no_process() {
    let world = World::new().await;
    let pod = world.pod("vanish").await;
    let id = world.started(&pod, "exec sleep 1000").await;
    let script = "trap '' HUP TERM; set -m; sleep 2000 & echo ready; sleep 2000; wait";
    for choice in [ALL, TERMINAL, IN_OUT, TERMINAL, TERMINAL] {
        let mut session = exec(&world, &id, script, choice).await;
        expect(&mut session, "ready").await;
        left(&world, "sleep 2000", 2 + 1).await;
        drop(session);
        left(&world, "sleep 2000", 0).await;
    }
    // The terminal alone is enough: whoever holds none of it has gone.
    let mut session = exec(&world, &id, script, TERMINAL).await;
    expect(&mut session, "ready").await;
    // Not before the shell has put its second command in the foreground: without a terminal it gives that up, with 2.
    left(&world, "sleep 2000", 2 + 1).await;
    (session.stdin, session.stdout, session.terminal) = (None, None, None);
    assert_eq!(end(&mut session).await, End::Exited(137));
    left(&world, "sleep 2000", 0).await;
    // One that was never answered.
    for _ in 0..20 {
        let begun = world.pods();
        let command = ["/bin/sh", "-c", "exec sleep 3000"].map(str::to_owned).to_vec();
        let _given_up =
            tokio::time::timeout(Duration::from_micros(500), begun.exec(id.as_str(), command, ALL)).await;
    }
    left(&world, "sleep 3000", 0).await;
    left(&world, "sleep 1000", 1).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_attached_and_go_without_a_trace() {
    let world = World::new().await;
    let pod = world.pod("attach").await;
    let id = with_input(&world, &pod, "cat; echo err >&2; exit 5", Stdin::Open).await;
    let mut one = attach(&world, &id, IN_OUT).await;
    let mut two = attach(&world, &id, ALL).await;
    say(&mut one, "hello\n").await;
    expect(&mut one, "hello\n").await;
    expect(&mut two, "hello\n").await;
    drop(one);
    let mut three = attach(&world, &id, IN_OUT).await;
    say(&mut three, "again\n").await;
    expect(&mut three, "again\n").await;
    expect(&mut two, "again\n").await;
    // The end of what one of them has to say is not the end of the container's input.
    three.stdin.as_mut().unwrap().shutdown().await.unwrap();
    say(&mut two, "still\n").await;
    expect(&mut three, "still\n").await;
    world.pods().stop_container(id.as_str(), Duration::ZERO).await.unwrap();
    assert_eq!(end(&mut three).await, End::OutputEnded);
    assert_eq!(end(&mut two).await, End::OutputEnded);
    assert_eq!(
        (rest(two.stdout.as_mut()).await, rest(two.stderr.as_mut()).await),
        ("still\n".to_owned(), String::new())
    );
    assert_eq!(world.log("attach", "main").lines().count(), 3);
    let late = world.pods().attach(id.as_str(), OUT).await.unwrap_err();
    assert!(matches!(late, Error::WrongState { .. }), "{late:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_for_one_ends_with_what_it_says() {
    let world = World::new().await;
    let pod = world.pod("once").await;
    let id = with_input(&world, &pod, "cat; echo over; exit 6", Stdin::Once).await;
    drop(attach(&world, &id, OUT).await);
    let mut session = attach(&world, &id, IN_OUT).await;
    say(&mut session, "hello\n").await;
    session.stdin = None;
    assert_eq!(rest(session.stdout.as_mut()).await, "hello\nover\n");
    assert_eq!(end(&mut session).await, End::OutputEnded);
    assert_eq!(world.exit(&id).await.exit_code, 6);
    // One that vanishes has said all, too.
    let config = sandbox::ContainerConfig { stdin: Stdin::Once, ..shell("second", "cat; exit 7") };
    let id = world.pods().create_container(pod.as_str(), config).await.unwrap();
    world.pods().start_container(id.as_str()).await.unwrap();
    drop(attach(&world, &id, IN_OUT).await);
    assert_eq!(world.exit(&id).await.exit_code, 7);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_for_one_ends_for_all_with_the_first_that_goes() {
    let world = World::new().await;
    let pod = world.pod("first").await;
    let script = "until [ -e /tmp/go ]; do sleep 0.01; done; wc -c; echo over; exec sleep 1000";
    let id = with_input(&world, &pod, script, Stdin::Once).await;
    let (mut one, mut two) = (attach(&world, &id, IN_OUT).await, attach(&world, &id, IN_OUT).await);
    say(&mut one, "one").await;
    // More than a pipe holds: it waits for room.
    let mut input = two.stdin.take().unwrap();
    let waits = tokio::spawn(async move { (input.write_all(&[0; 1 << 20]).await, input) });
    one.stdin.as_mut().unwrap().shutdown().await.unwrap();
    until(
        "the other one is cut off",
        || {
            if waits.is_finished() { Ok(()) } else { Err("it waits".to_owned()) }
        },
    )
    .await;
    let (told, input) = waits.await.unwrap();
    assert_eq!(told.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    // Neither the one that has not let go nor a third one holds the end of the file back.
    let late = attach(&world, &id, IN_OUT).await;
    assert!(late.stdin.is_none(), "it remains closed");
    exec(&world, &id, "touch /tmp/go", OUT).await.ended().await.unwrap();
    expect(&mut one, "over\n").await;
    expect(&mut two, "over\n").await;
    drop(input);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_terminal_outlives_its_clients() {
    let world = World::new().await;
    let pod = world.pod("ttys").await;
    let script = "until [ \"$line\" = end ]; do read line && stty size; done; exit 8";
    let config = sandbox::ContainerConfig { tty: true, stdin: Stdin::Once, ..shell("main", script) };
    let id = world.pods().create_container(pod.as_str(), config).await.unwrap();
    world.pods().start_container(id.as_str()).await.unwrap();
    for columns in [90, 91] {
        let mut session = attach(&world, &id, TERMINAL).await;
        session.resize(columns, 30).unwrap();
        say(&mut session, "go\n").await;
        expect(&mut session, &format!("go\r\n30 {columns}\r\n")).await;
    }
    // Whoever doesn't know of the terminal has it all the same: one output, and no other.
    let mut session = attach(&world, &id, StreamChoice { stderr: true, ..IN_OUT }).await;
    say(&mut session, "end\n").await;
    assert_eq!(end(&mut session).await, End::OutputEnded);
    assert_eq!(rest(session.stdout.as_mut()).await, "end\r\n30 91\r\n");
    assert_eq!(rest(session.stderr.as_mut()).await, "");
    assert_eq!(world.exit(&id).await.exit_code, 8);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_is_not_there_is_refused() {
    let world = World::new().await;
    let pod = world.pod("plain").await;
    let id = with_input(&world, &pod, "exec sleep 1000", Stdin::Open).await;
    let wrong = world.pods().attach(id.as_str(), TERMINAL).await.unwrap_err();
    assert!(matches!(&wrong, Error::Refused { field, .. } if field == "tty"), "{wrong:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_told() {
    let world = World::new().await;
    let pod = world.pod("slow").await;
    let id = with_input(&world, &pod, "read go; head -c 10000000 /dev/zero; exit 9", Stdin::Open).await;
    let mut slow = attach(&world, &id, IN_OUT).await;
    say(&mut slow, "go\n").await;
    assert_eq!(world.exit(&id).await.exit_code, 9, "nobody waits for it");
    assert_eq!(end(&mut slow).await, End::TooSlow);
    let mut read = Vec::new();
    slow.stdout.as_mut().unwrap().read_to_end(&mut read).await.unwrap();
    assert!(!read.is_empty() && read.len() <= 1 << 20, "{}", read.len());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_supervisor_ends_sessions() {
    let world = World::new().await;
    let pod = world.pod("lost").await;
    let id = with_input(&world, &pod, "exec sleep 1000", Stdin::Open).await;
    let mut attached = attach(&world, &id, IN_OUT).await;
    let mut command = exec(&world, &id, "exec sleep 1000", ALL).await;
    let supervisor = world.pods().pod(pod.as_str()).unwrap().supervisor.unwrap();
    let supervisor = rustix::process::Pid::from_raw(supervisor.cast_signed()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    for session in [&mut attached, &mut command] {
        let told = tokio::time::timeout(patience(), session.ended()).await.expect("an end");
        assert!(matches!(told, Err(Error::OutOfTouch { .. })), "{told:?}");
    }
    drop((attached, command));
    world.end().await;
}

/// Programs that make containers in the supervisor's place, as far as they are installed.
fn runtimes() -> Vec<PathBuf> {
    let known = ["/usr/sbin/runc", "/usr/bin/runc"].map(PathBuf::from);
    known.into_iter().filter(|path| path.exists()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_other_runtimes_are_joined_the_same_way() {
    let runtimes = runtimes();
    if runtimes.is_empty() {
        eprintln!("skipped: runc is not installed");
    }
    for runtime in runtimes {
        let world = World::with_runtime(&runtime).await;
        let pod = world.pod("outside").await;
        let id = with_input(&world, &pod, "cat; echo over; exec sleep 1000", Stdin::Once).await;
        let mut attached = attach(&world, &id, IN_OUT).await;
        say(&mut attached, "hello\n").await;
        expect(&mut attached, "hello\n").await;
        attached.stdin = None;
        expect(&mut attached, "over\n").await;

        let mut session = exec(&world, &id, "cat; echo err >&2; exit 9", ALL).await;
        say(&mut session, "through\n").await;
        session.stdin = None;
        assert_eq!(rest(session.stdout.as_mut()).await, "through\n");
        assert_eq!(rest(session.stderr.as_mut()).await, "err\n");
        assert_eq!(end(&mut session).await, End::Exited(9));

        let script = "trap 'echo resized' WINCH; echo $TERM; until [ \"$line\" = go ]; do read -t 1 line; done; stty size; exec sleep 2000";
        let mut session = exec(&world, &id, script, TERMINAL).await;
        expect(&mut session, "xterm\r\n").await;
        session.resize(101, 41).unwrap();
        expect(&mut session, "resized\r\n").await;
        say(&mut session, "go\n").await;
        expect(&mut session, "go\r\n41 101\r\n").await;
        drop(session);
        left(&world, "sleep 2000", 0).await;
        drop(attached);

        let tty =
            sandbox::ContainerConfig { tty: true, stdin: Stdin::Open, ..shell("tty", "read line; exit 8") };
        let id = world.pods().create_container(pod.as_str(), tty).await.unwrap();
        world.pods().start_container(id.as_str()).await.unwrap();
        let mut session = attach(&world, &id, TERMINAL).await;
        session.resize(90, 30).unwrap();
        say(&mut session, "end\n").await;
        assert_eq!(end(&mut session).await, End::OutputEnded);
        assert_eq!(rest(session.stdout.as_mut()).await, "end\r\n");
        assert_eq!(world.exit(&id).await.exit_code, 8);
        world.end().await;
    }
}
