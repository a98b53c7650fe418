//! The methods that are told apart in figures: those that there are. A client can call anything, and figures with whatever
//! it calls would grow without bound.

/// What any other method is called.
const UNKNOWN: &str = "unknown";

/// The methods of CRI and of our own services, sorted.
const METHODS: [&str; 56] = [
    "Attach",
    "Check",
    "CheckpointContainer",
    "CheckpointPod",
    "ContainerStats",
    "ContainerStatus",
    "CreateContainer",
    "Exec",
    "ExecSync",
    "Explain",
    "GetContainerEvents",
    "ImageFsInfo",
    "ImageStatus",
    "Inspect",
    "List",
    "ListContainerStats",
    "ListContainers",
    "ListImages",
    "ListMetricDescriptors",
    "ListMounts",
    "ListPodSandbox",
    "ListPodSandboxMetrics",
    "ListPodSandboxStats",
    "Load",
    "Mount",
    "PodSandboxStats",
    "PodSandboxStatus",
    "PortForward",
    "Prune",
    "Pull",
    "PullImage",
    "Reload",
    "Remove",
    "RemoveContainer",
    "RemoveImage",
    "RemovePodSandbox",
    "ReopenContainerLog",
    "RestorePod",
    "RunPodSandbox",
    "RuntimeConfig",
    "Save",
    "StartContainer",
    "Status",
    "StopContainer",
    "StopPodSandbox",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "Unmount",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
    "UpdateRuntimeConfig",
    "Version",
];

/// The name of a method in figures.
pub(crate) fn known(method: &str) -> &'static str {
    METHODS.binary_search(&method).map_or(UNKNOWN, |at| METHODS[at])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The names behind `rpc` in the files of a directory.
    fn declared(directory: &str) -> BTreeSet<String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let texts = files.map(|path| std::fs::read_to_string(path).unwrap());
        let names = |text: String| {
            let calls = text.lines().filter_map(|line| line.trim().strip_prefix("rpc "));
            calls.map(|call| call.split('(').next().unwrap().trim().to_owned()).collect::<Vec<_>>()
        };
        texts.flat_map(names).collect()
    }

    #[test]
    fn every_method_that_is_served_is_known_and_nothing_else() {
        let mut served = declared("../proto/proto");
        served.extend(declared("proto"));
        // What we call of a collector's.
        served.remove("Export");
        assert_eq!(METHODS.map(str::to_owned).to_vec(), served.into_iter().collect::<Vec<_>>());
        assert_eq!((known("RunPodSandbox"), known("Made-Up/../x")), ("RunPodSandbox", "unknown"));
    }
}
