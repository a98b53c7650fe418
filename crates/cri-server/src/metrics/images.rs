//! The figures of images and their pulls.

use std::fmt;

use image_service::{Images, PullTotals};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::table::{self, Described};

/// Reads the image service when it is asked.
#[derive(Debug)]
pub(super) struct ImageFigures(pub(super) Images);

impl Collector for ImageFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        standing(&self.0, &mut encoder)?;
        pulled(&self.0.pull_totals(), &mut encoder)
    }
}

/// What there is now.
fn standing(images: &Images, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let whole = images.list(None);
    let pinned = whole.iter().filter(|image| image.pinned).count();
    let usage = images.layers_usage();
    let gauges: [(Described, f64); 5] = [
        (("images", "Images that are whole", None), count(whole.len())),
        (("images_pinned", "Images that are never collected", None), count(pinned)),
        (("image_layers_size", "Disk space of all layers", Some(Unit::Bytes)), usage.bytes as f64),
        (("image_layers_inodes", "Inodes of all layers", None), usage.inodes as f64),
        (("image_pulls_under_way", "Pulls that have not ended", None), count(images.pulls().len())),
    ];
    table::gauges(encoder, gauges)
}

/// What pulls have done since the daemon began.
fn pulled(totals: &PullTotals, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let cost = &totals.cost;
    let outcomes = [("succeeded", totals.succeeded as f64), ("failed", totals.failed as f64)];
    table::counters(encoder, ("image_pulls", "Pulls that have ended", None), ("outcome", outcomes))?;
    let layers = [("registry", totals.layers_fetched as f64), ("store", totals.layers_reused as f64)];
    table::counters(
        encoder,
        ("image_pull_layers", "Layers of pulled images, by where they were", None),
        ("source", layers),
    )?;
    let bytes = [
        ("fetched", cost.bytes_fetched as f64),
        ("resumed", cost.bytes_resumed as f64),
        ("unpacked", cost.bytes_unpacked as f64),
    ];
    let described = (
        "image_pull",
        "Bytes that came, that earlier attempts had left, that were unpacked",
        Some(Unit::Bytes),
    );
    table::counters(encoder, described, ("kind", bytes))?;
    let stages = [
        ("wait", cost.waiting),
        ("spool", cost.spooling),
        ("decompress", cost.decompressing),
        ("hash", cost.hashing),
        ("write", cost.writing),
        ("sync", cost.syncing),
    ];
    let described = ("image_pull_stage", "Time that layers spent in each stage, summed", Some(Unit::Seconds));
    table::counters(encoder, described, ("stage", stages.map(|(stage, time)| (stage, time.as_secs_f64()))))?;
    let described = ("image_pull_retries", "Requests to registries that were made again", None);
    table::counter(encoder, described, f64::from(cost.retries))
}

/// Exact up to 2^53.
fn count(things: usize) -> f64 {
    things as f64
}
