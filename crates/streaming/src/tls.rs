//! TLS with given files, read again when they change.
//!
//! The files are looked at before each handshake. A new pair that can't be used (or is half written: there are two files) leaves
//! the old one in use, which is logged once for each change.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

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

/// The configuration of the moment.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    stamps: Stamps,
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
        let config = Arc::new(read(&files)?);
        Ok(Self { files, current: Mutex::new(Current { config, stamps }) })
    }

    /// What the next handshake goes by.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        let stamps = stamps(&self.files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.stamps == stamps {
            return Arc::clone(&current.config);
        }
        current.stamps = stamps;
        match read(&self.files) {
            Ok(config) => {
                tracing::info!(certificate = %self.files.certificate.display(), "the certificate for streams was read again");
                current.config = Arc::new(config);
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "the new certificate for streams can't be used, the old one stays");
            }
        }
        Arc::clone(&current.config)
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

    #[test]
    fn a_new_pair_is_taken_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        write_pair(&files);
        let tls = Tls::open(files.clone()).unwrap();
        let first = tls.current();
        assert!(Arc::ptr_eq(&first, &tls.current()), "nothing has changed");
        std::fs::write(&files.key, "no key").unwrap();
        assert!(Arc::ptr_eq(&first, &tls.current()), "the old one stays");
        write_pair(&files);
        let second = tls.current();
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(Arc::ptr_eq(&second, &tls.current()));
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
