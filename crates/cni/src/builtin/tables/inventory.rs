//! What stands in the tables at one moment: by one look at them many owners are told what they lack.

use std::collections::HashSet;
use std::net::IpAddr;

use super::layout::{FAMILIES, OWNED, stands, table};
use super::turn::{Turn, change};
use super::{ASK, Batch, Family, Map, Placed, READ, Sight, Socket, Wish, failed, family_of, nft};
use crate::error::Error;

/// All maps.
const ALL: Sight<'static> = {
    let [masquerade, pods, ports, ports_of_address, hairpin] = OWNED;
    Sight::Maps(&[masquerade, pods, ports, ports_of_address, hairpin, Map::Localnet])
};

/// What stands in the tables.
#[derive(Debug)]
pub(crate) struct Inventory {
    entries: HashSet<Placed>,
    /// The families whose rules are as we made them.
    standing: HashSet<Family>,
    /// The chains that have rules.
    filled: HashSet<(Family, String)>,
}

impl Inventory {
    /// Takes it, of one moment.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub(crate) fn take() -> Result<Inventory, Error> {
        let turn = Turn::take(Socket::netfilter).map_err(failed(ASK))?;
        change(turn, ALL, |socket, found| {
            let (mut standing, mut filled) = (HashSet::new(), HashSet::new());
            for family in FAMILIES {
                let rules = nft::rules(socket, &table(family)).map_err(failed(READ))?;
                standing.extend(stands(&rules, family).then_some(family));
                filled.extend(rules.into_iter().map(|(chain, _)| (family, chain)));
            }
            let entries = found.iter().cloned().collect();
            Ok((Batch::default(), Inventory { entries, standing, filled }))
        })
    }

    /// Whether anything is missing of what an owner is to have.
    pub(in crate::builtin) fn lacks(&self, wish: &Wish<'_>) -> bool {
        let has = |placed: &Placed| self.entries.contains(placed) && self.standing.contains(&placed.family);
        let leads = wish.branches.iter().all(|to| self.filled.contains(&(to.family, to.name.clone())));
        !(wish.entries.iter().all(has) && leads)
    }
}

/// The tables at some moment, as far as this process has no hand in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How often others have changed any table, counted from anywhere.
    changes: u32,
    /// What stood in ours without our doing, as [`nft::sum`] has it.
    sum: u64,
}

/// Whether others have taken away any rule of the tables of these addresses' families, or changed any entry since that mark;
/// without one they may have. Returns the mark for the next time. As long as only this process changes tables, nothing is read.
///
/// # Errors
/// [`Error::Kernel`].
pub(crate) fn have_others_meddled(since: Option<Mark>, addresses: &[IpAddr]) -> Result<(Mark, bool), Error> {
    let turn = Turn::take(Socket::netfilter).map_err(failed(ASK))?;
    let (generation, done) = turn.state();
    let changes = generation.wrapping_sub(done.changes);
    if let Some(mark) = since.filter(|mark| mark.changes == changes) {
        return Ok((mark, false));
    }
    let families: HashSet<Family> = addresses.iter().copied().map(family_of).collect();
    change(turn, ALL, |socket, found| {
        let sum = nft::sum(found.iter().map(|placed| (placed.family, placed.map.name(), &placed.entry)));
        let mark = Mark { changes, sum: sum.wrapping_sub(done.sum) };
        let mut have_meddled = since.is_none_or(|since| since.sum != mark.sum);
        for family in &families {
            let rules = nft::rules(socket, &table(*family)).map_err(failed(READ))?;
            have_meddled |= !stands(&rules, *family);
        }
        Ok((Batch::default(), (mark, have_meddled)))
    })
}
