//! What the external runtimes of this node's handlers last said of themselves.
//!
//! Not here: putting the question to one (see `features`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use runtime::external::ExternalRuntime;
use tokio::task::JoinSet;

use super::features;
use crate::config::Features;
use crate::handler::Handlers;

/// What a runtime can do, or why it can't be used.
type Answer = Result<Features, String>;

/// The answers of runtimes, by handler.
#[derive(Debug, Default)]
pub(crate) struct Runtimes {
    answers: Mutex<BTreeMap<String, (Instant, Answer)>>,
    /// By whoever asks again: pods that wait for one answer share it.
    asking: tokio::sync::Mutex<()>,
}

impl Runtimes {
    /// Asks all side by side. Safe to cancel.
    pub(crate) async fn ask(handlers: &Handlers) -> Self {
        let mut asked = JoinSet::new();
        for (name, runtime) in handlers.external() {
            let (name, runtime) = (name.clone(), runtime.clone());
            asked.spawn(async move {
                let answer = features::ask(&runtime).await;
                if let Err(why) = &answer {
                    tracing::error!(handler = name, why, "pods of a runtime handler are refused");
                }
                (name, (Instant::now(), answer))
            });
        }
        let answers = Mutex::new(asked.join_all().await.into_iter().collect());
        Self { answers, asking: tokio::sync::Mutex::default() }
    }

    /// The last answer of a handler's runtime; `None` for one that has none of its own.
    pub(crate) fn last(&self, handler: &str) -> Option<Answer> {
        self.lock().get(handler).map(|(_, answer)| answer.clone())
    }

    /// The same for a pod that is to be made: a runtime that couldn't be used is asked once more. It may have been installed or mended, or
    /// too slow while the machine was booting. Safe to cancel.
    pub(crate) async fn usable(&self, handler: &str, runtime: &ExternalRuntime) -> Answer {
        if let Some(Ok(features)) = self.last(handler) {
            return Ok(features);
        }
        let wished = Instant::now();
        let _alone = self.asking.lock().await;
        let known = self.lock().get(handler).cloned();
        match known {
            Some((at, answer)) if answer.is_ok() || at > wished => return answer,
            Some(_) | None => {}
        }
        let answer = features::ask(runtime).await;
        if answer.is_ok() {
            tracing::info!(handler, "a runtime that could not be used can be now");
        }
        self.lock().insert(handler.to_owned(), (Instant::now(), answer.clone()));
        answer
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Answer)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::Handler;

    #[tokio::test]
    async fn a_runtime_that_could_not_be_used_is_asked_again() {
        let directory = tempfile::tempdir().unwrap();
        let (calls, mended) = (directory.path().join("calls"), directory.path().join("mended"));
        let script = format!("echo >> '{}'; test -e '{}'", calls.display(), mended.display());
        let args = ["-c", &script, "sh"].map(str::to_owned).to_vec();
        let runtime = ExternalRuntime { path: "/bin/sh".into(), args };
        let handler = Handler { external: Some(runtime.clone()), ..Handler::default() };
        let handlers = Handlers::new("own", BTreeMap::from([("own".to_owned(), handler)])).unwrap();
        let runtimes = Runtimes::ask(&handlers).await;
        assert_eq!(runtimes.last("knarr"), None);
        runtimes.last("own").unwrap().unwrap_err();
        let asked = || std::fs::read_to_string(&calls).unwrap().lines().count();
        let before = asked();
        // Whoever waits for an answer has it in common.
        let (one, two, three) = tokio::join!(
            runtimes.usable("own", &runtime),
            runtimes.usable("own", &runtime),
            runtimes.usable("own", &runtime)
        );
        assert!([one, two, three].iter().all(Result::is_err));
        assert_eq!(asked(), 2 * before, "the two questions of one asking");
        std::fs::write(&mended, "").unwrap();
        runtimes.usable("own", &runtime).await.unwrap();
        runtimes.last("own").unwrap().unwrap();
        let before = asked();
        runtimes.usable("own", &runtime).await.unwrap();
        assert_eq!(asked(), before, "one that can be used is not asked");
    }
}
