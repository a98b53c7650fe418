//! The channels of a remote command over SPDY: a stream for each, told apart by the header `streamtype`.
//!
//! The client opens them one after the other, each after the reply to the one before, and waits 30 s for a reply. A process is
//! started when all are there that the request and the version imply.
//!
//! Not here: SPDY itself ([`crate::spdy`]), what goes through the channels (`pump`).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Channels, Version};
use crate::backend::{Input, Output, Streams as Wanted};
use crate::spdy::{Connection, Incoming, Limits, Stream, Streams};

/// How long a client may take to open all streams (`DefaultStreamCreationTimeout` of k8s.io/cri-streaming).
pub(crate) const CREATION: Duration = Duration::from_secs(30);

/// The header that says what a stream is for.
const STREAM_TYPE: &str = "streamtype";

/// Why there are no channels.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The client took too long.
    #[error("no stream for {} after {} s", .0.name(), CREATION.as_secs())]
    Missing(Kind),
    /// The connection ended meanwhile.
    #[error("the connection ended before all streams were open")]
    Gone,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Error,
    Stdin,
    Stdout,
    Stderr,
    Resize,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Error, Self::Stdin, Self::Stdout, Self::Stderr, Self::Resize];

    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Resize => "resize",
        }
    }

    fn of(incoming: &Incoming) -> Option<Self> {
        let name = incoming.headers().get(STREAM_TYPE)?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the client opens one of these.
    fn is_expected(self, wanted: Wanted, version: Version) -> bool {
        match self {
            Self::Error => true,
            Self::Stdin => wanted.stdin,
            Self::Stdout => wanted.stdout,
            Self::Stderr => wanted.stderr,
            Self::Resize => wanted.tty && version >= Version::V3,
        }
    }
}

/// How much longer than the session its connection may be idle: a session that ends for that tells so. Without any limit a client
/// that shuts its windows and sends pings would keep the last words, and its place, for ever.
const SESSION_FIRST: Duration = Duration::from_secs(60);

/// Waits for a client's streams. Safe to cancel: the connection ends.
///
/// # Errors
/// [`OpenError`] when they don't all come in time.
pub(crate) async fn channels<I>(
    io: I,
    wanted: Wanted,
    (version, idle): (Version, Duration),
) -> Result<Channels, OpenError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = Limits { idle: Some(idle + SESSION_FIRST), ..Limits::default() };
    let (connection, mut streams, closer) = Connection::new(io, limits);
    let run = async move {
        if let Err(error) = connection.run().await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the SPDY connection of a remote command ended"
            );
        }
    };
    let run = run.boxed().shared();
    let mut found = Found::default();
    tokio::select! {
        () = run.clone() => return Err(OpenError::Gone),
        outcome = tokio::time::timeout(CREATION, found.collect(&mut streams, wanted, version)) => match outcome {
            Ok(Some(())) => {}
            Ok(None) => return Err(OpenError::Gone),
            Err(_) => return Err(OpenError::Missing(found.missing(wanted, version).unwrap_or(Kind::Error))),
        },
    }
    let finish = run.clone();
    let finish = async move {
        closer.close();
        finish.await;
    };
    let Some(error) = found.take(Kind::Error).map(writer) else { return Err(OpenError::Gone) };
    let mut stdin = found.take(Kind::Stdin);
    if version == Version::V1
        && let Some(stdin) = &mut stdin
    {
        // As servers of that version do; its clients don't wait for the end of this direction.
        stdin.finish();
    }
    Ok(Channels {
        error,
        stdin: stdin.map(reader),
        stdout: found.take(Kind::Stdout).map(writer),
        stderr: found.take(Kind::Stderr).map(writer),
        resize: found.take(Kind::Resize).map(reader),
        gone: run.boxed(),
        finish: finish.boxed(),
    })
}

/// The streams that have come.
#[derive(Default)]
struct Found(Vec<(Kind, Stream)>);

impl Found {
    /// Waits until all that are expected are there; none when the connection ended.
    async fn collect(&mut self, streams: &mut Streams, wanted: Wanted, version: Version) -> Option<()> {
        while self.missing(wanted, version).is_some() {
            let incoming = streams.next().await?;
            let Some(kind) = Kind::of(&incoming).filter(|kind| !self.has(*kind)) else {
                incoming.refuse();
                continue;
            };
            let Some(mut stream) = incoming.accept() else { continue };
            if kind.is_expected(wanted, version) {
                self.0.push((kind, stream));
            } else {
                // A client that opens more than its request said is not to fail of it: the stream just ends.
                stream.finish();
            }
        }
        Some(())
    }

    fn has(&self, kind: Kind) -> bool {
        self.0.iter().any(|(found, _)| *found == kind)
    }

    fn missing(&self, wanted: Wanted, version: Version) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.is_expected(wanted, version) && !self.has(*kind))
    }

    fn take(&mut self, kind: Kind) -> Option<Stream> {
        let at = self.0.iter().position(|(found, _)| *found == kind)?;
        Some(self.0.swap_remove(at).1)
    }
}

/// Only to write to: what the client sends is thrown away.
fn writer(stream: Stream) -> Input {
    Box::new(stream.split().1)
}

/// Only to read from. Our direction stays open as long as it is read: its end tells clients to send no more.
fn reader(stream: Stream) -> Output {
    Box::new(Reader(stream))
}

struct Reader(Stream);

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.finish();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const IDLE: Duration = Duration::from_secs(600);
    use crate::spdy::client::{Client, Seen};
    use crate::spdy::frame::Control;

    fn wanted(stdin: bool, stderr: bool, tty: bool) -> Wanted {
        Wanted { stdin, stdout: true, stderr, tty }
    }

    /// A client that has opened these, and what the server made of it.
    async fn open(types: &[&str], wanted: Wanted, version: Version) -> (Client, Result<Channels, OpenError>) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let server = tokio::spawn(channels(ours, wanted, (version, IDLE)));
        let mut client = Client::new(theirs);
        for (at, kind) in types.iter().enumerate() {
            // Without waiting for replies: once all are there nobody moves bytes until the channels are used.
            client.syn(at as u32 * 2 + 1, &[("streamtype", kind)]).await;
        }
        (client, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_command_has_its_streams_in_any_order() {
        let (mut client, channels) =
            open(&["resize", "stdout", "error", "stdin"], wanted(true, false, true), Version::V4).await;
        let mut channels = channels.unwrap();
        assert!(channels.stderr.is_none());
        client.data(7, b"in", true).await;
        client.data(1, b"{\"Width\":1,\"Height\":2}", false).await;
        let mut pump = Box::pin(async {
            let mut text = String::new();
            channels.stdin.take().unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "in");
            let mut size = [0; 22];
            channels.resize.as_mut().unwrap().read_exact(&mut size).await.unwrap();
            channels.stdout.as_mut().unwrap().write_all(b"out").await.unwrap();
            channels.stdout.as_mut().unwrap().shutdown().await.unwrap();
            channels.error.write_all(b"{}").await.unwrap();
            channels.error.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        });
        let told = async {
            // The end of what is read here comes when the reader is dropped, so that a client stops sending.
            let mut told = Vec::new();
            while told.len() < 3 {
                told.push(client.until_end().await);
            }
            told.sort();
            told
        };
        tokio::select! {
            () = &mut pump => unreachable!(),
            () = &mut channels.gone => panic!("the connection went"),
            told = told => assert_eq!(told, [(3, b"out".to_vec()), (5, b"{}".to_vec()), (7, Vec::new())]),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_do_not_come_are_waited_for_thirty_seconds() {
        let began = tokio::time::Instant::now();
        let (_client, channels) = open(&["error", "stdout"], wanted(true, false, false), Version::V4).await;
        let error = channels.err().unwrap();
        assert_eq!(error.to_string(), "no stream for stdin after 30 s");
        assert_eq!(began.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn a_terminal_of_an_old_version_has_no_resize_stream() {
        let (_client, channels) = open(&["error", "stdout"], wanted(false, false, true), Version::V2).await;
        assert!(channels.unwrap().resize.is_none());
    }

    #[tokio::test]
    async fn what_was_not_asked_for_ends_and_what_is_unknown_or_there_twice_is_refused() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let server = tokio::spawn(channels(ours, wanted(false, false, false), (Version::V4, IDLE)));
        let mut client = Client::new(theirs);
        client.syn(1, &[("streamtype", "stderr")]).await;
        client.syn(3, &[("streamtype", "else")]).await;
        client.syn(5, &[("streamtype", "error")]).await;
        client.syn(7, &[("streamtype", "error")]).await;
        client.syn(9, &[]).await;
        client.syn(11, &[("streamtype", "stdout")]).await;
        let mut channels = server.await.unwrap().unwrap();
        let seen = async {
            let mut seen = Vec::new();
            while seen.len() < 7 {
                seen.push(client.next().await.unwrap());
            }
            seen
        };
        let seen =
            tokio::select! { seen = seen => seen, () = &mut channels.gone => panic!("the connection went") };
        for stream in [1, 5, 11] {
            assert!(seen.contains(&Seen::Reply(stream)), "{seen:?}");
        }
        for stream in [3, 7, 9] {
            assert!(seen.contains(&Seen::Control(Control::RstStream { stream, status: 3 })), "{seen:?}");
        }
        assert!(seen.contains(&Seen::Data { stream: 1, bytes: Vec::new(), fin: true }), "{seen:?}");
    }

    #[tokio::test]
    async fn a_client_that_goes_meanwhile_is_no_longer_waited_for() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let server = tokio::spawn(channels(ours, wanted(true, false, false), (Version::V4, IDLE)));
        drop(theirs);
        assert!(matches!(server.await.unwrap(), Err(OpenError::Gone)));
    }

    #[tokio::test(start_paused = true)]
    async fn finishing_takes_as_long_as_the_client() {
        let (client, channels) = open(&["error", "stdout"], wanted(false, false, false), Version::V4).await;
        let mut channels = channels.unwrap();
        let text = vec![7; 60_000];
        channels.stdout.as_mut().unwrap().write_all(&text).await.unwrap();
        channels.stdout.as_mut().unwrap().shutdown().await.unwrap();
        let reader = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(10 * 60)).await;
            { client }.until_end().await
        });
        channels.finish.await;
        assert_eq!(reader.await.unwrap(), (3, text));
    }

    #[tokio::test]
    async fn finishing_sends_what_is_written_and_ends_when_the_client_does() {
        let (mut client, channels) =
            open(&["error", "stdout"], wanted(false, false, false), Version::V4).await;
        let mut channels = channels.unwrap();
        channels.stdout.as_mut().unwrap().write_all(b"last words").await.unwrap();
        channels.stdout.as_mut().unwrap().shutdown().await.unwrap();
        let reader = tokio::spawn(async move { client.until_end().await });
        channels.finish.await;
        assert_eq!(reader.await.unwrap(), (3, b"last words".to_vec()));
    }
}
