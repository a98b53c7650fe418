//! How much a run does.

use std::time::Duration;

/// Addresses for 4,093 pods, in a network namespace where nobody else has any.
pub const SUBNET: &str = "10.213.0.0/20";

/// Images that are pulled and removed in turn.
pub const IMAGES: usize = 6;

/// How much is done, and how often it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Pods at once.
    pub burst: usize,
    /// Who asks for them, each for one after another.
    pub callers: usize,
    /// Pods that come and go.
    pub pods: usize,
    /// Of these alive at any time.
    pub alive: usize,
    /// Of these being made or ended at any time.
    pub at_once: usize,
    /// How often the daemon is killed after that.
    pub kills: usize,
    /// Pods that come and go between two kills.
    pub between_kills: usize,
    /// Probes a second.
    pub probes: u32,
    /// The time between two looks at the figures.
    pub every: Duration,
    /// Who judges how long calls take: on a machine that does other things besides, nobody.
    pub times: Times,
}

/// What is said of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// They are shown.
    Shown,
    /// They may not grow either.
    Judged,
}

impl Plan {
    /// The whole, by hand: 10,000 pods with 200 alive, and 500 at once.
    pub fn full() -> Self {
        Self {
            burst: 500,
            callers: 50,
            pods: 10_000,
            alive: 200,
            at_once: 4,
            kills: 5,
            between_kills: 200,
            probes: 40,
            every: Duration::from_secs(3),
            times: Times::Judged,
        }
    }

    /// What a test has time for.
    pub fn short() -> Self {
        Self {
            burst: 40,
            callers: 10,
            pods: 300,
            alive: 20,
            at_once: 4,
            kills: 2,
            between_kills: 20,
            probes: 20,
            every: Duration::from_millis(250),
            times: Times::Shown,
        }
    }

    /// Changed by `--name number` pairs, as the program's command line has them.
    ///
    /// # Errors
    /// What can't be understood.
    pub fn changed(mut self, arguments: &[String]) -> Result<Self, String> {
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { return Err(format!("{} lacks its number", pair[0])) };
            let number: usize = value.parse().map_err(|error| format!("{name} {value}: {error}"))?;
            let place = match name.as_str() {
                "--burst" => &mut self.burst,
                "--callers" => &mut self.callers,
                "--pods" => &mut self.pods,
                "--alive" => &mut self.alive,
                "--at-once" => &mut self.at_once,
                "--restarts" => &mut self.kills,
                "--pods-between-restarts" => &mut self.between_kills,
                _ => return Err(format!("{name} is no option")),
            };
            *place = number;
        }
        Ok(self)
    }

    /// Pods after which the crowd is complete and the allocator has what it keeps: from there on nothing may grow.
    pub fn warm(&self) -> usize {
        (2 * self.alive).max(self.pods / 5)
    }
}
