//! Who sees the credentials of a pull: CVE-2020-15157 (whom a manifest names) and whom a registry sends us to.

use std::sync::{Arc, Mutex};

use e2e::archive::{Packed, Raw, digest, documents};
use e2e::cri;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::rig::Rig;

/// What a request is answered with: by its first line, and whether there are credentials.
type Answer = Box<dyn Fn(&str, bool) -> String + Send>;

/// A server of somebody's, with all that was said to it.
struct Server {
    address: String,
    heard: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut request).await.is_ok_and(|count| count > 0) {
                        continue;
                    }
                    break;
                }
                let known = request.to_ascii_lowercase().contains("\r\nauthorization: basic ");
                let answer = answer(request.lines().next().unwrap_or_default(), known);
                log.lock().unwrap().push(request);
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { address, heard, task }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

/// Wants to know who asks.
fn curious() -> String {
    answer("401 Unauthorized", "www-authenticate: Basic realm=\"thief\"\r\n", "")
}

/// Pulls as somebody from a registry that gives an image whose layer is elsewhere, in one way or the other.
async fn pulled_as_somebody(layer: &serde_json::Value, (blob, thief): (&Packed, &Server), redirects: bool) {
    let rig = Rig::new().await;
    let (config, mut manifest) = documents(std::slice::from_ref(blob));
    manifest["layers"][0] = layer.clone();
    let (config, manifest) = (config.to_string(), manifest.to_string());
    let (config_path, elsewhere) = (format!("blobs/{}", digest(config.as_bytes())), thief.address.clone());
    let registry = Server::start(Box::new(move |line, known| match known {
        false => curious(),
        true if line.contains("/manifests/") => {
            answer("200 OK", &format!("content-type: {}\r\n", e2e::archive::MANIFEST), &manifest)
        }
        true if line.contains(&config_path) => answer("200 OK", "", &config),
        true if redirects => {
            answer("307 Temporary Redirect", &format!("location: http://{elsewhere}/layer\r\n"), "")
        }
        true => answer("404 Not Found", "", "{}"),
    }))
    .await;
    let auth =
        cri::AuthConfig { username: "somebody".into(), password: "secret".into(), ..Default::default() };
    let image = Some(e2e::client::image_spec(&format!("{}/lures:latest", registry.address)));
    let request = cri::PullImageRequest { image, auth: Some(auth), ..Default::default() };
    let refused = rig.client.images.clone().pull_image(request).await.unwrap_err();
    assert!(!refused.message().contains("secret"), "the attack succeeded: {refused}");
    let asked = registry.heard();
    assert!(asked.iter().any(|request| request.contains("/manifests/latest")), "{refused}: {asked:?}");
    assert!(asked.iter().any(|request| request.contains(&digest(&blob.blob))), "{refused}: {asked:?}");
}

fn secrets(thief: &Server) -> Vec<String> {
    let heard = thief.heard().into_iter();
    heard.filter(|request| request.to_ascii_lowercase().contains("authorization")).collect()
}

/// A layer with addresses of its own ("foreign"), which the registry doesn't have.
#[tokio::test]
async fn whom_a_manifest_names_is_not_asked() {
    let thief = Server::start(Box::new(|_, _| curious())).await;
    let blob = Packed::gzip(&Raw::new().file("f", b"foreign").done());
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ] {
        let mut layer = blob.descriptor.clone();
        layer["mediaType"] = media_type.into();
        layer["urls"] = vec![format!("http://{}/layer", thief.address)].into();
        pulled_as_somebody(&layer, (&blob, &thief), false).await;
        assert!(thief.heard().is_empty(), "the attack succeeded: {media_type}: {:?}", thief.heard());
    }
}

/// The registry sends us elsewhere for a layer, and there they ask who we are.
#[tokio::test]
async fn who_asks_after_a_redirect_is_told_nothing() {
    let thief = Server::start(Box::new(|_, _| curious())).await;
    let blob = Packed::gzip(&Raw::new().file("f", b"redirected").done());
    pulled_as_somebody(&blob.descriptor, (&blob, &thief), true).await;
    assert!(!thief.heard().is_empty(), "nobody was there");
    assert!(secrets(&thief).is_empty(), "the attack succeeded: {:?}", secrets(&thief));
}
