//! Side by side with a peer: the same client, images and network configuration against each runtime in turn.
//!
//! Here live the runtimes ([`peers`]), what is measured ([`measure`]), the program that measures the kernel alone ([`floor`])
//! and how all is shown ([`table`]), beside the budgets. Nothing here fails for a missed budget: promises that always hold
//! are kept by tests in `tests/`.

mod budgets;
mod crowd;
pub mod floor;
pub mod leftovers;
mod logs;
pub mod measure;
pub mod peers;
mod pulls;
pub mod stages;
pub mod streams;
pub mod table;
