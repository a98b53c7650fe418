//! An address with the length of its network's prefix.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An address with the length of its network prefix, `10.1.0.5/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// The prefix length in bits: up to 32 or 128.
    pub prefix: u8,
}

impl Cidr {
    /// Parses `address/prefix`.
    pub(crate) fn parse(text: &str) -> Option<Cidr> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= longest).then_some(Cidr { address, prefix })
    }

    /// The network that the address lies in: the same with all bits beyond the prefix zero.
    pub(crate) fn network(self) -> Cidr {
        let prefix = u32::from(self.prefix);
        let address = match self.address {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
                IpAddr::from((v4.to_bits() & !host).to_be_bytes())
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
                IpAddr::from((v6.to_bits() & !host).to_be_bytes())
            }
        };
        Cidr { address, prefix: self.prefix }
    }

    /// Whether an address lies in the network of this one.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Cidr { address, prefix: self.prefix }.network() == self.network()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Cidr::parse(&text).ok_or_else(|| {
            serde::de::Error::invalid_value(
                serde::de::Unexpected::Str(&text),
                &"an address and prefix length",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_from_addresses() {
        let network = |text: &str| Cidr::parse(text).unwrap().network().to_string();
        assert_eq!(network("10.1.2.3/20"), "10.1.0.0/20");
        assert_eq!(network("10.1.2.3/0"), "0.0.0.0/0");
        assert_eq!(network("10.1.2.3/32"), "10.1.2.3/32");
        assert_eq!(network("fd00:1::5/64"), "fd00:1::/64");
        let cidr = Cidr::parse("10.1.2.3/24").unwrap();
        assert!(cidr.contains([10, 1, 2, 200].into()) && !cidr.contains([10, 1, 3, 3].into()));
        assert!(!cidr.contains("::1".parse().unwrap()));
    }
}
