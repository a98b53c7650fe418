//! Plain HTTP to a server inside of the node's network: kubelet's read-only port, kubectl's proxy of the API server.
//!
//! HTTP/1.0, a connection a request: what tests ask needs no more, and the answer ends where the connection does.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Netns;

/// A server, and the network that it is in.
#[derive(Debug, Clone)]
pub struct Http {
    host: Arc<Netns>,
    address: SocketAddr,
}

impl Http {
    /// What listens at a port of the node's loopback.
    pub fn new(host: &Arc<Netns>, port: u16) -> Self {
        Self { host: Arc::clone(host), address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// What is at `path`, as text.
    ///
    /// # Errors
    /// The status and what the server says to it, or what became of the connection.
    pub async fn get(&self, path: &str) -> Result<String, String> {
        self.request(&format!("GET {path}"), "").await
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// As [`Http::get`], and when it is none.
    pub async fn json(&self, path: &str) -> Result<Value, String> {
        let text = self.get(path).await?;
        serde_json::from_str(&text).map_err(|error| format!("{path}: {error}: {text}"))
    }

    /// Sends JSON by a method to a path, as in `POST /api/v1/namespaces`.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub async fn send(&self, request: &str, content: &Value) -> Result<String, String> {
        self.request(request, &content.to_string()).await
    }

    async fn request(&self, request: &str, content: &str) -> Result<String, String> {
        let answer = self.exchange(request, content).await.map_err(|error| format!("{request}: {error}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status.starts_with('2') {
            Ok(body.to_owned())
        } else {
            Err(format!("{request}: {status}: {body}"))
        }
    }

    async fn exchange(&self, request: &str, content: &str) -> std::io::Result<String> {
        let mut connection = self.host.dial(self.address).await?;
        let kind = if request.starts_with("PATCH") { "merge-patch+json" } else { "json" };
        let head = format!(
            "{request} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json, */*\r\nContent-Type: application/{kind}\r\n\
             Content-Length: {}\r\n\r\n{content}",
            content.len()
        );
        connection.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
