//! What a connection and the holders of its streams share: the streams, what they hold, and what each frame does to them.
//! Nothing here waits or touches the socket.
//!
//! Memory: what comes in is bounded by [`Limits::buffered`] for all and [`Limits::floor`] for each stream, what goes out
//! likewise, answers by [`Limits::answers`]. A stream counts as long as a handle to it lives, whatever the peer did to it.
//!
//! Below: what frames of the peer do ([`peer`]). Not here: reading and writing of the socket ([`super::connection`]), the handles ([`super::stream`]).

mod peer;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use super::flow::{self, Window};
use super::frame::{self, Control, Reset};
use super::headers::{HeaderWriter, Headers};
use super::limits::Meter;

/// The largest data frame sent. Go's `io.Copy` at the other end takes 32 KiB at a time.
const DATA_FRAME: usize = 32 << 10;

/// How much is handed to the socket at once.
const BATCH: usize = 64 << 10;

/// The state, and what wakes the two halves of the connection.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    pub(super) work: Notify,
    /// There is room for what was read.
    pub(super) room: Notify,
    /// [`State::until`] has changed.
    pub(super) closing: Notify,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State::new(limits)),
            work: Notify::new(),
            room: Notify::new(),
            closing: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) streams: HashMap<u32, Entry>,
    /// The highest stream that was opened.
    last: u32,
    headers: HeaderWriter,
    /// Control frames to be written, before any data.
    answers: BytesMut,
    /// Streams that have something to send, each once.
    ready: VecDeque<u32>,
    /// What all streams hold for readers here, and for the peer.
    incoming: usize,
    outgoing: usize,
    /// The connection's window, what a stream's begins with, and whether the peer has ever spoken of windows.
    window: Window,
    initial: i64,
    speaks: bool,
    opened: Meter,
    idle_frames: Meter,
    began: Instant,
    /// When a stream was last opened or ended, or a byte of one moved on. Other frames are no sign of life: clients' keep-alive would make
    /// the idle time void, and whoever wants to stay for ever could.
    pub(super) active: Instant,
    /// The connection is to end: no stream is taken any longer.
    pub(super) is_closing: bool,
    /// When it ends at the latest, once that is known.
    pub(super) until: Option<Instant>,
    ended: bool,
    next_ping: u32,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) incoming: BytesMut,
    pub(super) theirs: Theirs,
    pub(super) reader: Option<Waker>,
    pub(super) outgoing: BytesMut,
    pub(super) ours: Ours,
    pub(super) writer: Option<Waker>,
    window: Window,
    queued: bool,
    /// How many handles there are to it.
    handles: u8,
}

/// The direction from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Theirs {
    Open,
    /// The peer has ended it; what is held is to be read.
    Finished,
    /// The stream was reset, by whomever.
    Reset,
    /// Nobody here reads.
    Discarded,
}

/// The direction to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ours {
    Open,
    /// Ends when all is sent.
    Finishing,
    Ended,
}

impl State {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            opened: Meter::new(limits.opened),
            idle_frames: Meter::new(limits.idle_frames),
            limits,
            streams: HashMap::new(),
            last: 0,
            headers: HeaderWriter::default(),
            answers: BytesMut::new(),
            ready: VecDeque::new(),
            incoming: 0,
            outgoing: 0,
            window: Window::new(flow::INITIAL),
            initial: flow::INITIAL,
            speaks: false,
            began: now,
            active: now,
            is_closing: false,
            until: None,
            ended: false,
            next_ping: 0,
        }
    }

    // Wishes of the holders of streams.

    /// Accepts a stream.
    pub(super) fn reply(&mut self, stream: u32) {
        let Some(entry) = self.streams.get(&stream) else { return };
        if entry.theirs == Theirs::Reset || self.ended {
            return;
        }
        let fin = entry.ours == Ours::Ended;
        let mut block = BytesMut::new();
        self.headers.write(&Headers::default(), &mut block);
        Control::SynReply { stream, fin, block: Bytes::from(block) }.encode(&mut self.answers);
    }

    /// Counts what a reader has taken.
    pub(super) fn took(&mut self, stream: u32, bytes: usize) {
        self.incoming = self.incoming.saturating_sub(bytes);
        self.consumed(Some(stream), bytes);
    }

    /// Tells a peer that holds windows of the room, when it is worth it.
    fn consumed(&mut self, stream: Option<u32>, bytes: usize) {
        if let Some(stream) = stream
            && let Some(entry) = self.streams.get_mut(&stream)
            && let Some(delta) = entry.window.consumed(bytes, self.speaks && entry.theirs == Theirs::Open)
        {
            Control::WindowUpdate { stream, delta }.encode(&mut self.answers);
        }
        if let Some(delta) = self.window.consumed(bytes, self.speaks) {
            Control::WindowUpdate { stream: 0, delta }.encode(&mut self.answers);
        }
    }

    /// Appends to what a stream has to send as much as there is room for, and says how much that was.
    pub(super) fn offer(&mut self, stream: u32, bytes: &[u8]) -> usize {
        let Some(entry) = self.streams.get_mut(&stream) else { return 0 };
        let held = entry.outgoing.len();
        let own = self.limits.floor.saturating_sub(held);
        let shared = self.limits.buffered.saturating_sub(self.outgoing);
        let room = own.max(shared).min(self.limits.outgoing.saturating_sub(held));
        let part = bytes.get(..room).unwrap_or(bytes);
        entry.outgoing.extend_from_slice(part);
        self.outgoing += part.len();
        self.queue(stream);
        part.len()
    }

    /// Ends our direction when all is sent.
    pub(super) fn finish(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream)
            && entry.ours == Ours::Open
        {
            entry.ours = Ours::Finishing;
            self.queue(stream);
        }
    }

    /// Ends a stream at once.
    pub(super) fn reset(&mut self, stream: u32, status: Reset) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if entry.theirs != Theirs::Reset && !self.ended {
            entry.theirs = Theirs::Reset;
            self.send_reset(stream, status);
        }
        self.cut(stream);
    }

    /// Nobody reads a stream any longer.
    pub(super) fn discard(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        let held = std::mem::take(&mut entry.incoming).len();
        if entry.theirs == Theirs::Open {
            entry.theirs = Theirs::Discarded;
        }
        self.took(stream, held);
    }

    /// Another handle to a stream.
    pub(super) fn hold(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.handles += 1;
        }
    }

    /// One handle less; a stream without any goes when all is sent.
    pub(super) fn release(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.handles = entry.handles.saturating_sub(1);
        }
        self.settle(stream);
    }

    // For the connection.

    /// Puts what is to be sent into `out`, up to a batch: answers, then data of streams in turn.
    pub(super) fn collect(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.answers);
        self.answers.clear();
        let full = self.outgoing >= self.limits.buffered;
        while out.len() < BATCH
            && let Some(stream) = self.ready.pop_front()
        {
            self.collect_from(stream, out);
        }
        if full && self.outgoing < self.limits.buffered {
            self.streams.values_mut().for_each(|entry| wake(&mut entry.writer));
        }
    }

    fn collect_from(&mut self, stream: u32, out: &mut BytesMut) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        entry.queued = false;
        let room = if self.speaks { entry.window.left().min(self.window.left()) } else { usize::MAX };
        let length = entry.outgoing.len().min(DATA_FRAME).min(room);
        let fin = entry.ours == Ours::Finishing && length == entry.outgoing.len();
        if length == 0 && !fin {
            return;
        }
        frame::encode_data_head(stream, length, fin, out);
        out.extend_from_slice(entry.outgoing.get(..length).unwrap_or_default());
        entry.outgoing.advance(length);
        self.outgoing = self.outgoing.saturating_sub(length);
        entry.window.sent(length);
        self.window.sent(length);
        self.active = Instant::now();
        wake(&mut entry.writer);
        if fin {
            entry.ours = Ours::Ended;
            self.settle(stream);
        } else {
            self.queue(stream);
        }
    }

    /// Whether there is nothing that waits to be sent.
    pub(super) fn drained(&self) -> bool {
        self.outgoing == 0 && self.answers.is_empty() && self.ready.is_empty()
    }

    /// Asks the peer whether it is there.
    pub(super) fn ping(&mut self) {
        if !self.clogged() {
            self.next_ping = self.next_ping.wrapping_add(2) & 0x7fff_fffe;
            Control::Ping(self.next_ping.max(2)).encode(&mut self.answers);
        }
    }

    /// The connection is over: all that hold streams are told.
    pub(super) fn end(&mut self) {
        self.ended = true;
        for entry in self.streams.values_mut() {
            entry.ours = Ours::Ended;
            entry.queued = false;
            self.outgoing = self.outgoing.saturating_sub(std::mem::take(&mut entry.outgoing).len());
            wake(&mut entry.reader);
            wake(&mut entry.writer);
        }
        self.ready.clear();
    }

    /// Whether the connection is over.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The highest stream that was opened.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    fn send_reset(&mut self, stream: u32, status: Reset) {
        Control::RstStream { stream, status: status as u32 }.encode(&mut self.answers);
    }

    /// Throws away what a stream has to send, for good.
    fn cut(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        entry.ours = Ours::Ended;
        self.outgoing = self.outgoing.saturating_sub(std::mem::take(&mut entry.outgoing).len());
        wake(&mut entry.reader);
        wake(&mut entry.writer);
        self.settle(stream);
    }

    /// Lets go of a stream that nobody holds and that has nothing to send.
    fn settle(&mut self, stream: u32) {
        let done =
            |entry: &Entry| entry.handles == 0 && entry.ours == Ours::Ended && entry.outgoing.is_empty();
        if self.streams.get(&stream).is_some_and(done)
            && let Some(entry) = self.streams.remove(&stream)
        {
            self.incoming = self.incoming.saturating_sub(entry.incoming.len());
        }
    }

    /// Puts a stream that has something to send in line.
    fn queue(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.queue(stream, &mut self.ready);
        }
    }

    fn requeue(&mut self) {
        for (stream, entry) in &mut self.streams {
            entry.queue(*stream, &mut self.ready);
        }
    }
}

impl Entry {
    fn queue(&mut self, stream: u32, ready: &mut VecDeque<u32>) {
        if !self.queued && (!self.outgoing.is_empty() || self.ours == Ours::Finishing) {
            self.queued = true;
            ready.push_back(stream);
        }
    }
}

/// Whether all of a part was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Yes,
    No,
}

/// Tokio's wakers only put a task in line, so this may be done under the lock.
fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
