//! A chain of three plugins, any of which goes wrong on order, on a "host" of its own; and what it left behind.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::{Attachment, Config, Networks, PortMapping, Protocol};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::netns::{Netns, sh};
use crate::support::snapshot::{difference, snapshot};
use crate::support::{Node, SOON, attachment};

/// How long a plugin gets that is to use it up: long enough for the others of the chain on a busy machine.
const SHORT: Duration = Duration::from_secs(2);

/// Three plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Fast ones of the tests' own.
    Scripted,
    /// Debian's bridge (with host-local) and portmap, and a scripted one between them.
    Debian,
}

impl Chain {
    pub(crate) fn plugins(self) -> [&'static str; 3] {
        match self {
            Chain::Scripted => ["link", "rule", "table"],
            Chain::Debian => ["bridge", "rule", "portmap"],
        }
    }

    fn conf(self, version: &str, node: &Node) -> Value {
        let mut plugins = self.plugins().map(|kind| json!({ "type": kind }));
        if self == Chain::Debian {
            plugins[0] = json!({
                "type": "bridge", "bridge": "cnifault0", "isGateway": true, "ipMasq": true,
                "ipam": {"type": "host-local", "dataDir": node.path("leases"),
                         "ranges": [[{"subnet": "10.234.0.0/24"}]]},
            });
            plugins[2]["capabilities"] = json!({"portMappings": true});
        }
        json!({"cniVersion": version, "name": "faults", "plugins": plugins})
    }
}

/// Directories, plugins, and how the host was before.
pub(crate) struct Rig {
    pub(crate) node: Node,
    pub(crate) chain: Chain,
    before: Vec<String>,
}

/// A pod to be attached.
pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) attachment: Attachment,
}

impl Pod {
    pub(crate) fn new(name: &str) -> Pod {
        let netns = Netns::new();
        let mapping =
            PortMapping { host_port: 8090, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
        let attachment = Attachment { port_mappings: vec![mapping], ..attachment(name, &netns.path()) };
        Pod { netns, attachment }
    }

    /// The links inside beside loopback.
    pub(crate) fn links(&self) -> Vec<String> {
        let links = self.netns.run(|| sh("ip -br link"));
        links.lines().filter(|line| !line.starts_with("lo ")).map(str::to_owned).collect()
    }
}

impl Rig {
    /// Installs the chain.
    pub(crate) fn new(chain: Chain, version: &str) -> Rig {
        let node = Node::new();
        for dir in ["orders", "leases"] {
            fs::create_dir(node.path(dir)).unwrap();
        }
        let rig = Rig { node, chain, before: snapshot() };
        for plugin in chain.plugins() {
            rig.install(plugin);
        }
        std::os::unix::fs::symlink("/usr/lib/cni/host-local", rig.binary("host-local")).unwrap();
        rig.configure(version, false);
        rig
    }

    /// Another host takes over: the calling thread's.
    pub(crate) fn boot(&mut self) {
        self.before = snapshot();
    }

    /// Writes the configuration; another one than before if `disable_check` is.
    pub(crate) fn configure(&self, version: &str, disable_check: bool) {
        let mut conf = self.chain.conf(version, &self.node);
        conf["disableCheck"] = disable_check.into();
        self.node.conf("10-faults.conflist", &conf);
    }

    pub(crate) fn open(&self) -> Networks {
        Networks::open(self.config()).unwrap()
    }

    /// With a deadline that a hanging plugin uses up soon.
    pub(crate) fn open_impatient(&self) -> Networks {
        Networks::open(Config { plugin_deadline: SHORT * slowness(), ..self.config() }).unwrap()
    }

    fn config(&self) -> Config {
        Config {
            bin_dirs: vec![self.node.path("bin")],
            plugin_deadline: SOON * slowness(),
            ..self.node.config()
        }
    }

    fn binary(&self, plugin: &str) -> PathBuf {
        self.node.path("bin").join(plugin)
    }

    fn install(&self, plugin: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/plugins/plugin.sh");
        std::os::unix::fs::symlink(script, self.binary(plugin)).unwrap();
    }

    /// Has orders reach host-local too, which Debian's bridge calls.
    pub(crate) fn wrap_ipam(&self) {
        fs::remove_file(self.binary("host-local")).unwrap();
        self.install("host-local");
    }

    /// `<verb> <when> <fault>` to a plugin, as plugin.sh understands it; `missing` takes it away.
    pub(crate) fn order(&self, plugin: &str, order: &str) {
        if order.ends_with("missing") {
            fs::remove_file(self.binary(plugin)).unwrap();
        } else {
            fs::write(self.node.path("orders").join(plugin), format!("{order}\n")).unwrap();
        }
    }

    /// All plugins are there and well.
    pub(crate) fn heal(&self) {
        fs::remove_dir_all(self.node.path("orders")).unwrap();
        fs::create_dir(self.node.path("orders")).unwrap();
        for plugin in self.chain.plugins() {
            if !self.binary(plugin).exists() {
                self.install(plugin);
            }
        }
    }

    /// The calls since the last time this was asked.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.node.path("calls")).unwrap_or_default();
        fs::write(self.node.path("calls"), "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Addresses, records, links, addresses, routes, rules that weren't there before; plugins that still run.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = difference(&self.before, &snapshot());
        left.extend(self.node.records().iter().map(|path| format!("record: {}", path.display())));
        left.extend(
            addresses(&self.node.path("leases")).iter().map(|path| format!("address: {}", path.display())),
        );
        left.extend(
            self.noted("pids").iter().filter(|pid| is_alive(**pid)).map(|pid| format!("process: {pid}")),
        );
        left
    }

    /// Process ids that plugins noted down in a file.
    fn noted(&self, file: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.node.path(file)).unwrap_or_default();
        text.lines().map(|pid| pid.parse().unwrap()).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for pid in self.noted("strays").into_iter().chain(self.noted("pids")).filter(|pid| is_alive(*pid)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The files and directories named after an address below one.
pub(crate) fn addresses(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok()) {
            found.push(entry.path());
        } else if entry.path().is_dir() {
            found.extend(addresses(&entry.path()));
        }
    }
    found
}

/// An orphan that nobody reaps stays as a zombie, which is dead enough.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ") && !stat.contains(") X ")
}

/// By how much longer things may take on this machine than on one of its own.
pub(crate) fn slowness() -> u32 {
    std::env::var("KNARR_TEST_SLOWNESS").map_or(1, |factor| factor.parse().unwrap())
}
