//! Numbers of the kernel that many pods run into, and switches that their networks need.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use super::finding::{Finding, may};
use super::{Subject, number, read};

/// A number and how much of it a node with 250 pods wants.
struct Bound {
    what: &'static str,
    sysctl: &'static str,
    least: u64,
    why: &'static str,
}

const BOUNDS: [Bound; 6] = [
    Bound {
        what: "processes",
        sysctl: "kernel.pid_max",
        least: 65_536,
        why: "a node with many pods runs out of process ids",
    },
    Bound {
        what: "threads",
        sysctl: "kernel.threads-max",
        least: 65_536,
        why: "a node with many pods runs out of threads",
    },
    Bound {
        what: "inotify",
        sysctl: "fs.inotify.max_user_instances",
        least: 512,
        why: "programs in pods that watch files fail with \"too many open files\"",
    },
    Bound {
        what: "inotify watches",
        sysctl: "fs.inotify.max_user_watches",
        least: 65_536,
        why: "programs in pods that watch files fail with \"no space left on device\"",
    },
    Bound {
        what: "keyrings",
        sysctl: "kernel.keys.maxkeys",
        least: 200,
        why: "programs in user namespaces that keep keys are refused",
    },
    Bound {
        what: "mapped areas",
        sysctl: "vm.max_map_count",
        least: 65_530,
        why: "databases and search engines don't start",
    },
];

/// A pod takes two, a call one, an exec four, a forwarded connection two.
const LEAST_FILES: u64 = 65_536;

pub(super) fn look(_: &Subject<'_>) -> Vec<Finding> {
    let mut found = vec![open_files()];
    found.extend(BOUNDS.iter().map(bound));
    found.extend([forwarding(), bridges()]);
    found
}

fn path(sysctl: &str) -> String {
    format!("/proc/sys/{}", sysctl.replace('.', "/"))
}

fn bound(Bound { what, sysctl, least, why }: &Bound) -> Finding {
    match number(&path(sysctl)) {
        Some(now) if now < *least => {
            let remedy = format!("sysctl -w {sysctl}={least}, and the same in /etc/sysctl.d/90-knarr.conf");
            Finding::lacks(*what, format!("{sysctl} is {now}"), may(why, "")).remedied(remedy)
        }
        Some(now) => Finding::ok(*what, format!("{sysctl} is {now}")),
        None => Finding::ok(*what, format!("this kernel has no {sysctl}")),
    }
}

/// Of this shell, which a unit's may differ from.
fn open_files() -> Finding {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    match hard < LEAST_FILES {
        true => Finding::lacks(
            "open files",
            format!("at most {hard}, as this command was started"),
            may(
                "some hundred pods or streams use them up",
                "LimitNOFILE=1048576 in the unit, or ulimit -Hn 1048576",
            ),
        ),
        false => Finding::ok("open files", format!("up to {hard}")),
    }
}

fn forwarding() -> Finding {
    let lack = may(
        "pods reach nothing beyond the node",
        "sysctl -w net.ipv4.ip_forward=1, and net.ipv4.ip_forward = 1 in /etc/sysctl.d/90-knarr.conf",
    );
    match number("/proc/sys/net/ipv4/ip_forward") {
        Some(1) => Finding::ok("forwarding", "net.ipv4.ip_forward is 1"),
        now => Finding::lacks("forwarding", format!("net.ipv4.ip_forward is {}", now.unwrap_or(0)), lack),
    }
}

/// The switch is there while the module is.
fn bridges() -> Finding {
    let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let lack = may(
        "kube-proxy's rules don't see what pods of a bridge send to each other through services",
        "modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1, and br_netfilter in /etc/modules-load.d/knarr.conf",
    );
    match (Path::new(switch).exists(), read(switch).as_deref()) {
        (true, Ok("1")) => Finding::ok("bridges", "net.bridge.bridge-nf-call-iptables is 1"),
        (true, _) => Finding::lacks("bridges", "net.bridge.bridge-nf-call-iptables is 0", lack),
        (false, _) => Finding::lacks("bridges", "br_netfilter is not loaded", lack),
    }
}
