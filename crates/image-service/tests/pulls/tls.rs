//! Registries over HTTPS: whom we trust, and whom we show our certificate.

use std::sync::Arc;

use image_service::ErrorKind;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::Service;
use crate::image::{Content, ImageBytes, LayerBytes};
use crate::registry::{Registry, Reply};

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name`, and its key.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server for 127.0.0.1; with `clients`, it wants a certificate of theirs.
    fn server(&self, clients: Option<&Authority>) -> TlsAcceptor {
        let (certificate, key) = self.issue("127.0.0.1");
        let builder = match clients {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()))
    }
}

fn image() -> (ImageBytes, Content) {
    let image = ImageBytes::new(vec![LayerBytes::new("a", 300_000)]);
    let mut content = Content::default();
    image.publish(&mut content, "a", "x");
    (image, content)
}

async fn serving(content: Content, tls: TlsAcceptor) -> Registry {
    Registry::start_tls(move |request| content.reply(request), tls).await
}

#[tokio::test]
async fn an_authority_of_the_operator_s_is_trusted() {
    let authority = Authority::new();
    let (image, content) = image();
    let registry = serving(content, authority.server(None)).await;
    let service = Service::new();
    let server = format!("server = \"https://{}\"", registry.host());

    service.hosts("reg.example", &server);
    let (kind, text) = service.refusal("reg.example/a:x").await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.ends_with("invalid peer certificate: UnknownIssuer"), "{text}");
    assert!(registry.requests().is_empty());

    std::fs::write(service.dir.path().join("certs.d/reg.example/ca.pem"), authority.pem()).unwrap();
    service.hosts("reg.example", &format!("{server}\nca = \"ca.pem\""));
    assert_eq!(service.pull("reg.example/a:x").await.unwrap(), image.id);

    service.hosts("other.example", &format!("{server}\nskip_verify = true"));
    assert_eq!(service.pull("other.example/a:x").await.unwrap(), image.id);
}

#[tokio::test]
async fn our_certificate_is_shown_to_the_registry_and_not_to_where_it_sends_us() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (image, content) = image();
    // This one would take our certificate, but must not be shown it: it can't want one, then.
    let storage = serving(content.clone(), authority.server(None)).await;
    let strict = serving(content.clone(), authority.server(Some(&clients))).await;
    let targets = [storage.host(), strict.host()];
    let registry = Registry::start_tls(
        move |request| match request.path.contains("/blobs/") {
            true => {
                let target = &targets[usize::from(request.query.contains("strict"))];
                Reply::redirect(format!("https://{target}{}", request.path))
            }
            false => content.reply(request),
        },
        authority.server(Some(&clients)),
    )
    .await;
    let service = Service::new();
    let (certificate, key) = clients.issue("node");
    let dir = |name: &str| service.dir.path().join("certs.d").join(name);
    for registry_name in ["reg.example", "strict.example"] {
        let text = format!(
            "server = \"https://{}\"\nca = \"ca.pem\"\nclient = [[\"node.pem\", \"node.key\"]]",
            registry.host()
        );
        service.hosts(registry_name, &text);
        std::fs::write(dir(registry_name).join("ca.pem"), authority.pem()).unwrap();
        std::fs::write(dir(registry_name).join("node.pem"), certificate.pem()).unwrap();
        std::fs::write(dir(registry_name).join("node.key"), key.serialize_pem()).unwrap();
    }
    assert_eq!(service.pull("reg.example/a:x").await.unwrap(), image.id);
    let service_two = Service::new();
    std::fs::create_dir_all(service_two.dir.path().join("certs.d")).unwrap();
    std::fs::rename(dir("strict.example"), service_two.dir.path().join("certs.d/strict.example")).unwrap();
    let (kind, text) = service_two.refusal("strict.example/a:x").await;
    assert_eq!(kind, ErrorKind::Unavailable, "{text}");
    assert!(strict.requests().is_empty());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_named() {
    let service = Service::new();
    service.hosts("reg.example", "server = \"https://127.0.0.1:1\"\nca = \"lacking.pem\"");
    let (kind, text) = service.refusal("reg.example/a:x").await;
    assert_eq!(kind, ErrorKind::Internal);
    assert!(text.contains("certs.d/reg.example/lacking.pem\": No such file"), "{text}");
}

#[tokio::test]
async fn a_tag_is_not_taken_from_a_redirect_out_of_https() {
    let authority = Authority::new();
    let (image, content) = image();
    let plain = {
        let content = content.clone();
        Registry::start(move |request| content.reply(request)).await
    };
    let target = plain.host();
    let registry = Registry::start_tls(
        move |request| match request.path.ends_with("/manifests/x") && request.query.is_empty() {
            true => content.reply(request),
            false => Reply::redirect(format!("http://{target}{}", request.path)),
        },
        authority.server(None),
    )
    .await;
    let service = Service::new();
    let text = format!("server = \"https://{}\"\nskip_verify = true", registry.host());
    service.hosts("reg.example", &text);
    let (_, text) = service.refusal("reg.example/a:x").await;
    assert!(text.ends_with("is refused: it leads out of https"), "{text}");
    assert!(plain.requests().is_empty());
    // Content that its digest proves may come that way.
    let name = format!("reg.example/a@{}", image.digest());
    assert_eq!(service.pull(&name).await.unwrap(), image.id);
}

/// containerd tries such an address with HTTPS, and then without: its manual's own example for `skip_verify` is one.
#[tokio::test]
async fn an_address_of_http_with_settings_of_tls_may_be_either() {
    let (image, content) = image();
    let secure = serving(content.clone(), Authority::new().server(None)).await;
    let plain = Registry::start(move |request| content.reply(request)).await;
    for registry in [&secure, &plain] {
        let service = Service::new();
        let text = format!("[host.\"http://{}\"]\nskip_verify = true\n", registry.host());
        service.hosts("127.0.0.1:1", &text);
        assert_eq!(service.pull("127.0.0.1:1/a:x").await.unwrap(), image.id);
        assert_eq!(registry.requests().len(), 3);
    }
    // A certificate that isn't good is no reason to do without.
    let service = Service::new();
    let directory = service.dir.path().join("certs.d/127.0.0.1:1");
    service.hosts("127.0.0.1:1", &format!("server = \"http://{}\"\nca = \"ca.pem\"", secure.host()));
    std::fs::write(directory.join("ca.pem"), Authority::new().pem()).unwrap();
    let (kind, text) = service.refusal("127.0.0.1:1/a:x").await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("invalid peer certificate: "), "{text}");
    std::fs::write(directory.join("ca.pem"), "nothing").unwrap();
    let (_, text) = service.refusal("127.0.0.1:1/a:x").await;
    assert!(text.ends_with("ca.pem\": there is no certificate in it (PEM)"), "{text}");
}
