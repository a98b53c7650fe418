//! What controllers make of pods: deployments, jobs, daemon sets.

use e2e::kube::Space;
use serde_json::json;

use crate::objects::{STAYS, shell};

pub(crate) async fn deployment_forth_and_back(space: Space) {
    let template = |tag: &str| {
        json!({
            "metadata": { "labels": { "app": "web" } },
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main", "image": space.image(&format!("kube/web:{tag}")),
                    "readinessProbe": { "httpGet": { "port": 80 }, "periodSeconds": 1 },
                }],
            },
        })
    };
    space
        .create(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": template("1") },
        }))
        .await;
    pages(&space, "one\n").await;
    space.patch(("Deployment", "web"), &json!({ "spec": { "template": template("2") } })).await;
    pages(&space, "two\n").await;
    space.kubectl(&["rollout", "undo", "deployment/web"]).await.well();
    pages(&space, "one\n").await;
    space.kubectl(&["scale", "deployment/web", "--replicas=0"]).await.well();
    space
        .until(("Deployment", "web"), "no replicas", |web| {
            web["status"].get("replicas").is_none().then_some(())
        })
        .await;
}

/// Waits for the end of a roll-out and asks each pod for its page.
async fn pages(space: &Space, expected: &str) {
    space.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).await.well();
    let pods = space.list("Pod").await.expect("pods");
    let living = pods.iter().filter(|pod| pod["metadata"].get("deletionTimestamp").is_none());
    let addresses: Vec<&str> = living.filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for address in addresses {
        let page = space.cluster.ground.host.sh(&format!("curl -s http://{address}/"));
        assert_eq!(page, expected, "{address}");
    }
}

pub(crate) async fn job(space: Space) {
    let registry = &space.cluster.registry;
    // The second of its pods fails the first time.
    let script =
        "test $JOB_COMPLETION_INDEX = 1 && test $JOB_ATTEMPT = 0 && exit 3; echo done $JOB_COMPLETION_INDEX";
    let mut container = shell(registry, script);
    container["env"] = json!([{ "name": "JOB_ATTEMPT", "valueFrom": { "fieldRef": {
        "fieldPath": "metadata.annotations['batch.kubernetes.io/job-index-failure-count']" } } }]);
    space
        .create(&json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "job" },
            "spec": {
                "completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 2,
                "template": { "spec": { "restartPolicy": "Never", "containers": [container] } },
            },
        }))
        .await;
    let status = space
        .until(("Job", "job"), "its completion", |job| {
            let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
            conditions
                .into_iter()
                .any(|one| one["type"] == "Complete" && one["status"] == "True")
                .then(|| job["status"].clone())
        })
        .await;
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(3), &json!(1)), "{status}");
}

/// A daemon set has a pod on the node, also where pods have been refused; a cron job makes jobs.
pub(crate) async fn daemon_set_and_cron_job(space: Space) {
    let registry = &space.cluster.registry;
    let template = json!({
        "metadata": { "labels": { "app": "set" } },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [shell(registry, STAYS)] },
    });
    let set = json!({ "selector": { "matchLabels": { "app": "set" } }, "template": template });
    space.create(&json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "set" }, "spec": set })).await;
    let job = json!({ "template": { "spec": { "restartPolicy": "Never", "containers": [shell(registry, "echo done")] } } });
    let cron = json!({ "schedule": "0 0 1 1 *", "jobTemplate": { "spec": job } });
    space.create(&json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "cron" }, "spec": cron })).await;
    space.kubectl(&["create", "job", "--from=cronjob/cron", "now"]).await.well();
    space.until(("Job", "now"), "its success", |job| (job["status"]["succeeded"] == 1).then_some(())).await;
    space
        .until(("DaemonSet", "set"), "its pod", |set| (set["status"]["numberAvailable"] == 1).then_some(()))
        .await;
}
