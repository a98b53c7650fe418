//! Joins a client's channels with a process, in this order:
//!
//! 1. The process is begun. A client that goes meanwhile ends that.
//! 2. Bytes are moved both ways, each waiting for whoever takes them, until the output ended and the end is known; or until the
//!    process ended and its output stayed open without a byte: a child left behind may hold it for ever.
//! 3. The end is told on the error stream.
//! 4. The streams are closed, and what is written is sent.
//!
//! A client that has gone drops the session at once, wherever that is. One that is attached with a terminal and ends its input
//! leaves: in what is typed there is no such end, and it is how crictl tells that the keys for leaving were pressed.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::status::{Outcome, Purpose};
use super::{Channels, Version};
use crate::activity::Activity;
use crate::backend::{Failure, Input, Output, Resize, Session, Size};

/// How long output is waited for when the process has ended.
const DRAIN: Duration = Duration::from_millis(500);

/// How much is taken at most of each output when the process has ended: more than any pipe holds, and what an attachment keeps.
/// What comes after that is a left-behind child's.
const DRAIN_BYTES: usize = 8 << 20;

/// How long sending the last bytes may take.
const FINISH: Duration = Duration::from_secs(5);

/// How much is moved at once.
const CHUNK: usize = 32 << 10;

/// The longest description of a size: two numbers.
const SIZE_BYTES: usize = 1 << 10;

/// What a session is run by.
pub(crate) struct Terms {
    /// How the end is told.
    pub(crate) version: Version,
    /// What it is for.
    pub(crate) purpose: Purpose,
    /// How long nothing may move.
    pub(crate) idle: Duration,
    /// Becomes true when the server ends.
    pub(crate) ending: watch::Receiver<bool>,
}

/// Runs a session to its end. Safe to cancel: the session is dropped.
pub(crate) async fn run(
    mut channels: Channels,
    begin: impl Future<Output = Result<Session, Failure>> + Send,
    mut terms: Terms,
) {
    let mut gone = std::mem::replace(&mut channels.gone, std::future::pending().boxed());
    let outcome = tokio::select! {
        biased;
        () = &mut gone => return,
        outcome = outcome(&mut channels, begin, &mut terms) => outcome,
    };
    let Channels { mut error, stdin, stdout, stderr, resize, gone: _, finish } = channels;
    // Nobody takes what the client still sends.
    drop((stdin, resize));
    let last_words = async {
        let told = error.write_all(&outcome.encode(terms.version, terms.purpose)).await;
        if let Err(error) = told {
            tracing::debug!(%error, "a client went before it could be told the end");
        }
        for mut writer in [stdout, stderr, Some(error)].into_iter().flatten() {
            let _gone = writer.flush().await;
            let _gone = writer.shutdown().await;
        }
        finish.await;
    };
    let sent = async { tokio::join!(last_words, gone) };
    if timeout(FINISH, sent).await.is_err() {
        tracing::debug!("a client didn't take the last bytes of its session");
    }
}

async fn outcome(
    channels: &mut Channels,
    begin: impl Future<Output = Result<Session, Failure>> + Send,
    terms: &mut Terms,
) -> Outcome {
    let activity = Activity::default();
    let idle = terms.idle;
    let leaving = if terms.purpose == Purpose::Attach && channels.resize.is_some() && channels.stdin.is_some()
    {
        Leaving::WithInput
    } else {
        Leaving::AtTheEnd
    };
    let work = async {
        match begin.await {
            Ok(session) => join(channels, session, (leaving, &activity)).await,
            Err(Failure(why)) => Outcome::Failure(why),
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = activity.idle(idle) => Outcome::Failure(format!("nothing moved for {} s", idle.as_secs())),
        _ = terms.ending.wait_for(|ending| *ending) => Outcome::Failure("the runtime is ending".to_owned()),
    }
}

/// When a session ends that neither side breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// When the client's input ends.
    WithInput,
    /// When the process or its output does.
    AtTheEnd,
}

/// Moves bytes until the end is known and told of all that came before it.
async fn join(channels: &mut Channels, session: Session, context: (Leaving, &Activity)) -> Outcome {
    let (leaving, activity) = context;
    let Session { stdin, stdout, stderr, resize, ended } = session;
    let (tell, over) = watch::channel(false);
    let outputs = async {
        let out = drain(stdout, channels.stdout.as_mut(), (over.clone(), activity));
        let err = drain(stderr, channels.stderr.as_mut(), (over.clone(), activity));
        tokio::join!(out, err)
    };
    let ended = ended.map(|ended| {
        tell.send_replace(true);
        ended
    });
    let input = async {
        feed(channels.stdin.take(), stdin, activity).await;
        if leaving == Leaving::AtTheEnd {
            std::future::pending().await
        }
    };
    let sizes = async {
        resizing(channels.resize.take(), resize).await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        (_, ended) = async { tokio::join!(outputs, ended) } => match ended {
            Ok(ended) => Outcome::of(ended),
            Err(Failure(why)) => Outcome::Failure(why),
        },
        () = input => Outcome::Success,
        never = sizes => match never {},
    }
}

/// Copies an output to the client: until its end, or, when the process is over, until nothing came for a while in all. Time in
/// which the client holds back doesn't count.
async fn drain(from: Option<Output>, to: Option<&mut Input>, context: (watch::Receiver<bool>, &Activity)) {
    let Some(mut from) = from else { return };
    let mut nowhere = tokio::io::sink();
    // What the client didn't ask for is read all the same: a terminal whose output nobody takes stops whoever writes there.
    let to: &mut (dyn AsyncWrite + Send + Unpin) = match to {
        Some(to) => to,
        None => &mut nowhere,
    };
    let (mut over, activity) = context;
    let mut buffer = vec![0; CHUNK];
    let (mut patience, mut left) = (DRAIN, DRAIN_BYTES);
    loop {
        let is_over = *over.borrow();
        let read = if is_over {
            let begun = Instant::now();
            let read = timeout(patience, from.read(&mut buffer)).await;
            patience = patience.saturating_sub(begun.elapsed());
            let Ok(read) = read else { return };
            read
        } else {
            tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = over.wait_for(|over| *over) => continue,
            }
        };
        let Ok(count @ 1..) = read else { return };
        let Some(chunk) = buffer.get(..count) else { return };
        // A client that has gone is seen by whoever waits for that.
        if to.write_all(chunk).await.is_err() || to.flush().await.is_err() {
            return std::future::pending().await;
        }
        activity.now();
        if is_over {
            left = left.saturating_sub(count);
            if left == 0 {
                return;
            }
        }
    }
}

/// Copies the client's input to the process, and throws away what the process doesn't take any more: the client's other messages
/// come behind it.
async fn feed(from: Option<Output>, mut to: Option<Input>, activity: &Activity) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        activity.now();
        if let (Some(input), Some(chunk)) = (to.as_mut(), buffer.get(..count))
            && (input.write_all(chunk).await.is_err() || input.flush().await.is_err())
        {
            to = None;
        }
    }
    if let Some(mut input) = to {
        let _closed_already = input.shutdown().await;
    }
}

/// What a client says of its terminal (`k8s.io/cri-streaming`, `TerminalSize`).
#[derive(serde::Deserialize)]
struct Told {
    #[serde(alias = "width", rename = "Width")]
    width: u16,
    #[serde(alias = "height", rename = "Height")]
    height: u16,
}

/// Tells the terminal the client's sizes, until one can't be read.
async fn resizing(from: Option<Output>, resize: Option<Resize>) {
    let (Some(mut from), Some(resize)) = (from, resize) else { return };
    let mut text = Vec::new();
    let mut buffer = vec![0; SIZE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        text.extend_from_slice(buffer.get(..count).unwrap_or_default());
        match sizes(&mut text) {
            Some(sizes) => sizes.into_iter().for_each(&resize),
            None => return,
        }
    }
}

/// Takes the sizes that are whole from `text`; none when it can't become one any more.
fn sizes(text: &mut Vec<u8>) -> Option<Vec<Size>> {
    let mut sizes = Vec::new();
    let mut read = serde_json::Deserializer::from_slice(text).into_iter::<Told>();
    let mut taken = 0;
    loop {
        match read.next() {
            Some(Ok(Told { width, height })) => {
                sizes.push(Size { columns: width, rows: height });
                taken = read.byte_offset();
            }
            Some(Err(error)) if error.is_eof() => break,
            Some(Err(_)) => return None,
            None => {
                taken = text.len();
                break;
            }
        }
    }
    text.drain(..taken);
    (text.len() <= SIZE_BYTES).then_some(sizes)
}

/// How a session is begun, for [`run`].
pub(crate) type Begin = BoxFuture<'static, Result<Session, Failure>>;

/// Begins by asking the backend.
pub(crate) fn begin(backend: &Arc<dyn crate::Backend>, request: crate::Request) -> Option<(Purpose, Begin)> {
    let backend = Arc::clone(backend);
    match request {
        crate::Request::Exec(request) => {
            Some((Purpose::Exec, async move { backend.exec(&request).await }.boxed()))
        }
        crate::Request::Attach(request) => {
            Some((Purpose::Attach, async move { backend.attach(&request).await }.boxed()))
        }
        crate::Request::PortForward { .. } => None,
    }
}

#[cfg(test)]
mod tests {
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
        (Terms { version: Version::V4, purpose: Purpose::Exec, idle, ending }, end)
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
        let ((), (got, status)) = tokio::join!(run(channels, begin, terms), rest);
        assert_eq!(got, 100_000);
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
            let ((), status) = tokio::join!(run(channels, begin, terms), rest);
            let word = if is_idle { "nothing moved for 7 s" } else { "the runtime is ending" };
            assert!(status.contains(word), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_input_is_that_of_an_attachment_with_a_terminal_alone() {
        for (purpose, has_terminal) in
            [(Purpose::Attach, true), (Purpose::Attach, false), (Purpose::Exec, true)]
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
        let ((), status) = tokio::join!(run(channels, std::future::ready(Ok(session)), terms), rest);
        assert_eq!(status, SUCCESS);
    }
}
