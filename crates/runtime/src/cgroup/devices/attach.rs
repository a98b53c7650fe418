//! Device programs at cgroups of version 2: loaded, attached, replaced, detached (bpf(2)).
//!
//! The cgroup keeps its program alive and takes it along when it is removed: no descriptor stays. Programs of others
//! (systemd's at a unit, a parent's) are left as they are: all of them must allow what is done.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::{Rule, program};
use crate::Error;
use crate::cgroup::files::error;
use crate::sys::{self, BpfInstruction};

/// What our programs are called, by which they are found again. At most 15 bytes.
const NAME: &[u8] = b"knarr_devices";
/// Room for what the verifier has to say about a program that it refuses.
const LOG: usize = 256 << 10;
/// The verifier's reason stands at the end of what it says.
const LOG_SHOWN: usize = 400;
/// How often a load is tried that signals interrupt.
const ATTEMPTS: usize = 8;

/// Has a cgroup obey a list, in one step, whatever it obeyed before.
pub(super) fn apply(directory: &Path, rules: &[Rule]) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup = openat(CWD, directory, flags, Mode::empty())
        .map_err(|errno| error("open cgroup", directory, errno))?;
    let failed = |operation, errno| error(operation, directory, errno);
    let Some(program) = program::compile(rules) else {
        // Who may not ask has attached nothing.
        let Ok(Some(old)) = find(&cgroup) else { return Ok(()) };
        return sys::detach_device_program(cgroup.as_fd(), old.as_fd())
            .map_err(|errno| failed("detach the device program of cgroup", errno));
    };
    let new = load(directory, &program)?;
    let old = find(&cgroup).map_err(|errno| failed("list the device programs of cgroup", errno))?;
    sys::attach_device_program(cgroup.as_fd(), new.as_fd(), old.as_ref().map(AsFd::as_fd))
        .map_err(|errno| failed("attach a device program to cgroup", errno))
}

/// Whether the kernel takes a program at all.
pub(super) fn attempt(mount: &Path) -> Result<(), Error> {
    let nothing = Rule {
        verdict: super::Verdict::Deny,
        kind: super::Kind::Both,
        major: None,
        minor: None,
        access: super::EVERY_ACCESS,
    };
    match program::compile(&[nothing]) {
        Some(program) => load(mount, &program).map(drop),
        None => Ok(()),
    }
}

/// The program of ours that is attached to a cgroup.
fn find(cgroup: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    for id in sys::attached_device_programs(cgroup.as_fd())? {
        let program = match sys::open_bpf_program(id) {
            Ok(program) => program,
            // Detached and gone meanwhile.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        if sys::bpf_program_name(program.as_fd())?.starts_with(NAME) {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

fn load(directory: &Path, program: &[BpfInstruction]) -> Result<OwnedFd, Error> {
    let errno = match try_load(program, &mut []) {
        Ok(loaded) => return Ok(loaded),
        Err(errno) => errno,
    };
    let why = match errno {
        Errno::PERM => "it takes CAP_SYS_ADMIN, or CAP_BPF with CAP_NET_ADMIN".to_owned(),
        Errno::NOSYS => "the kernel has no BPF".to_owned(),
        Errno::TOOBIG => format!("{} instructions are too many", program.len()),
        _ => match verifier_log(program) {
            log if log.is_empty() => "the kernel has no device programs for cgroups".to_owned(),
            log => format!("the verifier says {log:?}"),
        },
    };
    Err(Error::DeviceProgram { path: directory.to_owned(), why, source: errno.into() })
}

/// Loads again what was refused, to hear why.
fn verifier_log(program: &[BpfInstruction]) -> String {
    let mut log = vec![0; LOG];
    let _refused_again = try_load(program, &mut log);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let from = text.char_indices().rev().nth(LOG_SHOWN).map_or(0, |(at, _)| at);
    text.get(from..).unwrap_or_default().trim().to_owned()
}

fn try_load(program: &[BpfInstruction], log: &mut [u8]) -> Result<OwnedFd, Errno> {
    let mut result = Err(Errno::AGAIN);
    for _ in 0..ATTEMPTS {
        result = sys::load_device_program(NAME, program, log);
        // The verifier gives up for a pending signal.
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_verifier_refuses_is_told_in_its_words() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: programs need root");
            return;
        }
        // Ends without an answer in register 0.
        let bad = [BpfInstruction { code: 0x95, registers: 0, offset: 0, value: 0 }];
        let error = load(Path::new("/c"), &bad).unwrap_err();
        assert!(error.to_string().contains("R0 !read_ok"), "{error}");
    }
}
