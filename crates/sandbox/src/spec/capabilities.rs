//! Which capabilities a container's process has.

use std::collections::HashSet;
use std::sync::OnceLock;

use runtime::spec::oci::{Capability, LinuxCapabilities};

use crate::container::config::ContainerSecurity;
use crate::error::Error;
use crate::handler::Handler;

/// What an ordinary container has: the set that Kubernetes' runtimes and Docker agree on.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All capabilities in the order of their numbers (linux/capability.h).
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

type Set = HashSet<Capability>;

/// A set as a bit for each number.
pub(crate) fn mask(set: &Set) -> u64 {
    let there = |(_, known): &(usize, &Capability)| set.contains(known);
    ALL.iter().enumerate().filter(there).fold(0, |mask, (number, _)| mask | 1 << number)
}

/// What this process could give: its bounding set. All that it may hand on, on a host that took some away from it.
fn available() -> Set {
    static AVAILABLE: OnceLock<Set> = OnceLock::new();
    AVAILABLE
        .get_or_init(|| from_status(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()))
        .clone()
}

/// Whether this process may give its processes a lower OOM score adjustment than it has itself.
pub(crate) fn can_spare_processes() -> bool {
    available().contains(&Capability::SysResource)
}

fn from_status(status: &str) -> Set {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ALL.into_iter()
        .enumerate()
        .filter(|(number, _)| mask >> number & 1 == 1)
        .map(|(_, capability)| capability)
        .collect()
}

/// What a container's capabilities are chosen from.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// What this process could give.
    pub(crate) available: Set,
    /// What a container has that says nothing.
    pub(crate) ordinary: Set,
}

impl Choice {
    /// What containers of a handler can have.
    pub(crate) fn of(handler: &Handler) -> Self {
        // They were checked with the handler.
        let own = handler.default_capabilities.as_ref().and_then(|names| named(names).ok());
        Self { available: available(), ordinary: own.unwrap_or_else(|| DEFAULT.into_iter().collect()) }
    }
}

/// Capabilities by their names, with or without `CAP_`.
///
/// # Errors
/// The name that none has.
pub(crate) fn named(names: &[String]) -> Result<Set, &String> {
    names.iter().map(|name| known(name).ok_or(name)).collect()
}

fn known(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter().find(|known| known.to_string().trim_start_matches("CAP_") == short)
}

/// The effective set of a container: what seccomp profiles ask about is what its process has in the end.
pub(crate) fn effective(security: &ContainerSecurity, choice: &Choice) -> Result<Set, Error> {
    let ambient = ambient(security, choice)?;
    let Choice { available, ordinary } = choice;
    if security.privileged {
        return Ok(available.clone());
    }
    let add = Wish::read(&security.capabilities_add, "add_capabilities")?;
    let drop = Wish::read(&security.capabilities_drop, "drop_capabilities")?;
    let mut set: Set = match (add.all, drop.all) {
        // Adding all and dropping all leaves what is added by name, as other runtimes read it.
        (_, true) => Set::new(),
        (true, false) => available.clone(),
        (false, false) => ordinary.clone(),
    };
    set.extend(add.named);
    let kept = set.difference(&drop.named).copied().filter(|capability| available.contains(capability));
    // What is ambient is effective, dropped or not (capabilities(7)).
    Ok(kept.chain(ambient).collect())
}

fn ambient(security: &ContainerSecurity, Choice { available, .. }: &Choice) -> Result<Set, Error> {
    let wish = Wish::read(&security.capabilities_ambient, "add_ambient_capabilities")?;
    Ok(match wish.all {
        true => available.clone(),
        false => wish.named.intersection(available).copied().collect(),
    })
}

/// The sets of a container's process. Nothing is inheritable but what is ambient (CVE-2022-24769).
pub(crate) fn sets(security: &ContainerSecurity, choice: &Choice) -> Result<LinuxCapabilities, Error> {
    let set = effective(security, choice)?;
    let ambient = ambient(security, choice)?;
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(sets)
}

struct Wish {
    all: bool,
    named: Set,
}

impl Wish {
    fn read(names: &[String], field: &str) -> Result<Self, Error> {
        let mut wish = Self { all: false, named: Set::new() };
        for (at, name) in names.iter().enumerate() {
            if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
                wish.all = true;
                continue;
            }
            let field = || format!("linux.security_context.capabilities.{field}[{at}]");
            wish.named.insert(
                known(name)
                    .ok_or_else(|| Error::refused(field(), format!("\"{name}\" is not a capability")))?,
            );
        }
        Ok(wish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Set {
        ALL.into_iter().collect()
    }

    fn any() -> Choice {
        Choice { available: everything(), ordinary: DEFAULT.into_iter().collect() }
    }

    fn with(add: &[&str], drop: &[&str]) -> Set {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let security = ContainerSecurity {
            capabilities_add: own(add),
            capabilities_drop: own(drop),
            ..ContainerSecurity::default()
        };
        effective(&security, &any()).expect("capabilities")
    }

    #[test]
    fn additions_and_drops_are_read_as_other_runtimes_read_them() {
        assert_eq!(with(&[], &[]), DEFAULT.into_iter().collect());
        assert_eq!(with(&["ALL"], &[]), everything());
        assert_eq!(with(&[], &["all"]), Set::new());
        assert_eq!(with(&["NET_ADMIN"], &["ALL"]), [Capability::NetAdmin].into());
        assert!(!with(&["ALL"], &["CAP_SYS_ADMIN"]).contains(&Capability::SysAdmin));
        assert!(!with(&["CHOWN"], &["CHOWN"]).contains(&Capability::Chown));
    }

    #[test]
    fn a_handlers_set_is_what_is_added_to_and_dropped_from() {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let handler =
            Handler { default_capabilities: Some(own(&["chown", "CAP_KILL"])), ..Handler::default() };
        let choice = Choice { available: everything(), ..Choice::of(&handler) };
        let security = ContainerSecurity {
            capabilities_add: own(&["NET_ADMIN"]),
            capabilities_drop: own(&["KILL"]),
            ..ContainerSecurity::default()
        };
        let set = effective(&security, &choice).expect("capabilities");
        assert_eq!(set, [Capability::Chown, Capability::NetAdmin].into());
    }

    #[test]
    fn every_name_is_known_and_no_other() {
        for capability in ALL {
            assert_eq!(
                with(&[&format!("CAP_{}", capability.to_string().trim_start_matches("CAP_"))], &["ALL"]),
                [capability].into()
            );
        }
        let security = ContainerSecurity {
            capabilities_add: vec!["CAP_FLY".to_owned()],
            ..ContainerSecurity::default()
        };
        assert!(matches!(effective(&security, &any()), Err(Error::Refused { .. })));
    }

    #[test]
    fn ambient_capabilities_are_all_or_those_named() {
        let ambient = |names: &[&str]| {
            let security = ContainerSecurity {
                capabilities_ambient: names.iter().map(|name| (*name).to_owned()).collect(),
                ..ContainerSecurity::default()
            };
            sets(&security, &any()).expect("capabilities").ambient().clone()
        };
        assert_eq!(ambient(&["ALL"]), Some(everything()));
        assert_eq!(ambient(&["NET_ADMIN"]), Some([Capability::NetAdmin].into()));
        // Rules of seccomp that depend on capabilities ask for the effective set.
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let security = ContainerSecurity {
            capabilities_drop: own(&["ALL", "SYS_ADMIN"]),
            capabilities_ambient: own(&["SYS_ADMIN"]),
            ..ContainerSecurity::default()
        };
        assert_eq!(effective(&security, &any()).expect("capabilities"), [Capability::SysAdmin].into());
    }

    #[test]
    fn nothing_is_given_that_this_process_lacks() {
        let available = from_status("Name:\tx\nCapBnd:\t0000000000000001\n");
        assert_eq!(available, [Capability::Chown].into());
        let security = ContainerSecurity { privileged: true, ..ContainerSecurity::default() };
        let choice = Choice { available: available.clone(), ..any() };
        assert_eq!(effective(&security, &choice).expect("capabilities"), available);
    }
}
