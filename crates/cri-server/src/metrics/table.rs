//! Writing figures down that were read somewhere else: a name, what it is, and values.
//!
//! Not here: figures that count by themselves (`prometheus_client`'s own).

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// A figure's name, what it is, and its unit where it has one; a prefix comes before the name and the unit behind it.
pub(super) type Described = (&'static str, &'static str, Option<Unit>);

/// Values of one label, with the figure of each.
pub(super) type Labelled<const N: usize> = (&'static str, [(&'static str, f64); N]);

/// What there is now.
pub(super) fn gauges<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    gauges: [(Described, f64); N],
) -> fmt::Result {
    gauges.into_iter().try_for_each(|((name, help, unit), value)| {
        let gauge = ConstGauge::new(value);
        gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?)
    })
}

/// The same of things that are told apart.
pub(super) fn labelled_gauges<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): Described,
    (label, values): Labelled<N>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    values.into_iter().try_for_each(|(value, figure)| {
        ConstGauge::new(figure).encode(family.encode_family(&[(label, value)])?)
    })
}

/// What has happened so far.
pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): Described,
    value: f64,
) -> fmt::Result {
    let counter = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
    ConstCounter::new(value).encode(counter)
}

/// The same of things that are told apart.
pub(super) fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): Described,
    (label, values): Labelled<N>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
    values.into_iter().try_for_each(|(value, figure)| {
        ConstCounter::new(figure).encode(family.encode_family(&[(label, value)])?)
    })
}
