//! Clearing away what is left of a container that an external runtime made, whoever made it and however far it got.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::external::{KNOWN, detach};

use super::call::call;
use super::{bundle, shared_memory};
use crate::error::Error;
use crate::record::{self, ContainerFacts, PodFacts};
use crate::shared::{Shared, blocking};

/// How long a runtime may take to forget a container.
const DELETE: Duration = Duration::from_secs(10);

/// Clears away what is left of a container that doesn't run. Nothing at all for one of the internal runtime.
///
/// Safe to repeat; safe to cancel.
///
/// # Errors
/// [`Error::Step`] when a mount stays. A runtime that won't forget the container is passed over.
pub(crate) async fn clear(shared: &Arc<Shared>, facts: &Arc<ContainerFacts>) -> Result<(), Error> {
    let Some(runtime) = &facts.runtime else { return Ok(()) };
    let directory = shared.store.container_dir(&facts.pod, &facts.id);
    // The supervisor has had it forgotten, unless it was killed or the runtime failed it.
    if bundle(&directory).join(KNOWN).exists()
        && let Err(why) = call(runtime, &["delete", "--force", facts.id.as_str()], DELETE).await
    {
        tracing::warn!(container = %facts.id, why, "its runtime did not forget a container");
    }
    let after = shared.config.deadlines.cgroup;
    let subject = facts.id.to_string();
    blocking(("taking the bundle away", &subject, after), move || take_away(&directory)).await
}

fn take_away(directory: &Path) -> Result<(), Error> {
    let failed = |cause| Error::step("taking the bundle away", directory.display().to_string(), cause);
    detach_all(directory).map_err(failed)?;
    // With nothing mounted in them any more.
    record::remove_dir(&directory.join("images"))?;
    record::remove_dir(&bundle(directory))
}

fn detach_all(directory: &Path) -> Result<(), runtime::Error> {
    detach(&bundle(directory).join("rootfs"))?;
    let mut images = std::fs::read_dir(directory.join("images")).into_iter().flatten().flatten();
    images.try_for_each(|image| detach(&image.path()))
}

/// Takes away all that is mounted for a pod none of whose containers runs any more. For a blocking thread.
///
/// # Errors
/// [`Error::Step`].
pub(crate) fn detach_pod(shared: &Shared, facts: &PodFacts) -> Result<(), Error> {
    if facts.handler.external.is_none() {
        return Ok(());
    }
    let failed = |cause| Error::step("taking mounts away", facts.id.to_string(), cause);
    let containers = shared.store.container_ids(&facts.id).into_iter();
    let mut done: Vec<_> = containers
        .map(|id| detach_all(&shared.store.container_dir(&facts.id, &id)).map_err(failed))
        .collect();
    done.push(detach(&shared_memory(&shared.store.pod_dir(&facts.id))).map_err(failed));
    done.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_needs_no_clearing() {
        let directory = tempfile::tempdir().unwrap();
        take_away(directory.path()).unwrap();
        std::fs::create_dir_all(directory.path().join("bundle/rootfs")).unwrap();
        std::fs::create_dir_all(directory.path().join("images/0")).unwrap();
        take_away(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
