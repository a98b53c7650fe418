//! The default profile.

use std::collections::HashSet;

use runtime::spec::oci::Capability;

use super::super::table::{ALLOWED, CONDITIONAL, GUARDED};
use super::super::{confinement, default_profile, describe, granted};
use super::machine::{Call, assert_valid, run};
use crate::container::config::{ContainerSecurity, Profile as Wish};
use crate::handler::UnsetSeccomp;
use runtime::seccomp::architecture::{Architecture, X32_BIT};
use runtime::seccomp::profile::{Profile, Verdict};
use runtime::seccomp::{bpf, parse, resolve};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0x8000_0000;

fn verdict(capabilities: &[Capability], call: libc::c_long, argument: u64) -> u32 {
    let call = Call {
        number: u32::try_from(call).unwrap(),
        audit: Architecture::NATIVE.audit(),
        arguments: [argument, 0, 0, 0, 0, 0],
    };
    said(capabilities, &call)
}

fn said(capabilities: &[Capability], call: &Call) -> u32 {
    let security = ContainerSecurity { seccomp: Some(Wish::RuntimeDefault), ..ContainerSecurity::default() };
    let confinement =
        confinement(&security, UnsetSeccomp::Unconfined, &capabilities.iter().copied().collect());
    let confinement = confinement.unwrap().unwrap();
    assert_valid(&confinement.filter.program);
    run(&confinement.filter.program, call)
}

#[test]
fn ordinary_calls_pass_and_dangerous_ones_do_not() {
    for call in [libc::SYS_read, libc::SYS_openat2, libc::SYS_execve, libc::SYS_exit_group, libc::SYS_futex] {
        assert_eq!(verdict(&[], call, 0), ALLOW, "{call}");
    }
    for call in [
        libc::SYS_mount,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_init_module,
        libc::SYS_reboot,
        libc::SYS_open_by_handle_at,
        libc::SYS_pidfd_getfd,
        libc::SYS_syslog,
    ] {
        assert_eq!(verdict(&[], call, 0), EPERM, "{call}");
    }
    for call in [
        libc::SYS_clone3,
        9999,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_userfaultfd,
        libc::SYS_add_key,
        libc::SYS_keyctl,
        libc::SYS_kexec_file_load,
        libc::SYS_lookup_dcookie,
        libc::SYS_nfsservctl,
    ] {
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
    assert_eq!(verdict(&[], libc::SYS_clone, 17), ALLOW);
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ] {
        let flag = u64::from(flag.unsigned_abs());
        assert_eq!(verdict(&[], libc::SYS_clone, flag | 17), EPERM);
        assert_eq!(verdict(&[Capability::SysAdmin], libc::SYS_clone, flag), ALLOW);
    }
    for (family, expected) in [
        (libc::AF_INET, ALLOW),
        (libc::AF_UNIX, ALLOW),
        (39, ALLOW),
        (libc::AF_ALG, EPERM),
        (libc::AF_VSOCK, EPERM),
    ] {
        let family = u64::from(family.unsigned_abs());
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            assert_eq!(verdict(&[], call, family), expected, "{family}");
            assert_eq!(verdict(&[Capability::SysAdmin], call, family), expected, "{family}");
            // The kernel takes the lower half of the argument alone.
            assert_eq!(verdict(&[], call, family | 1 << 32), expected, "{family} with dirt above");
        }
    }
    for harmless in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(verdict(&[], libc::SYS_personality, harmless), ALLOW);
    }
    for harmful in [0x0040_0000, 0x0004_0000, 1, 0xffff_fffe] {
        assert_eq!(verdict(&[], libc::SYS_personality, harmful), EPERM);
    }
}

#[test]
fn other_instruction_sets_end_the_process() {
    let call = |audit, number| Call { number, audit, arguments: [0; 6] };
    for foreign in [Architecture::X86, Architecture::Arm, Architecture::Aarch64, Architecture::X86_64] {
        if foreign != Architecture::NATIVE {
            assert_eq!(said(&[], &call(foreign.audit(), 1)), KILL, "{foreign:?}");
        }
    }
    if Architecture::NATIVE == Architecture::X86_64 {
        // x32's read would be a read.
        assert_eq!(said(&[], &call(Architecture::X32.audit(), X32_BIT)), KILL);
    }
    assert_eq!(said(&[], &call(Architecture::NATIVE.audit(), u32::MAX)), ENOSYS, "cancelled by a tracer");
}

#[test]
fn every_machine_of_ours_has_the_profile() {
    for machine in [Architecture::X86_64, Architecture::Aarch64] {
        let sections = resolve::sections(&default_profile(0), machine);
        let program = bpf::compile(&sections).unwrap();
        assert_valid(&program);
        // It is sent with every start, and the kernel translates it anew each time.

        assert!(program.len() < 512, "{} instructions", program.len());
        let call = |name: &str, argument| Call {
            number: machine.numbers(name)[0],
            audit: machine.audit(),
            arguments: [argument, 0, 0, 0, 0, 0],
        };
        for (name, argument, expected) in [
            ("openat", 0, ALLOW),
            ("mount", 0, EPERM),
            ("socket", 38, EPERM),
            ("socket", 2, ALLOW),
            ("clone", 0x1000_0000, EPERM),
            ("io_uring_setup", 0, ENOSYS),
        ] {
            assert_eq!(run(&program, &call(name, argument)), expected, "{machine:?} {name}");
        }
    }
}

#[test]
fn the_default_profile_is_safe_where_32_bit_calls_are_let_in() {
    let profile = Profile { architectures: vec![Architecture::X86], ..default_profile(0) };
    let program = bpf::compile(&resolve::sections(&profile, Architecture::X86_64)).unwrap();
    assert_valid(&program);
    let socketcall = |which| {
        run(
            &program,
            &Call { number: 102, audit: Architecture::X86.audit(), arguments: [which, 0, 0, 0, 0, 0] },
        )
    };
    // Which family is asked for stands behind a pointer.
    assert_eq!(socketcall(1), EPERM, "socket");
    assert_eq!(socketcall(3), ALLOW, "connect");
}

#[test]
fn every_name_in_the_table_is_one() {
    let all = [Architecture::X86_64, Architecture::X86, Architecture::Aarch64, Architecture::Arm];
    let named = GUARDED.iter().flat_map(|(_, names)| names.iter());
    let mut seen = HashSet::new();
    for name in named.chain(ALLOWED).copied().chain(CONDITIONAL.iter().map(|call| call.name)) {
        assert!(all.iter().any(|architecture| !architecture.numbers(name).is_empty()), "{name}");
        assert!(seen.insert(name), "{name} stands there twice");
    }
    assert_eq!(default_profile(0).default, Verdict::errno(38));
    assert_eq!(granted(&HashSet::new()), 0);
}

#[test]
fn privileged_and_unconfined_containers_have_no_filter() {
    let none = HashSet::new();
    let unset = |choice| confinement(&ContainerSecurity::default(), choice, &none).unwrap();
    assert!(unset(UnsetSeccomp::Unconfined).is_none());
    assert!(unset(UnsetSeccomp::RuntimeDefault).is_some(), "a handler may say so");
    for profile in [Wish::RuntimeDefault, Wish::Localhost("/no/such/profile".to_owned())] {
        let security =
            ContainerSecurity { privileged: true, seccomp: Some(profile), ..ContainerSecurity::default() };
        assert!(confinement(&security, UnsetSeccomp::RuntimeDefault, &none).unwrap().is_none());
    }
}

#[test]
fn other_runtimes_are_told_the_same_without_exceptions() {
    let described = describe::explicit(&default_profile(0));
    let text = serde_json::to_string(&described).unwrap();
    let around = parse::Surroundings { capabilities: 0, machine: Architecture::NATIVE, kernel: (6, 0) };
    let read = parse::parse(text.as_bytes(), &around).unwrap();
    assert!(read.exceptions.is_empty());
    let program = bpf::compile(&resolve::sections(&read, Architecture::NATIVE)).unwrap();
    let arguments =
        [0, 1, 8, 38, 39, 40, 41, 0x2_0008, 0xffff_ffff, 38 | 1 << 40, 0x1000_0000, 0x2_0000, u64::MAX];
    for call in
        [libc::SYS_clone, libc::SYS_personality, libc::SYS_socket, libc::SYS_socketpair, libc::SYS_read]
    {
        for argument in arguments {
            let call = Call {
                number: u32::try_from(call).unwrap(),
                audit: Architecture::NATIVE.audit(),
                arguments: [argument, 0, 0, 0, 0, 0],
            };
            assert_eq!(run(&program, &call), said(&[], &call), "{call:?}");
        }
    }
}
