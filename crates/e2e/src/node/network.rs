//! What connects a node's pods: the configurations that tests choose from, and those that they write themselves.
//!
//! Not here: the daemon's other settings, and its life.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Node;
use crate::{CgroupDriver, Netns};

/// What connects the node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// No configuration: pods on the host's network alone.
    None,
    /// The daemon's own bridge.
    BuiltIn,
    /// Debian's bridge, host-local and portmap plugins.
    Plugins,
    /// The same configuration, served in-process: programs of these names fail whoever executes them.
    Native,
}

/// What is served in-process with [`Network::Native`].
const NATIVE: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// A node that is to be started: [`Node::start`] says less, this says all.
#[derive(Debug)]
pub struct Setup {
    pub(super) network: Network,
    pub(super) driver: CgroupDriver,
    pub(super) environment: Vec<(String, String)>,
    pub(super) host: Option<Arc<Netns>>,
    conflists: Vec<(String, Value)>,
    handlers: Vec<(String, Vec<(String, Value)>)>,
    plugins: Vec<(String, String)>,
    keys: Vec<String>,
    sections: Vec<String>,
    pub(super) prelude: Option<String>,
    pub(super) subnet: Option<String>,
    pub(super) log_level: &'static str,
}

impl Setup {
    /// A node with this network and nothing else of its own.
    pub fn new(network: Network) -> Self {
        Self {
            network,
            driver: CgroupDriver::of_this_run(),
            environment: Vec::new(),
            host: None,
            conflists: Vec::new(),
            handlers: Vec::new(),
            plugins: Vec::new(),
            keys: Vec::new(),
            sections: Vec::new(),
            prelude: None,
            subnet: None,
            log_level: "debug",
        }
    }

    /// Who makes its cgroups.
    #[must_use]
    pub fn driver(self, driver: CgroupDriver) -> Self {
        Self { driver, ..self }
    }

    /// More in the daemon's environment.
    #[must_use]
    pub fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.environment.extend(variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        self
    }

    /// The daemon lives in a network namespace of its own, which is the host's to its pods.
    #[must_use]
    pub fn inside(self, host: &Arc<Netns>) -> Self {
        Self { host: Some(Arc::clone(host)), ..self }
    }

    /// A network of this name in the node's directory of configurations, instead of the one that there is without; where
    /// `host-local` keeps addresses is the node's own directory. In the order of these calls.
    #[must_use]
    pub fn conflist(mut self, name: &str, plugins: Value) -> Self {
        self.conflists.push((name.to_owned(), plugins));
        self
    }

    /// A runtime handler with a directory of configurations of its own.
    #[must_use]
    pub fn handler(mut self, name: &str, networks: &[(&str, Value)]) -> Self {
        let networks = networks.iter().map(|(name, plugins)| ((*name).to_owned(), plugins.clone()));
        self.handlers.push((name.to_owned(), networks.collect()));
        self
    }

    /// A plugin of the test's own, a script, beside Debian's.
    #[must_use]
    pub fn plugin(mut self, kind: &str, script: &str) -> Self {
        self.plugins.push((kind.to_owned(), script.to_owned()));
        self
    }

    /// A line of the configuration's part `[network]`, such as `networks = 2`.
    #[must_use]
    pub fn key(mut self, line: &str) -> Self {
        self.keys.push(line.to_owned());
        self
    }

    /// A part of the daemon's configuration of its own, such as `[metrics]` with its keys.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        self.sections.push(text.to_owned());
        self
    }

    /// What a shell does that becomes the daemon then, such as `umask 077`.
    #[must_use]
    pub fn launched_after(self, prelude: &str) -> Self {
        Self { prelude: Some(prelude.to_owned()), ..self }
    }

    /// The range of its pods' addresses, instead of one of 254 that no other node has: for a network namespace of its own.
    #[must_use]
    pub fn subnet(self, subnet: &str) -> Self {
        Self { subnet: Some(subnet.to_owned()), ..self }
    }

    /// How much the daemon says in its log, instead of nearly all.
    #[must_use]
    pub fn log_level(self, log_level: &'static str) -> Self {
        Self { log_level, ..self }
    }

    /// Starts the daemon and waits until it serves.
    ///
    /// # Panics
    /// As [`Node::start`].
    pub async fn start(self) -> Node {
        Node::made(self).await
    }

    /// Writes everything but the daemon's own file into the node's directory.
    pub(super) fn write(&self, directory: &Path, default: (String, Value)) {
        for below in ["cni", "plugins", "certs.d"] {
            std::fs::create_dir_all(directory.join(below)).expect("a directory");
        }
        let default = [default];
        let conflists = match (&*self.conflists, self.network) {
            ([], Network::Plugins | Network::Native) => &default[..],
            (conflists, _) => conflists,
        };
        if self.network == Network::Native {
            for kind in NATIVE.into_iter().filter(|kind| !self.is_delegated(kind)) {
                write_program(
                    &directory.join("plugins").join(kind),
                    "#!/bin/sh\necho executed >&2; exit 1\n",
                );
            }
        }
        write_all(&directory.join("cni"), conflists, directory);
        for (name, conflists) in &self.handlers {
            write_all(&directory.join(format!("cni-{name}")), conflists, directory);
        }
        for (kind, script) in &self.plugins {
            write_program(&directory.join("plugins").join(kind), script);
        }
    }

    /// The end of the daemon's configuration: the rest of `[network]`, the handlers, and parts of a test's own.
    pub(super) fn tail(&self, directory: &Path) -> String {
        let native = (self.network == Network::Native).then_some("native = true\n".to_owned());
        let keys = native.into_iter().chain(self.keys.iter().map(|line| format!("{line}\n")));
        let handlers = self.handlers.iter().map(|(name, _)| {
            format!("[handlers.{name}]\ncni_conf_dir = \"{}/cni-{name}\"\n", directory.display())
        });
        let sections = self.sections.iter().map(|text| format!("{text}\n"));
        keys.chain(handlers).chain(sections).collect()
    }

    fn plugins(&self) -> impl Iterator<Item = &Value> {
        let conflists =
            self.conflists.iter().chain(self.handlers.iter().flat_map(|(_, conflists)| conflists));
        conflists.flat_map(|(_, plugins)| plugins.as_array().into_iter().flatten())
    }

    /// Whether a plugin that is executed has another of this kind manage its addresses, by executing that.
    fn is_delegated(&self, kind: &str) -> bool {
        self.plugins()
            .any(|plugin| !NATIVE.iter().any(|own| plugin["type"] == *own) && plugin["ipam"]["type"] == kind)
    }

    /// Bridges that may stay when all pods have gone: those of configurations, as the reference plugin has it.
    pub(super) fn bridges(&self, ordinary: &str) -> Vec<String> {
        let own = self.plugins().filter_map(|plugin| plugin["bridge"].as_str());
        let has_ordinary = matches!(self.network, Network::Plugins | Network::Native);
        own.chain(has_ordinary.then_some(ordinary)).map(str::to_owned).collect()
    }
}

/// Debian's bridge, host-local and portmap plugins for one subnet.
pub(super) fn ordinary(bridge: &str, subnet: &str) -> Value {
    json!([
        { "type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ])
}

fn write_all(directory: &Path, conflists: &[(String, Value)], node: &Path) {
    std::fs::create_dir_all(directory).expect("a directory");
    for (at, (name, plugins)) in conflists.iter().enumerate() {
        let mut plugins = plugins.clone();
        for plugin in plugins.as_array_mut().into_iter().flatten() {
            if plugin["ipam"]["type"] == "host-local" {
                plugin["ipam"]["dataDir"] = json!(node.join("ipam"));
            }
        }
        let conflist = json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins });
        let file = directory.join(format!("{}-{name}.conflist", 10 + at));
        std::fs::write(file, conflist.to_string()).expect("writing a conflist");
    }
}

/// Written beside its place and renamed: a file that is open for writing can't be executed, and a child that another test is
/// just starting has all that is open.
fn write_program(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let status = std::process::Command::new("sh")
        .args(["-ec", "printf %s \"$2\" >\"$1.new\"; chmod 755 \"$1.new\"; mv \"$1.new\" \"$1\"", "sh"])
        .args([path.as_os_str(), script.as_ref()])
        .status();
    assert!(status.expect("a shell").success(), "writing {}", path.display());
    let mode = path.metadata().expect("a program").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "{}", path.display());
}
