//! What frames of the peer do.

use bytes::BytesMut;
use tokio::time::Instant;

use super::super::flow::{self, Window};
use super::super::frame::{self, Control, Reset};
use super::super::{Error, LINGER};
use super::{Done, Entry, Ours, State, Theirs, wake};

impl State {
    /// A stream is opened; whether it is to be shown to somebody.
    pub(in super::super) fn on_syn_stream(
        &mut self,
        stream: u32,
        fin: bool,
        unidirectional: bool,
    ) -> Result<bool, Error> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Error::StreamId { stream, last: self.last });
        }
        self.last = stream;
        if self.is_closing || self.streams.len() >= self.limits.streams {
            self.send_reset(stream, Reset::RefusedStream);
            return Ok(false);
        }
        let entry = Entry {
            incoming: BytesMut::new(),
            theirs: if fin { Theirs::Finished } else { Theirs::Open },
            reader: None,
            outgoing: BytesMut::new(),
            ours: if unidirectional { Ours::Ended } else { Ours::Open },
            writer: None,
            window: Window::new(self.initial),
            queued: false,
            handles: 1,
        };
        self.streams.insert(stream, entry);
        self.active = Instant::now();
        Ok(true)
    }

    /// Data of a stream: takes off what there is room for; done when nothing of it is left and the end, if it is one, is noted.
    pub(in super::super) fn on_data(
        &mut self,
        stream: u32,
        bytes: &mut BytesMut,
        fin: bool,
    ) -> Result<Done, Error> {
        if bytes.is_empty() && !fin {
            self.count_idle_frame("empty data frames")?;
            return Ok(Done::Yes);
        }
        let Some(entry) = self.streams.get_mut(&stream) else {
            self.on_stray(stream)?;
            self.consumed(None, bytes.len());
            bytes.clear();
            return Ok(Done::Yes);
        };
        if entry.theirs != Theirs::Open {
            // On its way when it was reset, or after its end: nobody is to see it.
            self.consumed(None, bytes.len());
            bytes.clear();
            return Ok(Done::Yes);
        }
        let own = self.limits.floor.saturating_sub(entry.incoming.len());
        let shared = self.limits.buffered.saturating_sub(self.incoming);
        let part = bytes.split_to(bytes.len().min(own.max(shared)));
        entry.incoming.extend_from_slice(&part);
        self.incoming += part.len();
        let is_end = fin && bytes.is_empty();
        if is_end {
            entry.theirs = Theirs::Finished;
        }
        wake(&mut entry.reader);
        // Trying again in vain is no sign of life.
        if is_end || !part.is_empty() {
            self.active = Instant::now();
        }
        Ok(if bytes.is_empty() { Done::Yes } else { Done::No })
    }

    /// Data for a stream that isn't there: late if it was, else an error of the peer's.
    fn on_stray(&mut self, stream: u32) -> Result<(), Error> {
        if self.has_been(stream) {
            return Ok(());
        }
        self.count_idle_frame("data for streams that never were")?;
        if stream != 0 {
            self.send_reset(stream, Reset::InvalidStream);
        }
        Ok(())
    }

    /// Whether a stream is there or was: frames may come late.
    fn has_been(&self, stream: u32) -> bool {
        !stream.is_multiple_of(2) && stream <= self.last
    }

    /// The peer has ended its direction without data.
    pub(in super::super) fn on_fin(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream)
            && entry.theirs == Theirs::Open
        {
            entry.theirs = Theirs::Finished;
            wake(&mut entry.reader);
            self.active = Instant::now();
        }
    }

    /// The peer has given a stream up. What came before it stays readable.
    pub(in super::super) fn on_rst_stream(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if entry.theirs != Theirs::Finished {
            entry.theirs = Theirs::Reset;
        }
        self.cut(stream);
    }

    pub(in super::super) fn on_settings(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.count_idle_frame("settings")?;
        for (name, value) in pairs {
            if *name != frame::SETTING_INITIAL_WINDOW {
                continue;
            }
            self.speaks = true;
            let value = i64::from(*value);
            let by = value - std::mem::replace(&mut self.initial, value);
            for entry in self.streams.values_mut() {
                entry.window.grow(by).map_err(|flow::Overflow| Error::Window)?;
            }
            self.requeue();
        }
        Ok(())
    }

    /// Room for more. What gives back nothing that was sent moves nothing on: a peer has reason for a few of these, to enlarge windows.
    pub(in super::super) fn on_window_update(&mut self, stream: u32, delta: u32) -> Result<(), Error> {
        self.speaks = true;
        let is_owed = if stream == 0 {
            let was_closed = self.window.left() == 0;
            let is_owed = self.window.is_owed(delta);
            self.window.grow(i64::from(delta)).map_err(|flow::Overflow| Error::Window)?;
            // Once for each time that it is used up, or frames of 16 bytes cost a look at each stream.
            if was_closed {
                self.requeue();
            }
            is_owed
        } else if let Some(entry) = self.streams.get_mut(&stream) {
            let is_owed = entry.window.is_owed(delta);
            match entry.window.grow(i64::from(delta)) {
                Ok(()) => self.queue(stream),
                Err(flow::Overflow) => self.reset(stream, Reset::FlowControlError),
            }
            is_owed
        } else {
            self.has_been(stream)
        };
        if is_owed { Ok(()) } else { self.count_idle_frame("window updates") }
    }

    /// A PING: that of the peer is sent back, the answer to ours is only taken note of.
    pub(in super::super) fn on_ping(&mut self, id: u32) -> Result<(), Error> {
        self.count_idle_frame("pings")?;
        if !id.is_multiple_of(2) {
            Control::Ping(id).encode(&mut self.answers);
        }
        Ok(())
    }

    pub(in super::super) fn on_goaway(&mut self) {
        self.is_closing = true;
        let until = Instant::now() + LINGER;
        self.until = Some(self.until.map_or(until, |earlier| earlier.min(until)));
    }

    /// Counts a header block against the rate.
    pub(in super::super) fn count_opened(&mut self) -> Result<(), Error> {
        let now = self.began.elapsed();
        if self.opened.take(now) { Ok(()) } else { Err(Error::Flood("streams")) }
    }

    /// Counts a frame that moves nothing on.
    pub(in super::super) fn count_idle_frame(&mut self, what: &'static str) -> Result<(), Error> {
        let now = self.began.elapsed();
        if self.idle_frames.take(now) { Ok(()) } else { Err(Error::Flood(what)) }
    }

    /// Whether so many answers wait that nothing more is to be read.
    pub(in super::super) fn clogged(&self) -> bool {
        self.answers.len() > self.limits.answers
    }
}
