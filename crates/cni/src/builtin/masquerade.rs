//! Pods' way out: what leaves a pod's subnet gets the host's address.
//!
//! A pod is an entry of the map `masqueraded`, which leads to the chain of its subnet. Which subnets there are nobody needs to
//! know: a chain comes with its first pod and goes with the last.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::link::octets;
use super::nft::{Entry, Family, Rule, Side, Value};
use super::owner::Owner;
use super::tables::{self, Branch, Inventory, Map, Place, Placed, Sight, Wish, family_of};
use crate::attachment::AttachmentId;
use crate::error::Error;
use crate::result::Cidr;

const ALL: Sight<'static> = Sight::Maps(&[Map::Masquerade]);

/// Has what these addresses send to others than their own subnet leave under the host's address; multicast apart. The prefix
/// lengths are the subnets'. What is there for the owner already is kept; of others' entries no more are looked at than those of the
/// addresses.
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

/// Whether anything of that isn't there.
pub(super) fn is_missing(owner: &Owner, addresses: &[Cidr], inventory: &Inventory) -> bool {
    with_wish(owner, addresses, |wish| inventory.lacks(wish))
}

/// Takes an owner's entries away; there may be none.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn remove(owner: &Owner) -> Result<(), Error> {
    let owner = owner.comment();
    tables::withdraw(ALL, |of| of == owner).map(drop)
}

/// Takes its entries for these addresses away, without a look at others'. Returns whether there was one for each.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn remove_of(owner: &Owner, addresses: &[Cidr]) -> Result<bool, Error> {
    let (owner, places) = (owner.comment(), places(addresses));
    let (removed, _) = tables::withdraw(Sight::Places(&places), |of| of == owner)?;
    Ok(removed.len() == places.len())
}

/// Takes the entries of all others of that network away.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn retain(network: &str, keep: &HashSet<AttachmentId>) -> Result<(), Error> {
    tables::withdraw(ALL, Owner::left_over(network, keep)).map(drop)
}

/// Takes away whatever that owner has.
///
/// # Errors
/// [`Error::Kernel`].
pub(super) fn vacate(owner: &str) -> Result<(), Error> {
    tables::withdraw(ALL, |of| of == owner).map(drop)
}

fn with_wish<T>(owner: &Owner, addresses: &[Cidr], work: impl FnOnce(&Wish<'_>) -> T) -> T {
    let (comment, places) = (owner.comment(), places(addresses));
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
        sight: Sight::Places(&places),
        entries: addresses.iter().map(entry).collect::<HashSet<_>>().into_iter().collect(),
        branches: addresses.iter().map(branch).collect(),
        // An address has one owner: who had it before is gone, whether it was detached or not.
        stale: &|_| true,
        clashes: &|_| false,
        taken: &taken,
    })
}

/// Where the entries of these addresses stand, each once.
fn places(addresses: &[Cidr]) -> Vec<Place> {
    let place = |cidr: &Cidr| {
        let (family, key) = (family_of(cidr.address), octets(cidr.address));
        Place { family, map: Map::Masquerade, key }
    };
    addresses.iter().map(place).collect::<HashSet<_>>().into_iter().collect()
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
