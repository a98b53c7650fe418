//! SPDY by itself, and what WebSocket's messages carry, for the fuzz targets: the rest of the crate draws in TLS, which takes
//! minutes to build instrumented.

#[path = "../../src/spdy/mod.rs"]
pub mod spdy;

pub mod websocket;

/// What the modules of WebSocket need of the rest of their crate.
mod backend {
    use tokio::io::{AsyncRead, AsyncWrite};

    pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

    impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
}

use std::cell::RefCell;

thread_local! {
    static RUNTIME: RefCell<Option<tokio::runtime::Runtime>> = const { RefCell::new(None) };
}

/// Runs a future on a clock that leaps ahead whenever nothing moves.
pub fn run<F: Future>(future: F) -> F::Output {
    RUNTIME.with_borrow_mut(|runtime| {
        runtime
            .get_or_insert_with(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .start_paused(true)
                    .build()
                    .unwrap()
            })
            .block_on(future)
    })
}
