//! What whole layers take on the disk: image, tree, record and recipe. A layer doesn't change, so it is looked at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use super::draft::TREE;
use super::record::{Format, Record};
use super::{Inner, store};
use crate::digest::Digest;
use crate::error::Error;
use crate::usage::{self, Usage};

/// Sizes that are known. One counts for the record that it was found with: a layer may go and come back in another form.
#[derive(Debug, Default)]
pub(super) struct Sizes(Mutex<HashMap<Digest, (Arc<Record>, Usage)>>);

impl Inner {
    /// Use of the disk by all whole layers. Blocks where there are new ones.
    pub(super) fn disk(&self) -> Result<Usage, Error> {
        let present = self.index().layers.clone();
        let mut known = self.sizes.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|diff_id, (of, _)| present.get(diff_id).is_some_and(|record| Arc::ptr_eq(record, of)));
        for (diff_id, record) in present {
            if let Entry::Vacant(new) = known.entry(diff_id) {
                let usage = self.measure(&record)?;
                new.insert((record, usage));
            }
        }
        Ok(known.values().fold(Usage::default(), |sum, (_, usage)| sum + *usage))
    }

    fn measure(&self, record: &Record) -> Result<Usage, Error> {
        let dir = self.layer_dir(&record.diff_id);
        let beside = usage::of_tree_but(&dir, TREE).map_err(|cause| store("read", &dir, cause))?;
        Ok(match record.format {
            // Its image is one of those files.
            Format::Erofs => beside,
            // Counted while it was unpacked: there may be a hundred thousand files.
            Format::Directory => beside + record.usage(),
        })
    }
}
