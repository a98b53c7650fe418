//! Input and output of a cgroup by block device.
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | form | a line for each device and operation, `8:0 Read 4096` | a line for each device, `8:0 rbytes=4096 wbytes=0 …` |
//! | operations | Read, Write, Sync, Async, Discard, Total | read, write, discard |

use super::text::{device, flat_keyed};

/// What went to and came from a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's numbers.
    pub device: (u32, u32),
    /// Bytes.
    pub bytes: Io,
    /// Operations.
    pub operations: Io,
    /// What the io.cost controller says, where it is on.
    pub cost: Option<IoCost>,
}

/// Something about input and output since the cgroup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Io {
    /// Read.
    pub read: u64,
    /// Written.
    pub write: u64,
    /// Discarded.
    pub discard: u64,
    /// Of all, what somebody waited for; version 1 alone.
    pub sync: Option<u64>,
    /// Of all, what nobody waited for; version 1 alone.
    pub background: Option<u64>,
}

/// What the io.cost controller says, in microseconds of the device's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCost {
    /// Used.
    pub usage_us: u64,
    /// Waited for.
    pub wait_us: u64,
    /// Spent in debt.
    pub indebt_us: u64,
    /// Spent being delayed for it.
    pub indelay_us: u64,
}

/// `io.stat`.
pub(super) fn unified(text: &str) -> Vec<DeviceIo> {
    text.lines().filter_map(unified_line).filter(is_used).collect()
}

fn unified_line(line: &str) -> Option<DeviceIo> {
    let mut fields = line.split_ascii_whitespace();
    let mut found = DeviceIo { device: device(fields.next()?)?, ..DeviceIo::default() };
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        // cost.vrate is a percentage, and of the root alone.
        let Ok(value) = value.parse::<u64>() else { continue };
        let cost = &mut found.cost;
        match key {
            "rbytes" => found.bytes.read = value,
            "wbytes" => found.bytes.write = value,
            "dbytes" => found.bytes.discard = value,
            "rios" => found.operations.read = value,
            "wios" => found.operations.write = value,
            "dios" => found.operations.discard = value,
            "cost.usage" => cost.get_or_insert_default().usage_us = value,
            "cost.wait" => cost.get_or_insert_default().wait_us = value,
            "cost.indebt" => cost.get_or_insert_default().indebt_us = value,
            "cost.indelay" => cost.get_or_insert_default().indelay_us = value,
            _ => {}
        }
    }
    Some(found)
}

/// Since Linux 5.x a device that the cgroup never used can stand there with nothing but its numbers.
fn is_used(found: &DeviceIo) -> bool {
    *found != DeviceIo { device: found.device, ..DeviceIo::default() }
}

/// `blkio.throttle.io_service_bytes_recursive` and `…io_serviced_recursive`.
pub(super) fn legacy(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut found: Vec<DeviceIo> = Vec::new();
    let mut put = |text: &str, part: fn(&mut DeviceIo) -> &mut Io| {
        for line in text.lines() {
            // The last line is the total over all devices.
            let Some((numbers, rest)) = line.split_once(' ') else { continue };
            let Some(device) = device(numbers) else { continue };
            let at = found.iter().position(|io| io.device == device).unwrap_or_else(|| {
                found.push(DeviceIo { device, ..DeviceIo::default() });
                found.len() - 1
            });
            let io = part(&mut found[at]);
            flat_keyed(rest, |operation, value| match operation {
                "Read" => io.read = value,
                "Write" => io.write = value,
                "Discard" => io.discard = value,
                "Sync" => io.sync = Some(value),
                "Async" => io.background = Some(value),
                _ => {}
            });
        }
    };
    put(bytes, |io| &mut io.bytes);
    put(operations, |io| &mut io.operations);
    found
}

/// What a block device is called below /dev, such as `sda`; none when there is none with these numbers. A link of sysfs is read.
pub fn device_name((major, minor): (u32, u32)) -> Option<String> {
    let target = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // sysfs writes an exclamation mark for the slash of names such as cciss/c0d0.
    Some(target.file_name()?.to_str()?.replace('!', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_the_device() {
        let Ok(mut devices) = std::fs::read_dir("/sys/dev/block") else { return };
        let Some(Ok(entry)) = devices.next() else { return };
        let numbers = device(entry.file_name().to_str().unwrap()).unwrap();
        let name = device_name(numbers).unwrap();
        let told =
            std::fs::read_to_string(format!("/sys/class/block/{}/dev", name.replace('/', "!"))).unwrap();
        assert_eq!(device(told.trim()), Some(numbers));
        assert_eq!(device_name((4095, 1)), None);
    }
}
