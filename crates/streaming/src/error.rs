//! What can go wrong with the server itself. What goes wrong with a client's connection ends that connection alone.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

/// An operation that failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The address can't be listened on.
    #[error("listening for streams on \"{address}\"")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// More requests wait for their clients than are remembered.
    #[error("{limit} requests for streams wait for their clients already")]
    TooManyTokens {
        /// How many are remembered.
        limit: usize,
    },
    /// The command is longer than what is remembered of all waiting requests together.
    #[error("the waiting requests for streams hold {limit} bytes already")]
    TooLong {
        /// The bytes.
        limit: usize,
    },
    /// The system has no random numbers.
    #[error("making a token")]
    Random {
        /// The system's answer.
        #[source]
        cause: getrandom::Error,
    },
    /// A file of the TLS configuration can't be read.
    #[error("reading \"{}\"", path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// A file of the TLS configuration holds no PEM of the kind that is wanted.
    #[error("looking for {what} in \"{}\"", path.display())]
    TlsPem {
        /// What is wanted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: rustls::pki_types::pem::Error,
    },
    /// Certificate and key can't be used, or not together.
    #[error("using the certificate in \"{}\" with its key", path.display())]
    TlsPair {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: rustls::Error,
    },
    /// The certificates that clients' are to be signed by can't be used.
    #[error("using the client authorities in \"{}\"", path.display())]
    TlsClientCa {
        /// Their file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: rustls::server::VerifierBuilderError,
    },
}
