use std::pin::pin;
use std::sync::Mutex;

use tokio::io::{DuplexStream, duplex, simplex};

use super::*;
use crate::backend::Ended;

#[test]
fn sizes_are_read_however_they_are_cut() {
    let mut text = br#"{"Width":80,"Height":24}{"Width":1"#.to_vec();
    assert_eq!(sizes(&mut text).unwrap(), [Size { columns: 80, rows: 24 }]);
    text.extend_from_slice(br#"00,"Height":50} {"width":1,"height":2} "#);
    let expected = [Size { columns: 100, rows: 50 }, Size { columns: 1, rows: 2 }];
    assert_eq!(sizes(&mut text).unwrap(), expected);
    assert!(text.is_empty(), "{text:?}");
    for wrong in ["{\"Width\":70000,\"Height\":1}", "x", "[]"] {
        assert!(sizes(&mut wrong.as_bytes().to_vec()).is_none(), "{wrong}");
    }
    let mut endless = vec![b'{'];
    endless.resize(SIZE_BYTES + 1, b' ');
    assert!(sizes(&mut endless).is_none());
}

struct Client {
    stdin: DuplexStream,
    stdout: DuplexStream,
    error: DuplexStream,
    leave: Option<tokio::sync::oneshot::Sender<()>>,
}

fn client(room: usize) -> (Client, Channels) {
    let (stdin, stdin_end) = duplex(room);
    let (stdout, stdout_end) = duplex(room);
    let (error, error_end) = duplex(1 << 10);
    let (leave, left) = tokio::sync::oneshot::channel();
    let channels = Channels {
        error: Box::new(error_end),
        stdin: Some(Box::new(stdin_end)),
        stdout: Some(Box::new(stdout_end)),
        stderr: None,
        resize: None,
        gone: left.map(drop).boxed(),
        finish: std::future::ready(()).boxed(),
    };
    (Client { stdin, stdout, error, leave: Some(leave) }, channels)
}

fn terms() -> (Terms, watch::Sender<bool>) {
    let (end, ending) = watch::channel(false);
    let idle = Duration::from_secs(3_600);
    let taken = Arc::default();
    (Terms { version: Version::V4, purpose: Purpose::Exec, idle, taken, ending }, end)
}

fn session(stdout: Output, ended: BoxFuture<'static, Result<Ended, Failure>>) -> Session {
    Session { stdin: None, stdout: Some(stdout), stderr: None, resize: None, ended }
}

async fn text(mut stream: DuplexStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

#[tokio::test(start_paused = true)]
async fn who_takes_the_last_bytes_has_time_for_all_of_them_and_who_takes_none_is_cut_off() {
    for takes in [true, false] {
        let (client, mut channels) = client(1 << 10);
        let (mut terms, _end) = terms();
        terms.idle = Duration::from_secs(100);
        let taken = Arc::clone(&terms.taken);
        channels.finish = async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(90)).await;
                if takes {
                    taken.now();
                }
            }
        }
        .boxed();
        let session = session(Box::new(tokio::io::empty()), std::future::ready(Ok(Ended::Exited(0))).boxed());
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(run(channels, async { Ok(session) }, terms).await, Parting::CutOff);
        // Neither closes, so that one ends some time after the last byte, too.
        let time = if takes { 900 + 100 } else { 100 };
        assert_eq!(begun.elapsed().as_secs(), 200 + time);
        assert_eq!(text(client.error).await, SUCCESS);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_one_output_is_told_the_end_and_holds_nobody_up() {
    let (mut client, channels) = client(16);
    let (terms, _end) = terms();
    drop(client.stdout);
    let (output, mut pipe) = simplex(16);
    let ended = async move {
        pipe.write_all(&[0; 10_000]).await.unwrap();
        Ok(Ended::Exited(0))
    };
    let begin = std::future::ready(Ok(session(Box::new(output), ended.boxed())));
    let leave = client.leave.take();
    let rest = async {
        let status = text(client.error).await;
        drop(leave);
        status
    };
    let both = async { tokio::join!(run(channels, begin, terms), rest).1 };
    assert_eq!(timeout(Duration::from_secs(60), both).await.unwrap(), SUCCESS);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_holds_the_pipe_holds_nobody_up() {
    let (mut client, channels) = client(1 << 10);
    let (terms, _end) = terms();
    let (output, mut held) = simplex(1 << 10);
    held.write_all(b"said before").await.unwrap();
    let ended = std::future::ready(Ok(Ended::Exited(0))).boxed();
    let begun = Instant::now();
    let begin = std::future::ready(Ok(session(Box::new(output), ended)));
    let leave = client.leave.take();
    let pump = async {
        run(channels, begin, terms).await;
        drop(held);
    };
    let rest = async {
        let texts = tokio::join!(text(client.stdout), text(client.error));
        drop(leave);
        texts
    };
    let ((), (stdout, status)) = tokio::join!(pump, rest);
    assert_eq!((stdout.as_str(), status.as_str()), ("said before", SUCCESS));
    assert_eq!(begun.elapsed(), DRAIN);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_loses_nothing_of_what_was_written_before_the_end() {
    let (mut client, channels) = client(16);
    let (terms, _end) = terms();
    let (output, mut pipe) = simplex(1 << 20);
    pipe.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let ended = std::future::ready(Ok(Ended::Exited(3))).boxed();
    let begin = std::future::ready(Ok(session(Box::new(output), ended)));
    let leave = client.leave.take();
    let read = async {
        let mut got = 0;
        let mut buffer = [0; 16];
        loop {
            match client.stdout.read(&mut buffer).await.unwrap() {
                0 => break got,
                count => got += count,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let rest = async {
        let both = tokio::join!(read, text(client.error));
        drop(leave);
        both
    };
    let (parting, (got, status)) = tokio::join!(run(channels, begin, terms), rest);
    assert_eq!((got, parting), (100_000, Parting::Told));
    assert!(status.contains("NonZeroExitCode"), "{status}");
}

/// Says when it is dropped.
struct Guard(Arc<Mutex<bool>>);

impl Drop for Guard {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = true;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_ends_the_session_at_once() {
    let (mut client, channels) = client(1 << 10);
    let (terms, _end) = terms();
    let dropped = Arc::new(Mutex::new(false));
    let guard = Guard(Arc::clone(&dropped));
    let (output, _held) = simplex(1 << 10);
    let ended = async move {
        let _guard = guard;
        std::future::pending().await
    };
    let begin = std::future::ready(Ok(session(Box::new(output), ended.boxed())));
    let mut pump = pin!(run(channels, begin, terms));
    assert!(timeout(Duration::from_secs(9), &mut pump).await.is_err(), "it goes on");
    drop(client.leave.take());
    let begun = Instant::now();
    pump.await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(*dropped.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_is_idle_and_who_is_connected_at_the_end_is_told() {
    for is_idle in [true, false] {
        let (mut client, channels) = client(1 << 10);
        let (mut terms, end) = terms();
        terms.idle = Duration::from_secs(if is_idle { 7 } else { 3_600 });
        let (output, _held) = simplex(1 << 10);
        let begin = std::future::ready(Ok(session(Box::new(output), std::future::pending().boxed())));
        let leave = client.leave.take();
        let rest = async {
            if !is_idle {
                tokio::time::sleep(Duration::from_secs(60)).await;
                end.send_replace(true);
            }
            let status = text(client.error).await;
            drop(leave);
            status
        };
        let (_, status) = tokio::join!(run(channels, begin, terms), rest);
        let word = if is_idle { "nothing moved for 7 s" } else { "the runtime is ending" };
        assert!(status.contains(word), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_input_is_that_of_an_attachment_with_a_terminal_alone() {
    for (purpose, has_terminal) in [(Purpose::Attach, true), (Purpose::Attach, false), (Purpose::Exec, true)]
    {
        let (mut client, mut channels) = client(1 << 10);
        let (sizes, sizes_end) = duplex(16);
        channels.resize = has_terminal.then(|| Box::new(sizes_end) as _);
        let (mut terms, _end) = terms();
        terms.purpose = purpose;
        let (output, _held) = simplex(1 << 10);
        let begin = std::future::ready(Ok(session(Box::new(output), std::future::pending().boxed())));
        let mut pump = pin!(run(channels, begin, terms));
        assert!(timeout(Duration::from_secs(9), &mut pump).await.is_err(), "it goes on");
        client.stdin.shutdown().await.unwrap();
        let leave = client.leave.take();
        let told = async {
            let status = text(client.error).await;
            drop(leave);
            status
        };
        let ended = timeout(Duration::from_secs(9), async { tokio::join!(pump, told).1 }).await.ok();
        let leaves = purpose == Purpose::Attach && has_terminal;
        assert_eq!(ended.as_deref(), leaves.then_some(SUCCESS), "{purpose:?}, {has_terminal}");
        drop(sizes);
    }
}

#[tokio::test(start_paused = true)]
async fn input_that_nobody_takes_is_thrown_away() {
    let (mut client, channels) = client(16);
    let (terms, _end) = terms();
    let (output, pipe) = simplex(16);
    let (taken, input) = duplex(16);
    drop(taken);
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let ended = async move {
        let _ = told.await;
        Ok(Ended::Exited(0))
    };
    let session = Session { stdin: Some(Box::new(input)), ..session(Box::new(output), ended.boxed()) };
    let leave = client.leave.take();
    let rest = async {
        client.stdin.write_all(&[0; 10_000]).await.unwrap();
        drop((tell, pipe));
        let status = text(client.error).await;
        drop(leave);
        status
    };
    let (_, status) = tokio::join!(run(channels, std::future::ready(Ok(session)), terms), rest);
    assert_eq!(status, SUCCESS);
}
