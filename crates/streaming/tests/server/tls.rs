//! Streams over TLS.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use streaming::{Config, TlsFiles};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::authority;
use crate::processes::{ALL, config, node_with};

struct Pair {
    certificate: String,
    key: String,
}

fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

fn write(pair: &Pair, files: &TlsFiles) {
    std::fs::write(&files.certificate, &pair.certificate).unwrap();
    std::fs::write(&files.key, &pair.key).unwrap();
}

fn files(directory: &Path) -> TlsFiles {
    TlsFiles { certificate: directory.join("crt"), key: directory.join("key"), client_ca: None }
}

/// The beginning of the answer to a request without an upgrade.
async fn ask(url: &str, trusted: &str, own: Option<&Pair>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match own {
        Some(Pair { certificate, key }) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(authority(url)).await?;
    let name = "localhost".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET /exec/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let mut answer = vec![0; 22];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found";

#[tokio::test]
async fn a_certificate_is_changed_while_the_server_runs() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let (first, second) = (pair(), pair());
    write(&first, &files);
    let node = node_with(Config { tls: Some(files.clone()), ..config() });
    let url = node.exec("sleep", ALL);
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    assert_eq!(ask(&url, &first.certificate, None).await.unwrap(), NOT_FOUND);
    std::fs::write(&files.key, "half of a new one").unwrap();
    assert_eq!(ask(&url, &first.certificate, None).await.unwrap(), NOT_FOUND);
    write(&second, &files);
    assert_eq!(ask(&url, &second.certificate, None).await.unwrap(), NOT_FOUND);
    ask(&url, &first.certificate, None).await.unwrap_err();
    let plain = crate::client::talk(&url, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(!plain.contains("HTTP"), "{plain}");
}

#[tokio::test]
async fn clients_need_a_certificate_of_the_given_authority() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = files(directory.path());
    let server = pair();
    write(&server, &files);
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed =
        CertificateParams::new(vec!["kubelet".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let client = Pair { certificate: signed.pem(), key: key.serialize_pem() };
    let ca = directory.path().join("ca");
    std::fs::write(&ca, authority.pem()).unwrap();
    files.client_ca = Some(ca);
    let node = node_with(Config { tls: Some(files), ..config() });
    let url = node.exec("sleep", ALL);
    ask(&url, &server.certificate, None).await.unwrap_err();
    ask(&url, &server.certificate, Some(&pair())).await.unwrap_err();
    assert_eq!(ask(&url, &server.certificate, Some(&client)).await.unwrap(), NOT_FOUND);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let tls = Some(files(directory.path()));
    let backend = Arc::new(crate::processes::Processes::default());
    let error = streaming::Server::start(Config { tls, ..config() }, backend).unwrap_err();
    assert!(error.to_string().contains("crt"), "{error}");
}
