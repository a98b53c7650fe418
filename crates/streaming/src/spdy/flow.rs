//! Windows: how much of a stream, and of all streams together, may be under way (draft 3.1, section 2.6.8).
//!
//! Neither side of Kubernetes holds windows, so that a peer is sent what its socket takes. One that has spoken of windows, in
//! WINDOW_UPDATE or SETTINGS, is held to them in both directions from then on.

/// What a window begins with.
pub const INITIAL: i64 = 64 << 10;

/// The most that a window may be.
const MOST: i64 = (1 << 31) - 1;

/// After how many bytes that were consumed here the peer is told so.
const TELL_AFTER: u32 = 32 << 10;

/// Both directions of a stream, or of the connection.
#[derive(Debug)]
pub struct Window {
    left: i64,
    /// What was sent and has not been given back.
    owed: usize,
    untold: u32,
}

/// A window above what it may be.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

impl Window {
    /// At the beginning, with so much to send.
    pub fn new(initial: i64) -> Self {
        Self { left: initial, owed: 0, untold: 0 }
    }

    /// How much may be sent.
    pub fn left(&self) -> usize {
        usize::try_from(self.left).unwrap_or(0)
    }

    /// Counts what was sent. It may be more than is left, with a peer that hasn't spoken of windows yet.
    pub fn sent(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.owed = self.owed.saturating_add(bytes);
    }

    /// Whether so much was sent that the peer can give this back. A larger window than at the beginning is a gift, and ends what it
    /// owes.
    pub fn is_owed(&mut self, delta: u32) -> bool {
        let left = self.owed.checked_sub(delta as usize);
        self.owed = left.unwrap_or(0);
        delta > 0 && left.is_some()
    }

    /// The peer has room for more (or less, when its settings changed).
    ///
    /// # Errors
    /// [`Overflow`] when that is more than a window may be.
    pub fn grow(&mut self, by: i64) -> Result<(), Overflow> {
        self.left = self.left.saturating_add(by);
        if self.left > MOST { Err(Overflow) } else { Ok(()) }
    }

    /// Counts what was consumed here, and says what the peer is to be told, if anything.
    pub fn consumed(&mut self, bytes: usize, speaks: bool) -> Option<u32> {
        self.untold = self.untold.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)).min(MOST as u32);
        if !speaks || self.untold < TELL_AFTER {
            return None;
        }
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_grow_and_overflow() {
        let mut window = Window::new(INITIAL);
        window.sent(100 << 10);
        assert_eq!(window.left(), 0);
        assert_eq!(window.grow(36 << 10), Ok(()));
        assert_eq!(window.left(), 0);
        assert_eq!(window.grow(MOST), Ok(()));
        assert_eq!(window.grow(1), Err(Overflow));
    }

    #[test]
    fn what_was_sent_can_be_given_back_once() {
        let mut window = Window::new(INITIAL);
        assert!(!window.is_owed(1));
        window.sent(10);
        assert!(window.is_owed(4) && !window.is_owed(0) && window.is_owed(6) && !window.is_owed(1));
        window.sent(10);
        assert!(!window.is_owed(11) && !window.is_owed(1));
    }

    #[test]
    fn a_peer_is_told_in_large_steps_and_only_if_it_listens() {
        let mut window = Window::new(INITIAL);
        assert_eq!(window.consumed(100 << 10, false), None);
        assert_eq!(window.consumed(1, true), Some((100 << 10) + 1));
        assert_eq!(window.consumed(TELL_AFTER as usize - 1, true), None);
        assert_eq!(window.consumed(1, true), Some(TELL_AFTER));
    }
}
