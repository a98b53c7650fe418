//! Fields with entries: lists and maps whose entries have keys.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Claim;
use crate::api::{self, Field};
use crate::error::Error;

/// An entry that is known by its key.
trait Keyed: Clone {
    fn key(&self) -> &str;
    /// What stands for the removal of the entry with a key.
    fn removal(marked: String) -> Self;
}

macro_rules! keyed {
    ($($message:ident by $key:ident),*) => {
        $(impl Keyed for api::$message {
            fn key(&self) -> &str {
                &self.$key
            }
            #[allow(clippy::needless_update, reason = "some have nothing but a key")]
            fn removal(marked: String) -> Self {
                Self { $key: marked, ..Self::default() }
            }
        })*
    };
}

keyed!(
    Mount by destination,
    LinuxDevice by path,
    KeyValue by key,
    LinuxNamespace by r#type,
    PosixRlimit by r#type,
    CdiDevice by name
);

impl<V: Clone + Default> Keyed for (String, V) {
    fn key(&self) -> &str {
        &self.0
    }
    fn removal(marked: String) -> Self {
        (marked, V::default())
    }
}

/// Merges lists under a plugin's claims.
pub(super) struct Lists<'a, 'b> {
    pub(super) claim: &'a mut Claim<'b>,
}

impl Lists<'_, '_> {
    /// Those of a container that have nothing to do with Linux.
    pub(super) fn of_container(
        mut self,
        given: &api::ContainerAdjustment,
        seen: &mut api::Container,
        adjust: &mut api::ContainerAdjustment,
    ) -> Result<(), Error> {
        self.map(Field::Annotations, &given.annotations, (&mut seen.annotations, &mut adjust.annotations))?;
        self.list(Field::Mounts, &given.mounts, (&mut seen.mounts, &mut adjust.mounts))?;
        let mut env: Vec<api::KeyValue> = seen.env.iter().map(|entry| variable(entry)).collect();
        self.list(Field::Env, &given.env, (&mut env, &mut adjust.env))?;
        seen.env = env.into_iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect();
        self.list(Field::Rlimits, &given.rlimits, (&mut seen.rlimits, &mut adjust.rlimits))?;
        // Names of devices that the runtime looks up: what they are is not known before, and nobody is shown.
        self.list(Field::CdiDevices, &given.cdi_devices, (&mut Vec::new(), &mut adjust.cdi_devices))
    }

    /// Those of Linux.
    pub(super) fn of_linux(
        mut self,
        given: &api::LinuxContainerAdjustment,
        seen: &mut api::LinuxContainer,
        adjust: &mut api::LinuxContainerAdjustment,
    ) -> Result<(), Error> {
        self.list(Field::Devices, &given.devices, (&mut seen.devices, &mut adjust.devices))?;
        self.list(Field::Namespace, &given.namespaces, (&mut seen.namespaces, &mut adjust.namespaces))?;
        self.map(Field::Sysctl, &given.sysctl, (&mut seen.sysctl, &mut adjust.sysctl))?;
        self.map(Field::LinuxNetDevices, &given.net_devices, (&mut seen.net_devices, &mut adjust.net_devices))
    }

    /// Removals first: what is removed and set again by one plugin is its own from then on.
    fn list<T: Keyed>(
        &mut self,
        field: Field,
        given: &[T],
        (seen, collected): (&mut Vec<T>, &mut Vec<T>),
    ) -> Result<(), Error> {
        let removals: BTreeSet<&str> = given.iter().filter_map(|entry| api::removed(entry.key())).collect();
        removals.iter().for_each(|key| self.claim.clear_entry(field, key));
        let set: Vec<&T> = given.iter().filter(|entry| api::removed(entry.key()).is_none()).collect();
        set.iter().try_for_each(|entry| self.claim.entry(field, entry.key()))?;
        let keys: HashSet<&str> = set.iter().map(|entry| entry.key()).collect();
        // One pass over what is there, however many there are: nobody else is served meanwhile.
        seen.retain(|known| !removals.contains(known.key()) && !keys.contains(known.key()));
        collected.retain(|known| match api::removed(known.key()) {
            Some(key) => !removals.contains(key) && !keys.contains(key),
            None => !removals.contains(known.key()),
        });
        let only_removed = removals.into_iter().filter(|key| !keys.contains(key));
        collected.extend(only_removed.map(|key| T::removal(api::remove(key))));
        seen.extend(set.iter().copied().cloned());
        collected.extend(set.into_iter().cloned());
        Ok(())
    }

    fn map<V: Clone + Default>(
        &mut self,
        field: Field,
        given: &BTreeMap<String, V>,
        (seen, collected): (&mut BTreeMap<String, V>, &mut BTreeMap<String, V>),
    ) -> Result<(), Error> {
        let listed = |map: &BTreeMap<String, V>| map.clone().into_iter().collect::<Vec<_>>();
        let (mut seen_list, mut collected_list) = (listed(seen), listed(collected));
        self.list(field, &listed(given), (&mut seen_list, &mut collected_list))?;
        (*seen, *collected) = (seen_list.into_iter().collect(), collected_list.into_iter().collect());
        Ok(())
    }
}

fn variable(entry: &str) -> api::KeyValue {
    let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
    api::KeyValue { key: key.to_owned(), value: value.to_owned() }
}
