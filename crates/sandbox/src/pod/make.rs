//! Making a pod, step by step in one order.
//!
//! | step | pushed to the undo stack before it |
//! |---|---|
//! | intent: the record and the /etc files | (the directory goes when nothing else is left) |
//! | supervisor started, which waits to be called, and beside that the cgroup (with a scope: the scope around it, its leaf) | [`Part::Cgroup`], [`Part::Supervisor`] |
//! | supervisor called: it enters the cgroup and answers | – |
//! | namespaces | – (they are the supervisor's) |
//! | network attached | [`Part::Network`] |
//! | plugins of the node asked | – (they are told its end) |
//! | the record says that it is ready | – |
//!
//! A failure runs the stack to its end. What could not be undone is told, so that the pod stays visible and can be removed.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::cgroup::Cgroup;
use runtime::plan::{PodNamespace, PodPlan};

use crate::config::CgroupDriver;
use crate::error::Error;
use crate::network::{Attachment, NetworkError};
use crate::plugins::{self, Window};
use crate::pod::config::NamespaceMode;
use crate::pod::dismantle::{Dismantling, dismantle_part};
use crate::pod::limits::{self, PodResources, Weigh};
use crate::pod::namespace::NetworkNamespace;
use crate::pod::state::{Live, Part, Parts, PodState};
use crate::pod::status::PodStatus;
use crate::pods::collect::first_collection;
use crate::record::{self, PodFacts, PodRecord};
use crate::scopes::{self, Scope, Scopes};
use crate::selinux::relabel;
use crate::shared::{Shared, blocking, within};
use crate::spec::{files, namespaces, sysctls};
use crate::stage::Stage;
use crate::step;
use crate::supervisor::Minder;
use crate::supervisor::spawn::Starter;
use crate::undo::Stack;

/// A pod that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) live: Live,
    pub(crate) minder: Minder,
    /// What plugins were asked about, until it is shown.
    pub(crate) window: Option<Window>,
}

/// A pod that could not be made.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What could not be undone.
    pub(crate) left: Parts,
    pub(crate) error: Error,
    /// The supervisor, when it is among that.
    pub(crate) minder: Option<Minder>,
    /// The network namespace, for whoever tries again.
    pub(crate) netns: Option<Arc<NetworkNamespace>>,
}

/// Makes a pod.
///
/// Not safe to cancel: what was begun would stay until the daemon is started again.
pub(crate) async fn make(shared: &Arc<Shared>, facts: &Arc<PodFacts>) -> Result<Made, Failed> {
    let mut making = Making { shared, facts, minder: None, netns: None };
    let mut undo = Stack::new();
    let error = match making.steps(&mut undo).await {
        Ok((live, window)) => match making.minder {
            Some(minder) => return Ok(Made { live, minder, window }),
            None => Error::ShuttingDown,
        },
        Err(error) => error,
    };
    let held = making.minder.as_ref().and_then(|minder| minder.netns.clone());
    let down = Dismantling { shared, facts, minder: making.minder.as_ref(), netns: held.as_deref() };
    let left = undo.run(|part| dismantle_part(&down, part)).await;
    if left.is_empty() {
        let error = match record::remove_dir(&shared.store.pod_dir(&facts.id)) {
            Ok(()) => error,
            Err(failure) => {
                Error::Undone { left: vec![crate::error::chain(&failure)], cause: Arc::new(error) }
            }
        };
        return Err(Failed { left: Parts::new(), error, minder: None, netns: None });
    }
    // One that was ended has nothing more to tell.
    let minder = making.minder.filter(|_| left.iter().any(|(part, _)| *part == Part::Supervisor));
    let told = left.iter().map(|(_, failure)| crate::error::chain(failure)).collect();
    let left = left.into_iter().map(|(part, _)| part).collect();
    Err(Failed { left, error: Error::Undone { left: told, cause: Arc::new(error) }, minder, netns: held })
}

struct Making<'a> {
    shared: &'a Arc<Shared>,
    facts: &'a Arc<PodFacts>,
    minder: Option<Minder>,
    netns: Option<PathBuf>,
}

impl Making<'_> {
    async fn steps(&mut self, undo: &mut Stack<Part>) -> Result<(Live, Option<Window>), Error> {
        Stage::Record.at_once(|| self.intent())?;
        undo.push(Part::Cgroup);
        undo.push(Part::Supervisor);
        let supervisor = self.supervisor().await?;
        let ips = match &self.netns {
            None => Vec::new(),
            Some(netns) => {
                undo.push(Part::Network);
                let attachment = attachment(self.facts, Some(netns.clone()));
                Stage::Network.of(attach(self.shared, &attachment)).await?
            }
        };
        let live = Live { supervisor, netns: self.netns.clone(), ips };
        let status = PodStatus::of(self.facts, Some(&live), PodResources::of(&self.facts.config));
        let beginning = plugins::run_pod(self.shared, Arc::new(status)).await?;
        // Not after the answer: a daemon that finds the intent alone takes the pod down.
        if let Some(record) = PodRecord::of(self.facts, &PodState::Ready(live.clone())) {
            self.shared.store.save_pod(&record)?;
        }
        Ok((live, beginning.kept()))
    }

    /// What a daemon that comes after this one needs to undo whatever follows.
    fn intent(&self) -> Result<(), Error> {
        let directory = self.shared.store.pod_dir(&self.facts.id);
        record::make_dirs(&directory)
            .map_err(|cause| Error::step("creating the directory", directory.display().to_string(), cause))?;
        if let Some(record) = PodRecord::of(self.facts, &PodState::Making) {
            self.shared.store.save_pod(&record)?;
        }
        write_files(&directory, self.facts)
    }

    /// The pod's scope, where it has one, still without a process.
    fn scope(&self) -> Option<(Arc<dyn Scopes>, Scope)> {
        let CgroupDriver::Systemd(systemd) = &self.shared.config.cgroup_driver else { return None };
        let (name, slice) = scopes::of_cgroup(&self.facts.cgroup)?;
        let description = scopes::description(&self.facts.id, &self.shared.config.state_dir);
        let scope = Scope { name: name.to_owned(), slice: slice.to_owned(), description, pid: 0 };
        Some((systemd.clone(), scope))
    }

    /// The supervisor's leaf in a scope that `pid` is in, if it is: everything below would be made elsewhere than where
    /// systemd has the scope.
    async fn leaf(&self, pid: u32) -> Result<(), Error> {
        let (host, facts) = (self.shared.host.clone(), self.facts.clone());
        let after = self.shared.config.deadlines.cgroup;
        blocking(("creating the cgroup", self.facts.id.as_str(), after), move || {
            let failed = |cause| Error::step("looking for the scope", facts.cgroup.clone(), cause);
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(failed)?;
            let is_there = |line: &str| {
                let (_, path) = line.split_once("::").or_else(|| line.split_once(":name=systemd:"))?;
                Some(path == facts.cgroup)
            };
            if !cgroups.lines().filter_map(is_there).any(|is_there| is_there) {
                let cause = std::io::Error::other(format!("process {pid} is in {cgroups:?}"));
                return Err(failed(cause));
            }
            let leaf = Cgroup::create_directories(&host, &supervisor_cgroup(&facts));
            leaf.map(drop).map_err(|cause| Error::step("creating the cgroup", facts.cgroup.clone(), cause))
        })
        .await
    }

    async fn supervisor(&mut self) -> Result<crate::pod::state::ProcessId, Error> {
        let deadlines = &self.shared.config.deadlines;
        let directory = self.shared.store.pod_dir(&self.facts.id);
        let cgroup = Cgroup::at(&self.shared.host, &supervisor_cgroup(self.facts))
            .map_err(|cause| Error::step("naming the cgroup", self.facts.cgroup.clone(), cause))?;
        let subject = self.facts.id.as_str();
        let scope = self.scope();
        let files = self.shared.config.open_files;
        // It begins when it is called: by then its cgroup is there, and it has been executed meanwhile.
        let start = async { self.shared.supervisor.start(&self.facts.id, &directory, &cgroup, files) };
        let start = step::before("spawn", start);
        let started = match &scope {
            None => {
                // The cgroup has a thread of its own. Both to their ends: what was begun can be undone only then.
                let cgroup = Stage::Cgroup.of(create_cgroup(self.shared, self.facts));
                let (cgroup, started) = tokio::join!(cgroup, start);
                cgroup.and(started)?
            }
            Some((systemd, scope)) => {
                let begun = async {
                    let started = start.await?;
                    let scope = Scope { pid: started.pid(), ..scope.clone() };
                    let begun = systemd.start(&scope).await;
                    begun.map(|()| started).map_err(|error| error.of("starting the scope", subject))
                };
                let started = Stage::Scope.of(begun).await?;
                Stage::Cgroup.of(self.leaf(started.pid())).await?;
                started
            }
        };
        let starter = if scope.is_some() { Starter::Awaited } else { Starter::LetGo };
        let connected = started.connect(&self.facts.id, &directory, starter);
        let connected = within(("starting the supervisor", subject, deadlines.supervisor), connected);
        let minder = Stage::Supervisor.of(connected).await?;
        let minder = self.minder.insert(minder);
        if scope.is_some() {
            // The controllers, now that the scope itself is empty.
            Stage::Cgroup.of(create_cgroup(self.shared, self.facts)).await?;
        }
        let label = self.facts.selinux.as_ref().map(|labels| labels.mount.clone());
        let plan = sysctls::at_first(namespaces::pod_plan(&self.facts.config, &self.facts.handler, label));
        let prepared = can_be_prepared(&plan).then(|| self.shared.prepared_networks.take()).flatten();
        let created = minder.client.create_pod(plan, prepared, deadlines.namespaces);
        let created = Stage::Namespaces.of(created).await;
        self.netns = created.map_err(|error| sysctls::refusal(&self.facts.config, error))?;
        if self.facts.config.namespaces.network == NamespaceMode::Node {
            self.netns = None;
        }
        // For whoever takes the pod down later: plugins find by it what they made inside.
        let hold = |at: &PathBuf| Arc::new(NetworkNamespace::hold(at.clone(), &minder.client));
        minder.netns = self.netns.as_ref().map(hold);
        Ok(minder.process)
    }
}

/// Whether a network namespace can have been made before: one that a user namespace owns is made in there.
fn can_be_prepared(plan: &PodPlan) -> bool {
    plan.network == PodNamespace::Own && plan.user.is_none()
}

/// Makes the supervisor's leaf, and with it the pod's own cgroup above it, which gets its weight.
async fn create_cgroup(shared: &Arc<Shared>, facts: &PodFacts) -> Result<(), Error> {
    let (host, path) = (shared.host.clone(), supervisor_cgroup(facts));
    let after = shared.config.deadlines.cgroup;
    blocking(("creating the cgroup", facts.id.as_str(), after), move || {
        let created = Cgroup::create(&host, &path);
        created.map(drop).map_err(|cause| Error::step("creating the cgroup", path, cause))
    })
    .await?;
    limits::weigh(shared, facts, (&PodResources::of(&facts.config), Weigh::Anew)).await
}

/// Where a pod's supervisor sits, beside the containers.
pub(crate) fn supervisor_cgroup(facts: &PodFacts) -> String {
    format!("{}/supervisor", facts.cgroup)
}

async fn attach(shared: &Shared, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
    let subject = attachment.pod_id.to_string();
    let work = async {
        first_collection(shared).await;
        shared
            .network
            .attach(attachment)
            .await
            .map_err(|error| network_error("attaching the network", &subject, error))
    };
    let attached = within(("attaching the network", &subject, shared.config.deadlines.attach), work).await?;
    Ok(attached.ips)
}

/// A network's failure in this crate's terms.
pub(crate) fn network_error(step: &'static str, subject: &str, error: NetworkError) -> Error {
    match error {
        NetworkError::NotReady { reason } => Error::NetworkNotReady { reason },
        NetworkError::Deadline(cause) => Error::TimedOut { step, subject: subject.to_owned(), cause },
        NetworkError::Refused { field, why } => Error::Refused { field, why },
        NetworkError::Taken(cause) => Error::Taken { step, subject: subject.to_owned(), cause },
        NetworkError::Exhausted(cause) => {
            Error::Step { step, subject: subject.to_owned(), cause }.for_want_of("the range of addresses")
        }
        NetworkError::Failed(cause) => Error::failed(step, subject, cause),
    }
}

/// A pod as its network sees it.
pub(crate) fn attachment(facts: &PodFacts, netns: Option<PathBuf>) -> Attachment {
    let config = &facts.config;
    Attachment {
        pod_id: facts.id.clone(),
        name: config.metadata.name.clone(),
        namespace: config.metadata.namespace.clone(),
        uid: config.metadata.uid.clone(),
        netns,
        port_mappings: config.port_mappings.clone(),
        annotations: config.annotations.clone(),
        cgroup_parent: facts.cgroup.clone(),
        dns: config.dns.clone(),
        runtime_handler: config.runtime_handler.clone(),
    }
}

/// The files that containers find in /etc unless they bring their own.
fn write_files(directory: &Path, facts: &PodFacts) -> Result<(), Error> {
    let host = |path: &str| std::fs::read(path).unwrap_or_default();
    let hostname = match facts.config.hostname.as_str() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        given => given.to_owned(),
    };
    let resolv_conf = match files::resolv_conf(facts.config.dns.as_ref())? {
        Some(text) => text.into_bytes(),
        None => host("/etc/resolv.conf"),
    };
    let contents = [
        ("hosts", host("/etc/hosts")),
        ("hostname", format!("{hostname}\n").into_bytes()),
        ("resolv.conf", resolv_conf),
    ];
    for (name, bytes) in contents {
        let path = directory.join(name);
        let failed = |cause| Error::step("writing the file", path.display().to_string(), cause);
        std::fs::write(&path, bytes).map_err(failed)?;
        // Read by whoever the containers run as, whatever this process's umask is.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
        if let Some(labels) = &facts.selinux {
            relabel::own(&path, &labels.mount).map_err(relabel::Failed::into_step)?;
        }
    }
    Ok(())
}
