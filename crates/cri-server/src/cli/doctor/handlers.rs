//! Runtime handlers with an external runtime.

use sandbox::ExternalRuntime;

use super::Subject;
use super::finding::{Finding, may};

pub(super) fn look(subject: &Subject<'_>) -> Vec<Finding> {
    let handlers = match subject.config.handlers() {
        Ok(handlers) => handlers,
        Err(faults) => {
            let lack = may("the daemon doesn't start", "knarr config check");
            return vec![Finding::lacks("handlers", faults.to_string(), lack)];
        }
    };
    let one = |(name, runtime): (&String, &ExternalRuntime)| {
        let lack = may("pods that ask for it are refused", "");
        let found = Finding::of(format!("handler {name}"), ask(runtime), lack);
        match found.why.is_empty() {
            true => found,
            false => found.remedied(format!("install the runtime, or correct handlers.{name}.runtime")),
        }
    };
    handlers.external().map(one).collect()
}

fn ask(runtime: &ExternalRuntime) -> Result<String, String> {
    let executor = crate::executor().map_err(|error| error.to_string())?;
    let features = executor.block_on(sandbox::external::ask(runtime))?;
    let can = if features.recursive_read_only_mounts { "" } else { "no " };
    Ok(format!("{}: {can}recursive read-only mounts, no user namespaces", runtime.path.display()))
}
