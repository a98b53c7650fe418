//! How much a plugin may say at a time.
//!
//! A message within a message costs two bytes on the wire and hundreds in memory, so that the length of a message says little of
//! what it costs to read. Here those are counted without reading them: the names of the table are the messages of `nri.proto`. Pure.
//!
//! Not here: the length of a message (see `ttrpc`).

/// The most messages within one message: eight times the updates of a node with 1,000 containers, each with some entries of lists.
const MOST: usize = 16 << 10;

/// The messages that may have others in them, by what of them is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Answers to CreateContainer.
    Created,
    /// Answers to Synchronize, UpdateContainer and StopContainer, and calls of UpdateContainers: their fields with updates and evictions have
    /// the same numbers.
    Updated,
    Update,
    UpdateOfLinux,
    Adjustment,
    Hooks,
    Linux,
    Limits,
    Seccomp,
    Syscall,
    /// Nothing is within it, or little.
    Leaf,
}

/// What a field is, of those that are messages, and whether there may be several of it.
fn field(of: Kind, number: u64) -> Option<Kind> {
    match (of, number) {
        (Kind::Created, 1) => Some(Kind::Adjustment),
        (Kind::Created, 2) | (Kind::Updated, 1) => Some(Kind::Update),
        (Kind::Created, 3) | (Kind::Updated, 2) => Some(Kind::Leaf),
        (Kind::Update, 2) => Some(Kind::UpdateOfLinux),
        (Kind::UpdateOfLinux, 1) | (Kind::Linux, 2) => Some(Kind::Limits),
        (Kind::Adjustment, 5) => Some(Kind::Hooks),
        (Kind::Adjustment, 6) => Some(Kind::Linux),
        (Kind::Adjustment, 2..=8) | (Kind::Hooks, _) | (Kind::Linux, 1 | 7..=9) => Some(Kind::Leaf),
        (Kind::Linux, 6) => Some(Kind::Seccomp),
        (Kind::Limits, 3 | 6 | 7) => Some(Kind::Leaf),
        (Kind::Seccomp, 7) => Some(Kind::Syscall),
        (Kind::Syscall, 4) => Some(Kind::Leaf),
        _ => None,
    }
}

/// Checks a message of a plugin's: its answer to a method, or its call of one.
///
/// # Errors
/// That it has too many parts. What is no message at all is nobody's matter here.
pub(crate) fn check(method: &str, message: &[u8]) -> Result<(), String> {
    let kind = match method {
        "CreateContainer" => Kind::Created,
        "Synchronize" | "UpdateContainer" | "UpdateContainers" | "StopContainer" => Kind::Updated,
        _ => Kind::Leaf,
    };
    let mut left = MOST;
    match count(kind, message, &mut left) {
        Err(Stop::TooMany) => Err(format!("a message of more than {MOST} parts")),
        Err(Stop::Group) => Err("a message with groups, which no version of the interface has".to_owned()),
        Ok(()) | Err(Stop::Unreadable) => Ok(()),
    }
}

enum Stop {
    TooMany,
    /// A reader passes it over, whatever is in it, and reads on.
    Group,
    Unreadable,
}

/// Counts down what is within a message.
fn count(kind: Kind, mut rest: &[u8], left: &mut usize) -> Result<(), Stop> {
    while !rest.is_empty() {
        let tag = number(&mut rest)?;
        let length = match tag & 7 {
            0 => number(&mut rest).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(number(&mut rest)?).map_err(|_| Stop::Unreadable)?,
            3 | 4 => return Err(Stop::Group),
            5 => 4,
            _ => return Err(Stop::Unreadable),
        };
        let body = rest.get(..length).ok_or(Stop::Unreadable)?;
        rest = &rest[length..];
        if let Some(within) = field(kind, tag >> 3).filter(|_| tag & 7 == 2) {
            *left = left.checked_sub(1).ok_or(Stop::TooMany)?;
            count(within, body, left)?;
        }
    }
    Ok(())
}

/// A number of variable length.
fn number(bytes: &mut &[u8]) -> Result<u64, Stop> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(Stop::Unreadable)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Stop::Unreadable)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::api::{self, *};

    fn limits(entries: usize) -> Option<LinuxResources> {
        let unified = (0..entries).map(|file| (file.to_string(), "1".to_owned())).collect();
        Some(LinuxResources { unified, ..LinuxResources::default() })
    }

    #[test]
    fn updates_are_counted_with_what_is_in_them() {
        let update = ContainerUpdate { container_id: "c".into(), ..ContainerUpdate::default() };
        let many = |updates| UpdateContainersRequest { update: vec![update.clone(); updates], evict: vec![] };
        check("UpdateContainers", &many(MOST).encode_to_vec()).unwrap();
        let why = check("UpdateContainers", &many(MOST + 1).encode_to_vec()).unwrap_err();
        assert_eq!(why, "a message of more than 16384 parts");
        let linux = Some(LinuxContainerUpdate { resources: limits(MOST) });
        let one = UpdateContainerResponse {
            update: vec![ContainerUpdate { linux, ..ContainerUpdate::default() }],
            evict: vec![],
        };
        assert!(check("UpdateContainer", &one.encode_to_vec()).is_err());
        let empty = [0x0a, 0].repeat(MOST + 1);
        assert!(check("Synchronize", &empty).is_err(), "two bytes each");
    }

    #[test]
    fn every_list_of_an_adjustment_is_counted() {
        let entry = |number: usize| KeyValue { key: number.to_string(), ..KeyValue::default() };
        let answer = |adjust| CreateContainerResponse { adjust: Some(adjust), ..Default::default() };
        let of_linux = |linux| ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() };
        let adjustments: [ContainerAdjustment; 8] = [
            ContainerAdjustment { env: (0..MOST).map(entry).collect(), ..Default::default() },
            ContainerAdjustment { mounts: vec![Mount::default(); MOST], ..Default::default() },
            ContainerAdjustment {
                annotations: (0..MOST).map(|key| (key.to_string(), String::new())).collect(),
                ..Default::default()
            },
            ContainerAdjustment {
                hooks: Some(Hooks { poststop: vec![Hook::default(); MOST], ..Hooks::default() }),
                ..Default::default()
            },
            of_linux(LinuxContainerAdjustment {
                devices: vec![LinuxDevice::default(); MOST],
                ..Default::default()
            }),
            of_linux(LinuxContainerAdjustment { resources: limits(MOST), ..Default::default() }),
            of_linux(LinuxContainerAdjustment {
                seccomp_policy: Some(LinuxSeccomp {
                    syscalls: vec![LinuxSyscall::default(); MOST],
                    ..Default::default()
                }),
                ..Default::default()
            }),
            of_linux(LinuxContainerAdjustment {
                namespaces: vec![LinuxNamespace::default(); MOST],
                ..Default::default()
            }),
        ];
        for adjust in adjustments {
            assert!(check("CreateContainer", &answer(adjust.clone()).encode_to_vec()).is_err(), "{adjust:?}");
        }
        let args = ContainerAdjustment { args: vec!["x".into(); 2 * MOST], ..Default::default() };
        check("CreateContainer", &answer(args).encode_to_vec()).unwrap();
        // Where there are only words they are not taken for more.
        let word = RegisterPluginRequest { plugin_name: "{|".repeat(MOST), ..Default::default() };
        check("RegisterPlugin", &word.encode_to_vec()).unwrap();
    }

    #[test]
    fn nothing_is_hidden_behind_a_group() {
        let hidden = [&[0x7b, 0x7c][..], &[0x0a, 0].repeat(MOST + 1)].concat();
        assert_eq!(api::SynchronizeResponse::decode(&hidden[..]).unwrap().update.len(), MOST + 1);
        assert!(check("Synchronize", &hidden).unwrap_err().contains("groups"));
    }

    #[test]
    fn what_is_no_message_is_left_to_who_reads_it() {
        for nonsense in [&[0xff][..], &[0x0a, 5, 1], &[0x0e], &[0xff; 20]] {
            check("Synchronize", nonsense).unwrap();
            assert!(api::SynchronizeResponse::decode(nonsense).is_err());
        }
    }
}
