//! Images that a registry should never have given: archives that climb out, streams that unfold, documents that lie. Each is pulled
//! through the built daemon by CRI, and refused with its layer, its entry and the reason; the store is afterwards what it was before, the
//! daemon's memory has stayed bounded, and the next pull is as good as ever.
//!
//! What a target makes of single entries is tested in image-service (`tests/layers/hostile.rs`), what single documents say in its
//! `tests/pulls`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod archives;
mod documents;
mod harmless;
mod many;
mod rig;
mod slow;
mod streams;
