//! The kernel's security modules.

use super::Subject;
use super::finding::{Finding, may};

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let security = &subject.config.security;
    let apparmor = may(
        "profiles asked for by name are refused",
        "boot with apparmor=1 security=apparmor and install apparmor (apparmor_parser), where pods need it",
    );
    let selinux = may(
        "labels asked for are refused",
        "boot with security=selinux and install a policy that knows containers (container-selinux), where pods need it",
    );
    vec![
        module(("AppArmor", security.apparmor, "security.apparmor"), sandbox::apparmor_of_host(), apparmor),
        module(("SELinux", security.selinux, "security.selinux"), sandbox::selinux_of_host(), selinux),
    ]
}

fn module(
    (what, is_wanted, key): (&'static str, bool, &'static str),
    host: Result<String, String>,
    lack: super::finding::Lack,
) -> Finding {
    match (is_wanted, host) {
        (false, Ok(seen)) => {
            let remedy = format!("set {key} = true");
            Finding::lacks(what, format!("{seen}, but {key} is false"), lack).remedied(remedy)
        }
        (_, host) => Finding::of(what, host, lack),
    }
}
