//! Signals by number.

use rustix::process::Signal;

/// The highest signal number (_NSIG of asm/signal.h).
const HIGHEST: i32 = 64;

/// A signal by its number, the real-time ones included.
pub(crate) fn signal(number: i32) -> Option<Signal> {
    if !(1..=HIGHEST).contains(&number) {
        return None;
    }
    // SAFETY: the number is one of a signal that the kernel has; it is only handed to the kernel, never to
    // the C library, which keeps 32 and 33 for itself.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}
