//! Series about writable layers and about block devices.

use sandbox::LayerUsage;
use sandbox::stats::{DeviceIo, IoCost, Stats};

use super::{Both, Container, Containers, Disk, Put, Series, counter, gauge};

pub(super) static SPACE: &[Series] = &[
    gauge(
        "container_fs_inodes_free",
        "Inodes that are free for the writable layer",
        Containers(|container, put| on_disk(container, put, free_inodes)),
    )
    .by(&["device"]),
    gauge(
        "container_fs_inodes_total",
        "Inodes that there are for the writable layer",
        Containers(|container, put| on_disk(container, put, |disk, _| disk.inodes)),
    )
    .by(&["device"]),
    gauge(
        "container_fs_limit_bytes",
        "Bytes that there are for the writable layer",
        Containers(|container, put| on_disk(container, put, |disk, _| disk.bytes)),
    )
    .by(&["device"]),
    gauge(
        "container_fs_usage_bytes",
        "What the writable layer takes, in bytes",
        Containers(|container, put| on_disk(container, put, |_, layer| layer.bytes)),
    )
    .by(&["device"]),
];

fn on_disk(container: &Container<'_>, put: &mut Put<'_>, value: fn(&Disk, LayerUsage) -> u64) {
    if let (Some(disk), Some(layer)) = (&container.node.disk, container.used.layer) {
        put.labelled(&[&disk.device], value(disk, layer));
    }
}

/// What its limit leaves it, if that is less than what all have left.
fn free_inodes(disk: &Disk, layer: LayerUsage) -> u64 {
    disk.free_inodes.min(disk.inodes.saturating_sub(layer.inodes))
}

pub(super) static IO: &[Series] = &[
    counter(
        "container_fs_reads_bytes_total",
        "Bytes read",
        Both(|s, put| by_device(s, put, |io| io.bytes.read)),
    )
    .by(&["device"]),
    counter("container_fs_reads_total", "Reads", Both(|s, put| by_device(s, put, |io| io.operations.read)))
        .by(&["device"]),
    counter(
        "container_fs_writes_bytes_total",
        "Bytes written",
        Both(|s, put| by_device(s, put, |io| io.bytes.write)),
    )
    .by(&["device"]),
    counter(
        "container_fs_writes_total",
        "Writes",
        Both(|s, put| by_device(s, put, |io| io.operations.write)),
    )
    .by(&["device"]),
    counter(
        "container_fs_io_cost_usage_seconds_total",
        "Time of the device that io.cost has counted, in seconds",
        Both(|s, put| by_cost(s, put, |cost| cost.usage_us)),
    )
    .by(&["device"])
    .where_counted(|accounts| accounts.io_cost),
    counter(
        "container_fs_io_cost_wait_seconds_total",
        "Time that was waited for the device by io.cost, in seconds",
        Both(|s, put| by_cost(s, put, |cost| cost.wait_us)),
    )
    .by(&["device"])
    .where_counted(|accounts| accounts.io_cost),
    counter(
        "container_fs_io_cost_indebt_seconds_total",
        "Time in debt by io.cost, in seconds",
        Both(|s, put| by_cost(s, put, |cost| cost.indebt_us)),
    )
    .by(&["device"])
    .where_counted(|accounts| accounts.io_cost),
    counter(
        "container_fs_io_cost_indelay_seconds_total",
        "Time that was delayed for debts by io.cost, in seconds",
        Both(|s, put| by_cost(s, put, |cost| cost.indelay_us)),
    )
    .by(&["device"])
    .where_counted(|accounts| accounts.io_cost),
    counter("container_blkio_device_usage_total", "Bytes by device and operation", Both(by_operation)).by(&[
        "device",
        "major",
        "minor",
        "operation",
    ]),
];

fn by_device(stats: &Stats, put: &mut Put<'_>, value: fn(&DeviceIo) -> u64) {
    for io in &stats.io {
        let device = put.device(io.device);
        put.labelled(&[&device], value(io));
    }
}

fn by_cost(stats: &Stats, put: &mut Put<'_>, microseconds: fn(&IoCost) -> u64) {
    for (io, cost) in stats.io.iter().filter_map(|io| Some((io, io.cost?))) {
        let device = put.device(io.device);
        put.labelled(&[&device], microseconds(&cost) / 1_000_000);
    }
}

fn by_operation(stats: &Stats, put: &mut Put<'_>) {
    for DeviceIo { device: numbers, bytes, .. } in &stats.io {
        let (device, major, minor) = (put.device(*numbers), numbers.0.to_string(), numbers.1.to_string());
        let operations = [
            ("Read", Some(bytes.read)),
            ("Write", Some(bytes.write)),
            ("Discard", Some(bytes.discard)),
            ("Sync", bytes.sync),
            ("Async", bytes.background),
            // Version 1 tells it, and it is no more than this sum.
            ("Total", bytes.sync.map(|_| bytes.read + bytes.write + bytes.discard)),
        ];
        for (operation, value) in operations.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            put.labelled(&[&device, &major, &minor, operation], value);
        }
    }
}
