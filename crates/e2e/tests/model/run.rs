//! One run of a script, from a node without pods to a node without pods: after each phase everything is looked at, in the end everything
//! is removed, and nothing may be left over.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use e2e::node::PATIENCE;
use e2e::patience;

use crate::check::{Asked, Possible, Unexplained};
use crate::driver::{Driver, Stage};
use crate::events::Daemons;
use crate::model::{Seen, World};
use crate::script::{Act, Call, ContainerName, Containers, Move, Pods, Script};

/// What happened, and why it can't be.
#[derive(Debug, Clone)]
pub struct Divergence {
    pub story: String,
    pub why: String,
}

/// What a run came to that found nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Agrees,
    /// A phase has more explanations than can be looked at, so the rest was left.
    Unjudged,
}

/// Why a run ends before its end.
enum Stopped {
    Diverges(String),
    TooMany,
}

impl From<String> for Stopped {
    fn from(why: String) -> Self {
        Self::Diverges(why)
    }
}

struct Run<'a> {
    stage: Stage<'a>,
    possible: Possible,
    story: String,
    daemons: Daemons,
}

/// Carries a script out.
///
/// # Errors
/// When the daemon doesn't do what the model says.
pub async fn run(driver: &mut Driver, script: &Script) -> Result<Outcome, Divergence> {
    driver.events.clear();
    let world = World { image: true, ..World::default() };
    let mut run = Run {
        stage: driver.stage(),
        possible: Possible::only(world),
        story: String::new(),
        daemons: Daemons::One,
    };
    let outcome = run.whole(script).await;
    let story = run.story;
    match outcome {
        Ok(()) => Ok(Outcome::Agrees),
        Err(Stopped::Diverges(why)) => Err(Divergence { story, why }),
        Err(Stopped::TooMany) => {
            driver.renew().await;
            Ok(Outcome::Unjudged)
        }
    }
}

fn ask(call: Call) -> Move {
    Move { act: Act::Ask(call, None), after: 0 }
}

impl Run<'_> {
    async fn whole(&mut self, script: &Script) -> Result<(), Stopped> {
        for phase in &script.0 {
            self.phase(phase).await?;
            self.look().await?;
        }
        self.settle().await?;
        self.wind_up(script).await?;
        self.leave_nothing().await
    }

    /// A phase and its explanation.
    async fn phase(&mut self, phase: &[Move]) -> Result<Vec<Asked>, Stopped> {
        let (asked, was_ended) = self.stage.perform(phase).await?;
        let _ = writeln!(self.story, "{}", Script(vec![phase.to_vec()]).to_string().trim_end());
        for one in &asked {
            let target = one.target.map_or_else(|| "-".to_owned(), |id| format!("#{id}"));
            let seen = one.seen.as_ref().map_or_else(|| "no answer".to_owned(), |seen| format!("{seen:?}"));
            let _ = writeln!(self.story, "    # {} ({target}): {seen}", one.call);
        }
        if was_ended {
            self.daemons = Daemons::More;
        }
        match self.possible.explain(&asked) {
            Ok(()) => {}
            Err(Unexplained::TooMany) => return Err(Stopped::TooMany),
            Err(Unexplained::Diverges) => return Err(self.no_order().into()),
        }
        if was_ended {
            self.possible.recover();
        }
        Ok(asked)
    }

    /// What to say when the last phase has no explanation.
    fn no_order(&self) -> String {
        let worlds = &self.possible.worlds;
        let first: String = worlds.iter().take(3).map(|world| format!("{world:#?}")).collect();
        format!("no order of the calls gives these answers, in {} world(s): {first}", worlds.len())
    }

    /// Lists show what there is, and statuses what lists don't.
    async fn look(&mut self) -> Result<(), Stopped> {
        self.phase(&[ask(Call::Pods(Pods::All))]).await?;
        let listed = self.phase(&[ask(Call::Containers(Containers::All))]).await?;
        let Some(Seen::Containers(containers)) = listed.into_iter().next().and_then(|one| one.seen) else {
            return Err("no list of containers".to_owned().into());
        };
        for container in containers {
            self.phase(&[ask(Call::Status(container.name))]).await?;
        }
        Ok(())
    }

    /// What ends by itself does so, and it is heard of.
    async fn settle(&mut self) -> Result<(), Stopped> {
        let deadline = Instant::now() + patience(PATIENCE);
        loop {
            let ending = self.ending();
            let Some(name) = ending.first() else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(format!("{name} has not ended, which it should by itself").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            let length = self.story.len();
            self.phase(&[ask(Call::Status(*name))]).await?;
            self.story.truncate(length);
        }
    }

    /// Containers that end by themselves, whichever world is the real one, and may not have done so yet.
    fn ending(&self) -> Vec<ContainerName> {
        let worlds = &self.possible.worlds;
        let may_be_ending = worlds.iter().flat_map(|world| {
            world.containers.keys().copied().filter(|name| world.ends_soon(*name)).collect::<Vec<_>>()
        });
        let is_known = |name: &ContainerName| {
            worlds.iter().all(|world| world.container_id(*name).is_some() && world.ends(*name))
        };
        may_be_ending.filter(is_known).collect()
    }

    /// Everything is removed, side by side. What a client that went away had asked for is asked for again first, which joins it.
    async fn wind_up(&mut self, script: &Script) -> Result<(), Stopped> {
        let given_up = script.0.iter().flatten().filter_map(|one| match one.act {
            Act::Ask(call @ (Call::Run(..) | Call::Pull | Call::Unpull), Some(_)) => Some(call),
            Act::Ask(..) | Act::Kill | Act::Restart => None,
        });
        for call in given_up.collect::<Vec<_>>() {
            self.phase(&[ask(call)]).await?;
        }
        let pods = self.phase(&[ask(Call::Pods(Pods::All))]).await?;
        let Some(Seen::Pods(pods)) = pods.into_iter().next().and_then(|one| one.seen) else {
            return Err("no list of pods".to_owned().into());
        };
        for pods in pods.chunks(2) {
            let removals: Vec<_> = pods.iter().map(|pod| ask(Call::RemovePod(pod.name))).collect();
            self.phase(&removals).await?;
        }
        self.look().await?;
        if self.possible.worlds.iter().any(|world| !world.image) {
            self.phase(&[ask(Call::Pull)]).await?;
        }
        Ok(())
    }

    /// Nothing but the daemon is there, and everything was told.
    async fn leave_nothing(&mut self) -> Result<(), Stopped> {
        let deadline = Instant::now() + patience(PATIENCE);
        loop {
            let daemon = format!("process {}:", self.stage.driver.node.pid());
            let mut wrong = self.stage.driver.node.traces().leftovers();
            wrong.retain(|line| !line.starts_with(&daemon));
            wrong.extend(self.stage.driver.events.judge(self.stage.ids(), self.daemons).err());
            if wrong.is_empty() {
                self.stage.forget_files();
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("left over, or untold: {wrong:#?}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
