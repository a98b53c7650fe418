//! Steps that a test build can fail by their names (docs/matrix.md). In any other build they are nothing at all.
//!
//! Every stage of a pull is a step; what else can fail on its own is named where it happens. What a fault does is up to whoever
//! plugs one in. Not here: threads that are confined, which can't reach what tells them of faults.

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
    use std::path::Path;
    use std::sync::OnceLock;

    use crate::blocking;
    use crate::error::Error;
    use crate::layers::store;

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
        blocking("a step", move || at_once(name)).await?;
        work.await
    }

    /// The same ahead of work that doesn't wait.
    pub(crate) fn at_once(name: &'static str) -> Result<(), Error> {
        let Some(hook) = HOOK.get() else { return Ok(()) };
        hook(&format!("images.{name}")).map_err(|cause| store("pass the step", Path::new(name), cause))
    }
}
