//! SPDY/3.1, the server's side: frames, header blocks, and a connection that carries streams over any pipe of bytes.
//!
//! Spoken as kubelet, kubectl and crictl do, whose library is moby/spdystream, and otherwise as the specification says
//! (<https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>, "draft 3.1" below). What that library does, and what
//! follows from it here:
//!
//! | it | so we |
//! |---|---|
//! | neither sends WINDOW_UPDATE and SETTINGS nor looks at them | hold windows only with a peer that has spoken of them ([`flow`]) |
//! | sends as much as the socket takes | don't read on while streams that are behind hold [`Limits::buffered`] bytes |
//! | drops data that comes before SYN_REPLY | send nothing on a stream before its reply |
//! | blocks on HEADERS frames that nobody reads | never send one |
//! | writes a chunk of any size as one frame | pass on parts of a data frame as they come |
//! | on GOAWAY works off what it has, and closes when its streams are gone | say it last |
//! | resets its streams, says GOAWAY and closes when it is done | linger until then, lest our last bytes are lost to a TCP reset |
//! | answers a PING of the other parity | find out by one whether a peer is there that we don't read from |
//! | needs a reply to each SYN_STREAM within 30 s | answer all of them, at once |
//!
//! Not here: what the streams are for (`remote_command`, `port_forward`), how the connection came about (`http`).

#[cfg(test)]
pub(crate) mod client;
mod connection;
mod dictionary;
mod error;
pub mod flow;
pub mod frame;
pub mod headers;
mod limits;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use connection::{Closer, Connection, Streams};
pub use dictionary::dictionary;
pub use error::Error;
pub use limits::{IDLE_FRAMES, KEEP_ALIVE, LINGER, Limits, Meter};
pub use stream::{Incoming, ReadHalf, Stream, WriteHalf};
