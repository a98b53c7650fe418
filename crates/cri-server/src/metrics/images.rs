//! The figures of images and their pulls.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads the image service when it is asked.
#[derive(Debug)]
pub(super) struct ImageFigures(pub(super) image_service::Images);

impl Collector for ImageFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let images = self.0.list(None);
        let pinned = images.iter().filter(|image| image.pinned).count();
        let usage = self.0.filesystem_usage();
        let gauges = [
            ("images", "Images that are whole", None, images.len() as u64),
            ("images_pinned", "Images that are never collected", None, pinned as u64),
            ("image_layers_size", "Disk space of all layers", Some(Unit::Bytes), usage.used_bytes),
            ("image_layers_inodes", "Inodes of all layers", None, usage.inodes_used),
        ];
        for (name, help, unit, value) in gauges {
            gauge(&mut encoder, (name, help, unit.as_ref()), value)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    value: u64,
) -> fmt::Result {
    // Exact up to 2^53.
    let gauge = ConstGauge::new(value as f64);
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}
