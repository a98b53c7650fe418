//! Mapping the ids of volumes before a container is made: by the host's root, on mounts that are attached nowhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::LaunchRequest;
use crate::namespaces::{map_ids, user_namespace};
use crate::plan::IdMappings;
use crate::thread::SingleThread;
use crate::{FailedStep, Failure};

/// Maps the sources that ask for it. The pod's own user namespace serves for mappings like its own; others take a
/// namespace that nobody is in, one for each mapping.
pub(super) fn map_sources(proof: &SingleThread, request: &LaunchRequest<'_>) -> Result<(), Failure> {
    let mut made: Vec<(&IdMappings, OwnedFd)> = Vec::new();
    for (source, mount) in request.plan.sources.iter().zip(request.sources) {
        let Some(ids) = &source.ids else { continue };
        let is_known = made.iter().any(|(known, _)| *known == ids);
        if !is_known && pods(request, ids).is_none() {
            made.push((ids, user_namespace(proof, ids)?));
        }
        let own = made.iter().find(|(known, _)| *known == ids).map(|(_, namespace)| namespace.as_fd());
        let Some(namespace) = own.or_else(|| pods(request, ids)) else { continue };
        map_ids(mount, namespace)
            .map_err(|errno| Failure::system(FailedStep::MapIds, errno, source.path.to_string_lossy()))?;
    }
    Ok(())
}

fn pods<'a>(request: &LaunchRequest<'a>, ids: &IdMappings) -> Option<BorrowedFd<'a>> {
    request.pod.user.as_ref().filter(|user| user.ids == *ids).map(|user| user.namespace.as_fd())
}
