//! Pods' way out: what leaves a pod's subnet gets the host's address.
//!
//! A pod is an entry of the map `masqueraded`, which leads to the chain of its subnet. Which subnets there are nobody needs to
//! know: a chain comes with its first pod and goes with the last.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::link::octets;
use super::nft::{Entry, Family, Rule, Side, Value};
use super::owner::Owner;
use super::tables::{self, Branch, Map, Placed, Wish, family_of};
use crate::attachment::AttachmentId;
use crate::error::Error;
use crate::result::Cidr;

const MAPS: &[Map] = &[Map::Masquerade];

/// Has what these addresses send to others than their own subnet leave under the host's address; multicast apart. The prefix
/// lengths are the subnets'. What is there for the owner already is kept, what was for other addresses goes.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn add(owner: &Owner, addresses: &[Cidr]) -> Result<(), Error> {
    with_wish(owner, addresses, tables::grant)
}

/// Sees whether it does.
///
/// # Errors
/// [`Error::Unlike`], [`Error::Kernel`].
pub(super) fn check(owner: &Owner, addresses: &[Cidr]) -> Result<(), Error> {
    let lacking = with_wish(owner, addresses, tables::lacking)?;
    let lacks = |cidr: &&Cidr| lacking.iter().any(|placed| placed.entry.key == octets(cidr.address));
    match addresses.iter().find(lacks) {
        None => Ok(()),
        Some(cidr) => Err(Error::Unlike {
            subject: "address",
            name: cidr.address.to_string(),
            problem: "isn't masqueraded".to_owned(),
        }),
    }
}

/// Takes an owner's entries away; there may be none.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn remove(owner: &Owner) -> Result<(), Error> {
    let owner = owner.comment();
    tables::withdraw(MAPS, |of| of == owner).map(drop)
}

/// Takes the entries of all others of that network away.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn retain(network: &str, keep: &HashSet<AttachmentId>) -> Result<(), Error> {
    tables::withdraw(MAPS, Owner::left_over(network, keep)).map(drop)
}

fn with_wish<T>(
    owner: &Owner,
    addresses: &[Cidr],
    work: impl FnOnce(&Wish<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let comment = owner.comment();
    let keys: HashSet<Vec<u8>> = addresses.iter().map(|cidr| octets(cidr.address)).collect();
    let entry = |cidr: &Cidr| Placed {
        family: family_of(cidr.address),
        map: Map::Masquerade,
        entry: Entry {
            key: octets(cidr.address),
            value: Value::Goto(chain(*cidr)),
            comment: comment.clone(),
        },
    };
    let taken = |placed: &Placed| Error::Unlike {
        subject: "address",
        name: format!("{:?}", placed.entry.key),
        problem: format!("is masqueraded for '{}'", placed.entry.comment),
    };
    work(&Wish {
        owner: comment.clone(),
        maps: MAPS,
        entries: addresses.iter().map(entry).collect::<HashSet<_>>().into_iter().collect(),
        branches: addresses.iter().map(branch).collect(),
        // An address has one owner: who had it before is gone, whether it was detached or not.
        stale: &|placed| keys.contains(&placed.entry.key),
        clashes: &|_| false,
        taken: &taken,
    })
}

fn chain(cidr: Cidr) -> String {
    tables::chain_name("masquerade", cidr)
}

fn branch(cidr: &Cidr) -> Branch {
    let family = family_of(cidr.address);
    let to = |network: IpAddr, prefix| {
        Rule::default().within(family, Side::Destination, &octets(network), prefix).end_chain()
    };
    let (multicast, prefix): (IpAddr, u8) = match family {
        Family::Ipv4 => (Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        Family::Ipv6 => (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    };
    let subnet = cidr.network();
    let rules = vec![to(subnet.address, subnet.prefix), to(multicast, prefix), Rule::default().masquerade()];
    Branch { family, name: chain(*cidr), rules }
}

#[cfg(test)]
mod tests;
