//! Propagation of mounts: what a container mounts into a volume that is to be shared reaches the host only from shared mounts.

use std::path::Path;

use super::finding::{Finding, may};
use super::{Subject, kubelet, read};

pub(super) fn look(_: &Subject<'_>) -> Vec<Finding> {
    let Ok(table) = read("/proc/self/mountinfo") else {
        let lack = may("nothing can be said of volumes", "mount -t proc proc /proc");
        return vec![Finding::lacks("mounts", "no /proc/self/mountinfo", lack)];
    };
    let (root, kubelet) = (Path::new("/"), kubelet::root());
    let mut found = vec![of(&table, root)];
    // In the same mount there is nothing more to say.
    if mount_of(&table, root) != mount_of(&table, &kubelet) {
        found.push(of(&table, &kubelet));
    }
    found
}

fn of(table: &str, path: &Path) -> Finding {
    let what = format!("shared {}", path.display());
    match mount_of(table, path) {
        Some((at, true)) => Finding::ok(what, format!("the mount at {at} propagates")),
        Some((at, false)) => {
            let why = "volumes with Bidirectional or HostToContainer propagation (CSI drivers) are refused";
            let seen = format!("the mount at {at} is private");
            Finding::lacks(what, seen, may(why, "")).remedied(format!("mount --make-rshared {at}"))
        }
        None => Finding::ok(what, "is in no mount"),
    }
}

/// The mount that a path is in, and whether it is shared (proc_pid_mountinfo(5): point is the fifth field, `shared:` an optional one).
fn mount_of<'a>(table: &'a str, path: &Path) -> Option<(&'a str, bool)> {
    let rows = table.lines().filter_map(|line| {
        let (before, _) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(4);
        let point = fields.next()?;
        let is_shared = fields.any(|field| field.starts_with("shared:"));
        path.starts_with(point).then_some((point, is_shared))
    });
    // Of several at one place the last is on top.
    rows.max_by_key(|(point, _)| point.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_and_uppermost_mount_counts() {
        let table = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                     22 21 0:5 / /var/lib rw - ext4 /dev/sdb rw\n\
                     23 22 0:6 / /var/lib rw,relatime shared:9 master:2 - xfs /dev/sdc rw\n\
                     24 21 0:7 / /var/library rw - tmpfs none rw\n";
        assert_eq!(mount_of(table, Path::new("/var/lib/kubelet")), Some(("/var/lib", true)));
        assert_eq!(mount_of(table, Path::new("/var/library/x")), Some(("/var/library", false)));
        assert_eq!(mount_of(table, Path::new("/home")), Some(("/", true)));
    }
}
