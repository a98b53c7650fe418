//! image-service

mod digest;
mod error;
mod gc;
pub mod layers;
mod names;
mod unpack;
mod usage;

pub use digest::{Algorithm, Digest, Digester};
pub use error::Error;
pub use usage::Usage;
