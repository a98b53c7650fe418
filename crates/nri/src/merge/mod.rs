//! What several plugins want changed, put together: each sees what those before it have changed, and no two set the same field.
//!
//! ```text
//! answer of a plugin ─► claim every field and entry (owners) ─► collected: what is to be done
//!                                                          └──► seen: the container, or the limits, as the next plugin is shown them
//! ```
//! A plugin may take an entry over: it takes the other's away by a mark of removal, and then has the only say about it. Hooks alone add up.
//!
//! Not here: asking plugins (see `hub`), carrying out what was collected (see `spec`, and the runtime).

mod entries;
mod owners;
mod resources;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::api::{self, Field};
use crate::error::Error;
use entries::Lists;
pub(crate) use owners::{Claim, Owners};

/// What plugins change by a container that is being made.
pub(crate) struct Creation {
    /// The container as the next plugin sees it.
    pub(crate) seen: api::Container,
    pub(crate) adjust: api::ContainerAdjustment,
    pub(crate) others: Others,
}

/// What plugins change of containers that are there.
#[derive(Default)]
pub(crate) struct Others {
    pub(crate) owners: Owners,
    pub(crate) updates: Vec<api::ContainerUpdate>,
    /// Where among them a container's is.
    places: HashMap<String, usize>,
    pub(crate) evictions: Vec<api::ContainerEviction>,
}

impl Creation {
    pub(crate) fn new(container: api::Container) -> Self {
        Self { seen: container, adjust: api::ContainerAdjustment::default(), others: Others::default() }
    }

    /// Takes a plugin's answer in.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::NotYet`].
    pub(crate) fn add(&mut self, plugin: &str, answer: api::CreateContainerResponse) -> Result<(), Error> {
        let id = self.seen.id.clone();
        if answer.update.iter().any(|update| update.container_id == id) {
            return Err(Error::NotYet { plugin: plugin.to_owned(), container: id });
        }
        if let Some(adjust) = answer.adjust {
            self.adjust(plugin, adjust)?;
        }
        self.others.evictions.extend(answer.evict);
        self.others.update(plugin, answer.update)
    }

    fn adjust(&mut self, plugin: &str, given: api::ContainerAdjustment) -> Result<(), Error> {
        let Self { seen, adjust, others } = self;
        let mut claim = others.owners.claim(&seen.id, plugin);
        let lists = Lists { claim: &mut claim };
        lists.of_container(&given, seen, adjust)?;
        if let Some((first, rest)) = given.args.split_first() {
            let takes_over = first.is_empty();
            if takes_over {
                claim.clear(Field::Args);
            }
            claim.field(Field::Args)?;
            adjust.args = if takes_over { rest.to_vec() } else { given.args.clone() };
            seen.args.clone_from(&adjust.args);
        }
        if let Some(hooks) = given.hooks {
            if hooks != api::Hooks::default() {
                claim.share(Field::OciHooks);
            }
            append_hooks(adjust.hooks.get_or_insert_default(), &hooks);
            append_hooks(seen.hooks.get_or_insert_default(), &hooks);
        }
        match given.linux {
            Some(linux) => {
                let (seen, adjust) =
                    (seen.linux.get_or_insert_default(), adjust.linux.get_or_insert_default());
                of_linux(linux, (seen, adjust), &mut claim)
            }
            None => Ok(()),
        }
    }
}

type Linux<'a> = (&'a mut api::LinuxContainer, &'a mut api::LinuxContainerAdjustment);

fn of_linux(
    given: api::LinuxContainerAdjustment,
    (seen, adjust): Linux<'_>,
    claim: &mut Claim<'_>,
) -> Result<(), Error> {
    Lists { claim }.of_linux(&given, seen, adjust)?;
    if let Some(limits) = &given.resources {
        resources::claim(limits, claim)?;
        resources::overlay(limits, seen.resources.get_or_insert_default());
        resources::overlay(limits, adjust.resources.get_or_insert_default());
        // Rules for devices add up: each is about devices of its plugin's own.
        seen.resources.get_or_insert_default().devices.extend(limits.devices.iter().cloned());
        adjust.resources.get_or_insert_default().devices.extend(limits.devices.iter().cloned());
    }
    if !given.cgroups_path.is_empty() {
        claim.field(Field::CgroupsPath)?;
        seen.cgroups_path.clone_from(&given.cgroups_path);
        adjust.cgroups_path = given.cgroups_path;
    }
    set(
        claim,
        Field::OomScoreAdj,
        given.oom_score_adj,
        [&mut seen.oom_score_adj, &mut adjust.oom_score_adj],
    )?;
    set(claim, Field::IoPriority, given.io_priority, [&mut seen.io_priority, &mut adjust.io_priority])?;
    set(
        claim,
        Field::SeccompPolicy,
        given.seccomp_policy,
        [&mut seen.seccomp_policy, &mut adjust.seccomp_policy],
    )?;
    set(claim, Field::LinuxSched, given.scheduler, [&mut seen.scheduler, &mut adjust.scheduler])?;
    set(claim, Field::MemoryPolicy, given.memory_policy, [&mut adjust.memory_policy])?;
    given.rdt.map_or(Ok(()), |rdt| of_rdt(rdt, (&mut seen.rdt, &mut adjust.rdt), claim))
}

/// Sets a field that one plugin may set, wherever it is kept.
fn set<T: Clone, const N: usize>(
    claim: &mut Claim<'_>,
    field: Field,
    given: Option<T>,
    into: [&mut Option<T>; N],
) -> Result<(), Error> {
    let Some(given) = given else { return Ok(()) };
    claim.field(field)?;
    into.into_iter().for_each(|place| *place = Some(given.clone()));
    Ok(())
}

type Rdt<'a> = (&'a mut Option<api::LinuxRdt>, &'a mut Option<api::LinuxRdt>);

fn of_rdt(given: api::LinuxRdt, (seen, adjust): Rdt<'_>, claim: &mut Claim<'_>) -> Result<(), Error> {
    if given.remove {
        [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring]
            .into_iter()
            .for_each(|f| claim.clear(f));
        *seen = None;
        *adjust = Some(api::LinuxRdt { remove: true, ..api::LinuxRdt::default() });
    }
    let (seen, adjust) = (seen.get_or_insert_default(), adjust.get_or_insert_default());
    let says = given.clos_id.is_some() || given.schemata.is_some() || given.enable_monitoring.is_some();
    set(claim, Field::RdtClosId, given.clos_id, [&mut seen.clos_id, &mut adjust.clos_id])?;
    set(claim, Field::RdtSchemata, given.schemata, [&mut seen.schemata, &mut adjust.schemata])?;
    let monitoring = [&mut seen.enable_monitoring, &mut adjust.enable_monitoring];
    set(claim, Field::RdtEnableMonitoring, given.enable_monitoring, monitoring)?;
    // What is set after a removal is all that there is to be.
    adjust.remove &= !says;
    Ok(())
}

fn append_hooks(into: &mut api::Hooks, hooks: &api::Hooks) {
    into.prestart.extend(hooks.prestart.iter().cloned());
    into.create_runtime.extend(hooks.create_runtime.iter().cloned());
    into.create_container.extend(hooks.create_container.iter().cloned());
    into.start_container.extend(hooks.start_container.iter().cloned());
    into.poststart.extend(hooks.poststart.iter().cloned());
    into.poststop.extend(hooks.poststop.iter().cloned());
}

impl Others {
    /// Takes in what a plugin wants changed of containers that are there.
    ///
    /// # Errors
    /// [`Error::Conflict`], unless the plugin says that a failure doesn't matter: then what it wants of that container is left out.
    pub(crate) fn update(&mut self, plugin: &str, updates: Vec<api::ContainerUpdate>) -> Result<(), Error> {
        for update in updates {
            if self.claim(plugin, &update)? {
                self.merge(update);
            }
        }
        Ok(())
    }

    /// Claims all that an update sets, or nothing when it is to be left out.
    ///
    /// # Errors
    /// As for [`Others::update`].
    fn claim(&mut self, plugin: &str, update: &api::ContainerUpdate) -> Result<bool, Error> {
        let Some(limits) = limits(update) else { return Ok(true) };
        let mut claim = self.owners.claim(&update.container_id, plugin);
        match resources::claim(limits, &mut claim) {
            Err(_) if update.ignore_failure => Ok(false),
            claimed => claimed.map(|()| true),
        }
    }

    fn merge(&mut self, update: api::ContainerUpdate) {
        let Some(place) = self.places.get(&update.container_id) else {
            self.places.insert(update.container_id.clone(), self.updates.len());
            return self.updates.push(update);
        };
        let known = &mut self.updates[*place];
        known.ignore_failure &= update.ignore_failure;
        if let Some(limits) = limits(&update) {
            let into = known.linux.get_or_insert_default().resources.get_or_insert_default();
            resources::overlay(limits, into);
            // For whoever carries it out to refuse.
            into.devices.extend(limits.devices.iter().cloned());
        }
    }
}

fn limits(update: &api::ContainerUpdate) -> Option<&api::LinuxResources> {
    update.linux.as_ref().and_then(|linux| linux.resources.as_ref())
}

/// What plugins change by an update of a container.
pub(crate) struct Change {
    container: String,
    /// The limits as the next plugin sees them.
    pub(crate) seen: api::LinuxResources,
    pub(crate) others: Others,
}

impl Change {
    pub(crate) fn new(container: &str, asked: api::LinuxResources) -> Self {
        Self { container: container.to_owned(), seen: asked, others: Others::default() }
    }

    /// Takes a plugin's answer in.
    ///
    /// # Errors
    /// As for [`Others::update`]; [`Error::Unsupported`] for what can't be changed of a container that is there.
    pub(crate) fn add(&mut self, plugin: &str, answer: api::UpdateContainerResponse) -> Result<(), Error> {
        self.others.evictions.extend(answer.evict);
        let (own, others): (Vec<_>, Vec<_>) =
            answer.update.into_iter().partition(|update| update.container_id == self.container);
        for update in &own {
            if let Some(limits) = limits(update) {
                refuse_devices(plugin, limits)?;
                if self.others.claim(plugin, update)? {
                    resources::overlay(limits, &mut self.seen);
                }
            }
        }
        self.others.update(plugin, others)
    }
}

/// Rules for devices are a container's from its beginning.
fn refuse_devices(plugin: &str, limits: &api::LinuxResources) -> Result<(), Error> {
    match limits.devices.is_empty() {
        true => Ok(()),
        false => Err(Error::Unsupported {
            field: "linux.resources.devices".to_owned(),
            why: format!(
                "the plugin \"{plugin}\" wants other rules for devices, which can't be changed any more"
            ),
        }),
    }
}
