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
//!
//! The loop waits for all this, so a look costs what the kin are many, and next to nothing for each of the container's other processes.

use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::{getpgid, getsid};
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
        let procs = cgroup.procs().unwrap_or_default();
        for one in kin((leader.pid, reach), listed((leader.pid, reach), procs)) {
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

/// Those of a cgroup's processes that may be kin, older ones first as far as numbers tell.
fn listed(wanted: (i32, Reach), mut procs: Vec<i32>) -> Vec<Kinship> {
    procs.sort_unstable();
    candidates(wanted, &procs).into_iter().filter_map(kinship).collect()
}

/// Who may be kin, of these processes in their order. One that was made meanwhile is for the next look.
fn candidates((leader, reach): (i32, Reach), procs: &[i32]) -> BTreeSet<i32> {
    let number = |pid: nix::Result<nix::unistd::Pid>| pid.map_or(0, nix::unistd::Pid::as_raw);
    let is_of_leader = |pid: &i32| {
        let pid = Some(nix::unistd::Pid::from_raw(*pid));
        [number(getsid(pid)), number(getpgid(pid))].contains(&leader)
    };
    let mut found: BTreeSet<i32> = procs.iter().copied().filter(is_of_leader).collect();
    if reach == Reach::Descendants {
        let mut parents: Vec<i32> = found.iter().copied().chain([leader]).collect();
        while let Some(parent) = parents.pop() {
            // A kernel that doesn't tell (CONFIG_PROC_CHILDREN) has everyone looked at.
            let Some(children) = children(parent) else { return procs.iter().copied().collect() };
            let of_container = |child: &i32| procs.binary_search(child).is_ok();
            parents.extend(children.into_iter().filter(of_container).filter(|child| found.insert(*child)));
        }
    }
    found
}

/// A process's children, of all its threads (proc_tid_children(5)).
fn children(pid: i32) -> Option<Vec<i32>> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Some(Vec::new()) };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match std::fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // It has ended, or there is no such file.
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(found)
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
#[path = "../../tests/common/patience.rs"]
mod patience;

#[cfg(test)]
mod tests {
    use super::patience::until;
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

    /// All of the host's processes.
    fn everyone() -> Vec<i32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    #[test]
    fn strangers_are_not_even_looked_at() {
        if children(1).is_none() {
            println!("skipped: this kernel doesn't tell whose children processes are");
            return;
        }
        let mut command = std::process::Command::new("setsid");
        // One of its session, and one that descends from it.
        let mut child = command.args(["sh", "-c", "sleep 1000 & setsid sleep 1000 & wait"]).spawn().unwrap();
        let leader = child.id().cast_signed();
        let found = |reach| listed((leader, reach), everyone());
        let relation = |one: &Kinship| (one.session == leader, one.parent == leader);
        until("its family is there", || {
            let (near, all) = (found(Reach::Session), found(Reach::Descendants));
            let relations: Vec<_> = all.iter().map(relation).collect();
            let is_there = near.len() == 2 && relations == [(true, false), (true, true), (false, true)];
            is_there.then_some(())
        });
        // It waits for them.
        for one in found(Reach::Descendants).into_iter().filter(|one| one.pid != leader) {
            signal(one, Signal::KILL);
        }
        child.wait().unwrap();
        assert_eq!(found(Reach::Descendants), []);
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
