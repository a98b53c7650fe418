//! Images that can't be had at first: the wrong name, the wrong secret.

use std::sync::Arc;

use e2e::kube::Space;
use e2e::{Registry, image};
use serde_json::{Value, json};

use crate::objects::{STAYS, pod, pod_of, shell, with};

pub(crate) async fn comes_later(space: Space) {
    let name = "kube/late:1";
    let container = with(shell(&space.cluster.registry, STAYS), json!({ "image": space.image(name) }));
    space.create(&pod_of("late", container)).await;
    let status =
        space.until_container(("late", "main"), "/state/waiting/reason", &json!("ImagePullBackOff")).await;
    let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_lowercase();
    assert!(message.contains("not found") || message.contains("manifest unknown"), "{status}");
    image::busybox().push(space.cluster.registry.address(), name).await;
    space.ready("late").await;
}

pub(crate) async fn never_pulled(space: Space) {
    let container = with(
        shell(&space.cluster.registry, STAYS),
        json!({ "image": space.image("kube/absent:1"), "imagePullPolicy": "Never" }),
    );
    space.create(&pod_of("never", container)).await;
    space.until_container(("never", "main"), "/state/waiting/reason", &json!("ErrImageNeverPull")).await;
}

pub(crate) async fn private_registry(space: Space) {
    let open = Arc::clone(&space.cluster.registry);
    image::busybox().push(open.address(), "kube/private:1").await;
    let private = Registry::private(&open).await;
    space.cluster.ground.host.lend(&private);
    for (name, password) in [("right", Registry::PASSWORD), ("wrong", "no")] {
        space.create(&secret(name, &private, password)).await;
    }
    let wants = |name: &str, secrets: Value| {
        let container = with(shell(&open, STAYS), json!({ "image": private.image("kube/private:1") }));
        pod(name, json!({ "containers": [container], "imagePullSecrets": secrets }))
    };
    let refused = json!([("without", json!([])), ("wrong", json!([{ "name": "wrong" }]))]);
    for one in refused.as_array().into_iter().flatten() {
        space.create(&wants(one[0].as_str().expect("a name"), one[1].clone())).await;
    }
    for name in ["without", "wrong"] {
        let status =
            space.until_container((name, "main"), "/state/waiting/reason", &json!("ErrImagePull")).await;
        let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_lowercase();
        assert!(["auth", "denied", "401"].iter().any(|word| message.contains(word)), "{status}");
    }
    space.create(&wants("right", json!([{ "name": "right" }]))).await;
    space.ready("right").await;
    // That it is here doesn't make it everybody's.
    space.create(&wants("later", json!([]))).await;
    space.until_container(("later", "main"), "/state/waiting/reason", &json!("ErrImagePull")).await;
}

fn secret(name: &str, registry: &Registry, password: &str) -> Value {
    let auths =
        json!({ "auths": { registry.address(): { "username": Registry::USER, "password": password } } });
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": auths.to_string() },
    })
}
