//! Levels of pods: pairs of categories, each pod's its own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::id::PodId;

/// How many categories a policy with multi-category security has: c0 to c1023 (the reference policy's `mcs_num_cats`).
const CATEGORIES: u32 = 1024;

/// How many pairs of two different ones there are.
const PAIRS: u32 = CATEGORIES * (CATEGORIES - 1) / 2;

/// Which pod has which level.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<HashMap<String, PodId>>);

impl Levels {
    /// A level that no other pod has.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub(super) fn take(&self, pod: &PodId) -> Result<String, Error> {
        let mut taken = self.lock();
        // At random, so that pods of other runtimes, whose levels nobody tells, have others most likely.
        let start = random();
        let free = (0..PAIRS)
            .map(|step| level(start.wrapping_add(step) % PAIRS))
            .find(|level| !taken.contains_key(level));
        let Some(level) = free else {
            return Err(Error::Exhausted {
                what: "the number of SELinux levels",
                subject: pod.to_string(),
                cause: None,
            });
        };
        taken.insert(level.clone(), pod.clone());
        Ok(level)
    }

    /// Notes whose a level is already. One that was asked for by name may be several pods'.
    pub(super) fn adopt(&self, pod: &PodId, level: String) {
        self.lock().entry(level).or_insert_with(|| pod.clone());
    }

    /// Gives back what a pod has.
    pub(super) fn free(&self, pod: &PodId) {
        self.lock().retain(|_, holder| holder != pod);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, PodId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // A kernel that is still gathering entropy gives none: any number does.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u32::from_ne_bytes(bytes) % PAIRS
}

/// The pair with this number, in ascending order of its greater category.
fn level(number: u32) -> String {
    let mut greater = 1;
    let mut before = 0;
    while before + greater <= number {
        before += greater;
        greater += 1;
    }
    format!("s0:c{},c{greater}", number - before)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_pair_is_there_once() {
        let numbers = (0..20_000).chain(PAIRS - 20_000..PAIRS);
        let all: HashSet<String> = numbers.map(level).collect();
        assert_eq!(all.len(), 40_000);
        assert_eq!((level(0), level(1), level(2)), ("s0:c0,c1".into(), "s0:c0,c2".into(), "s0:c1,c2".into()));
        assert_eq!(level(PAIRS - 1), "s0:c1022,c1023");
    }

    #[test]
    fn no_two_pods_have_a_level_until_it_is_given_back() {
        let levels = Levels::default();
        let pods: Vec<PodId> = (0..2_000).map(|_| PodId::random()).collect();
        let taken: HashSet<String> = pods.iter().map(|pod| levels.take(pod).unwrap()).collect();
        assert_eq!(taken.len(), pods.len());
        let before = levels.lock().len();
        levels.free(&pods[0]);
        assert_eq!(levels.lock().len(), before - 1);
        levels.adopt(&pods[0], "s0:c1,c2".into());
        levels.adopt(&pods[1], "s0:c1,c2".into());
        levels.free(&pods[1]);
        assert!(levels.lock().contains_key("s0:c1,c2"), "its first holder has it still");
    }
}
