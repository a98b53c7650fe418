//! What plugins print and what directories of networks hold: any JSON.

use std::path::Path;

use serde_json::Value;

use crate::conf;
use crate::result::NetworkResult;
use crate::version::{ALL, Version};

/// A result that is understood has the same addresses in every version that there is, and an interface for each that names one.
pub fn check_result(input: &[u8]) {
    let Some((version, text)) = input.split_first() else { return };
    let configured = ALL[usize::from(*version) % ALL.len()];
    let Ok(raw) = serde_json::from_slice::<Value>(text) else { return };
    let Ok(result) = NetworkResult::parse(&raw, configured) else { return };
    for ip in &result.ips {
        assert!(ip.interface.is_none_or(|index| index < result.interfaces.len()), "{ip:?}");
    }
    let newest = result.to_version(Version::V1_1_0);
    let again = NetworkResult::parse(&newest, Version::V1_1_0).expect("a result of ours");
    assert_eq!(again, result);
    for version in ALL {
        let told = result.to_version(version);
        let read = NetworkResult::parse(&told, version).expect("a result of ours");
        // The first form has one address of each family.
        if version >= Version::V0_3_0 {
            assert_eq!(read.addresses(), result.addresses(), "{version}");
        }
    }
}

/// A configuration that is understood is the same when it is read from its own record, and names programs in their directory.
pub fn check_network(input: &[u8]) {
    let path = Path::new("10-fuzz.conflist");
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
    let Ok(network) = conf::parse(path, &value) else { return };
    assert!(!network.name.contains('/'), "{}", network.name);
    for plugin in &network.plugins {
        assert!(
            !plugin.kind.contains('/') && ![".", ".."].contains(&plugin.kind.as_str()),
            "{}",
            plugin.kind
        );
    }
    let again = conf::parse(path, &network.to_value()).expect("a record of ours");
    assert_eq!(again.to_value(), network.to_value());
}
