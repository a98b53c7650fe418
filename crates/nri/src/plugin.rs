//! A plugin that is registered, and what is asked of it.
//!
//! | it answers | what follows |
//! |---|---|
//! | an error | the request that the event is about fails, where it can |
//! | nothing, since the question is longer than a message may be | as for an error |
//! | nothing in time, nonsense, or it is gone | it is cut off, and the request goes on without it |
//! | that it knows no such method | it is a plugin of before 0.12: most events are told it by `StateChange` |
//!
//! Not here: how it registers (see `session`), what is done with its answers (see `merge`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::api::{self, Event, Events};
use crate::connection::{CallError, Connection};
use crate::error::Error;
use crate::hub::PluginStatus;
use crate::parts;
use crate::ttrpc::{self, code};

/// The longest name, in bytes: it stands in every line of the log and figure about the plugin.
const LONGEST_NAME: usize = 64;

/// Who a plugin is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// Two digits.
    pub(crate) index: String,
    pub(crate) base: String,
}

impl Name {
    /// Checks the two parts of a name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn new(index: &str, base: &str) -> Result<Self, String> {
        if index.len() != 2 || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("the index {index:?} is not two digits"));
        }
        if base.len() > LONGEST_NAME {
            return Err(format!("its name has more than {LONGEST_NAME} bytes"));
        }
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        if base.is_empty() || !base.bytes().all(is_fine) {
            return Err(format!(
                "the name {base:?} is empty, or has other characters than letters, digits and -_.+"
            ));
        }
        Ok(Self { index: index.to_owned(), base: base.to_owned() })
    }

    /// Reads the name of a plugin's file, `10-name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_file(name: &str) -> Result<Self, String> {
        let (index, base) =
            name.split_once('-').ok_or_else(|| format!("{name:?} is no index and name such as 10-name"))?;
        Self::new(index, base)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.index, self.base)
    }
}

/// A plugin that is registered.
#[derive(Clone)]
pub(crate) struct Plugin {
    pub(crate) name: Name,
    pub(crate) connection: Connection,
    pub(crate) events: Events,
    /// How long it may take for an answer.
    pub(crate) patience: Duration,
    /// Of its connection, to tell it from another one of the same name.
    pub(crate) number: u64,
    pub(crate) spent: Spent,
}

/// How many answers a plugin has given, and how long it has taken for them, in microseconds, since they are counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spent(Arc<(AtomicU64, AtomicU64)>);

impl Spent {
    /// For all of them.
    pub(crate) fn all(&self) -> Duration {
        Duration::from_micros(self.0.0.load(Ordering::Relaxed))
    }

    /// For each of them.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_micros(self.0.0.load(Ordering::Relaxed) / self.0.1.load(Ordering::Relaxed).max(1))
    }

    pub(crate) fn reset(&self) {
        self.0.0.store(0, Ordering::Relaxed);
        self.0.1.store(0, Ordering::Relaxed);
    }

    fn add(&self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.0.fetch_add(microseconds, Ordering::Relaxed);
        self.0.1.fetch_add(1, Ordering::Relaxed);
    }
}

impl Plugin {
    /// As it is seen from outside.
    pub(crate) fn status(&self) -> PluginStatus {
        let all = (1..Event::Last as i32).filter_map(|number| Event::try_from(number).ok());
        let events = all.filter(|event| self.events.have(*event)).map(method).collect();
        PluginStatus { name: self.name.to_string(), events }
    }

    /// Asks it about an event; `None` when it doesn't want to hear of such, or is cut off by this.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(crate) async fn ask<A: Message + Default>(
        &self,
        event: Event,
        question: &impl Message,
    ) -> Result<Option<A>, Error> {
        if !self.events.have(event) {
            return Ok(None);
        }
        let (answer, span) = self.call(method(event), question).await;
        failed_with(&span, answer.as_ref().err());
        self.judge(event, answer)
    }

    /// Tells it of an event that it has nothing to answer to; one of before 0.12 hears of it by `old`.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(crate) async fn tell(
        &self,
        event: Event,
        question: &impl Message,
        old: impl FnOnce() -> api::StateChangeEvent + Send,
    ) -> Result<(), Error> {
        if !self.events.have(event) {
            return Ok(());
        }
        let (mut told, mut span) = self.call::<api::Empty>(method(event), question).await;
        // One of before 0.12 says so, which is no failure.
        if matches!(&told, Err(CallError::Refused(status)) if status.code == code::UNIMPLEMENTED) {
            (told, span) = self.call("StateChange", &old()).await;
        }
        failed_with(&span, told.as_ref().err());
        self.judge(event, told).map(|_| ())
    }

    async fn call<A: Message + Default>(
        &self,
        method: &str,
        question: &impl Message,
    ) -> (Result<A, CallError>, Span) {
        let (begun, plugin) = (Instant::now(), self.name.to_string());
        let span = tracing::error_span!("stage", stage = "nri_plugin", plugin, method, failed = Empty);
        let call = self.connection.call(method, question, self.patience);
        let answer = call.instrument(span.clone()).await;
        self.spent.add(begun.elapsed());
        (answer, span)
    }

    fn judge<A>(&self, event: Event, answer: Result<A, CallError>) -> Result<Option<A>, Error> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(CallError::Refused(ttrpc::Status { message, .. })) => {
                Err(Error::Refused { plugin: self.name.to_string(), event: method(event), why: message })
            }
            // What is asked about is too large, which is no plugin's fault: whoever made it so is told.
            Err(error @ CallError::TooLong) => {
                let (plugin, why) = (self.name.to_string(), format!("it can't be told: {error}"));
                Err(Error::Refused { plugin, event: method(event), why })
            }
            Err(error) => {
                self.cut_off(method(event), &error);
                Ok(None)
            }
        }
    }

    /// Ends its connection, and says so.
    pub(crate) fn cut_off(&self, event: &str, why: &CallError) {
        if self.connection.ended().is_none() {
            tracing::warn!(plugin = %self.name, event, error = %why, "a plugin is cut off");
        }
        self.connection.end(why.to_string());
    }

    /// Tells it all that there is, in as many messages as that takes, and returns what it wants changed.
    ///
    /// # Errors
    /// Why it can't be let in.
    pub(crate) async fn synchronize(
        &self,
        all: parts::All,
        deadline: Instant,
    ) -> Result<Vec<api::ContainerUpdate>, CallError> {
        let mut parts = parts::split(all).into_iter().peekable();
        while let Some((pods, containers)) = parts.next() {
            let request = api::SynchronizeRequest { pods, containers, more: parts.peek().is_some() };
            let left = deadline.saturating_duration_since(Instant::now());
            let answer: api::SynchronizeResponse =
                self.connection.call("Synchronize", &request, left).await?;
            if !request.more {
                return Ok(answer.update);
            }
            if !answer.more || !answer.update.is_empty() {
                return Err(CallError::Gone(
                    "it can't be told of so many containers in several messages".into(),
                ));
            }
        }
        Ok(Vec::new())
    }
}

fn failed_with(span: &Span, error: Option<&CallError>) {
    if error.is_some() {
        span.record("failed", true);
    }
}

/// The method of the plugin's that an event is told by.
pub(crate) fn method(event: Event) -> &'static str {
    match event {
        Event::RunPodSandbox => "RunPodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::CreateContainer => "CreateContainer",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::UpdateContainer => "UpdateContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        Event::UpdatePodSandbox => "UpdatePodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        Event::Unknown | Event::Last => "StateChange",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_an_index_and_a_word() {
        assert!(Name::new("10", &"x".repeat(64)).is_ok() && Name::new("10", &"x".repeat(65)).is_err());
        let name = Name::of_file("10-my-plugin.v1").unwrap();
        assert_eq!((name.index.as_str(), name.base.as_str()), ("10", "my-plugin.v1"));
        assert_eq!(name.to_string(), "10-my-plugin.v1");
        for bad in ["plugin", "1-x", "100-x", "ab-x", "10-", "10-a/b", "10-a b"] {
            assert!(Name::of_file(bad).is_err(), "{bad}");
        }
    }
}
