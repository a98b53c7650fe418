//! A registry of one image on a loopback port: as much of the distribution protocol as a pull asks for.
//!
//! OCI distribution-spec 1.1, "Pulling manifests" and "Pulling blobs". Nothing can be pushed.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::image::{Image, MANIFEST};

/// The repository that the image is served as.
const REPOSITORY: &str = "/v2/knarr/demo";

/// The registry; it ends when dropped.
pub(super) struct Registry {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Registry {
    /// Serves `image` until dropped.
    pub(super) async fn serve(image: Image) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, server: tokio::spawn(accept(listener, Arc::new(image))) })
    }

    /// What to pull.
    pub(super) fn reference(&self) -> String {
        format!("{}/knarr/demo:latest", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, image: Arc<Image>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let image = Arc::clone(&image);
        let service = service_fn(move |request| {
            let response = answer(&image, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        connections.spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

fn answer(image: &Image, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let found = match request.uri().path() {
        "/v2/" => Some(("application/json", Bytes::from_static(b"{}"))),
        path => path.strip_prefix(REPOSITORY).and_then(|path| object(image, path)),
    };
    let (status, kind, body) = match found {
        Some((kind, body)) => (StatusCode::OK, kind, body),
        None => (StatusCode::NOT_FOUND, "text/plain", Bytes::from_static(b"not found")),
    };
    let length = body.len();
    let body = if request.method() == Method::HEAD { Bytes::new() } else { body };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(hyper::header::CONTENT_LENGTH, length.into());
    response
}

/// `/manifests/<tag or digest>` or `/blobs/<digest>`.
fn object(image: &Image, path: &str) -> Option<(&'static str, Bytes)> {
    if let Some(name) = path.strip_prefix("/manifests/") {
        let known = name == "latest" || name == image.manifest.digest;
        return known.then(|| (MANIFEST, Bytes::from(image.manifest.bytes.clone())));
    }
    let digest = path.strip_prefix("/blobs/")?;
    let blob = image.blobs.iter().find(|blob| blob.digest == digest)?;
    Some(("application/octet-stream", Bytes::from(blob.bytes.clone())))
}
