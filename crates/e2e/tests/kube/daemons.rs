//! What happens to pods when the node's daemons are killed, when the machine goes down, and when there are many.

use std::time::Duration;

use e2e::kube::Space;
use e2e::until;
use serde_json::{Value, json};

use crate::objects::{STAYS, pod, shell};

/// A pod that stays, and one that ends with 7 and a last line when the test lets it.
struct Two {
    space: Space,
    before: Value,
}

impl Two {
    async fn start(space: Space) -> Self {
        let registry = &space.cluster.registry;
        space.create(&pod("stays", json!({ "containers": [shell(registry, STAYS)] }))).await;
        let directory = space.cluster.ground.path(&space.name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut ends =
            shell(registry, "echo begun; until test -e /out/end; do sleep 0.1; done; echo the end; exit 7");
        ends["volumeMounts"] = json!([{ "name": "out", "mountPath": "/out" }]);
        let volumes = json!([{ "name": "out", "hostPath": { "path": directory } }]);
        space
            .create(&pod(
                "ends",
                json!({ "restartPolicy": "Never", "containers": [ends], "volumes": volumes }),
            ))
            .await;
        space.ready("ends").await;
        let before = space.ready("stays").await;
        Self { space, before }
    }

    /// Lets the second pod end.
    fn let_end(&self) {
        std::fs::write(self.space.cluster.ground.path(&self.space.name).join("end"), "").expect("a file");
    }

    /// The first pod is as it was; the second has ended, with nothing lost.
    async fn check(&self) {
        assert_eq!(self.space.ended("ends").await, "Failed");
        let status =
            self.space.until_container(("ends", "main"), "/state/terminated/exitCode", &json!(7)).await;
        assert_eq!(status["restartCount"], 0, "{status}");
        assert_eq!(self.space.log("ends").await.expect("a log"), "begun\nthe end\n");
        let after = self.space.ready("stays").await;
        let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
        assert_eq!(container(&after), container(&self.before), "{}", after["status"]);
        assert_eq!(self.space.sh("stays", "echo lives").await, "lives\n");
        self.works().await;
    }

    /// The node takes new pods.
    async fn works(&self) {
        self.space.cluster.until_ready().await;
        self.space
            .create(&pod("next", json!({ "containers": [shell(&self.space.cluster.registry, STAYS)] })))
            .await;
        self.space.ready("next").await;
    }
}

pub(crate) async fn kubelet_killed(space: Space) {
    let two = Two::start(space).await;
    {
        let mut node = two.space.cluster.node.lock().await;
        node.kill_kubelet();
        two.let_end();
        node.start_kubelet(&two.space.cluster.ground);
    }
    two.check().await;
}

pub(crate) async fn runtime_killed(space: Space) {
    let two = Two::start(space).await;
    {
        let mut node = two.space.cluster.node.lock().await;
        node.runtime.kill();
        two.let_end();
        node.runtime.start_again(&two.space.cluster.ground);
    }
    two.check().await;
}

pub(crate) async fn both_killed(space: Space) {
    let two = Two::start(space).await;
    {
        let mut node = two.space.cluster.node.lock().await;
        node.kill_kubelet();
        node.runtime.kill();
        two.let_end();
        node.runtime.start_again(&two.space.cluster.ground);
        node.start_kubelet(&two.space.cluster.ground);
    }
    two.check().await;
}

/// The machine goes down and comes up: no process of pods, no cgroup, an empty state directory; what is on disk stays.
pub(crate) async fn machine_boots(space: Space) {
    let two = Two::start(space).await;
    {
        let mut node = two.space.cluster.node.lock().await;
        node.boot(&two.space.cluster.ground);
    }
    let after = two
        .space
        .until(("Pod", "stays"), "a container of this boot", |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            let other = status["containerID"] != two.before["status"]["containerStatuses"][0]["containerID"];
            (other && status["ready"] == true).then(|| status.clone())
        })
        .await;
    assert_eq!(after["restartCount"], 1, "{after}");
    assert_eq!(two.space.sh("stays", "echo lives").await, "lives\n");
    assert_eq!(two.space.ended("ends").await, "Failed");
    two.works().await;
}

pub(crate) async fn sixty_at_once(space: Space) {
    let container = json!({ "name": "main", "image": space.image("kube/web:1"), "readinessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1 } });
    let template = json!({
        "metadata": { "labels": { "app": "many" } }, "spec": { "terminationGracePeriodSeconds": 1, "containers": [container] },
    });
    space
        .create(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "many" },
            "spec": { "replicas": 60, "selector": { "matchLabels": { "app": "many" } }, "template": template },
        }))
        .await;
    let began = std::time::Instant::now();
    space
        .until(("Deployment", "many"), "all sixty", |many| {
            (many["status"]["availableReplicas"] == 60).then_some(())
        })
        .await;
    println!("    sixty pods were ready after {:.1} s", began.elapsed().as_secs_f32());
    let pods = space.list("Pod").await.expect("pods");
    let mut addresses: Vec<&str> = pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 60, "{addresses:?}");
    space.delete("Deployment", "many").await;
    until(Duration::from_secs(120), "the end of sixty", || async {
        let pods = space.list("Pod").await?;
        if pods.is_empty() { Ok(()) } else { Err(format!("{} pods", pods.len())) }
    })
    .await;
}
