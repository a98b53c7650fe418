//! Compiled seccomp filters: their form in a plan, and the short list that stands for the runtime's default.
//!
//! Filters are classic BPF over `struct seccomp_data` (linux/seccomp.h). Installing one is `init`'s work.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A compiled filter and how to install it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompFilter {
    /// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
    #[serde(default)]
    pub flags: u32,
    /// The program, as one hexadecimal text of eight bytes an instruction in memory order of a little-endian
    /// machine.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub program: Vec<Instruction>,
}

/// One instruction of classic BPF (struct sock_filter).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of struct sock_filter")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_NOT_BELOW: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const ALLOW: u32 = 0x7fff_0000; // SECCOMP_RET_ALLOW
const KILL_PROCESS: u32 = 0x8000_0000; // SECCOMP_RET_KILL_PROCESS
const ERRNO: u32 = 0x0005_0000; // SECCOMP_RET_ERRNO

/// AUDIT_ARCH_* of linux/audit.h for the machine this is compiled for.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// System calls that no container needs and that have opened hosts before: keys that are not namespaced,
/// another kernel, kernel modules, the clock, swap, accounting, and whole-machine switches. What capabilities
/// already bar is barred once more, since an unprivileged user namespace hands capabilities out.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// The filter for `RuntimeDefault`: the machine's own system calls except [`DENIED`], which answer EPERM;
/// those of another instruction set end the process.
pub fn runtime_default() -> SeccompFilter {
    deny(DENIED)
}

/// A filter that lets every native system call pass but those listed, which answer EPERM.
pub fn deny(calls: &[libc::c_long]) -> SeccompFilter {
    let say = |code, k| Instruction { code, jt: 0, jf: 0, k };
    let mut program = vec![
        say(LOAD_WORD, 4), // seccomp_data.arch
        Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: NATIVE },
        say(RETURN, KILL_PROCESS),
        say(LOAD_WORD, 0), // seccomp_data.nr
    ];
    if cfg!(target_arch = "x86_64") {
        // x32 shares the architecture and would have its own numbers for the same calls.
        program.push(Instruction { code: JUMP_NOT_BELOW, jt: 0, jf: 1, k: 0x4000_0000 });
        program.push(say(RETURN, ERRNO | libc::ENOSYS.unsigned_abs()));
    }
    for call in calls {
        let Ok(number) = u32::try_from(*call) else { continue };
        program.push(Instruction { code: JUMP_EQUAL, jt: 0, jf: 1, k: number });
        program.push(say(RETURN, ERRNO | libc::EPERM.unsigned_abs()));
    }
    program.push(say(RETURN, ALLOW));
    SeccompFilter { flags: 0, program }
}

fn to_hex<S: Serializer>(program: &[Instruction], serializer: S) -> Result<S::Ok, S::Error> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(program.len() * 16);
    for instruction in program {
        let [c0, c1] = instruction.code.to_le_bytes();
        let [k0, k1, k2, k3] = instruction.k.to_le_bytes();
        for byte in [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3] {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    serializer.serialize_str(&text)
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Instruction>, D::Error> {
    use serde::de::Error;
    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
            _ => None,
        })
        .collect();
    let bytes = bytes.ok_or_else(|| D::Error::custom("a seccomp program is not hexadecimal"))?;
    bytes
        .chunks(8)
        .map(|chunk| match chunk {
            [c0, c1, jt, jf, k0, k1, k2, k3] => Ok(Instruction {
                code: u16::from_le_bytes([*c0, *c1]),
                jt: *jt,
                jf: *jf,
                k: u32::from_le_bytes([*k0, *k1, *k2, *k3]),
            }),
            _ => Err(D::Error::custom("a seccomp program ends within an instruction")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_survives_the_wire() {
        let filter = runtime_default();
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<SeccompFilter>(&text).unwrap(), filter);
        assert!(text.contains("2000000004000000"), "the first instruction loads the architecture: {text}");
    }

    #[test]
    fn a_broken_program_is_refused() {
        for program in ["2", "zz00000004000000", "200000000400"] {
            let text = format!("{{\"flags\":0,\"program\":\"{program}\"}}");
            assert!(serde_json::from_str::<SeccompFilter>(&text).is_err(), "{program}");
        }
    }
}
