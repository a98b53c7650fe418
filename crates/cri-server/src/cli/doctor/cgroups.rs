//! Cgroups: version, controllers, whether they can be handed down, who makes them.

use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, may, must};
use super::{Subject, read};
use crate::config::CgroupDriver;

/// How long systemd may take to answer.
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(5);

/// The controllers that limits of pods are made of.
const WANTED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

const V2: &str = "/sys/fs/cgroup/cgroup.controllers";

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    vec![
        hierarchy(),
        Finding::of(
            "device rules",
            sandbox::try_device_rules().map(str::to_owned),
            must(
                "only privileged containers start",
                "use a kernel with CONFIG_CGROUP_BPF (version 2) or CONFIG_CGROUP_DEVICE",
            ),
        ),
        driver(subject.config.cgroup_driver),
    ]
}

fn hierarchy() -> Finding {
    let lack =
        must("limits can't be set", "boot with systemd.unified_cgroup_hierarchy=1 or mount the controllers");
    let Ok(controllers) = read(V2) else { return Finding::of("cgroups", version_1(), lack) };
    let lacking: Vec<&str> = WANTED
        .into_iter()
        .filter(|wanted| !controllers.split_whitespace().any(|there| there == *wanted))
        .collect();
    if lacking.is_empty() {
        return Finding::ok("cgroups", format!("v2: {controllers}"));
    }
    let lacking = lacking.join(" ");
    let (seen, remedy) = (
        format!("v2 without {lacking}"),
        format!("boot without cgroup_disable={lacking}; in a container: delegate it from outside"),
    );
    Finding::lacks("cgroups", seen, lack).remedied(remedy)
}

fn version_1() -> Result<String, String> {
    let present: Vec<&str> = ["cpu", "cpuset", "memory", "pids", "devices", "freezer", "unified"]
        .into_iter()
        .filter(|name| Path::new("/sys/fs/cgroup").join(name).is_dir())
        .collect();
    match present.contains(&"memory") {
        true => Ok(format!("v1: {}", present.join(" "))),
        false => Err(format!("no usable hierarchy at /sys/fs/cgroup ({})", present.join(" "))),
    }
}

/// Who makes cgroups, by the configuration; systemd is asked only where it is needed.
fn driver(driver: CgroupDriver) -> Finding {
    match (driver, CgroupDriver::default()) {
        (CgroupDriver::Systemd, _) => {
            let remedy = "boot with systemd as PID 1 and D-Bus, or set cgroup_driver = \"cgroupfs\" here and in kubelet";
            Finding::of("driver systemd", systemd(), must("the cgroups of pods are its scopes", remedy))
        }
        (CgroupDriver::Cgroupfs, CgroupDriver::Systemd) => Finding::lacks(
            "driver cgroupfs",
            "systemd runs this host, and cgroup_driver is cgroupfs",
            may("two make changes to one tree of cgroups, and kubeadm's kubelets expect systemd", ""),
        )
        .remedied("remove cgroup_driver from the configuration, and cgroupDriver: cgroupfs from kubelet's"),
        (CgroupDriver::Cgroupfs, CgroupDriver::Cgroupfs) => {
            Finding::ok("driver cgroupfs", "no systemd with cgroup v2 is here, and none is needed")
        }
    }
}

fn systemd() -> Result<String, String> {
    let executor = crate::executor().map_err(|error| error.to_string())?;
    let manager = systemd::Manager::new(SYSTEMD_PATIENCE);
    let scopes = executor.block_on(manager.list("knarr-*.scope")).map_err(|error| crate::chain(&error))?;
    Ok(format!("systemd answers, {} scopes of pods", scopes.len()))
}
