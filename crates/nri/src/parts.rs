//! All that there is in as many messages as it takes. Pure.

use prost::Message;

use crate::{api, ttrpc};

/// How many bytes of pods and containers go into one message: a margin below what ttrpc takes.
const SYNCHRONIZE_BYTES: usize = ttrpc::LONGEST - (64 << 10);

/// Pods and containers.
pub(crate) type All = (Vec<api::PodSandbox>, Vec<api::Container>);

/// Cuts all that there is into parts, each of which a message can hold.
pub(crate) fn split(all: All) -> Vec<All> {
    parts(all, SYNCHRONIZE_BYTES)
}

/// Cuts lists into parts of at most so many bytes, at least one. What is larger by itself is told by who it is alone: it
/// must keep no plugin from coming in.
fn parts((pods, containers): All, most: usize) -> Vec<All> {
    let mut parts: Vec<All> = vec![All::default()];
    let mut filled = 0;
    let mut room = |bytes: usize, parts: &mut Vec<All>| {
        // Its own header within the message: a byte of tag and up to five of length.
        let bytes = bytes + 6;
        if filled != 0 && filled + bytes > most {
            parts.push(All::default());
            filled = 0;
        }
        filled += bytes;
        parts.len() - 1
    };
    for pod in pods {
        let pod = if pod.encoded_len() + 6 > most { bare_pod(pod) } else { pod };
        let at = room(pod.encoded_len(), &mut parts);
        parts[at].0.push(pod);
    }
    for container in containers {
        let container =
            if container.encoded_len() + 6 > most { bare_container(container) } else { container };
        let at = room(container.encoded_len(), &mut parts);
        parts[at].1.push(container);
    }
    parts
}

fn bare_pod(pod: api::PodSandbox) -> api::PodSandbox {
    tracing::warn!(
        pod = pod.id,
        "a pod is too large to be told to a plugin: its labels and annotations are left out"
    );
    api::PodSandbox { labels: Default::default(), annotations: Default::default(), ..pod }
}

fn bare_container(container: api::Container) -> api::Container {
    tracing::warn!(
        container = container.id,
        "a container is too large to be told to a plugin: it is told by its name alone"
    );
    let api::Container { id, pod_sandbox_id, name, state, pid, created_at, started_at, .. } = container;
    api::Container {
        id,
        pod_sandbox_id,
        name,
        state,
        pid,
        created_at,
        started_at,
        ..api::Container::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_too_large_by_itself_is_told_by_who_it_is() {
        let (id, env) = ("c".to_owned(), vec!["x".repeat(600)]);
        let container = api::Container { id: id.clone(), env, pid: 7, ..Default::default() };
        let labels = [("k".to_owned(), "x".repeat(600))].into();
        let pod = api::PodSandbox { id: "p".into(), labels, ..Default::default() };
        let cut = parts((vec![pod], vec![container]), 500);
        let [(pods, containers)] = &cut[..] else { panic!("{cut:?}") };
        assert_eq!(pods[..], [api::PodSandbox { id: "p".into(), ..Default::default() }]);
        assert_eq!(containers[..], [api::Container { id, pid: 7, ..Default::default() }]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_by_splitting(sizes in prop::collection::vec((any::<bool>(), 1_usize..400), 0..40)) {
            let (mut pods, mut containers) = All::default();
            for (at, (is_pod, size)) in sizes.iter().enumerate() {
                let id = format!("{at}{}", "x".repeat(*size));
                match is_pod {
                    true => pods.push(api::PodSandbox { id, ..Default::default() }),
                    false => containers.push(api::Container { id, ..Default::default() }),
                }
            }
            let cut = parts((pods.clone(), containers.clone()), 500);
            for (pods, containers) in &cut {
                let part = api::SynchronizeRequest { pods: pods.clone(), containers: containers.clone(), more: true };
                prop_assert!(part.encoded_len() <= 500 + 2);
            }
            let all: All = cut.into_iter().fold(All::default(), |mut all, part| {
                all.0.extend(part.0);
                all.1.extend(part.1);
                all
            });
            prop_assert_eq!(all, (pods, containers));
        }
    }
}
