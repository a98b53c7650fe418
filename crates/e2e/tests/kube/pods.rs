//! What is in a pod: init containers and sidecars, hooks, namespaces that are shared or the node's, containers for debugging.

use e2e::kube::Space;
use serde_json::{Value, json};

use crate::objects::{STAYS, pod, pod_of, shell, with};

pub(crate) async fn init_and_sidecar(space: Space) {
    let registry = &space.cluster.registry;
    let volume = json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] });
    let container = |name: &str, script: &str| {
        with(with(shell(registry, script), json!({ "name": name })), volume.clone())
    };
    let serve = "echo page >/shared/index.html; trap 'echo ended; exit 0' TERM; httpd -f -p 8080 -h /shared & touch /tmp/up; while :; do wait; done";
    let sidecar = json!({
        "restartPolicy": "Always",
        "startupProbe": { "exec": { "command": ["test", "-e", "/tmp/up"] }, "periodSeconds": 1 },
    });
    let spec = json!({
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 30, "volumes": [{ "name": "shared", "emptyDir": {} }],
        "initContainers": [
            container("first", "test ! -e /shared/first && echo 1 >/shared/first"),
            with(container("beside", serve), sidecar),
            container("second", "test -e /shared/first && wget -qO- http://127.0.0.1:8080 | grep page"),
        ],
        "containers": [container("main", "wget -qO- http://127.0.0.1:8080")],
    });
    space.create(&pod("init", spec)).await;
    assert_eq!(space.ended("init").await, "Succeeded");
    let log = space.kubectl(&["logs", "init", "-c", "main"]).await.well();
    assert_eq!(log, "page\n", "the sidecar runs beside the main container");
    // It is asked to end when that has ended, and not before.
    let beside = space.until_container(("init", "beside"), "/state/terminated/exitCode", &json!(0)).await;
    let main = space.until_container(("init", "main"), "/state/terminated/exitCode", &json!(0)).await;
    let finished =
        |status: &Value| status["state"]["terminated"]["finishedAt"].as_str().expect("a time").to_owned();
    assert!(finished(&beside) >= finished(&main), "{beside} {main}");
}

pub(crate) async fn hooks(space: Space) {
    let directory = space.cluster.ground.path("hooks");
    std::fs::create_dir_all(&directory).expect("a directory");
    let script = "echo main >>/out/order; trap 'echo term >>/out/order; exit 0' TERM; while :; do sleep 1 & wait $!; done";
    let hook =
        |word: &str| json!({ "exec": { "command": ["sh", "-c", format!("echo {word} >>/out/order")] } });
    let container = with(
        shell(&space.cluster.registry, script),
        json!({
            "lifecycle": { "postStart": hook("start"), "preStop": hook("stop") },
            "volumeMounts": [{ "name": "out", "mountPath": "/out" }],
        }),
    );
    let volumes = json!([{ "name": "out", "hostPath": { "path": directory, "type": "Directory" } }]);
    let spec = json!({ "containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 30 });
    space.create(&pod("hooked", spec)).await;
    space.ready("hooked").await;
    space.delete("Pod", "hooked").await;
    space.gone("Pod", "hooked").await;
    let order = std::fs::read_to_string(directory.join("order")).expect("what hooks wrote");
    let (begin, end) = order.split_at("main\nstart\n".len());
    // The first process and the hook behind its start run side by side.
    assert!(["main\nstart\n", "start\nmain\n"].contains(&begin), "{order}");
    assert_eq!(end, "stop\nterm\n", "the hook before the end has ended before the signal comes");
}

pub(crate) async fn hook_that_fails(space: Space) {
    let fails =
        json!({ "lifecycle": { "postStart": { "exec": { "command": ["sh", "-c", "echo no; exit 4"] } } } });
    space.create(&pod_of("hooked", with(shell(&space.cluster.registry, STAYS), fails))).await;
    let message = space.event("FailedPostStartHook").await;
    assert!(
        message.contains("exited with 4")
            || message.contains("exit code 4")
            || message.contains("PostStartHook failed"),
        "{message}"
    );
    space.until_container(("hooked", "main"), "/lastState/terminated/exitCode", &json!(0)).await;
}

pub(crate) async fn shared_process_namespace(space: Space) {
    let registry = &space.cluster.registry;
    let named = |name: &str, script: &str| with(shell(registry, script), json!({ "name": name }));
    let containers = json!([named("one", "exec sleep 4242"), named("two", STAYS)]);
    space.create(&pod("shared", json!({ "shareProcessNamespace": true, "containers": containers }))).await;
    space.ready("shared").await;
    let list = |container: &'static str| {
        let space = space.clone();
        async move {
            space.kubectl(&["exec", "shared", "-c", container, "--", "ps", "-o", "pid,args"]).await.well()
        }
    };
    let seen = list("two").await;
    assert!(seen.contains("sleep 4242"), "{seen}");
    let first = seen.lines().find(|line| line.trim_start().starts_with("1 ")).unwrap_or_default();
    assert!(!first.contains("sh -c") && !first.contains("4242"), "PID 1 is the pod's own: {seen}");
    // One ends the other's process, and that alone is started again.
    space
        .kubectl(&[
            "exec",
            "shared",
            "-c",
            "two",
            "--",
            "sh",
            "-c",
            "kill -9 $(pidof sleep | tr ' ' '\\n' | sort -n | head -1)",
        ])
        .await
        .well();
    space.until_container(("shared", "one"), "/restartCount", &json!(1)).await;
    let two = space.until_container(("shared", "two"), "/ready", &json!(true)).await;
    assert_eq!(two["restartCount"], 0, "{two}");
}

pub(crate) async fn namespaces_of_the_node(space: Space) {
    let script = "for n in net pid ipc uts; do readlink /proc/self/ns/$n; done; sleep 3600";
    let spec = json!({
        "hostNetwork": true, "hostPID": true, "hostIPC": true, "containers": [shell(&space.cluster.registry, script)],
    });
    space.create(&pod("nodes", spec)).await;
    let log = space.logged("nodes", "uts:").await;
    let own = |name: &str| {
        std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace").display().to_string()
    };
    let host = format!("net:[{}]", space.cluster.ground.host.inode());
    assert_eq!(log, format!("{host}\n{}\n{}\n{}\n", own("pid"), own("ipc"), own("uts")));
    let pod = space.ready("nodes").await;
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"], "{}", pod["status"]);
}

pub(crate) async fn namespaces_of_its_own(space: Space) {
    let script = "for n in net pid ipc uts mnt; do readlink /proc/self/ns/$n; done; hostname; sleep 3600";
    space.create(&pod_of("own", shell(&space.cluster.registry, script))).await;
    let log = space.logged("own", "own\n").await;
    for line in log.lines().filter(|line| line.contains(":[")) {
        let name = line.split(':').next().expect("a name");
        let nodes =
            std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace").display().to_string();
        assert_ne!(line, nodes, "{log}");
    }
}

pub(crate) async fn user_namespace(space: Space) {
    let script = "cat /proc/self/uid_map; echo written >/kept/file; stat -c %u /kept/file /secret/word; cat /secret/word; sleep 3600";
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "word" }, "stringData": { "word": "hidden\n" } });
    space.create(&secret).await;
    let mounts = json!({ "volumeMounts": [
        { "name": "kept", "mountPath": "/kept" }, { "name": "secret", "mountPath": "/secret" },
    ] });
    let spec = json!({
        "hostUsers": false, "containers": [with(shell(&space.cluster.registry, script), mounts)],
        "volumes": [{ "name": "kept", "emptyDir": {} }, { "name": "secret", "secret": { "secretName": "word" } }],
    });
    space.create(&pod("users", spec)).await;
    let log = space.logged("users", "hidden\n").await;
    let map: Vec<&str> = log.lines().next().expect("a map").split_whitespace().collect();
    assert_eq!((map[0], map[2]), ("0", "65536"), "{log}");
    assert_ne!(map[1], "0", "root of the pod is nobody on the node: {log}");
    assert_eq!(log.lines().skip(1).collect::<Vec<_>>(), ["0", "0", "hidden"], "files have the pod's owners");
}

pub(crate) async fn ephemeral_container(space: Space) {
    space.create(&pod_of("debugged", shell(&space.cluster.registry, "exec sleep 4242"))).await;
    space.ready("debugged").await;
    let image = space.image("busybox:latest");
    let look = "echo looking; cat /proc/1/cmdline | tr '\\0' ' '";
    let arguments = [
        "debug",
        "debugged",
        "--image",
        &image,
        "--target=main",
        "-c",
        "looks",
        "--profile=general",
        "--",
        "sh",
        "-c",
        look,
    ];
    space.kubectl(&arguments).await.well();
    space.until_container(("debugged", "looks"), "/state/terminated/exitCode", &json!(0)).await;
    let log = space.kubectl(&["logs", "debugged", "-c", "looks"]).await.well();
    assert_eq!(log.trim_end(), "looking\nsleep 4242", "PID 1 is that of the container that is looked at");
}
