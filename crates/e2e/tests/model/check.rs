//! Whether the answers of a phase can be explained: by some order of the steps of all that was asked for at once, in some world that agrees
//! with everything seen before.
//!
//! Not one world is kept but every one that the answers leave possible. A phase looks at all orders in which its tasks, those that clients
//! went away from earlier, and processes that end by themselves can take turns. When no order gives the answers that came, the daemon (or the
//! model) is wrong.

use std::collections::HashSet;

use crate::model::{At, Id, Seen, Task, World};
use crate::script::Call;

/// Positions that are looked at in one phase at most: more than enough for six calls at once; beyond that the phase is of no use as a test.
const POSITIONS: usize = 400_000;

/// A call that was made, and the answer if there was one.
#[derive(Debug, Clone)]
pub struct Asked {
    pub call: Call,
    pub target: Option<Id>,
    pub seen: Option<Seen>,
}

/// Why the answers are not those that the model gives.
#[derive(Debug)]
pub enum Unexplained {
    /// No order gives them.
    Diverges,
    /// There are too many orders.
    TooMany,
}

/// All worlds that the answers so far leave possible.
#[derive(Debug, Clone)]
pub struct Possible {
    pub worlds: HashSet<World>,
}

/// How far everything is, in one order of things.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Position {
    world: World,
    at: Vec<At>,
}

impl Possible {
    /// Nothing but that world is possible.
    pub fn only(world: World) -> Self {
        Self { worlds: HashSet::from([world]) }
    }

    /// Keeps the worlds in which these calls at once have these answers.
    pub fn explain(&mut self, asked: &[Asked]) -> Result<(), Unexplained> {
        let beginning =
            |world: &World| Position { world: world.clone(), at: vec![At::Beginning; asked.len()] };
        let mut known: HashSet<Position> = self.worlds.iter().map(beginning).collect();
        let mut todo: Vec<Position> = known.iter().cloned().collect();
        let mut after = HashSet::new();
        while let Some(position) = todo.pop() {
            if let Some(world) = position.ended(asked) {
                after.insert(world);
            }
            let next = position.next(asked).into_iter().filter(|next| known.insert(next.clone()));
            todo.extend(next);
            if known.len() > POSITIONS {
                return Err(Unexplained::TooMany);
            }
        }
        if after.is_empty() {
            return Err(Unexplained::Diverges);
        }
        self.worlds = after;
        Ok(())
    }

    /// The daemon was ended and started again.
    pub fn recover(&mut self) {
        self.worlds = self.worlds.iter().flat_map(World::recovered).collect();
    }
}

impl Position {
    /// The world after the phase, when all that was answered is done. What nobody waited for goes on behind.
    fn ended(&self, asked: &[Asked]) -> Option<World> {
        let mut world = self.world.clone();
        for (asked, at) in asked.iter().zip(&self.at) {
            match (&asked.seen, at) {
                (_, At::Done) => {}
                (Some(_), _) => return None,
                // Nobody sees what it sees.
                (None, _) if asked.call.is_look() => {}
                (None, at) => {
                    world.background.push(Task { call: asked.call, target: asked.target, at: *at });
                }
            }
        }
        Some(world)
    }

    /// What may happen next.
    fn next(&self, asked: &[Asked]) -> Vec<Position> {
        let mut next: Vec<_> = self.world.by_itself().into_iter().map(|world| self.in_world(world)).collect();
        for (index, asked) in asked.iter().enumerate().filter(|(index, _)| self.at[*index] != At::Done) {
            let task = Task { call: asked.call, target: asked.target, at: self.at[index] };
            for (world, at) in self.world.step(&task, asked.seen.as_ref()) {
                let mut position = self.in_world(world);
                position.at[index] = at;
                next.push(position);
            }
        }
        for (index, task) in self.world.background.iter().enumerate() {
            for (mut world, at) in self.world.step(task, None) {
                if at == At::Done {
                    world.background.remove(index);
                } else {
                    world.background[index].at = at;
                }
                next.push(self.in_world(world));
            }
        }
        next
    }

    fn in_world(&self, world: World) -> Position {
        Position { world, at: self.at.clone() }
    }
}
