//! The seccomp profile `RuntimeDefault`: an allow-list, compiled to classic BPF once for each set of capabilities that changes it.
//!
//! Calls that a capability guards answer EPERM without it; calls that this list doesn't know (newer than it, or of no use in a
//! container) answer ENOSYS, so that programs fall back to what they did before the call existed. Another instruction
//! set than the machine's own ends the process.
//!
//! Not here: the tables (`table`), the compiler (`bpf`), installing a filter (the runtime's init).

mod bpf;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, OnceLock, PoisonError};

use runtime::plan::SeccompFilter;
use runtime::spec::oci;
use runtime::spec::oci::Capability;

use crate::container::config::{ContainerSecurity, Profile};
use bpf::Rule;
use table::{ALLOWED, GUARDED};

/// The filter of a container; `None` for one that is unconfined.
pub(crate) fn filter(
    security: &ContainerSecurity,
    capabilities: &HashSet<Capability>,
) -> Option<SeccompFilter> {
    is_confined(security).then(|| cached(granted(capabilities)))
}

/// A word about it for those who read the specification.
pub(crate) fn described(security: &ContainerSecurity) -> Option<oci::LinuxSeccomp> {
    is_confined(security).then(|| {
        let mut seccomp = oci::LinuxSeccomp::default();
        seccomp
            .set_default_action(oci::LinuxSeccompAction::ScmpActErrno)
            .set_default_errno_ret(Some(libc::ENOSYS.unsigned_abs()));
        seccomp
    })
}

fn is_confined(security: &ContainerSecurity) -> bool {
    match (&security.seccomp, security.privileged) {
        (_, true) | (None | Some(Profile::Unconfined), false) => false,
        // Localhost is refused before a specification is made.
        (Some(Profile::RuntimeDefault | Profile::Localhost(_)), false) => true,
    }
}

/// Which of the table's guards are met, a bit each.
fn granted(capabilities: &HashSet<Capability>) -> u32 {
    let met = |guards: &[Capability]| guards.iter().any(|guard| capabilities.contains(guard));
    GUARDED.iter().enumerate().filter(|(_, (guards, _))| met(guards)).fold(0, |bits, (at, _)| bits | 1 << at)
}

fn cached(granted: u32) -> SeccompFilter {
    static COMPILED: OnceLock<Mutex<BTreeMap<u32, SeccompFilter>>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(Mutex::default);
    let mut compiled = compiled.lock().unwrap_or_else(PoisonError::into_inner);
    compiled.entry(granted).or_insert_with(|| bpf::compile(&rules(granted))).clone()
}

/// The rule of every call that has one.
fn rules(granted: u32) -> BTreeMap<u32, Rule> {
    let number = |call: &libc::c_long| u32::try_from(*call).ok();
    let mut rules = BTreeMap::new();
    for (at, (_, calls)) in GUARDED.iter().enumerate() {
        let is_granted = granted >> at & 1 == 1;
        for call in calls.iter().filter_map(number) {
            // A call with several guards is open when one of them is.
            if is_granted || !rules.contains_key(&call) {
                rules.insert(
                    call,
                    if is_granted { Rule::Allow } else { Rule::Refuse(libc::EPERM.unsigned_abs()) },
                );
            }
        }
    }
    rules.extend(ALLOWED.iter().filter_map(number).map(|call| (call, Rule::Allow)));
    let administrator = granted >> table::ADMINISTRATOR & 1 == 1;
    for (call, rule) in table::CONDITIONAL {
        let opened = administrator && *rule == Rule::NoNewNamespaces;
        if let Some(call) = number(call) {
            rules.insert(call, if opened { Rule::Allow } else { *rule });
        }
    }
    if !administrator && let Some(clone3) = number(&libc::SYS_clone3) {
        // Its flags are behind a pointer, where no filter can look: programs fall back to clone.
        rules.insert(clone3, Rule::Refuse(libc::ENOSYS.unsigned_abs()));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::bpf::tests::run;
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    fn verdict(capabilities: &[Capability], call: libc::c_long, argument: u64) -> u32 {
        let security =
            ContainerSecurity { seccomp: Some(Profile::RuntimeDefault), ..ContainerSecurity::default() };
        let filter = filter(&security, &capabilities.iter().copied().collect()).expect("a filter");
        run(&filter, u32::try_from(call).expect("a number"), argument)
    }

    #[test]
    fn ordinary_calls_pass_and_dangerous_ones_do_not() {
        for call in
            [libc::SYS_read, libc::SYS_openat2, libc::SYS_execve, libc::SYS_exit_group, libc::SYS_futex]
        {
            assert_eq!(verdict(&[], call, 0), ALLOW, "{call}");
        }
        for call in [libc::SYS_mount, libc::SYS_bpf, libc::SYS_setns, libc::SYS_init_module, libc::SYS_reboot]
        {
            assert_eq!(verdict(&[], call, 0), EPERM, "{call}");
        }
        for call in [libc::SYS_clone3, 9999, libc::SYS_io_uring_setup, libc::SYS_add_key] {
            assert_eq!(verdict(&[], call, 0), ENOSYS, "{call}");
        }
    }

    #[test]
    fn capabilities_open_what_they_guard() {
        assert_eq!(verdict(&[Capability::SysAdmin], libc::SYS_mount, 0), ALLOW);
        assert_eq!(verdict(&[Capability::SysAdmin], libc::SYS_clone3, 0), ALLOW);
        assert_eq!(verdict(&[Capability::SysBoot], libc::SYS_reboot, 0), ALLOW);
        assert_eq!(verdict(&[Capability::SysBoot], libc::SYS_mount, 0), EPERM);
        assert_eq!(verdict(&[Capability::Bpf], libc::SYS_bpf, 0), ALLOW, "one of two guards is enough");
    }

    #[test]
    fn new_namespaces_and_host_sockets_are_refused() {
        let newuser = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
        assert_eq!(verdict(&[], libc::SYS_clone, 17), ALLOW);
        assert_eq!(verdict(&[], libc::SYS_clone, newuser | 17), EPERM);
        assert_eq!(verdict(&[Capability::SysAdmin], libc::SYS_clone, newuser), ALLOW);
        for (family, expected) in
            [(libc::AF_INET, ALLOW), (libc::AF_UNIX, ALLOW), (libc::AF_ALG, EPERM), (libc::AF_VSOCK, EPERM)]
        {
            let family = u64::from(family.unsigned_abs());
            assert_eq!(verdict(&[], libc::SYS_socket, family), expected, "{family}");
            // The kernel takes the lower half of the argument alone.
            assert_eq!(
                verdict(&[], libc::SYS_socket, family | 1 << 32),
                expected,
                "{family} with dirt above"
            );
        }
        assert_eq!(verdict(&[], libc::SYS_personality, 0xffff_ffff), ALLOW);
        assert_eq!(verdict(&[], libc::SYS_personality, 0x0040_0000), EPERM);
    }

    #[test]
    fn privileged_and_unconfined_containers_have_no_filter() {
        let none = HashSet::new();
        assert!(filter(&ContainerSecurity::default(), &none).is_none());
        let privileged = ContainerSecurity {
            privileged: true,
            seccomp: Some(Profile::RuntimeDefault),
            ..ContainerSecurity::default()
        };
        assert!(filter(&privileged, &none).is_none());
    }
}
