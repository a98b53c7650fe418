//! What was looked at and what came of it.

use std::fmt;

use serde::Serialize;

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// Something is slower, refused or at risk.
    Without,
    /// No pod runs, or the daemon doesn't start.
    Missing,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) what: String,
    pub(super) state: State,
    /// What was seen.
    pub(super) seen: String,
    /// Why it matters; empty where all is well.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) why: &'static str,
    /// What to do about it: a command, or a key and its value.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) remedy: String,
}

/// What it means when something is not as it should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lack {
    pub(super) state: State,
    pub(super) why: &'static str,
    pub(super) remedy: &'static str,
}

/// Without it no pod runs.
pub(super) const fn must(why: &'static str, remedy: &'static str) -> Lack {
    Lack { state: State::Missing, why, remedy }
}

/// Something is slower, refused or at risk without it.
pub(super) const fn may(why: &'static str, remedy: &'static str) -> Lack {
    Lack { state: State::Without, why, remedy }
}

impl Finding {
    /// All is well.
    pub(super) fn ok(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Ok, seen: seen.into(), why: "", remedy: String::new() }
    }

    /// Something is not as it should be.
    pub(super) fn lacks(what: impl Into<String>, seen: impl Into<String>, lack: Lack) -> Self {
        let Lack { state, why, remedy } = lack;
        Self { state, why, remedy: remedy.to_owned(), ..Self::ok(what, seen) }
    }

    /// Either.
    pub(super) fn of(what: impl Into<String>, looked: Result<String, String>, lack: Lack) -> Self {
        match looked {
            Ok(seen) => Self::ok(what, seen),
            Err(seen) => Self::lacks(what, seen, lack),
        }
    }

    /// With a remedy that depends on what was seen.
    pub(super) fn remedied(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, state, seen, why, remedy } = self;
        match state {
            State::Ok => return write!(f, "ok       {what:<16} {seen}"),
            State::Without => write!(f, "without  {what:<16} {seen}: {why}")?,
            State::Missing => write!(f, "MISSING  {what:<16} {seen}: {why}")?,
        }
        if remedy.is_empty() { Ok(()) } else { write!(f, "\n         {:<16} remedy: {remedy}", "") }
    }
}
