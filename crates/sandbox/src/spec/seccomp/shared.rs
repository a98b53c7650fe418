//! Filters that were compiled: each content once, and one copy of it in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use runtime::plan::SeccompFilter;
use runtime::plan::seccomp::Instruction;

use super::{Confinement, describe};
use runtime::seccomp::compile;
use runtime::seccomp::profile::Profile;

/// What a filter is compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The default profile, with which of its guards met.
    Default(u32),
    /// A text by its SHA-256, and the capabilities that its conditions depend on.
    Text([u8; 32], u64),
}

/// How many filters are kept that no container has any more.
const KEPT: usize = 64;

/// The confinement for a key, which is compiled when it is not there yet.
///
/// # Errors
/// Why it can't be: those of making the profile, or one that is too large.
pub(super) fn compiled(
    key: Key,
    profile: impl FnOnce() -> Result<Profile, String>,
) -> Result<Confinement, String> {
    static COMPILED: OnceLock<Mutex<HashMap<Key, Confinement>>> = OnceLock::new();
    let cache = || COMPILED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = cache().get(&key) {
        return Ok(found.clone());
    }
    let profile = profile()?;
    let filter = shared(compile(&profile)?);
    let described = match key {
        Key::Default(_) => describe::outline(&profile),
        Key::Text(..) => describe::whole(&profile),
    };
    let confinement = Confinement { filter, described };
    let mut cache = cache();
    if cache.len() >= KEPT {
        cache.retain(|_, kept| Arc::strong_count(&kept.filter.program) > 1);
    }
    if cache.len() < KEPT {
        cache.insert(key, confinement.clone());
    }
    Ok(confinement)
}

/// The same filter, with the one copy of its program that is in memory.
pub(crate) fn shared(filter: SeccompFilter) -> SeccompFilter {
    static PROGRAMS: Mutex<Vec<Weak<[Instruction]>>> = Mutex::new(Vec::new());
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    programs.retain(|program| program.strong_count() > 0);
    let known = programs.iter().filter_map(Weak::upgrade).find(|program| *program == filter.program);
    let program = known.unwrap_or_else(|| {
        programs.push(Arc::downgrade(&filter.program));
        filter.program
    });
    SeccompFilter { flags: filter.flags, program }
}
