//! Steps that a test build can fail by their names (docs/matrix.md). In any other build they are nothing at all.
//!
//! Every [`Stage`](crate::stage::Stage) is a step. What is no stage and can fail on its own is named where it happens. What a fault
//! does is up to whoever plugs one in: the daemon does.

#[cfg(not(feature = "faults"))]
pub(crate) use absent::{at_once, before};
#[cfg(feature = "faults")]
pub use plugged::plug_faults;
#[cfg(feature = "faults")]
pub(crate) use plugged::{at_once, before};

#[cfg(not(feature = "faults"))]
mod absent {
    use crate::error::Error;

    pub(crate) fn before<F: Future>(_: &'static str, work: F) -> F {
        work
    }

    pub(crate) const fn at_once(_: &'static str) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(feature = "faults")]
mod plugged {
    use std::io;
    use std::sync::OnceLock;

    use crate::error::Error;

    /// Is told the name of a step before its work, and may fail it, hold it up or end the process.
    type Hook = fn(&str) -> io::Result<()>;

    static HOOK: OnceLock<Hook> = OnceLock::new();

    /// Has every step ask `hook`. The first one counts.
    pub fn plug_faults(hook: Hook) {
        let _is_first = HOOK.set(hook);
    }

    /// Does work that is a step. As safe to cancel as the work is.
    pub(crate) async fn before<T>(
        name: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let asked = tokio::task::spawn_blocking(move || at_once(name)).await;
        asked.map_err(|cause| Error::step("the step", name, cause))??;
        work.await
    }

    /// The same ahead of work that doesn't wait.
    pub(crate) fn at_once(name: &'static str) -> Result<(), Error> {
        let Some(hook) = HOOK.get() else { return Ok(()) };
        let name = format!("sandbox.{name}");
        hook(&name).map_err(|cause| Error::step("the step", name, cause))
    }
}
