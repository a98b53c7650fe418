//! Joins a client's channels with a process, in this order:
//!
//! 1. The process is begun. A client that goes meanwhile ends that.
//! 2. Bytes are moved both ways, each waiting for whoever takes them, until the output ended and the end is known; or until the
//!    process ended and its output stayed open without a byte: a child left behind may hold it for ever.
//! 3. The end is told on the error stream.
//! 4. The streams are closed, and what is written is sent. That lasts as long as the client takes something: one that pages through
//!    the output (`| less`) reads its end, and the Status, when it comes to it. Who takes nothing for the idle time is cut off.
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
    /// When the client's connection last took a byte.
    pub(crate) taken: Arc<Activity>,
    /// Becomes true when the server ends.
    pub(crate) ending: watch::Receiver<bool>,
}

/// How a client is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// It was sent the end, and may take its time to read that.
    Told,
    /// It has gone, did what it must not, or takes nothing.
    CutOff,
}

/// Runs a session to its end. Safe to cancel: the session is dropped.
pub(crate) async fn run(
    mut channels: Channels,
    begin: impl Future<Output = Result<Session, Failure>> + Send,
    mut terms: Terms,
) -> Parting {
    let mut gone = std::mem::replace(&mut channels.gone, std::future::pending().boxed());
    let outcome = tokio::select! {
        biased;
        () = &mut gone => return Parting::CutOff,
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
    terms.taken.now();
    tokio::select! {
        _ = async { tokio::join!(last_words, gone) } => Parting::Told,
        () = terms.taken.idle(terms.idle) => {
            tracing::debug!("a client didn't take the last bytes of its session");
            Parting::CutOff
        }
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
    let mut to: &mut (dyn AsyncWrite + Send + Unpin) = match to {
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
        // A client that has gone is seen by whoever waits for that. One that has only given up this stream is still to be told the
        // end, and the process isn't to be held up: the rest goes nowhere.
        if to.write_all(chunk).await.is_err() || to.flush().await.is_err() {
            to = &mut nowhere;
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
mod tests;
