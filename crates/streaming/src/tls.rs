//! TLS with given files, read again when they change.
//!
//! The files are looked at before each handshake, by one thread at a time: a file system that hangs costs a handshake a second, and
//! no other one anything. A new pair that can't be used (or is half written: there are two files) leaves the old one in use,
//! which is logged once for each change.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::time::timeout;

use crate::error::Error;

/// Where certificates and keys lie, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those that lead from it to an authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that clients' certificates must come from; without it clients need none. kubelet shows no certificate.
    pub client_ca: Option<PathBuf>,
}

/// How long a handshake waits for the files to be looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The configuration of the moment.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: Mutex<Arc<ServerConfig>>,
    /// What was read last; held by who looks.
    stamps: Arc<tokio::sync::Mutex<Stamps>>,
}

/// What tells a file from the one that lay there before.
type Stamps = Vec<Option<(i64, i64, u64, u64, u64)>>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::TlsFile`], [`Error::TlsPem`], [`Error::TlsPair`], [`Error::TlsClientCa`]: they can't be used.
    pub(crate) fn open(files: TlsFiles) -> Result<Self, Error> {
        // Before the reading: what changes meanwhile is read again.
        let stamps = stamps(&files);
        let current = Mutex::new(Arc::new(read(&files)?));
        Ok(Self { files, current, stamps: Arc::new(tokio::sync::Mutex::new(stamps)) })
    }

    /// What the next handshake goes by. Safe to cancel: a look goes on.
    pub(crate) async fn current(self: &Arc<Self>) -> Arc<ServerConfig> {
        if let Ok(mut seen) = Arc::clone(&self.stamps).try_lock_owned() {
            let tls = Arc::clone(self);
            let look = tokio::task::spawn_blocking(move || tls.look(&mut seen));
            if timeout(LOOK, look).await.is_err() {
                tracing::warn!(certificate = %self.files.certificate.display(), "the certificate for streams can't be looked at in time");
            }
        }
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads files that have changed.
    fn look(&self, seen: &mut Stamps) {
        let stamps = stamps(&self.files);
        if *seen == stamps {
            return;
        }
        *seen = stamps;
        match read(&self.files) {
            Ok(config) => {
                tracing::info!(certificate = %self.files.certificate.display(), "the certificate for streams was read again");
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "the new certificate for streams can't be used, the old one stays");
            }
        }
    }
}

/// Checks that the files can be used.
///
/// # Errors
/// As the server would have when it starts.
pub fn check(files: &TlsFiles) -> Result<(), Error> {
    read(files).map(drop)
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn stamps(files: &TlsFiles) -> Stamps {
    let stamp = |meta: Metadata| (meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino(), meta.dev());
    let paths = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    paths.into_iter().flatten().map(|path| std::fs::metadata(path).ok().map(stamp)).collect()
}

fn read(files: &TlsFiles) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let path = &files.certificate;
    let unusable = |cause| Error::TlsPair { path: path.clone(), cause };
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(unusable)?;
    let builder = match &files.client_ca {
        Some(path) => builder.with_client_cert_verifier(verifier(path, provider)?),
        None => builder.with_no_client_auth(),
    };
    let certificates = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&slurp(&files.key)?);
    let key = key.map_err(|cause| Error::TlsPem { what: "a private key", path: files.key.clone(), cause })?;
    let mut config = builder.with_single_cert(certificates, key).map_err(unusable)?;
    // Upgrades are HTTP/1.1's.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn verifier(
    path: &Path,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|cause| Error::TlsPair { path: path.to_owned(), cause })?;
    }
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|cause| Error::TlsClientCa { path: path.to_owned(), cause })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = slurp(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let none = rustls::pki_types::pem::Error::NoItemsFound;
    let read = read.and_then(|list| if list.is_empty() { Err(none) } else { Ok(list) });
    read.map_err(|cause| Error::TlsPem { what: "certificates", path: path.to_owned(), cause })
}

fn slurp(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |cause: io::Error| Error::TlsFile { path: path.to_owned(), cause };
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(files: &TlsFiles) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    }

    fn files(directory: &Path) -> TlsFiles {
        TlsFiles { certificate: directory.join("crt"), key: directory.join("key"), client_ca: None }
    }

    #[tokio::test]
    async fn a_new_pair_is_taken_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        write_pair(&files);
        let tls = Arc::new(Tls::open(files.clone()).unwrap());
        let first = tls.current().await;
        assert!(Arc::ptr_eq(&first, &tls.current().await), "nothing has changed");
        std::fs::write(&files.key, "no key").unwrap();
        assert!(Arc::ptr_eq(&first, &tls.current().await), "the old one stays");
        write_pair(&files);
        let second = tls.current().await;
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(Arc::ptr_eq(&second, &tls.current().await));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_that_can_t_be_read_to_its_end_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        write_pair(&files);
        let tls = Arc::new(Tls::open(files.clone()).unwrap());
        let first = tls.current().await;
        std::fs::remove_file(&files.certificate).unwrap();
        // Opening a FIFO to read waits for somebody who writes, as a server that is away does to its clients.
        assert!(std::process::Command::new("mkfifo").arg(&files.certificate).status().unwrap().success());
        let handshakes = tokio::spawn({
            let tls = Arc::clone(&tls);
            async move {
                for _ in 0..100 {
                    assert!(Arc::ptr_eq(&first, &tls.current().await));
                }
            }
        });
        let in_time = timeout(Duration::from_secs(60), handshakes).await;
        let is_looked_at = tls.stamps.try_lock().is_err();
        // Whoever still reads comes to the end.
        drop(std::fs::File::create(&files.certificate).unwrap());
        in_time.unwrap().unwrap();
        assert!(is_looked_at);
        let _look_is_over = tls.stamps.lock().await;
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        write_pair(&files);
        let certificate = std::fs::read(&files.certificate).unwrap();
        write_pair(&files);
        std::fs::write(&files.certificate, certificate).unwrap();
        assert!(matches!(check(&files), Err(Error::TlsPair { .. })));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        assert!(matches!(check(&files), Err(Error::TlsFile { path, .. }) if path == files.certificate));
        write_pair(&files);
        files.client_ca = Some(files.key.clone());
        let error = check(&files).unwrap_err();
        assert!(matches!(error, Error::TlsPem { what: "certificates", .. }), "{error}");
    }
}
