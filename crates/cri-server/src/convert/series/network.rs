//! Series about the interfaces of pods.

use sandbox::PodUsage;
use sandbox::stats::Interface;

use super::{Networks, Put, Series, counter};

const LABEL: &[&str] = &["interface"];

pub(super) static SERIES: &[Series] = &[
    counter(
        "container_network_receive_bytes_total",
        "Bytes received",
        Networks(|pod, put| by_interface(pod, put, |interface| interface.received.bytes)),
    )
    .by(LABEL),
    counter(
        "container_network_receive_packets_total",
        "Packets received",
        Networks(|pod, put| by_interface(pod, put, |interface| interface.received.packets)),
    )
    .by(LABEL),
    counter(
        "container_network_receive_packets_dropped_total",
        "Received packets that were thrown away",
        Networks(|pod, put| by_interface(pod, put, |interface| interface.received.dropped)),
    )
    .by(LABEL),
    counter(
        "container_network_receive_errors_total",
        "Received packets that were broken",
        Networks(|pod, put| by_interface(pod, put, |interface| interface.received.errors)),
    )
    .by(LABEL),
    counter(
        "container_network_transmit_bytes_total",
        "Bytes sent",
        Networks(|pod, put| by_interface(pod, put, |interface| interface.sent.bytes)),
    )
    .by(LABEL),
    counter(
        "container_network_transmit_packets_total",
        "Packets sent",
        Networks(|pod, put| by_interface(pod, put, |interface| interface.sent.packets)),
    )
    .by(LABEL),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Packets that were thrown away instead of being sent",
        Networks(|pod, put| by_interface(pod, put, |interface| interface.sent.dropped)),
    )
    .by(LABEL),
    counter(
        "container_network_transmit_errors_total",
        "Packets that could not be sent",
        Networks(|pod, put| by_interface(pod, put, |interface| interface.sent.errors)),
    )
    .by(LABEL),
];

fn by_interface(pod: &PodUsage, put: &mut Put<'_>, value: fn(&Interface) -> u64) {
    for interface in pod.interfaces.iter().flatten() {
        put.labelled(&[&interface.name], value(interface));
    }
}
