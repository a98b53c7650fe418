//! Pairs that fail. One that holds fails the test, so that this can only shrink.

use super::Pair;

/// Procedure, step, fault, and why.
const KNOWN: &[[&str; 4]] = &[[
    "remove-pod",
    "sandbox.detach_network",
    "error-always",
    "a broken network keeps no pod from removal: its address goes with the collection, minutes later",
]];

pub(super) fn is_known(pair: &Pair) -> bool {
    KNOWN.iter().any(|[procedure, step, fault, _]| {
        (*procedure, *step, *fault) == (pair.procedure, pair.step.as_str(), pair.fault)
    })
}
