//! Objects as scenarios need them: as little said as Kubernetes lets one say.

use e2e::Registry;
use serde_json::{Value, json};

/// A script for what stays until it is asked to end.
pub(crate) const STAYS: &str = "echo started; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

/// A pod called `name` with this `spec`, which ends a second after it is asked to unless it says otherwise.
pub(crate) fn pod(name: &str, spec: Value) -> Value {
    let defaults = json!({ "terminationGracePeriodSeconds": 1 });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": with(defaults, spec),
    })
}

/// A pod of one container.
pub(crate) fn pod_of(name: &str, container: Value) -> Value {
    pod(name, json!({ "containers": [container] }))
}

/// A container called "main" that runs a script in busybox' shell.
pub(crate) fn shell(registry: &Registry, script: &str) -> Value {
    json!({
        "name": "main", "image": registry.image("busybox:latest"), "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    })
}

/// A container called "main" that runs a job of agnhost, the workload of Kubernetes' own tests.
pub(crate) fn agnhost(registry: &Registry, arguments: &[&str]) -> Value {
    json!({ "name": "main", "image": registry.image("kube/agnhost:2"), "args": arguments })
}

/// The same object with more fields, or other values in them; lists are replaced whole.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    match (object.as_object_mut(), more) {
        (Some(fields), Value::Object(more)) => {
            for (key, value) in more {
                let old = fields.remove(&key).unwrap_or(Value::Null);
                fields.insert(key, with(old, value));
            }
            object
        }
        (_, more) => more,
    }
}
