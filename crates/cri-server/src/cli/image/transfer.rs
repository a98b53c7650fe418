//! How much of an archive has gone to the daemon, or come from it: a line that is written over on a terminal, nothing elsewhere. On
//! standard error.

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::progress::{Speed, gauge, write_over};
use super::table::size;

/// Time between two looks: often enough to be seen moving.
const LOOK: Duration = Duration::from_millis(100);

/// An archive on its way, between the one who moves it and the one who shows that.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    /// Bytes of it, where that is known.
    total: Option<u64>,
    moved: AtomicU64,
    /// All of it is over; what is left is the daemon's work.
    is_over: AtomicBool,
}

impl Transfer {
    pub(super) fn new(total: Option<u64>) -> Arc<Transfer> {
        Arc::new(Transfer { total, ..Transfer::default() })
    }

    /// So many more bytes are over.
    pub(super) fn add(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// All of it is.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Shows it while `work` lasts; nothing is left of that when this returns. Safe to cancel if the work is.
    pub(super) async fn shown<T>(&self, work: impl Future<Output = T>) -> T {
        if !io::stderr().is_terminal() {
            return work.await;
        }
        let (mut work, mut looks, mut speed) = (pin!(work), interval(LOOK), Speed::default());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            tokio::select! {
                biased;
                // Who can't be shown it does without.
                _ = looks.tick() => drop(write_over(&self.line(&mut speed))),
                outcome = &mut work => break outcome,
            }
        };
        drop(write_over(""));
        outcome
    }

    fn line(&self, speed: &mut Speed) -> String {
        if self.is_over.load(Ordering::Relaxed) {
            return "unpacking…".to_owned();
        }
        let moved = self.moved.load(Ordering::Relaxed);
        line(moved, self.total, speed.of(moved))
    }
}

fn line(moved: u64, total: Option<u64>, speed: u64) -> String {
    let speed = if speed > 0 { format!("   {}/s", size(speed)) } else { String::new() };
    match total {
        Some(total) => format!("{}   {} of {}{speed}", gauge(moved, total), size(moved), size(total)),
        None => format!("{}{speed}", size(moved)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_how_much_and_of_how_much() {
        let known = line(1_500_000, Some(3_000_000), 2_500_000);
        assert!(known.ends_with(" 50 %   1.50 MB of 3.00 MB   2.50 MB/s"), "{known}");
        assert_eq!(line(1_500_000, None, 0), "1.50 MB");
        let transfer = Transfer::new(None);
        transfer.add(1_500_000);
        assert_eq!(transfer.line(&mut Speed::default()), "1.50 MB");
        transfer.end();
        assert_eq!(transfer.line(&mut Speed::default()), "unpacking…");
    }
}
