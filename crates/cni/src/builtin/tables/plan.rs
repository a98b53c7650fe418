//! What has to be changed so that an owner has what it is to have. Nothing here talks to the kernel.

use std::collections::HashSet;

use super::layout::{FAMILIES, maps, table};
use super::{Placed, Wish};
use crate::builtin::nft::{Batch, Family};
use crate::error::Error;

/// A change, thought out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) remove: Vec<Placed>,
    pub(super) add: Vec<Placed>,
}

/// What a wish comes to beside what was found.
///
/// # Errors
/// What the wish says of a key that is taken.
pub(super) fn plan(found: &[Placed], wish: &Wish<'_>) -> Result<Plan, Error> {
    let wanted: HashSet<&Placed> = wish.entries.iter().collect();
    let place = |placed: &Placed| (placed.family, placed.map, placed.entry.key.clone());
    let places: HashSet<_> = wish.entries.iter().map(place).collect();
    let mut remove = Vec::new();
    let mut there = HashSet::new();
    for placed in found {
        if wanted.contains(placed) {
            there.insert(placed);
        } else if placed.entry.comment == wish.owner || (wish.stale)(placed) {
            remove.push(placed.clone());
        } else if places.contains(&place(placed)) || (wish.clashes)(placed) {
            return Err((wish.taken)(placed));
        }
    }
    let add = wish.entries.iter().filter(|placed| !there.contains(placed)).cloned().collect();
    Ok(Plan { remove, add })
}

/// The chains that of what was found only what is removed leads to, and nothing that is added.
pub(super) fn unused(found: &[Placed], plan: &Plan) -> Vec<(Family, String)> {
    let removed: HashSet<&Placed> = plan.remove.iter().collect();
    let left = found.iter().filter(|placed| !removed.contains(placed)).chain(&plan.add);
    let used: HashSet<_> = left.filter_map(branch_of).collect();
    let mut unused: Vec<_> =
        plan.remove.iter().filter_map(branch_of).filter(|branch| !used.contains(branch)).collect();
    unused.sort_by(|one, other| one.1.cmp(&other.1));
    unused.dedup();
    unused
}

/// The chain that an entry leads to.
pub(super) fn branch_of(placed: &Placed) -> Option<(Family, String)> {
    placed.entry.value.chain().map(|chain| (placed.family, chain.to_owned()))
}

/// Writes a change down, with the chains that are to go.
pub(super) fn encode(batch: &mut Batch, plan: &Plan, nobodys: &[(Family, String)]) {
    for (family, map) in FAMILIES.into_iter().flat_map(maps) {
        let table = table(family);
        let here = |placed: &&Placed| placed.family == family && placed.map == map;
        batch.delete(&table, map.name(), plan.remove.iter().filter(here).map(|placed| &placed.entry));
        batch.add(&table, map.name(), plan.add.iter().filter(here).map(|placed| &placed.entry));
    }
    for (family, name) in nobodys {
        batch.delete_chain(&table(*family), name);
    }
}
