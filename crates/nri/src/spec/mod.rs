//! Between the messages of plugins and the runtime specification: what a specification says of a container, and what an adjustment does
//! to one. Pure.
//!
//! A field that can't be carried over is refused by its name. Whether what a specification says can be carried out is not known here.

mod adjust;
mod describe;
mod limits;
#[cfg(test)]
mod tests;

pub use adjust::adjust;
pub use describe::{container, namespaces};
pub use limits::{described, limits, overlay};
