//! Annotations that ask a network for addresses, read.
//!
//! CRI has no field for them, and neither containerd nor CRI-O reads any: the operator names the annotations
//! (`[network.annotations]`), and the network's configuration the plugins that take such wishes. Not here: what becomes of
//! them, which is the plugins'.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sandbox::Error;

use crate::config::AnnotationsConfig;

/// What a pod asks for.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// Capability `ips`.
    pub(crate) ips: Vec<String>,
    /// Capability `mac`.
    pub(crate) mac: Option<String>,
    /// Capability `infinibandGUID`.
    pub(crate) infiniband_guid: Option<String>,
    /// Capability `ipRanges`.
    pub(crate) ip_ranges: Vec<Vec<cni::IpRange>>,
}

/// The wishes of a pod with these annotations.
///
/// # Errors
/// [`Error::Refused`] with the annotation whose value can't be what it should.
pub(crate) fn read(
    names: &AnnotationsConfig,
    annotations: &BTreeMap<String, String>,
) -> Result<Addresses, Error> {
    let value = |name: &str| annotations.get(name).filter(|_| !name.is_empty()).map(|value| value.trim());
    let refused = |name: &str, why: &str| {
        let value = annotations.get(name).map_or("", String::as_str);
        Error::refused(format!("annotations[\"{name}\"]"), format!("\"{value}\" {why}"))
    };
    let bytes = |name: &str, count, why| match value(name) {
        None => Ok(None),
        Some(text) if is_bytes(text, count) => Ok(Some(text.to_owned())),
        Some(_) => Err(refused(name, why)),
    };
    let ips: Vec<String> = value(&names.ips)
        .into_iter()
        .flat_map(|list| list.split(','))
        .map(|ip| ip.trim().to_owned())
        .collect();
    if !ips.iter().all(|ip| is_address(ip)) {
        return Err(refused(&names.ips, "is not a list of addresses with commas in between"));
    }
    let ip_ranges = value(&names.ip_ranges).map(serde_json::from_str::<Vec<Vec<cni::IpRange>>>);
    let ip_ranges = ip_ranges.transpose().map_err(|error| refused(&names.ip_ranges, &error.to_string()))?;
    let ip_ranges = ip_ranges.unwrap_or_default();
    if !ip_ranges.iter().flatten().all(|range| range.subnet.contains('/') && is_address(&range.subnet)) {
        return Err(refused(&names.ip_ranges, "has a range without a subnet"));
    }
    Ok(Addresses {
        ips,
        mac: bytes(&names.mac, 6, "is not a hardware address such as 02:00:00:00:00:01")?,
        infiniband_guid: bytes(&names.infiniband_guid, 8, "is not a GUID such as 02:00:00:00:00:00:00:01")?,
        ip_ranges,
    })
}

/// The node's pod CIDRs as kubelet writes them, with commas in between.
///
/// # Errors
/// [`Error::Refused`] when one is none.
pub(crate) fn pod_cidrs(text: &str) -> Result<Vec<String>, Error> {
    let cidrs: Vec<String> = text.split(',').map(|cidr| cidr.trim().to_owned()).collect();
    match cidrs.iter().find(|cidr| !cidr.contains('/') || !is_address(cidr)) {
        None => Ok(cidrs),
        Some(_) => {
            let why = format!("\"{text}\" is not a list of address/prefix with commas in between");
            Err(Error::refused("runtime_config.network_config.pod_cidr", why))
        }
    }
}

/// An address with or without the length of its prefix.
fn is_address(text: &str) -> bool {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|bits| bits <= longest))
}

/// So many bytes as pairs of hexadecimal digits with colons in between.
fn is_bytes(text: &str, count: usize) -> bool {
    let is_byte = |pair: &str| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
    text.split(':').count() == count && text.split(':').all(is_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> AnnotationsConfig {
        let name = |name: &str| format!("example.com/{name}");
        AnnotationsConfig {
            ips: name("ips"),
            mac: name("mac"),
            infiniband_guid: name("guid"),
            ip_ranges: name("ranges"),
        }
    }

    fn asked(names: &AnnotationsConfig, pairs: &[(&str, &str)]) -> Result<Addresses, String> {
        let pairs = pairs.iter().map(|(name, value)| (format!("example.com/{name}"), (*value).to_owned()));
        read(names, &pairs.collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn only_annotations_that_the_operator_has_named_ask_for_anything() {
        let pairs = [
            ("ips", "10.0.0.7, fd00::7/64"),
            ("mac", "02:00:00:00:00:0A"),
            ("guid", "02:00:00:00:00:00:00:01"),
        ];
        let wishes = asked(&names(), &pairs).unwrap();
        assert_eq!(wishes.ips, ["10.0.0.7", "fd00::7/64"]);
        assert_eq!(wishes.mac.as_deref(), Some("02:00:00:00:00:0A"));
        assert_eq!(wishes.infiniband_guid.as_deref(), Some("02:00:00:00:00:00:00:01"));
        let none = asked(&AnnotationsConfig::default(), &pairs).unwrap();
        assert!(none.ips.is_empty() && none.mac.is_none() && none.infiniband_guid.is_none());
        let ranges = r#"[[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9"}],[{"subnet":"fd00::/64"}]]"#;
        let wishes = asked(&names(), &[("ranges", ranges)]).unwrap();
        assert_eq!(serde_json::to_string(&wishes.ip_ranges).unwrap(), ranges);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_the_annotation() {
        for (name, value) in [
            ("ips", "ten"),
            ("ips", "10.0.0.1,"),
            ("ips", "10.0.0.1/33"),
            ("mac", "02:00:00:00:00"),
            ("mac", "02:00:00:00:00:0g"),
            ("guid", "02:00:00:00:00:01"),
            ("ranges", "10.0.0.0/24"),
            ("ranges", r#"[[{"rangeStart":"10.0.0.1"}]]"#),
        ] {
            let error = asked(&names(), &[(name, value)]).unwrap_err();
            assert!(error.starts_with(&format!("annotations[\"example.com/{name}\"]: ")), "{error}");
        }
    }

    #[test]
    fn pod_cidrs_are_one_for_each_family() {
        assert_eq!(pod_cidrs("10.0.0.0/24, fd00::/64").unwrap(), ["10.0.0.0/24", "fd00::/64"]);
        for bad in ["", "10.0.0.0", "10.0.0.0/24,", "x/24"] {
            assert!(pod_cidrs(bad).is_err(), "{bad}");
        }
    }
}
