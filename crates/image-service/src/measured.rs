//! Measurements that are kept for a while: kubelet asks for the same ones every few seconds, in several ways at once.
//!
//! A measurement is told again until it is so old that measuring takes a twentieth of the time at most, and for a least age in
//! any case. Whoever asks while somebody measures waits for that one.
//! Not here: what is measured (`space`), and how (`usage`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use crate::usage::Usage;

/// How many times as long as measuring took the outcome is kept.
const REST: u32 = 20;

/// Longest time that a measurement is kept, however long it took.
const OLDEST: Duration = Duration::from_secs(120);

/// Usage, and when it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measurement {
    pub(crate) usage: Usage,
    pub(crate) at: SystemTime,
    begun: Instant,
    took: Duration,
}

/// The last measurement of each thing, by its name.
#[derive(Debug)]
pub(crate) struct Measured {
    /// For so long a measurement is kept at least; zero keeps none.
    least: Duration,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held by the one who measures.
    turn: Mutex<()>,
    last: Mutex<Option<Measurement>>,
}

impl Measured {
    pub(crate) fn new(least: Duration) -> Measured {
        Measured { least, slots: Mutex::default() }
    }

    /// The last measurement, if it may still be told.
    pub(crate) fn kept(&self, name: &str) -> Option<Measurement> {
        let slot = lock(&self.slots).get(name).cloned()?;
        self.fresh(&slot)
    }

    /// What `name` uses, measured by `measure` unless that was done lately. Blocks.
    ///
    /// # Errors
    /// Those of `measure`.
    pub(crate) fn get<E>(
        &self,
        name: &str,
        measure: impl FnOnce() -> Result<Usage, E>,
    ) -> Result<Measurement, E> {
        let slot = self.slot(name);
        let turn = lock(&slot.turn);
        self.in_turn((name, &slot), &turn, measure)
    }

    /// The same, but for what somebody else is measuring just now the last measurement is the answer, if there is one: that of
    /// a disk which hangs never ends.
    pub(crate) fn at_hand<E>(
        &self,
        name: &str,
        measure: impl FnOnce() -> Result<Usage, E>,
    ) -> Result<Option<Measurement>, E> {
        let slot = self.slot(name);
        let turn = match slot.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(*lock(&slot.last)),
        };
        self.in_turn((name, &slot), &turn, measure).map(Some)
    }

    /// Forgets what is no more.
    pub(crate) fn forget(&self, name: &str) {
        lock(&self.slots).remove(name);
    }

    fn in_turn<E>(
        &self,
        (name, slot): (&str, &Slot),
        _turn: &MutexGuard<'_, ()>,
        measure: impl FnOnce() -> Result<Usage, E>,
    ) -> Result<Measurement, E> {
        if let Some(fresh) = self.fresh(slot) {
            return Ok(fresh);
        }
        let (at, begun) = (SystemTime::now(), Instant::now());
        // What can't be measured may be gone already, and nobody would say so again.
        let usage = measure().inspect_err(|_| self.forget(name))?;
        let measurement = Measurement { usage, at, begun, took: begun.elapsed() };
        *lock(&slot.last) = Some(measurement);
        Ok(measurement)
    }

    fn fresh(&self, slot: &Slot) -> Option<Measurement> {
        let last = (*lock(&slot.last))?;
        let keep = last.took.saturating_mul(REST).min(OLDEST).max(self.least);
        (!self.least.is_zero() && last.begun.elapsed() < keep).then_some(last)
    }

    fn slot(&self, name: &str) -> Arc<Slot> {
        Arc::clone(lock(&self.slots).entry(name.to_owned()).or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn of(bytes: u64) -> impl FnOnce() -> Result<Usage, Infallible> {
        move || Ok(Usage { bytes, inodes: 1 })
    }

    fn bytes(found: Result<Measurement, Infallible>) -> u64 {
        found.unwrap().usage.bytes
    }

    #[test]
    fn what_was_measured_is_told_again_until_it_is_forgotten() {
        let measured = Measured::new(LONG);
        assert_eq!(measured.kept("a"), None);
        assert_eq!(bytes(measured.get("a", of(1))), 1);
        assert_eq!(bytes(measured.get("a", of(2))), 1);
        assert_eq!(measured.kept("a").unwrap().usage.bytes, 1);
        assert_eq!(bytes(measured.get("b", of(3))), 3);
        measured.forget("a");
        assert_eq!(bytes(measured.get("a", of(4))), 4);
        let never = Measured::new(Duration::ZERO);
        assert_eq!([bytes(never.get("a", of(1))), bytes(never.get("a", of(2)))], [1, 2]);
    }

    #[test]
    fn nothing_is_kept_of_what_was_removed_while_it_was_to_be_measured() {
        let measured = Measured::new(LONG);
        measured.get("gone", || Err(())).unwrap_err();
        measured.at_hand("gone", || Err(())).unwrap_err();
        assert!(lock(&measured.slots).is_empty());
    }

    #[test]
    fn what_takes_long_is_told_for_longer() {
        let measured = Measured::new(Duration::from_nanos(1));
        let slow = || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(200) {
                std::thread::yield_now();
            }
            of(1)()
        };
        assert_eq!(bytes(measured.get("slow", slow)), 1);
        assert_eq!(bytes(measured.get("slow", of(2))), 1);
    }

    #[test]
    fn one_measures_and_the_others_wait_for_it_or_take_the_last() {
        let measured = Measured::new(LONG);
        std::thread::scope(|scope| {
            let (begun, has_begun) = std::sync::mpsc::channel();
            let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
            let hanging = move || {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                of(1)()
            };
            let measured = &measured;
            let first = scope.spawn(move || bytes(measured.get("a", hanging)));
            has_begun.recv().unwrap();
            assert_eq!(measured.at_hand("a", of(2)).unwrap(), None);
            let second = scope.spawn(move || bytes(measured.get("a", of(3))));
            go_on.send(()).unwrap();
            assert_eq!((first.join().unwrap(), second.join().unwrap()), (1, 1));
        });
        assert_eq!(measured.at_hand("a", of(2)).unwrap().unwrap().usage.bytes, 1);
    }
}
