//! Side by side with a peer: the same client, images and network configuration against each runtime in turn.
//!
//! Here live the runtimes ([`peers`]), what is measured ([`measure`]) and how it is shown ([`table`]). Nothing here judges:
//! the budgets are in ARCHITECTURE.md, the promises that are kept by tests in `tests/`.

pub mod measure;
pub mod peers;
pub mod table;
