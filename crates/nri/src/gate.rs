//! The gate between what plugins are told of and what lists show.
//!
//! Between the event that tells of a new pod or container and the moment from which it is listed there is a [`Window`]. A plugin that came
//! in just then would hear of it in neither way; so plugins are let in only while no window is open. Windows are opened also when there
//! is no plugin: one may come before it closes.
//!
//! Not here: who waits for whom (see `hub`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many plugins there are, who waits to be let in, and how many windows are open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Plugins that hear of events, and those that wait to be let in.
    plugins: usize,
    windows: usize,
}

/// From the event that tells of something new until lists show it. Dropping it closes it.
#[derive(Debug)]
pub struct Window(Gate);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is nobody to ask.
    pub(crate) fn is_idle(&self) -> bool {
        self.state().plugins == 0
    }

    /// How many there are to ask, those who wait to be let in among them.
    pub(crate) fn plugins(&self) -> u32 {
        u32::try_from(self.state().plugins).unwrap_or(u32::MAX)
    }

    /// Opens a window if there is nobody to ask.
    pub(crate) fn pass(&self) -> Option<Window> {
        let mut state = self.state();
        (state.plugins == 0).then(|| self.open_in(&mut state))
    }

    /// Opens a window.
    pub(crate) fn open(&self) -> Window {
        self.open_in(&mut self.state())
    }

    fn open_in(&self, state: &mut State) -> Window {
        state.windows += 1;
        Window(self.clone())
    }

    /// One more to be asked: from here on nobody passes without asking.
    pub(crate) fn enter(&self) {
        self.state().plugins += 1;
    }

    /// One less.
    pub(crate) fn leave(&self) {
        let mut state = self.state();
        state.plugins = state.plugins.saturating_sub(1);
    }

    /// Whether no window is open.
    pub(crate) fn is_clear(&self) -> bool {
        self.state().windows == 0
    }

    /// Waits until a window has closed. Safe to cancel.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.0.state().windows -= 1;
        self.0.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_passes_once_somebody_wants_in_and_windows_that_are_open_close_first() {
        let gate = Gate::default();
        let early = gate.pass().expect("nobody is there");
        gate.enter();
        assert!(gate.pass().is_none());
        assert!(!gate.is_clear());
        drop(early);
        gate.changed().await;
        assert!(gate.is_clear());
        gate.leave();
        assert!(gate.pass().is_some());
    }
}
