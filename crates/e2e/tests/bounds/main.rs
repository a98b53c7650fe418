//! What is bounded, and what happens at the bound: docs/operations.md has the table.

mod door;
mod room;
mod start;
mod stops;
