//! Who is alive: the newest at the back, and the oldest is the next to go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::life::Life;
use crate::Dice;

/// The pods that run.
#[derive(Default)]
pub struct Crowd {
    alive: Mutex<VecDeque<Arc<Life>>>,
    begun: AtomicUsize,
    made: AtomicUsize,
}

impl Crowd {
    /// Whether one more of `total` pods is to be made; counts it.
    pub fn begins(&self, total: usize) -> bool {
        self.begun.fetch_add(1, Ordering::Relaxed) < total
    }

    /// Begins to count anew.
    pub fn starts_over(&self) {
        self.begun.store(0, Ordering::Relaxed);
        self.made.store(0, Ordering::Relaxed);
    }

    /// How many have been made since.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// A pod that runs now.
    pub fn enters(&self, life: Life) {
        self.alive().push_back(Arc::new(life));
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// The oldest if there are more than `most`; it is the caller's to end.
    pub fn leaves(&self, most: usize) -> Option<Arc<Life>> {
        let mut alive = self.alive();
        let life = if alive.len() > most { alive.pop_front() } else { None };
        if let Some(life) = &life {
            life.leave();
        }
        life
    }

    /// Any one.
    pub fn any(&self, dice: &mut Dice) -> Option<Arc<Life>> {
        let alive = self.alive();
        let at = dice.below((alive.len() as u64).max(1));
        alive.get(usize::try_from(at).unwrap_or_default()).cloned()
    }

    /// All.
    pub fn all(&self) -> Vec<Arc<Life>> {
        self.alive().iter().cloned().collect()
    }

    fn alive(&self) -> MutexGuard<'_, VecDeque<Arc<Life>>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
