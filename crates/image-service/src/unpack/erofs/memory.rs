//! The memory that the names of all layers in the making take together. What an ordinary layer takes is never refused; what goes
//! beyond is shared, and refused when there is no more: millions of names in each of several layers at once are no image but an
//! attack.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that each layer has without asking: some 150,000 names.
const FREE: usize = 8 << 20;

/// Bytes that are asked for at once.
const STEP: usize = 8 << 20;

/// Bytes beyond those of all layers together: what one alone may have.
const TOGETHER: usize = 256 << 20;

/// What is shared.
#[derive(Debug)]
pub(crate) struct NameMemory {
    left: AtomicUsize,
}

impl Default for NameMemory {
    fn default() -> Self {
        NameMemory { left: AtomicUsize::new(TOGETHER) }
    }
}

/// What one layer has of it.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<NameMemory>,
    taken: usize,
}

impl Share {
    pub(super) fn new(of: Arc<NameMemory>) -> Share {
        Share { of, taken: 0 }
    }

    /// Whether so many bytes, all that the layer has, may be held.
    pub(super) fn reaches(&mut self, bytes: usize) -> bool {
        while bytes > FREE + self.taken {
            let less = |left: usize| left.checked_sub(STEP);
            if self.of.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
                return false;
            }
            self.taken += STEP;
        }
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.left.fetch_add(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_the_others_lack_but_all_have_some() {
        let memory = Arc::new(NameMemory::default());
        let mut large = Share::new(Arc::clone(&memory));
        assert!(large.reaches(FREE + TOGETHER) && !large.reaches(FREE + TOGETHER + 1));
        let mut other = Share::new(Arc::clone(&memory));
        assert!(other.reaches(FREE) && !other.reaches(FREE + 1));
        drop(large);
        assert!(other.reaches(FREE + 1));
        drop(other);
        assert_eq!(memory.left.load(Ordering::Relaxed), TOGETHER);
    }
}
