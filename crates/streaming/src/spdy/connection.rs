//! The connection: a future that reads and writes the socket, and the streams that come out of it.
//!
//! Reading stops while a frame has no room (see `state`), writing goes on meanwhile, and the other way round. A peer that isn't
//! read from is sent a PING now and then: one that has vanished is noticed by that.
//!
//! ```text
//! open ──close(), GOAWAY──► closing: no stream is taken ──all sent, LINGER or the peer's end──► GOAWAY, shutdown
//!   └──violation, idle──► GOAWAY, shutdown
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::frame::{Control, Decoder, Event, GoAwayStatus};
use super::headers::HeaderReader;
use super::state::{Done, Shared};
use super::{Error, Incoming, KEEP_ALIVE, LINGER, Limits};

/// How much is read at once: what Go's side writes as one frame.
const READ: usize = 32 << 10;

/// How long the last words to a peer may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection, to be run. Dropping it, or its run, ends all of its streams.
#[derive(Debug)]
pub struct Connection<I> {
    io: I,
    ends: Ends,
    streams: mpsc::UnboundedSender<Incoming>,
}

/// The streams that the peer opens, in their order.
#[derive(Debug)]
pub struct Streams(mpsc::UnboundedReceiver<Incoming>);

impl Streams {
    /// The next stream; none when the connection has ended. Safe to cancel. Dropping the receiver refuses further streams.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.0.recv().await
    }
}

/// Closes a connection from elsewhere.
#[derive(Debug, Clone)]
pub struct Closer(Arc<Shared>);

impl Closer {
    /// Takes no more streams, and ends the connection when all that was written is sent and the peer has gone or had
    /// [`LINGER`] to do so. How long the peer may take to read is up to whoever waits.
    pub fn close(&self) {
        self.0.lock().is_closing = true;
        self.0.work.notify_one();
    }
}

/// Marks the connection as ended when it goes.
#[derive(Debug)]
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.lock().end();
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Connection<I> {
    /// A connection over bytes that are SPDY from the first on.
    pub fn new(io: I, limits: Limits) -> (Self, Streams, Closer) {
        let shared = Arc::new(Shared::new(limits));
        // Not bounded of its own: each entry is a stream, and those are counted.
        let (sender, receiver) = mpsc::unbounded_channel();
        let connection = Self { io, ends: Ends(Arc::clone(&shared)), streams: sender };
        (connection, Streams(receiver), Closer(shared))
    }

    /// Runs it to its end. Cancelling ends it at once, without a word to the peer.
    ///
    /// # Errors
    /// [`Error`] when the peer broke a rule, was idle for too long or couldn't be reached any longer; the
    /// peer's own end of the connection is none.
    pub async fn run(self) -> Result<(), Error> {
        let Self { io, ends, streams } = self;
        let shared = &*ends.0;
        let (mut from, mut to) = tokio::io::split(io);
        let mut out = BytesMut::new();
        let reader = Reader { shared: &ends.0, streams };
        let outcome = tokio::select! {
            outcome = reader.run(&mut from) => outcome,
            error = write(shared, &mut to, &mut out) => Err(error),
            () = closing(shared) => Ok(()),
            error = idle(shared) => Err(error),
        };
        let status = match &outcome {
            Ok(()) => Some(GoAwayStatus::Ok),
            Err(error) => error.status(),
        };
        shared.lock().end();
        if let Some(status) = status {
            let last = shared.lock().last();
            Control::GoAway { last, status: status as u32 }.encode(&mut out);
            // Whether it arrives is the peer's business: it may be what has gone.
            _ = timeout(FAREWELL, async {
                while !out.is_empty() {
                    to.write_buf(&mut out).await?;
                }
                to.shutdown().await
            })
            .await;
        }
        outcome
    }
}

/// Writes until that fails. A peer that has gone may have sent something before, which is still to be read then.
async fn write<W: AsyncWrite + Unpin>(shared: &Shared, to: &mut W, out: &mut BytesMut) -> Error {
    let Err(error) = write_on(shared, to, out).await;
    sleep(FAREWELL).await;
    Error::Write(error)
}

/// Writes whatever there is. What isn't written yet when it is cancelled is in `out`.
async fn write_on<W: AsyncWrite + Unpin>(
    shared: &Shared,
    to: &mut W,
    out: &mut BytesMut,
) -> std::io::Result<Infallible> {
    loop {
        shared.lock().collect(out);
        if out.is_empty() {
            drained(shared);
            shared.work.notified().await;
            continue;
        }
        // There may be room for answers now.
        shared.room.notify_one();
        while !out.is_empty() {
            to.write_buf(out).await?;
        }
        to.flush().await?;
    }
}

/// All is sent: a connection that is closing only waits for the peer now.
fn drained(shared: &Shared) {
    let mut state = shared.lock();
    if state.is_closing && state.until.is_none() && state.drained() {
        state.until = Some(Instant::now() + LINGER);
        shared.closing.notify_one();
    }
}

/// Waits until the connection is to be closed and its time is over.
async fn closing(shared: &Shared) {
    loop {
        let until = shared.lock().until;
        match until {
            None => shared.closing.notified().await,
            Some(until) => tokio::select! {
                () = sleep_until(until) => return,
                () = shared.closing.notified() => {}
            },
        }
    }
}

/// Waits until nothing has happened for too long.
async fn idle(shared: &Shared) -> Error {
    loop {
        let (limit, active) = {
            let state = shared.lock();
            (state.limits.idle, state.active)
        };
        let Some(limit) = limit else { return std::future::pending().await };
        if active.elapsed() >= limit {
            return Error::Idle(limit);
        }
        sleep_until(active + limit).await;
    }
}

/// The reading half.
struct Reader<'a> {
    shared: &'a Arc<Shared>,
    streams: mpsc::UnboundedSender<Incoming>,
}

impl Reader<'_> {
    /// Reads until the peer's end.
    async fn run<R: AsyncRead + Unpin>(&self, from: &mut R) -> Result<(), Error> {
        let (mut decoder, mut headers) = {
            let state = self.shared.lock();
            (Decoder::new(state.limits.control_frame), HeaderReader::new(&state.limits))
        };
        let mut buffer = BytesMut::new();
        loop {
            while let Some(event) = decoder.next(&mut buffer)? {
                while self.shared.lock().clogged() {
                    self.wait_for_room().await;
                }
                match event {
                    Event::Data { stream, bytes, fin } => self.data(stream, bytes, fin).await?,
                    Event::Control(frame) => self.control(frame, &mut headers)?,
                }
            }
            buffer.reserve(READ);
            if from.read_buf(&mut buffer).await.map_err(Error::Read)? == 0 {
                return Ok(());
            }
        }
    }

    async fn data(&self, stream: u32, mut bytes: BytesMut, fin: bool) -> Result<(), Error> {
        loop {
            let done = self.shared.lock().on_data(stream, &mut bytes, fin)?;
            match done {
                Done::Yes => break,
                Done::No => self.wait_for_room().await,
            }
        }
        self.shared.work.notify_one();
        Ok(())
    }

    /// Waits until something has changed that could have made room.
    async fn wait_for_room(&self) {
        loop {
            tokio::select! {
                () = self.shared.room.notified() => return,
                () = sleep(KEEP_ALIVE) => {
                    self.shared.lock().ping();
                    self.shared.work.notify_one();
                }
            }
        }
    }

    fn control(&self, frame: Control, headers: &mut HeaderReader) -> Result<(), Error> {
        let mut read = |stream: u32, block: &[u8]| {
            self.shared.lock().count_opened()?;
            headers.read(block).map_err(|cause| Error::Headers { stream, cause })
        };
        match frame {
            Control::SynStream { stream, fin, unidirectional, block } => {
                let headers = read(stream, &block)?;
                if self.shared.lock().on_syn_stream(stream, fin, unidirectional)? {
                    // When nobody listens any longer this drops, and so refuses, it.
                    _ = self.streams.send(Incoming::new(Arc::clone(self.shared), stream, headers));
                }
            }
            // More headers of a stream mean nothing here; their blocks must be read all the same, or the context is lost.
            Control::SynReply { stream, fin, block } | Control::Headers { stream, fin, block } => {
                read(stream, &block)?;
                if fin {
                    self.shared.lock().on_fin(stream);
                }
            }
            Control::RstStream { stream, .. } => self.shared.lock().on_rst_stream(stream),
            Control::Settings(pairs) => self.shared.lock().on_settings(&pairs)?,
            Control::Ping(id) => self.shared.lock().on_ping(id)?,
            Control::GoAway { .. } => {
                self.shared.lock().on_goaway();
                self.shared.closing.notify_one();
            }
            Control::WindowUpdate { stream, delta } => self.shared.lock().on_window_update(stream, delta)?,
            Control::Unknown(_) => self.shared.lock().count_idle_frame("unknown frames")?,
        }
        self.shared.work.notify_one();
        Ok(())
    }
}
