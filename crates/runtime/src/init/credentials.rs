//! Who the process is and what it may do: user, capabilities, filter, labels.
//!
//! The order matters. The bounding set shrinks while CAP_SETPCAP is there; the user changes while
//! capabilities are kept; the filter comes last of all, with no_new_privs or with CAP_SYS_ADMIN kept for it.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities as set_sets,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::handles::Procfs;
use crate::plan::ProcessPlan;
use crate::{FailedStep, Failure, sys};

fn failed(errno: Errno) -> Failure {
    Failure::system(FailedStep::Capabilities, errno, "")
}

fn each(mask: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|number| 1 << number)
        .filter(move |bit| mask & bit != 0)
        .map(CapabilitySet::from_bits_retain)
}

/// Takes away for good what the plan doesn't have; capabilities newer than this program too.
pub(super) fn drop_bounding(plan: &ProcessPlan) -> Result<(), Failure> {
    for capability in each(!plan.capabilities.bounding) {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel's last capability has been passed.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// Becomes root of the user namespace that the process has come into, as nobody whom the host knows.
pub(crate) fn become_root() -> Result<(), Failure> {
    let named = |errno| Failure::system(FailedStep::User, errno, "root of the user namespace");
    set_thread_groups(&[]).map_err(named)?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(named)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(named)
}

/// Changes to the plan's user and groups, with every capability still there.
pub(super) fn change_user(plan: &ProcessPlan) -> Result<(), Failure> {
    let named = |subject: String| move |errno| Failure::system(FailedStep::User, errno, subject.clone());
    let groups: Vec<Gid> = plan.additional_gids.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups).map_err(named("groups".to_owned()))?;
    let gid = Gid::from_raw(plan.gid);
    set_thread_res_gid(gid, gid, gid).map_err(named(format!("group {}", plan.gid)))?;
    set_keep_capabilities(true).map_err(failed)?;
    let uid = Uid::from_raw(plan.uid);
    set_thread_res_uid(uid, uid, uid).map_err(named(format!("user {}", plan.uid)))?;
    set_keep_capabilities(false).map_err(failed)?;
    // The change has emptied the effective set; what was kept is needed once more.
    let held = capabilities(None).map_err(failed)?;
    let raised = CapabilitySets { effective: held.permitted, ..held };
    set_sets(None, raised).map_err(failed)
}

/// Sets the process's own sets. What the runtime itself lacks, it cannot give: a privileged container has
/// what the host's administrator has.
///
/// Installing a filter without no_new_privs takes CAP_SYS_ADMIN, which is kept for that. execve(2) takes it away: what
/// is permitted after it comes from the bounding, inheritable and ambient sets and the file, never from what was
/// permitted before (capabilities(7)).
pub(super) fn set_capabilities(plan: &ProcessPlan) -> Result<(), Failure> {
    let held = capabilities(None).map_err(failed)?.permitted.bits();
    let wanted = plan.capabilities;
    let ambient = wanted.ambient & held;
    let for_filter = match (&plan.seccomp, plan.no_new_privileges) {
        (Some(_), false) => CapabilitySet::SYS_ADMIN.bits() & held,
        (None, _) | (Some(_), true) => 0,
    };
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(wanted.effective & held | for_filter),
        permitted: CapabilitySet::from_bits_retain(wanted.permitted & held | for_filter),
        // The kernel wants what is ambient to be inheritable; nothing else is (CVE-2022-24769).
        inheritable: CapabilitySet::from_bits_retain(ambient),
    };
    clear_ambient_capability_set().map_err(failed)?;
    set_sets(None, sets).map_err(failed)?;
    each(ambient)
        .try_for_each(|capability| configure_capability_in_ambient_set(capability, true))
        .map_err(failed)
}

pub(super) fn give_up_privileges_by_exec(plan: &ProcessPlan) -> Result<(), Failure> {
    if !plan.no_new_privileges {
        return Ok(());
    }
    set_no_new_privs(true).map_err(|errno| Failure::system(FailedStep::Capabilities, errno, "no_new_privs"))
}

pub(super) fn install_filter(plan: &ProcessPlan) -> Result<(), Failure> {
    match &plan.seccomp {
        Some(filter) => {
            sys::install_seccomp(filter).map_err(|errno| Failure::system(FailedStep::Seccomp, errno, ""))
        }
        None => Ok(()),
    }
}

/// Has the next execve(2) change the security labels, through the host's procfs.
///
/// Before no_new_privs: AppArmor lets go of the unconfined under it, and the other way round nothing would be left to choose. A profile that the
/// kernel doesn't have is an error here; a transition that the runtime's own confinement forbids is one of execve(2).
pub(super) fn label(procfs: &Procfs, plan: &ProcessPlan) -> Result<(), Failure> {
    let failed = |subject: &str| {
        let subject = subject.to_owned();
        move |errno| Failure::system(FailedStep::SecurityLabel, errno, subject.clone())
    };
    if let Some(profile) = &plan.apparmor {
        // Kernels since 5.8 have a directory for each security module, older ones one file for all.
        let own = procfs.has("self/attr/apparmor").map_err(failed(profile))?;
        let file = if own { "self/attr/apparmor/exec" } else { "self/attr/exec" };
        procfs.write(file, format!("exec {profile}").as_bytes()).map_err(failed(profile))?;
    }
    match &plan.selinux {
        Some(label) => procfs.write("self/attr/exec", label.as_bytes()).map_err(failed(label)),
        None => Ok(()),
    }
}
