//! What stands in the tables: by one look at them many owners are told what they lack, and it is seen whether others have had a
//! hand in it. Nobody waits for that.

use std::collections::HashSet;
use std::net::IpAddr;

use super::layout::{FAMILIES, OWNED, stands, table};
use super::turn::{look, read};
use super::{Family, Map, Placed, READ, Sight, Wish, failed, family_of, nft, open};
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
    /// Takes it, in several parts. What anybody changes between two of them may be there or not, and nobody is kept from that: who
    /// seems to lack what they have are given nothing, and what others take away is still to be seen by its mark.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub(crate) fn take() -> Result<Inventory, Error> {
        #[cfg(test)]
        broken::look(broken::TAKING)?;
        let mut socket = open()?;
        let entries = read(&mut socket, ALL).map_err(failed(READ))?.into_iter().collect();
        let (mut standing, mut filled) = (HashSet::new(), HashSet::new());
        for family in FAMILIES {
            let rules = nft::rules(&mut socket, &table(family)).map_err(failed(READ))?;
            standing.extend(stands(&rules, family).then_some(family));
            filled.extend(rules.into_iter().map(|(chain, _)| (family, chain)));
        }
        Ok(Inventory { entries, standing, filled })
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
/// without one they may have. Returns the mark for the next time; nothing where this process changes too much for there to be one.
/// As long as only this process changes tables, nothing is read.
///
/// # Errors
/// [`Error::Kernel`].
pub(crate) fn have_others_meddled(
    since: Option<Mark>,
    addresses: &[IpAddr],
) -> Result<Option<(Mark, bool)>, Error> {
    let families: HashSet<Family> = addresses.iter().copied().map(family_of).collect();
    #[cfg(test)]
    broken::look(broken::LOOKING)?;
    look(|socket, generation, done| {
        let changes = generation.wrapping_sub(done.changes);
        if let Some(mark) = since.filter(|mark| mark.changes == changes) {
            return Ok((mark, false));
        }
        let found = read(socket, ALL).map_err(failed(READ))?;
        let sum = nft::sum(found.iter().map(|placed| (placed.family, placed.map.name(), &placed.entry)));
        let mark = Mark { changes, sum: sum.wrapping_sub(done.sum) };
        let mut have_meddled = since.is_none_or(|since| since.sum != mark.sum);
        for family in &families {
            let rules = nft::rules(socket, &table(*family)).map_err(failed(READ))?;
            have_meddled |= !stands(&rules, *family);
        }
        Ok((mark, have_meddled))
    })
}

/// A kernel that can't be asked at the moment.
#[cfg(test)]
pub(crate) mod broken {
    use std::collections::HashSet;
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Mutex;

    use super::{READ, failed};
    use crate::error::Error;
    use crate::locks::locked;

    pub(crate) const TAKING: &str = "an inventory is taken";
    pub(crate) const LOOKING: &str = "it is looked whether others have meddled";
    pub(crate) const SHUTTING: &str = "what is open without a guard is shut";
    static HERE: Mutex<Option<HashSet<(u64, &str)>>> = Mutex::new(None);

    fn here() -> u64 {
        std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
    }

    /// From now on, when that is done in the network namespace of the caller.
    pub(crate) fn begin(when: &'static str) {
        locked(&HERE).get_or_insert_default().insert((here(), when));
    }

    pub(crate) fn end(when: &'static str) {
        locked(&HERE).get_or_insert_default().remove(&(here(), when));
    }

    pub(in crate::builtin::tables) fn look(when: &'static str) -> Result<(), Error> {
        match locked(&HERE).as_ref().is_some_and(|broken| broken.contains(&(here(), when))) {
            true => Err(failed(READ)(io::Error::from_raw_os_error(nix::libc::ENFILE))),
            false => Ok(()),
        }
    }
}
