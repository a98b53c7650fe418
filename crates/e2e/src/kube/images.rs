//! The images of the scenarios, beside the busybox that all tests have: packed here and pushed to the tests' registry.

use serde_json::json;

use super::Programs;
use crate::Registry;
use crate::image::{Image, Layer, busybox};

/// Pushes them all.
///
/// # Panics
/// When agnhost can't be read: then nothing was built.
pub async fn push(registry: &Registry, programs: &Programs) {
    let to = registry.address();
    for (tag, page) in [("1", "one\n"), ("2", "two\n")] {
        web(page).push(to, &format!("kube/web:{tag}")).await;
    }
    // What peers want for their pods.
    let pause = json!({ "Entrypoint": ["/bin/sleep", "2147483647"] });
    busybox().configured(pause).push(to, "kube/pause:1").await;
    let files = Layer::new().directory("data", 0o755).file("data/hello", 0o644, b"from an image\n");
    Image::new(json!({})).layer(files).push(to, "kube/files:1").await;
    let agnhost = std::fs::read(programs.path("agnhost")).expect("agnhost");
    let layer = Layer::new().file("agnhost", 0o755, &agnhost);
    let config = json!({ "Entrypoint": ["/agnhost"], "Cmd": ["pause"], "Env": ["PATH=/bin"] });
    busybox().configured(config).layer(layer).push(to, "kube/agnhost:2").await;
}

/// A server of one page at port 80.
fn web(page: &str) -> Image {
    let layer = Layer::new().directory("www", 0o755).file("www/index.html", 0o644, page.as_bytes());
    let config = json!({ "Entrypoint": ["/bin/httpd", "-f", "-h", "/www"], "Env": ["PATH=/bin"] });
    busybox().configured(config).layer(layer)
}
