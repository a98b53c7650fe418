//! Streams between a client such as kubectl and a process: the HTTP server with its tokens, SPDY/3.1 and WebSocket, the
//! protocols of remote commands and of forwarded ports.
//!
//! Not here: what a container or a pod is, and how a process comes to run in one (see [`Backend`], which whoever uses this
//! crate implements).

mod activity;
mod backend;
mod error;
mod http;
mod port_forward;
mod remote_command;
mod server;
mod session;
mod socket;
pub mod spdy;
mod strangers;
mod tls;
mod tokens;
mod websocket;

pub use backend::{
    AttachRequest, Backend, Duplex, Ended, ExecRequest, Failure, Input, Output, Request, Resize, Session,
    Size, Streams,
};
pub use error::Error;
pub use server::{Config, Server};
pub use tls::{TlsFiles, check as check_tls};
