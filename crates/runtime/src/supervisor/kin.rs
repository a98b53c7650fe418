//! Killing a process that joined a container with what it has started.
//!
//! | why | what goes |
//! |---|---|
//! | its time is over | its process group, its session (the jobs of a shell in a terminal have groups of their own), and every process that descends from it, also in sessions of their own |
//! | whoever it was run for is gone | its process group and its session, as when a terminal hangs up, but for sure: what was put into a session of its own (`setsid`) was meant to stay |
//!
//! Who has left all of these before, by a parent that has ended, has been made a daemon on purpose, and is the container's from then on: it
//! ends with that.
//!
//! What is found is stopped before its children are looked for, so that nothing forks away meanwhile.

use std::collections::BTreeMap;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::Process;
use crate::cgroup::Cgroup;

/// How often processes are looked for that were not there before. A stopped process makes none, so that a second look finds nothing new
/// unless somebody else lets them go on.
const ROUNDS: usize = 8;

/// Which processes go with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those of its session and process group.
    Session,
    /// Those, and all that descend from one of them.
    Descendants,
}

/// How a process is related to others, as of proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kinship {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    /// With the number an identity that is not reused.
    start_time: u64,
}

/// Kills the leader of a session, which has not been waited for, and its kin in a cgroup.
pub(super) fn kill(leader: &Process, cgroup: &Cgroup, reach: Reach) {
    let _ended = pidfd_send_signal(&leader.pidfd, Signal::STOP);
    let mut found = BTreeMap::new();
    for _ in 0..ROUNDS {
        let known = found.len();
        for one in kin((leader.pid, reach), listed(cgroup)) {
            if !found.contains_key(&one.pid) && signal(one, Signal::STOP) {
                found.insert(one.pid, one);
            }
        }
        if found.len() == known {
            break;
        }
    }
    for one in found.into_values() {
        signal(one, Signal::KILL);
    }
    // Where the cgroup can't be read, what is of its group goes all the same.
    let _none = leader.signal_group(super::exec::KILL);
    leader.kill();
}

/// All processes of a cgroup, older ones first as far as numbers tell.
fn listed(cgroup: &Cgroup) -> Vec<Kinship> {
    let mut listed: Vec<Kinship> =
        cgroup.procs().unwrap_or_default().into_iter().filter_map(kinship).collect();
    listed.sort_unstable_by_key(|one| one.pid);
    listed
}

/// Signals a process, unless its number has come to mean another one. Whether it was there.
fn signal(one: Kinship, signal: Signal) -> bool {
    let Some(Ok(pidfd)) = Pid::from_raw(one.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return false;
    };
    // The descriptor first, the check after it: now it cannot become another process.
    kinship(one.pid).is_some_and(|now| now.start_time == one.start_time)
        && pidfd_send_signal(&pidfd, signal).is_ok()
}

/// Those of the leader's group and session, and if wanted the descendants of all of them, the leader left out.
fn kin((leader, reach): (i32, Reach), mut listed: Vec<Kinship>) -> Vec<Kinship> {
    let mut found: BTreeMap<i32, Kinship> = BTreeMap::new();
    loop {
        let before = found.len();
        // A parent's number is nearly always the smaller one, so that one pass finds nearly all.
        listed.retain(|one| {
            let descends = one.parent == leader || found.contains_key(&one.parent);
            let is_kin =
                [one.session, one.group].contains(&leader) || (reach == Reach::Descendants && descends);
            if is_kin && one.pid != leader {
                found.insert(one.pid, *one);
            }
            !is_kin
        });
        if found.len() == before {
            return found.into_values().collect();
        }
    }
}

fn kinship(pid: i32) -> Option<Kinship> {
    read(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, so counting starts after the last of them: state, parent, group, session, and the
/// time of the start as the 22nd of all.
fn read(pid: i32, stat: &[u8]) -> Option<Kinship> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = String::from_utf8_lossy(&stat[after_name..]);
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    let start_time = fields.nth(22 - 7)?.parse().ok()?;
    Some(Kinship { pid, parent, group, session, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, group: i32, session: i32) -> Kinship {
        Kinship { pid, parent, group, session, start_time: 1 }
    }

    #[test]
    fn kin_is_who_is_in_the_session_or_descends() {
        let mut listed = vec![
            process(1, 0, 1, 1),
            process(10, 1, 10, 10),
            // A job of its own, a child of it in another session, and that one's child.
            process(11, 10, 11, 10),
            process(12, 11, 12, 12),
            process(13, 12, 12, 12),
            // An orphan that stayed in the session, and one that did not.
            process(14, 1, 14, 10),
            process(15, 1, 15, 15),
            process(20, 1, 20, 20),
        ];
        for _ in 0..2 {
            let found =
                |reach| kin((10, reach), listed.clone()).iter().map(|one| one.pid).collect::<Vec<_>>();
            assert_eq!(found(Reach::Descendants), [11, 12, 13, 14]);
            assert_eq!(found(Reach::Session), [11, 14]);
            listed.reverse();
        }
        assert!(kin((20, Reach::Descendants), listed).is_empty());
    }

    #[test]
    fn a_name_is_passed_over() {
        let read = |stat: &str| read(5, stat.as_bytes());
        let rest = "0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 77 99";
        let wanted = Kinship { start_time: 77, ..process(5, 1, 2, 3) };
        assert_eq!(read(&format!("5 (a) b) S 1 2 3 {rest}")), Some(wanted));
        assert_eq!(read("5 (a"), None);
        assert_eq!(read("5 (a) S 1 2 3"), None);
        let own = std::process::id().cast_signed();
        let start_time = crate::container::start_time(own).unwrap();
        assert!(kinship(own).is_some_and(|kinship| kinship.parent > 0 && kinship.start_time == start_time));
    }
}
