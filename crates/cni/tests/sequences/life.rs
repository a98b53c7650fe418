//! A node that lives through a sequence, and what must be true meanwhile and afterwards.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use cni::{Attachment, AttachmentId, Error, Networks, PortMapping, Protocol, Status};

use crate::daemon::{Daemon, Verb, Work};
use crate::engine::Engine;
use crate::ops::{Op, PODS};
use crate::support::netns::Netns;
use crate::support::snapshot::snapshot;
use crate::support::{Node, SOON, attachment, shown, until, until_within};
use crate::try_sh;

/// A pod as its owner sees it.
struct Pod {
    attachment: Attachment,
    netns: Option<Netns>,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nobody has attached it, or it has been detached.
    Alone,
    /// With these addresses.
    Attached(Vec<IpAddr>),
    /// Something was cut short or failed: whatever is left has to be detached.
    Unknown,
}

struct Life {
    engine: Engine,
    node: Node,
    networks: Option<Networks>,
    pods: Vec<Pod>,
    before: Vec<String>,
    other: bool,
    /// Whether a plugin may be missing.
    broken: bool,
    /// Whether somebody took something away, so that attachments may not be well.
    disturbed: bool,
}

/// Lives through it, and panics when something isn't as it should be.
pub(crate) async fn live(engine: Engine, ops: Vec<Op>) {
    let mut life = Life::new(engine);
    for (number, op) in ops.iter().enumerate() {
        life.meet(op).await.unwrap_or_else(|why| panic!("{number}: {op:?}: {why}"));
    }
    life.end().await;
}

impl Life {
    fn new(engine: Engine) -> Life {
        let node = Node::new();
        engine.prepare(&node, false);
        let pod = |number: usize| Pod {
            attachment: attachment(&format!("pod{}", number + 1), Path::new("")),
            netns: None,
            state: State::Alone,
        };
        let pods = (0..PODS).map(pod).collect();
        let before = snapshot();
        let networks = Some(Networks::open(engine.config(&node, false)).unwrap());
        Life { engine, node, networks, pods, before, other: false, broken: false, disturbed: false }
    }

    fn networks(&self) -> Networks {
        self.networks.clone().unwrap()
    }

    async fn meet(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Add { pod, port } => self.add(*pod, *port).await?,
            Op::Del { pod } => self.del(*pod).await?,
            Op::EndThenDel { pod } => {
                self.pods[*pod].netns = None;
                self.del(*pod).await?;
            }
            Op::Check { pod } => self.check(*pod).await?,
            Op::Collect => self.collect().await?,
            Op::Restart => self.restart(self.other).await,
            Op::Kill { pod, attaching, after } => self.kill(*pod, *attaching, *after).await,
            Op::Uninstall { plugin } => {
                if let Some(plugin) = self.engine.plugins().get(*plugin) {
                    let _ = fs::remove_file(self.node.path("bin").join(plugin));
                    self.broken = true;
                }
            }
            Op::Install => self.engine.prepare(&self.node, self.other),
            Op::Configure { other } => {
                self.other = *other;
                match self.engine {
                    Engine::BuiltIn => self.restart(*other).await,
                    _ => self.engine.prepare(&self.node, *other),
                }
            }
            Op::Flush => {
                try_sh("nft flush ruleset");
                self.disturbed = true;
            }
            Op::DeleteBridge => {
                try_sh(self.engine.delete_bridge());
                self.disturbed = true;
            }
        }
        Ok(())
    }

    fn prepared(&mut self, pod: usize, port: Option<u16>) -> Attachment {
        let Pod { attachment, netns, .. } = &mut self.pods[pod];
        let netns = netns.get_or_insert_with(Netns::bare);
        attachment.netns = Some(netns.path());
        let mapping =
            |host_port| PortMapping { host_port, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
        attachment.port_mappings = port.map(mapping).into_iter().collect();
        attachment.clone()
    }

    async fn add(&mut self, pod: usize, port: Option<u16>) -> Result<(), String> {
        if self.pods[pod].state != State::Alone && self.pods[pod].netns.is_none() {
            // Its namespace is gone: nobody would attach it again before it is detached.
            return Ok(());
        }
        let is_attached = matches!(self.pods[pod].state, State::Attached(_));
        let attachment =
            if is_attached { self.pods[pod].attachment.clone() } else { self.prepared(pod, port) };
        let outcome = self.networks().add(&attachment).await;
        match outcome {
            Err(Error::AlreadyAttached { .. }) if is_attached => Ok(()),
            // It was before the daemon was killed, or has become so.
            Err(Error::AlreadyAttached { .. }) if self.pods[pod].state == State::Unknown => {
                self.del(pod).await
            }
            // Whether it could be attached is asked first.
            Err(_) if is_attached && self.broken => Ok(()),
            _ if is_attached => Err(format!("attached twice: {outcome:?}")),
            Ok(added) => {
                let taken: HashSet<IpAddr> = self.addresses().collect();
                self.pods[pod].state = State::Attached(added.ips.clone());
                match added.ips.iter().find(|ip| taken.contains(ip)) {
                    Some(twice) => Err(format!("{twice} is another's")),
                    None if added.ips.is_empty() => Err("no address".into()),
                    None => Ok(()),
                }
            }
            Err(error) => {
                self.pods[pod].state = State::Unknown;
                // The port from which bridge 1.1.1 has taken the bridge's hardware address may be going.
                let is_debians = self.engine == Engine::Debian && shown(&error).contains("set bridge's mac");
                let has_reason = self.broken || is_debians || matches!(error, Error::HostPortTaken { .. });
                if has_reason { Ok(()) } else { Err(format!("fails: {}", shown(&error))) }
            }
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.pods.iter().flat_map(|pod| match &pod.state {
            State::Attached(addresses) => addresses.clone(),
            _ => Vec::new(),
        })
    }

    async fn del(&mut self, pod: usize) -> Result<(), String> {
        let attachment = self.pods[pod].attachment.clone();
        let outcome = self.networks().del(&attachment).await;
        outcome.map_err(|error| format!("isn't detached: {}", shown(&error)))?;
        // As its owner does, who holds the namespace.
        self.pods[pod].netns = None;
        self.pods[pod].state = State::Alone;
        Ok(())
    }

    async fn check(&self, pod: usize) -> Result<(), String> {
        let Pod { attachment, netns, state } = &self.pods[pod];
        let outcome = self.networks().check(attachment).await;
        let is_well =
            matches!(state, State::Attached(_)) && netns.is_some() && !self.disturbed && !self.broken;
        match outcome {
            // portmap 1.1.1 looks for host ports of one family among those of the other.
            Err(error) if is_well && self.engine != Engine::Debian => {
                Err(format!("isn't well: {}", shown(&error)))
            }
            Ok(()) if *state == State::Alone => Err("is well, though nobody has attached it".into()),
            _ => Ok(()),
        }
    }

    /// Only what is attached is vouched for; of what is not known, the owner has ended the pod.
    async fn collect(&mut self) -> Result<(), String> {
        for pod in self.pods.iter_mut().filter(|pod| pod.state == State::Unknown) {
            pod.netns = None;
        }
        let attached = self.pods.iter().filter(|pod| matches!(pod.state, State::Attached(_)));
        let valid: HashSet<AttachmentId> = attached.map(|pod| pod.attachment.id()).collect();
        match self.networks().gc(move || valid.clone()).await {
            Err(error) if !self.broken => return Err(shown(&error)),
            _ => {}
        }
        for pod in self.pods.iter_mut().filter(|pod| pod.state == State::Unknown) {
            pod.state = State::Alone;
        }
        Ok(())
    }

    async fn stop(&mut self) {
        let networks = self.networks.take().unwrap();
        networks.settle().await.unwrap();
    }

    async fn restart(&mut self, other: bool) {
        self.stop().await;
        self.networks = Some(Networks::open(self.engine.config(&self.node, other)).unwrap());
    }

    /// The operation is another process's, so that it is cut short as by a crash.
    async fn kill(&mut self, pod: usize, attaching: bool, after: u32) {
        if self.pods[pod].state == State::Unknown && self.pods[pod].netns.is_none() {
            return;
        }
        self.stop().await;
        let is_attached = matches!(self.pods[pod].state, State::Attached(_));
        let attaching = attaching && !is_attached;
        let attachment = if attaching { self.prepared(pod, None) } else { self.pods[pod].attachment.clone() };
        let config = self.engine.config(&self.node, self.other);
        let mut daemon = Daemon::start(&Work {
            dir: self.node.dir.path().into(),
            bin_dirs: config.bin_dirs.clone(),
            builtin: config.builtin.clone(),
            native: config.native,
            verb: if attaching { Verb::Add } else { Verb::Del },
            attachment,
        });
        daemon.begins();
        tokio::time::sleep(self.engine.usual() * after / 100).await;
        daemon.kill();
        if attaching || is_attached {
            self.pods[pod].state = State::Unknown;
        }
        self.networks = Some(Networks::open(config).unwrap());
    }

    /// The node is well again, and all pods go: those who are attached by a detach, the others by a collection.
    async fn end(mut self) {
        self.engine.prepare(&self.node, self.other);
        self.restart(self.other).await;
        let ready = |status: &Status| matches!(status, Status::Ready { .. });
        until("readiness", || self.networks().status(), ready).await;
        for pod in 0..PODS {
            if matches!(self.pods[pod].state, State::Attached(_)) {
                self.del(pod).await.unwrap_or_else(|why| panic!("pod{} at the end: {why}", pod + 1));
            }
            self.pods[pod].netns = None;
        }
        let networks = self.networks();
        // While anything is being detached, a collection leaves it alone, and all that isn't written down.
        networks.settle().await.unwrap();
        let collected = networks.gc(HashSet::new).await;
        collected.unwrap_or_else(|error| panic!("the last collection: {}", shown(&error)));
        networks.settle().await.unwrap();
        // A link that went with its namespace takes its time.
        until_within(SOON / 4, "the host to be as it was", || self.left(), Vec::is_empty).await;
        drop(networks);
        self.networks = None;
    }

    fn left(&self) -> Vec<String> {
        self.engine.left(&self.node, &self.before)
    }
}
