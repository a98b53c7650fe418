//! Who does the work of an attachment: a chain of plugins, or the built-in network.

use std::sync::Arc;

use serde_json::Value;

use crate::attachment::Attachment;
use crate::builtin::Builtin;
use crate::cache::Record;
use crate::conf::NetworkConf;
use crate::error::Error;
use crate::network::{Chain, normalised};
use crate::plugin::Runner;
use crate::result::NetworkResult;
use crate::version::Version;

/// Who does the work.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    Chain(Arc<NetworkConf>),
    Builtin(Arc<Builtin>),
}

impl Engine {
    /// Attaches; the result is as its maker has it.
    ///
    /// Not cancel safe: what a plugin or the kernel is at goes on.
    ///
    /// # Errors
    /// What they refuse. What has been done by then is undone by [`Engine::cut`] and [`Engine::remove`].
    pub(crate) async fn add(&self, runner: &Runner, attachment: &Attachment) -> Result<Value, Error> {
        match self {
            Engine::Chain(conf) => Chain { conf, runner, attachment }.add().await,
            Engine::Builtin(builtin) => {
                let (builtin, attachment) = (Arc::clone(builtin), attachment.clone());
                let result = blocking(move || builtin.add(&attachment)).await?;
                Ok(result.to_version(Version::V1_1_0))
            }
        }
    }

    /// Detaches as far as others can tell. Returns what failed; the rest is done.
    ///
    /// Not cancel safe, as [`Engine::add`] isn't.
    pub(crate) async fn cut(&self, runner: &Runner, record: &Record) -> Vec<Error> {
        match self {
            Engine::Chain(conf) => {
                Chain { conf, runner, attachment: &record.attachment }.del(record.result.as_ref()).await
            }
            Engine::Builtin(builtin) => {
                let (builtin, record) = (Arc::clone(builtin), record.clone());
                let cut = tokio::task::spawn_blocking(move || {
                    builtin.isolate(&record.attachment, result_of(&record).as_ref())
                });
                cut.await.unwrap_or_else(|_| vec![Error::CutShort])
            }
        }
    }

    /// Whether [`Engine::remove`] has something left to do, and so takes its time.
    pub(crate) fn has_remainder(&self) -> bool {
        matches!(self, Engine::Builtin(_))
    }

    /// Removes what is left after [`Engine::cut`].
    ///
    /// Not cancel safe, as [`Engine::add`] isn't.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(crate) async fn remove(&self, record: &Record) -> Result<(), Error> {
        match self {
            Engine::Chain(_) => Ok(()),
            Engine::Builtin(builtin) => {
                let (builtin, record) = (Arc::clone(builtin), record.clone());
                blocking(move || builtin.remove(&record.attachment, result_of(&record).as_ref())).await
            }
        }
    }

    /// Sees whether an attachment is as it was made.
    ///
    /// Not cancel safe, as [`Engine::add`] isn't.
    ///
    /// # Errors
    /// What they find wrong.
    pub(crate) async fn check(&self, runner: &Runner, record: &Record) -> Result<(), Error> {
        match self {
            Engine::Chain(conf) => {
                Chain { conf, runner, attachment: &record.attachment }.check(record.result.as_ref()).await
            }
            Engine::Builtin(builtin) => {
                let (builtin, record) = (Arc::clone(builtin), record.clone());
                blocking(move || builtin.check(&record.attachment, &result_of(&record).unwrap_or_default()))
                    .await
            }
        }
    }
}

/// What came of a record's ADD, in the form of 1.1.0. It was understood once before, when it was printed.
pub(crate) fn result_of(record: &Record) -> Option<NetworkResult> {
    record.result.as_ref().map(|raw| normalised(raw, Version::V1_1_0))
}

/// Runs what blocks for as long as the kernel needs.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::CutShort))
}
