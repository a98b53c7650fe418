//! The server against clients of its own: WebSocket's in every sub-protocol, HTTP's that are wrong, slow or too many.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod client;
mod http;
mod limits;
mod patience;
mod ports;
mod processes;
mod tls;
mod websocket;
