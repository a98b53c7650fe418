//! What a reload does, from what the daemon runs by and what is written now: pure.

use std::collections::BTreeSet;

use serde::Deserialize as _;

use super::{ReloadError, Reloaded};
use crate::config::keys::{Change, KEYS, Part};
use crate::config::{Config, Fault, Faults};

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// What the daemon runs by then: keys that wait for a restart have their old values.
    pub(super) config: Config,
    /// The parts that something changes for.
    pub(super) parts: BTreeSet<Part>,
    /// What will have come of it.
    pub(super) outcome: Reloaded,
}

impl Plan {
    /// Compares key by key.
    ///
    /// # Errors
    /// [`ReloadError::Mixed`].
    pub(super) fn new(running: &Config, wanted: &Config) -> Result<Self, ReloadError> {
        let (mut table, wanted) = (written(running)?, written(wanted)?);
        let (mut parts, mut outcome) = (BTreeSet::new(), Reloaded::default());
        for key in KEYS {
            let new = value(&wanted, key.path);
            if value(&table, key.path) == new {
                continue;
            }
            match key.change {
                Change::Restart(why) => outcome.waiting.push((key.path, why)),
                Change::Reload(of) => {
                    put(&mut table, key.path, new.cloned());
                    parts.extend(of);
                    outcome.applied.push(key.path);
                }
            }
        }
        let config = Config::deserialize(table).map_err(|error| ReloadError::Mixed(ours(&error)))?;
        config.check().map_err(ReloadError::Mixed)?;
        Ok(Self { config, parts, outcome })
    }
}

fn written(config: &Config) -> Result<toml::Table, ReloadError> {
    toml::Table::try_from(config).map_err(|error| ReloadError::Mixed(ours(&error)))
}

/// A configuration that was read can be written and read again.
fn ours(error: &dyn std::error::Error) -> Faults {
    Fault { key: "configuration".to_owned(), why: error.to_string() }.into()
}

/// The value of a key by its path.
fn value<'a>(table: &'a toml::Table, path: &str) -> Option<&'a toml::Value> {
    let (above, name) = path.rsplit_once('.').unwrap_or(("", path));
    let mut parts = above.split('.').filter(|part| !part.is_empty());
    parts.try_fold(table, |table, part| table.get(part)?.as_table())?.get(name)
}

/// Sets it, or takes it out.
fn put(table: &mut toml::Table, path: &str, value: Option<toml::Value>) {
    match path.split_once('.') {
        Some((first, rest)) => {
            if let Some(below) = table.get_mut(first).and_then(toml::Value::as_table_mut) {
                put(below, rest, value);
            }
        }
        None => match value {
            Some(value) => drop(table.insert(path.to_owned(), value)),
            None => drop(table.remove(path)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn nothing_is_done_when_nothing_is_different() {
        let plan = Plan::new(&Config::default(), &Config::default()).unwrap();
        assert_eq!((plan.outcome, plan.parts.len()), (Reloaded::default(), 0));
        assert_eq!(plan.config, Config::default());
    }

    #[test]
    fn what_can_be_changed_is_and_the_rest_stays_and_is_told() {
        let wanted = config(
            "root = \"/else\"\nlog_level = \"debug\"\n[network]\nnative = true\nbridge = \"br7\"\n[handlers.x]\n[network.annotations]\nmac = \"m\"",
        );
        let plan = Plan::new(&Config::default(), &wanted).unwrap();
        assert_eq!(
            plan.outcome.applied,
            ["log_level", "handlers", "network.native", "network.annotations.mac"]
        );
        let waiting: Vec<&str> = plan.outcome.waiting.iter().map(|(key, _)| *key).collect();
        assert_eq!(waiting, ["root", "network.bridge"]);
        assert_eq!(
            plan.parts.into_iter().collect::<Vec<_>>(),
            [Part::Log, Part::Pods, Part::Networks, Part::Addresses]
        );
        let as_before = Config { root: Config::default().root, ..wanted.clone() };
        assert_eq!(plan.config.network.bridge, "knarr0");
        assert_eq!((plan.config.root, plan.config.handlers), (as_before.root, as_before.handlers));
        // Told as long as it waits.
        let plan = Plan::new(&Plan::new(&Config::default(), &wanted).unwrap().config, &wanted).unwrap();
        assert_eq!((plan.outcome.applied.len(), plan.outcome.waiting.len()), (0, 2));
    }

    #[test]
    fn what_goes_away_has_its_default_again() {
        let running =
            config("log_level = \"debug\"\n[handlers.x]\ndefault_capabilities = [\"KILL\"]\n[handlers.y]");
        let plan = Plan::new(&running, &config("[handlers.x]")).unwrap();
        assert_eq!(plan.config, config("[handlers.x]"));
        assert_eq!(plan.outcome.applied, ["log_level", "handlers"]);
    }

    #[test]
    fn halves_that_do_not_go_together_change_nothing() {
        let running = config("[network]\nbuiltin = true");
        let wanted = config("[network]\nbuiltin = false\ndefault = \"pods\"");
        let refused = Plan::new(&running, &wanted).unwrap_err();
        assert!(crate::chain(&refused).contains("network.default"), "{refused:?}");
    }
}
