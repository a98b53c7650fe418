//! Which addresses a set of ranges holds, and in which order they are handed out.
//!
//! A search begins after the address that was handed out last, so that one just given back rests as long as possible:
//! others may still remember whose it was.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::result::Cidr;

/// The addresses of one subnet that may be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) subnet: Cidr,
    pub(super) gateway: IpAddr,
    first: u128,
    last: u128,
}

/// A range as it is configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wished {
    pub(super) subnet: Cidr,
    pub(super) gateway: Option<IpAddr>,
    pub(super) first: Option<IpAddr>,
    pub(super) last: Option<IpAddr>,
}

impl Range {
    /// All of a subnet but its network address and, of IPv4, its broadcast address, or a part of it. The gateway is the
    /// subnet's first address when not given; it is never handed out, and need not be of the subnet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of(wished: &Wished) -> Result<Range, String> {
        let subnet = wished.subnet;
        let v4 = subnet.address.is_ipv4();
        let width: u8 = if v4 { 32 } else { 128 };
        if subnet.prefix > width - 2 {
            return Err(format!("subnet {subnet} is too small to take addresses from"));
        }
        if subnet.network() != subnet {
            return Err(format!(
                "subnet {subnet} has bits beyond its prefix, the network is {}",
                subnet.network()
            ));
        }
        let hosts = u128::MAX >> (128 - width + subnet.prefix);
        let network = number(subnet.address);
        let edge = |name: &str, given: Option<IpAddr>, otherwise: u128| match given {
            Some(address) if !subnet.contains(address) => {
                Err(format!("{name} {address} isn't in subnet {subnet}"))
            }
            given => Ok(given.map_or(otherwise, number)),
        };
        let first = edge("rangeStart", wished.first, network + 1)?;
        let last = edge("rangeEnd", wished.last, (network | hosts) - u128::from(v4))?;
        if first > last {
            return Err(format!(
                "rangeStart {} is behind rangeEnd {}",
                address(first, v4),
                address(last, v4)
            ));
        }
        let gateway = wished.gateway.unwrap_or_else(|| address(network + 1, v4));
        Ok(Range { subnet, gateway, first, last })
    }

    fn is_ipv4(&self) -> bool {
        self.subnet.address.is_ipv4()
    }

    fn contains(&self, candidate: IpAddr) -> bool {
        candidate.is_ipv4() == self.is_ipv4() && (self.first..=self.last).contains(&number(candidate))
    }

    pub(super) fn overlaps(&self, other: &Range) -> bool {
        self.is_ipv4() == other.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// The addresses from one of its own on.
    fn from(&self, start: u128) -> impl Iterator<Item = IpAddr> {
        let (v4, gateway) = (self.is_ipv4(), self.gateway);
        let all = (start..=self.last).map(move |candidate| address(candidate, v4));
        all.filter(move |candidate| *candidate != gateway)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.is_ipv4();
        write!(f, "{}-{}", address(self.first, v4), address(self.last, v4))
    }
}

/// Ranges of one family, of which an attachment gets one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RangeSet {
    ranges: Vec<Range>,
}

impl RangeSet {
    /// # Errors
    /// What is wrong with them: none at all, both families, two that overlap.
    pub(super) fn of(ranges: Vec<Range>) -> Result<RangeSet, String> {
        let Some(first) = ranges.first() else { return Err("is empty".into()) };
        if ranges.iter().any(|range| range.is_ipv4() != first.is_ipv4()) {
            return Err("has addresses of both families".into());
        }
        for (at, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges.iter().skip(at + 1).find(|other| other.overlaps(range)) {
                return Err(format!("has ranges {range} and {other}, which overlap"));
            }
        }
        Ok(RangeSet { ranges })
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.ranges.first().is_some_and(Range::is_ipv4)
    }

    pub(super) fn overlaps(&self, other: &RangeSet) -> bool {
        self.ranges.iter().any(|range| other.ranges.iter().any(|one| one.overlaps(range)))
    }

    /// The range that an address is of.
    pub(super) fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.ranges.iter().find(|range| range.contains(address))
    }

    /// All addresses that may be handed out, beginning after one; from the first on if that isn't of the set.
    pub(super) fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let at = last.and_then(|last| {
            let range = self.ranges.iter().position(|range| range.contains(last))?;
            Some((range, number(last) + 1))
        });
        let (range, start) = at.unwrap_or((0, self.ranges.first().map_or(0, |range| range.first)));
        let rest = self.ranges.get(range).into_iter().flat_map(move |range| range.from(start));
        let count = self.ranges.len();
        // All other ranges, and this one's beginning at the end: those that were tried are found taken again.
        let others = (range + 1..=range + count).filter_map(move |at| self.ranges.get(at % count.max(1)));
        rest.chain(others.flat_map(|range| range.from(range.first)))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.ranges.iter().map(Range::to_string).collect();
        f.write_str(&shown.join(","))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if v4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wished(subnet: &str) -> Wished {
        Wished { subnet: Cidr::parse(subnet).unwrap(), gateway: None, first: None, last: None }
    }

    fn range(subnet: &str) -> Range {
        Range::of(&wished(subnet)).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn shown(set: &RangeSet, last: Option<&str>, count: usize) -> Vec<String> {
        set.after(last.map(ip)).take(count).map(|address| address.to_string()).collect()
    }

    #[test]
    fn network_broadcast_and_gateway_are_left_out() {
        let set = RangeSet::of(vec![range("10.0.0.0/29")]).unwrap();
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        assert_eq!(shown(&set, None, 5), all);
        assert!(set.range_of(ip("10.0.0.7")).is_none());
        // IPv6 has no broadcast address.
        let set = RangeSet::of(vec![range("fd00::/126")]).unwrap();
        assert_eq!(shown(&set, None, 2), ["fd00::2", "fd00::3"]);
    }

    #[test]
    fn a_search_goes_on_after_the_last_and_comes_round_over_all_ranges() {
        let low = Range::of(&Wished { last: Some(ip("10.0.0.3")), ..wished("10.0.0.0/24") }).unwrap();
        let high =
            Wished { first: Some(ip("10.0.1.8")), last: Some(ip("10.0.1.9")), ..wished("10.0.1.0/24") };
        let set = RangeSet::of(vec![low, Range::of(&high).unwrap()]).unwrap();
        assert_eq!(shown(&set, Some("10.0.0.3"), 3), ["10.0.1.8", "10.0.1.9", "10.0.0.2"]);
        assert_eq!(shown(&set, Some("10.0.1.9"), 2), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(shown(&set, Some("10.0.1.8"), 4), ["10.0.1.9", "10.0.0.2", "10.0.0.3", "10.0.1.8"]);
        // One that is of no range any more costs the order only.
        assert_eq!(shown(&set, Some("10.9.9.9"), 1), ["10.0.0.2"]);
        assert_eq!(shown(&set, Some("fd00::1"), 1), ["10.0.0.2"]);
    }

    #[test]
    fn ranges_that_cannot_be_are_refused_with_the_reason() {
        let refused = |wished: Wished| Range::of(&wished).unwrap_err();
        assert!(refused(wished("10.0.0.0/31")).contains("too small"));
        assert!(refused(wished("fd00::/127")).contains("too small"));
        assert!(refused(wished("10.0.0.1/24")).contains("10.0.0.0/24"));
        let outside = Wished { first: Some(ip("10.0.1.1")), ..wished("10.0.0.0/24") };
        assert!(refused(outside).contains("rangeStart 10.0.1.1"));
        let other = Wished { last: Some(ip("fd00::1")), ..wished("10.0.0.0/24") };
        assert!(refused(other).contains("rangeEnd fd00::1"));
        let crossed =
            Wished { first: Some(ip("10.0.0.9")), last: Some(ip("10.0.0.8")), ..wished("10.0.0.0/24") };
        assert!(refused(crossed).contains("behind"));
        assert!(RangeSet::of(Vec::new()).is_err());
        assert!(RangeSet::of(vec![range("10.0.0.0/24"), range("fd00::/64")]).unwrap_err().contains("both"));
        let twice = RangeSet::of(vec![range("10.0.0.0/16"), range("10.0.3.0/24")]);
        assert!(twice.unwrap_err().contains("overlap"));
    }
}
