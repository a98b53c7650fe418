//! Compiled seccomp filters: their form in a plan.
//!
//! Filters are classic BPF over `struct seccomp_data` (linux/seccomp.h). Which one a container gets, and compiling
//! it, is the caller's work; installing it is `init`'s.

use std::sync::Arc;

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
    pub program: Arc<[Instruction]>,
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

fn to_hex<S: Serializer>(program: &Arc<[Instruction]>, serializer: S) -> Result<S::Ok, S::Error> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(program.len() * 16);
    for instruction in program.iter() {
        let [c0, c1] = instruction.code.to_le_bytes();
        let [k0, k1, k2, k3] = instruction.k.to_le_bytes();
        for byte in [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3] {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    serializer.serialize_str(&text)
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[Instruction]>, D::Error> {
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
        let load = Instruction { code: 0x20, jt: 0, jf: 0, k: 4 };
        let jump = Instruction { code: 0x15, jt: 1, jf: 255, k: 0xc000_003e };
        let filter = SeccompFilter { flags: 2, program: [load, jump].into() };
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(text, r#"{"flags":2,"program":"2000000004000000150001ff3e0000c0"}"#);
        assert_eq!(serde_json::from_str::<SeccompFilter>(&text).unwrap(), filter);
    }

    #[test]
    fn a_broken_program_is_refused() {
        for program in ["2", "zz00000004000000", "200000000400"] {
            let text = format!("{{\"flags\":0,\"program\":\"{program}\"}}");
            assert!(serde_json::from_str::<SeccompFilter>(&text).is_err(), "{program}");
        }
    }
}
