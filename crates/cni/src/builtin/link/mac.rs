//! Hardware addresses, as they are written.

/// A hardware address.
pub(in crate::builtin) type Mac = [u8; 6];

/// Reads a hardware address.
pub(in crate::builtin) fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    // The lowest bit marks groups.
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

/// A hardware address as it is written.
pub(in crate::builtin) fn show_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac = [0x0a, 0x58, 0x0a, 1, 2, 3];
        assert_eq!(show_mac(mac), "0a:58:0a:01:02:03");
        assert_eq!(parse_mac("0a:58:0a:01:02:03"), Some(mac));
        for bad in ["", "0a:58:0a:01:02", "0a:58:0a:01:02:03:04", "01:00:00:00:00:00", "xx:58:0a:01:02:03"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
