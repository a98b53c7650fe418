//! Carries scripts out on a node: makes requests of calls and answers of replies, ends and starts the daemon.
//!
//! A script has names of its own on the node: the number of its run goes into every name, so that what an earlier one left is seen as such.
//! Not here: whether an answer is right (see `check`), what is looked at after each phase (see `run`).

mod request;
mod seen;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use e2e::node::PATIENCE;
use e2e::{Network, Node, patience};
use futures::future::join_all;
use tokio::time::{sleep, timeout};
use tonic::Code;

use self::request::Asker;
use crate::check::Asked;
use crate::events::Events;
use crate::model::{Id, Seen};
use crate::script::{Act, Call, ContainerName, Containers, Move, PodName};

/// A node on which scripts are carried out, one after the other.
pub struct Driver {
    pub node: Node,
    pub events: Events,
    runs: usize,
}

/// One run of a script.
pub struct Stage<'a> {
    pub driver: &'a mut Driver,
    run: usize,
    ids: Ids,
    /// The last ids that are known by the script's names.
    pods: HashMap<PodName, Id>,
    containers: HashMap<ContainerName, Id>,
}

/// Ids, and the numbers that stand for them.
#[derive(Default)]
pub struct Ids {
    texts: Vec<String>,
}

impl Ids {
    /// The number of an id.
    pub fn number(&mut self, text: &str) -> Id {
        let known = self.texts.iter().position(|known| known == text);
        let index = known.unwrap_or_else(|| {
            self.texts.push(text.to_owned());
            self.texts.len() - 1
        });
        Id::try_from(index).expect("fewer ids than that")
    }

    /// The id of a number. What was never made has one that nothing has.
    fn text(&self, id: Option<Id>) -> String {
        let known = id.and_then(|id| self.texts.get(usize::try_from(id).ok()?));
        known.cloned().unwrap_or_else(|| "0".repeat(64))
    }

    pub fn all(&self) -> &[String] {
        &self.texts
    }
}

impl Driver {
    /// A node with its image, that listens to its events.
    pub async fn start() -> Self {
        let node = Node::start(Network::BuiltIn).await;
        node.client().pull(&node.registry.image("busybox:latest")).await.expect("the image");
        for directory in ["told", "logs"] {
            std::fs::create_dir_all(node.path(directory)).expect("a directory");
        }
        let mut events = Events::default();
        events.listen(node.client()).await;
        Self { node, events, runs: 0 }
    }

    /// Takes another node, on which nothing has happened.
    pub async fn renew(&mut self) {
        std::mem::replace(self, Self::start().await).discard();
    }

    /// Ends a node that may not be as it should: what its own checks say of it is known.
    pub fn discard(self) {
        let _ = tokio::task::block_in_place(|| catch_unwind(AssertUnwindSafe(|| drop(self))));
    }

    /// Begins a run.
    pub fn stage(&mut self) -> Stage<'_> {
        self.runs += 1;
        let run = self.runs;
        Stage { driver: self, run, ids: Ids::default(), pods: HashMap::new(), containers: HashMap::new() }
    }

    /// Ends the daemon in one way or the other. Blocks.
    fn end_daemon(&mut self, act: Act) {
        match act {
            Act::Kill => self.node.kill_daemon(),
            Act::Restart => self.node.stop_daemon(),
            Act::Ask(..) => {}
        }
    }

    async fn start_daemon(&mut self) {
        tokio::task::block_in_place(|| self.node.start_daemon());
        self.events.listen(self.node.client()).await;
    }
}

impl Stage<'_> {
    /// Carries out a phase: what was asked and answered, and whether the daemon was ended.
    ///
    /// # Errors
    /// When a call has no answer in time, or one that is none.
    pub async fn perform(&mut self, phase: &[Move]) -> Result<(Vec<Asked>, bool), String> {
        let asks = phase.iter().filter_map(|one| match one.act {
            Act::Ask(call, patience) => Some((call, one.after, patience)),
            Act::Kill | Act::Restart => None,
        });
        let asker = Arc::new(Asker::new(&self.driver.node, self.run));
        let calls: Vec<(Call, Option<Id>)> =
            asks.clone().map(|(call, ..)| (call, self.target(call))).collect();
        let futures: Vec<_> = asks
            .map(|(call, after, patience)| {
                let (asker, id) = (Arc::clone(&asker), self.ids.text(self.target(call)));
                tokio::spawn(ask(asker, (call, id), (after, patience)))
            })
            .collect();
        let end = phase.iter().find(|one| !matches!(one.act, Act::Ask(..)));
        if let Some(end) = end {
            sleep(Duration::from_millis(end.after.into())).await;
            tokio::task::block_in_place(|| self.driver.end_daemon(end.act));
        }
        let replies = join_all(futures).await;
        if end.is_some() {
            self.driver.start_daemon().await;
        }
        let mut asked = Vec::new();
        for ((call, target), reply) in calls.into_iter().zip(replies) {
            let reply = reply.map_err(|error| error.to_string())??;
            let seen = reply.map(|reply| seen::of(reply, (&mut self.ids, self.run))).transpose()?;
            let seen = seen.filter(|seen| end.is_none() || !is_cut_off(seen));
            self.learn(call, seen.as_ref());
            asked.push(Asked { call, target, seen });
        }
        Ok((asked, end.is_some()))
    }

    /// The id that a call is about, where one is known.
    fn target(&self, call: Call) -> Option<Id> {
        match call {
            Call::Pull | Call::Unpull | Call::Image | Call::Run(..) | Call::Pods(_) => None,
            Call::StopPod(pod)
            | Call::RemovePod(pod)
            | Call::PodStatus(pod)
            | Call::Create(ContainerName { pod, .. }, _)
            | Call::Containers(Containers::Of(pod)) => self.pods.get(&pod).copied(),
            Call::Containers(_) => None,
            Call::Start(container)
            | Call::Stop(container, _)
            | Call::Remove(container)
            | Call::Update(container, _)
            | Call::Exec(container)
            | Call::Status(container)
            | Call::End(container) => self.containers.get(&container).copied(),
        }
    }

    /// Takes in the ids that an answer has.
    fn learn(&mut self, call: Call, seen: Option<&Seen>) {
        match (call, seen) {
            (Call::Run(name, _), Some(Seen::Made(id))) => self.pods.extend([(name, *id)]),
            (Call::Create(name, _), Some(Seen::Made(id))) => self.containers.extend([(name, *id)]),
            (Call::Pods(_), Some(Seen::Pods(pods))) => {
                self.pods.extend(pods.iter().map(|pod| (pod.name, pod.id)));
            }
            (Call::Containers(_), Some(Seen::Containers(containers))) => {
                self.containers.extend(containers.iter().map(|one| (one.name, one.id)));
            }
            _ => {}
        }
    }

    /// Ids that this run has seen.
    pub fn ids(&self) -> &[String] {
        self.ids.all()
    }

    /// Removes what containers were told by and what they wrote.
    pub fn forget_files(&self) {
        for directory in ["told", "logs"].map(|name| self.driver.node.path(name)) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Makes a call and waits for its answer, as long as its client does.
async fn ask(
    asker: Arc<Asker>,
    (call, id): (Call, String),
    (after, stay): (u8, Option<u8>),
) -> Result<Option<request::Reply>, String> {
    sleep(Duration::from_millis(after.into())).await;
    let asking = asker.ask(call, id);
    match stay {
        Some(stay) => Ok(timeout(Duration::from_millis(stay.into()), asking).await.ok()),
        None => match timeout(patience(PATIENCE), asking).await {
            Ok(reply) => Ok(Some(reply)),
            Err(_) => Err(format!("no answer to \"{call}\" in {PATIENCE:?}")),
        },
    }
}

/// Whether that is no answer of the daemon's, but its end.
fn is_cut_off(seen: &Seen) -> bool {
    let Seen::Refused(code, _) = seen else { return false };
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled)
        || (*code == Code::Internal && matches!(seen, Seen::Refused(_, text) if text.contains("h2 protocol")))
}
