//! Scopes and units as the calls carry them: arguments written, answers read.

use crate::Error;
use crate::message::{Body, Writer};

/// No limit, as properties of 64 bits say it.
const NO_LIMIT: u64 = u64::MAX;

/// A scope to be started. Everything in it is for systemd's eyes: none of it may come from a pod's author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The unit's name, with `.scope` at its end.
    pub name: String,
    /// The slice that it goes into, with `.slice` at its end; made by systemd when it isn't there.
    pub slice: String,
    /// What lists of units show.
    pub description: String,
    /// The process that it begins with.
    pub pid: u32,
}

/// A unit in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// `active`, `inactive`, `failed` and others.
    pub state: String,
}

/// The arguments of StartTransientUnit: name, mode, properties, further units.
pub(crate) fn start(scope: &Scope) -> Vec<u8> {
    let mut arguments = Writer::default();
    arguments.string(&scope.name);
    arguments.string("fail");
    arguments.array(8, |properties| {
        for (name, value) in [
            ("Description", scope.description.as_str()),
            ("Slice", scope.slice.as_str()),
            // Not only what ended well.
            ("CollectMode", "inactive-or-failed"),
        ] {
            property(properties, name, "s", |to| to.string(value));
        }
        property(properties, "Delegate", "b", |to| to.uint32(1));
        // At shutdown pods are ended by whom they belong to (kubelet), not all at once before it.
        property(properties, "DefaultDependencies", "b", |to| to.uint32(0));
        // systemd's own default is a share of what the node has.
        property(properties, "TasksMax", "t", |to| to.uint64(NO_LIMIT));
        property(properties, "PIDs", "au", |to| to.array(4, |pids| pids.uint32(scope.pid)));
    });
    arguments.array(8, |_no_further_units| {});
    arguments.into_bytes()
}

/// A name and a value of a type.
pub(crate) fn property(to: &mut Writer, name: &str, kind: &str, value: impl FnOnce(&mut Writer)) {
    to.align(8);
    to.string(name);
    to.signature(kind);
    value(to);
}

/// The answer of ListUnitsByPatterns: name, description, load state, active state, sub-state, followed unit, path, and
/// the job that is queued for it with its number, type and path.
pub(crate) fn units(body: &Body) -> Result<Vec<Unit>, Error> {
    let mut reader = body.read("a(ssssssouso)")?;
    let end = reader.array(8)?;
    let mut units = Vec::new();
    while reader.is_before(end) {
        reader.align(8)?;
        let (name, description) = (reader.string()?.to_owned(), reader.string()?.to_owned());
        reader.string()?;
        let state = reader.string()?.to_owned();
        for _ in ["sub-state", "followed", "path"] {
            reader.string()?;
        }
        reader.uint32()?;
        for _ in ["type", "path"] {
            reader.string()?;
        }
        units.push(Unit { name, description, state });
    }
    Ok(units)
}
