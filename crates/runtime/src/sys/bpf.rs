//! Device programs of cgroups by bpf(2), with the structures of linux/bpf.h.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::clone::last_error;

/// Commands.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;

/// BPF_PROG_TYPE_CGROUP_DEVICE and BPF_CGROUP_DEVICE.
const DEVICE_PROGRAM: u32 = 15;
const AT_DEVICES: u32 = 6;

/// BPF_F_ALLOW_MULTI: beside programs of others; BPF_F_REPLACE: in place of one.
const BESIDE_OTHERS: u32 = 2;
const IN_PLACE: u32 = 4;

/// No function of the kernel is called that asks for another one.
const LICENCE: &std::ffi::CStr = c"Apache-2.0";

/// Programs that one cgroup can have for one purpose (BPF_CGROUP_MAX_PROGS of kernel/bpf/cgroup.c).
const MOST_PROGRAMS: usize = 64;

/// struct bpf_insn.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BpfInstruction {
    pub(crate) code: u8,
    /// Destination in the lower half, source in the upper.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) value: u32,
}

/// union bpf_attr, for one command each. None has padding: the kernel looks at all bytes.
#[repr(C)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// As long as in the newest kernels, which write to its end.
#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    unused: u32,
    others: [u64; 12],
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
struct Information {
    program: u32,
    length: u32,
    information: u64,
}

/// struct bpf_prog_info up to the name.
#[repr(C)]
struct ProgramInformation {
    others: [u64; 8],
    name: [u8; 16],
}

/// Makes the call and returns its answer.
///
/// # Safety
/// `attributes` is the command's structure, and each address in it is one of memory that the kernel may use as the
/// command says, for as long as the call lasts.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_int, Errno> {
    // SAFETY: the structure is exclusively borrowed and as long as is said; for the rest see above.
    let returned = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), std::mem::size_of::<T>())
    };
    if returned < 0 { Err(last_error()) } else { Ok(returned as libc::c_int) }
}

/// The same for commands that answer with a new descriptor.
///
/// # Safety
/// As for [`bpf`]; and the command is one of those.
unsafe fn bpf_descriptor<T>(command: libc::c_int, attributes: &mut T) -> Result<OwnedFd, Errno> {
    // SAFETY: as the caller says. The descriptor is new and nobody else's.
    unsafe { bpf(command, attributes).map(|raw| OwnedFd::from_raw_fd(raw)) }
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    // A descriptor that exists is not negative.
    descriptor.as_raw_fd().cast_unsigned()
}

/// An address as the structures have it.
fn address<T>(memory: *const T) -> u64 {
    memory.addr() as u64
}

/// Loads a device program. What the verifier says goes to `log`, if that has room, and ends with a zero.
pub(crate) fn load_device_program(
    name: &[u8],
    program: &[BpfInstruction],
    log: &mut [u8],
) -> Result<OwnedFd, Errno> {
    let mut attributes = Load {
        kind: DEVICE_PROGRAM,
        length: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: address(program.as_ptr()),
        licence: address(LICENCE.as_ptr()),
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).unwrap_or(u32::MAX),
        log: if log.is_empty() { 0 } else { address(log.as_mut_ptr()) },
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach_type: 0,
    };
    // The last byte stays zero.
    for (to, from) in attributes.name.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    // SAFETY: the instructions are read, as many as there are, and the licence up to its zero; the log is borrowed
    // exclusively and written for no more than its length.
    unsafe { bpf_descriptor(PROG_LOAD, &mut attributes) }
}

/// Attaches a program to a cgroup, in one step with the end of the one that it replaces.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attributes = Attach {
        target: number(cgroup),
        program: number(program),
        kind: AT_DEVICES,
        flags: BESIDE_OTHERS | if replaced.is_some() { IN_PLACE } else { 0 },
        replaced: replaced.map_or(0, number),
    };
    // SAFETY: no addresses.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Detaches a program from a cgroup.
pub(crate) fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes =
        Attach { target: number(cgroup), program: number(program), kind: AT_DEVICES, flags: 0, replaced: 0 };
    // SAFETY: no addresses.
    unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
}

/// The ids of the device programs attached to this very cgroup.
pub(crate) fn attached_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = vec![0_u32; MOST_PROGRAMS];
    let mut attributes = Query {
        target: number(cgroup),
        kind: AT_DEVICES,
        flags: 0,
        attach_flags: 0,
        ids: address(ids.as_mut_ptr()),
        count: MOST_PROGRAMS as u32,
        unused: 0,
        others: [0; 12],
    };
    // SAFETY: room for as many ids as is said, borrowed exclusively. What the kernel answers in the structure itself
    // is within it: it is longer than all of the kernel's.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

/// A program by its id.
pub(crate) fn open_bpf_program(id: u32) -> Result<OwnedFd, Errno> {
    let mut attributes = ById { id, next: 0, flags: 0 };
    // SAFETY: no addresses; the answer is a new descriptor.
    unsafe { bpf_descriptor(PROG_GET_FD_BY_ID, &mut attributes) }
}

/// What a program is called, with zeroes after it.
pub(crate) fn bpf_program_name(program: BorrowedFd<'_>) -> Result<[u8; 16], Errno> {
    let mut information = ProgramInformation { others: [0; 8], name: [0; 16] };
    let mut attributes = Information {
        program: number(program),
        length: std::mem::size_of::<ProgramInformation>() as u32,
        information: address(std::ptr::from_mut(&mut information)),
    };
    // SAFETY: the information is borrowed exclusively and as long as is said; the kernel takes the zeroes in it for
    // lengths of lists that it is not to write.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(information.name)
}
