//! The crate's only `unsafe`: system calls that neither rustix nor nix offers safely, each behind a safe
//! function and each block with its proof.
//!
//! What lives here is one call deep. Decisions belong to the callers.

#![allow(unsafe_code, reason = "the one home of unsafe code in this project")]

mod alloc;
mod block;
mod bpf;
mod clone;
mod landlock;
mod mount;
mod network;
mod process;
mod program;
mod quota;
mod schedule;
mod signal;
mod verity;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub(crate) use alloc::give_back_stack;
pub use alloc::{allocate_frugally, give_back_memory};
pub(crate) use block::{LoopFlags, configure_loop_device, free_loop_device};
pub(crate) use bpf::{
    BpfInstruction, attach_device_program, attached_device_programs, bpf_program_name, detach_device_program,
    load_device_program, open_bpf_program,
};
pub(crate) use clone::{Child, CloneFlags, Cloned, clone_process};
pub(crate) use landlock::{Handled, landlock_allow, landlock_restrict, landlock_ruleset, landlock_version};
pub(crate) use mount::{
    AttributeBits, Reach, attribute_bits, change_propagation, map_ids, mount_id, set_attributes,
    set_propagation,
};
pub(crate) use network::bring_loopback_up;
pub use process::close_on_exec_above_stdio;
pub(crate) use process::{
    Awaited, close_all, close_all_but, close_inherited, exit_now, install_seccomp, reset_signal_dispositions,
    set_resource_limit, shed_in, wait_for_signal,
};
pub use program::give_back_program;
pub use quota::ProjectSpace;
pub(crate) use quota::{give_to_project, limit_project, project_of, project_usage, projects_are_bounded};
pub(crate) use schedule::{set_io_priority, set_personality, set_policy};
pub(crate) use signal::signal;
pub(crate) use verity::enable_verity;

/// Takes ownership of a descriptor that the kernel has just put into this process with a message.
pub(crate) fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: recvmsg(2) has installed this descriptor for the message that the caller holds, and nothing
    // else in the process knows its number. The callers take each number out of one message once.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
