//! Certificates: what clients are shown by name, what servers are shown, and which servers are believed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use data_plane::compile::room::Room;
use data_plane::limits::Limits;
use data_plane::live::Live;
use data_plane::proxy::Proxy;
use data_plane::secrets::Secrets;
use data_plane::settings::Settings;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    Stream,
};
use serde_json::{Value, json};
use shared::snapshot::{Record, Revision, Snapshot};
use shared::tls::{Unverified, certified, provider};
use uuid::Uuid;

use crate::gateway::{
    OK, ask, configuration, read_until, record, serve_each, settings, start, start_with, stop,
};

/// An authority, or one that another has made.
type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params
}

fn authority(name: &str) -> Authority {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn below(issuer: &Authority, name: &str) -> Authority {
    CertifiedIssuer::signed_by(authority_params(name), KeyPair::generate().unwrap(), issuer)
        .unwrap()
}

/// A certificate for `name`, in DER and PEM, with its key.
struct Leaf {
    der: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

fn leaf(issuer: &Authority, name: &str) -> Leaf {
    leaf_with(issuer, name, KeyPair::generate().unwrap())
}

fn leaf_with(issuer: &Authority, name: &str, key: KeyPair) -> Leaf {
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let made = params.signed_by(&key, issuer).unwrap();
    Leaf {
        der: made.der().clone(),
        pem: made.pem(),
        key,
    }
}

/// A server that shows `chain`, and takes only clients that `clients` has made, if it is given.
fn tls_server(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    clients: Option<&Authority>,
) -> u16 {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let shown = SingleCertAndKey::from(certified(chain, key.into()).unwrap());
    let config = Arc::new(builder.with_cert_resolver(Arc::new(shown)));
    serve_each(move |mut tcp| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        if read_until(&mut stream, "\r\n\r\n").is_some() {
            let name = tls.server_name().unwrap_or("none").to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\nX-Name: {name}\r\nContent-Length: 0\r\n\r\n");
            let _ = Stream::new(&mut tls, &mut tcp).write_all(answer.as_bytes());
        }
    })
}

fn certificate(id: u128, leaf: &Leaf) -> Record {
    let fields = json!({"cert": leaf.pem, "key": leaf.key.serialize_pem()});
    record("certificates", id, fields)
}

/// A certificate for `name` in a configuration, and a client that believes it.
pub(crate) fn known_name(name: &str) -> (Vec<Record>, ClientConfig) {
    let issuer = authority("streams");
    let own = leaf(&issuer, name);
    let records = vec![
        certificate(900, &own),
        record(
            "snis",
            901,
            json!({"name": name, "certificate": reference(900)}),
        ),
    ];
    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (records, client)
}

/// A server of HTTPS with a certificate for `name` that nobody has reason to believe.
pub(crate) fn unknown_server(name: &str) -> u16 {
    let own = leaf(&authority("unknown"), name);
    tls_server(vec![own.der], &own.key, None)
}

fn reference(id: u128) -> Value {
    json!({"id": Uuid::from_u128(id)})
}

fn status(proxy: &Proxy, host: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    ask(proxy, &request)
}

#[test]
fn a_server_is_believed_by_its_authority_its_name_and_the_length_of_its_chain() {
    let root = authority("root");
    let between = below(&root, "between");
    let server = leaf(&between, "localhost");
    let chain = vec![server.der.clone(), between.der().clone()];
    let port = tls_server(chain, &server.key, None);
    let other = authority("other");
    let check = |service: Value, authority: &Authority, expected: &str| {
        let mut fields = json!({
            "host": "localhost", "protocol": "https", "retries": 0, "read_timeout": 60_000,
            "tls_verify": true, "ca_certificates": [Uuid::from_u128(70)]
        });
        let map = fields.as_object_mut().unwrap();
        map.extend(service.as_object().unwrap().clone());
        let mut records = configuration(port, &fields, &[json!({"paths": ["/"]})]);
        records.push(record(
            "ca_certificates",
            70,
            json!({"cert": authority.pem()}),
        ));
        let proxy = start(records);
        let answer = status(&proxy, "a.test");
        assert_eq!(
            answer.split(' ').nth(1),
            Some(expected),
            "{service} {answer}"
        );
        if expected == "200" {
            assert!(answer.contains("x-name: localhost"), "{answer}");
        }
        stop(proxy);
    };
    check(json!({}), &root, "200");
    check(json!({"tls_verify_depth": 1}), &root, "200");
    check(json!({"tls_verify_depth": 0}), &root, "502");
    check(json!({}), &other, "502");
    check(json!({"tls_verify": false}), &other, "200");
}

#[test]
fn a_server_is_believed_whose_own_certificate_is_trusted() {
    let mut params = authority_params("own");
    params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let own = params.self_signed(&key).unwrap();
    let port = tls_server(vec![own.der().clone()], &key, None);
    for (trusted, expected) in [(own.pem(), "200"), (authority("own").pem(), "502")] {
        let service = json!({
            "host": "localhost", "protocol": "https", "retries": 0, "tls_verify": true,
            "ca_certificates": [Uuid::from_u128(70)],
        });
        let mut records = configuration(port, &service, &[json!({"paths": ["/"]})]);
        records.push(record("ca_certificates", 70, json!({"cert": trusted})));
        let proxy = start(records);
        let answer = status(&proxy, "a.test");
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{answer}");
        stop(proxy);
    }
}

#[test]
fn a_server_that_need_not_be_believed_may_show_what_no_verifier_takes() {
    let root = authority("root");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["server.test".to_owned()]).unwrap();
    let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    unknown.set_criticality(true);
    params.custom_extensions.push(unknown);
    let made = params.signed_by(&key, &root).unwrap();
    let port = tls_server(vec![made.der().clone()], &key, None);
    for (verifies, status) in [(false, "200"), (true, "502")] {
        let service = json!({"protocol": "https", "tls_verify": verifies, "retries": 0});
        let proxy = start(configuration(port, &service, &[json!({"paths": ["/"]})]));
        let answer = self::status(&proxy, "server.test");
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
        stop(proxy);
    }
}

#[test]
fn a_server_is_shown_the_services_certificate_and_the_name_that_is_asked_for() {
    let root = authority("root");
    let (server, client) = (leaf(&root, "localhost"), leaf(&root, "client"));
    let port = tls_server(vec![server.der.clone()], &server.key, Some(&root));
    for (own, expected) in [(true, "200"), (false, "502")] {
        let mut service =
            json!({"protocol": "https", "host": "localhost", "retries": 0, "read_timeout": 60_000});
        if own {
            service["client_certificate"] = reference(60);
        }
        let route = json!({"paths": ["/"], "preserve_host": true});
        let mut records = configuration(port, &service, &[route]);
        records.push(certificate(60, &client));
        let proxy = start(records);
        let answer = status(&proxy, "kept.test:99");
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{answer}");
        if own {
            assert!(answer.contains("x-name: kept.test"), "{answer}");
        }
        stop(proxy);
    }
}

#[test]
fn an_upstreams_certificate_serves_where_the_service_has_none() {
    let root = authority("root");
    let (server, client) = (leaf(&root, "localhost"), leaf(&root, "client"));
    let port = tls_server(vec![server.der.clone()], &server.key, Some(&root));
    let service =
        json!({"protocol": "https", "host": "u.test", "read_timeout": 60_000, "retries": 0});
    let mut records = configuration(port, &service, &[json!({"paths": ["/"]})]);
    records.push(certificate(60, &client));
    records.push(record(
        "upstreams",
        50,
        json!({"name": "u.test", "client_certificate": reference(60)}),
    ));
    records.push(record(
        "targets",
        51,
        json!({"target": format!("localhost:{port}"), "upstream": reference(50)}),
    ));
    let proxy = start(records);
    let answer = status(&proxy, "a.test");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("x-name: localhost"), "{answer}");
    stop(proxy);
}

#[test]
fn what_the_configuration_leaves_open_the_settings_say() {
    let (root, other) = (authority("root"), authority("other"));
    let between = below(&root, "between");
    let (server, client) = (leaf(&between, "localhost"), leaf(&root, "client"));
    let chain = vec![server.der.clone(), between.der().clone()];
    let port = tls_server(chain, &server.key, Some(&root));
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let presenting = Settings {
        upstream_tls_certificate: file("client.pem", client.pem.clone()),
        upstream_tls_key: file("client.key", client.key.serialize_pem()),
        ..settings()
    };
    let root_file = file("root.pem", root.pem());
    let other_file = file("other.pem", other.pem());
    let believing = |authority: &Option<PathBuf>, depth| Settings {
        upstream_tls_verify: true,
        upstream_tls_verify_depth: depth,
        upstream_tls_ca: authority.clone(),
        ..presenting.clone()
    };
    let own = json!({"tls_verify_depth": 1, "ca_certificates": [Uuid::from_u128(70)]});
    for (settings, service, expected) in [
        (settings(), json!({}), "502"),
        (presenting.clone(), json!({}), "200"),
        (presenting.clone(), json!({"tls_verify": true}), "502"),
        (believing(&root_file, None), json!({}), "200"),
        (believing(&root_file, Some(0)), json!({}), "502"),
        (
            believing(&root_file, Some(0)),
            json!({"tls_verify_depth": 1}),
            "200",
        ),
        (believing(&other_file, None), json!({}), "502"),
        (
            believing(&other_file, None),
            json!({"tls_verify": false}),
            "200",
        ),
        (believing(&other_file, Some(0)), own, "200"),
    ] {
        let mut fields =
            json!({"host": "localhost", "protocol": "https", "retries": 0, "read_timeout": 60_000});
        let map = fields.as_object_mut().unwrap();
        map.extend(service.as_object().unwrap().clone());
        let mut records = configuration(port, &fields, &[json!({"paths": ["/"]})]);
        records.push(record("ca_certificates", 70, json!({"cert": root.pem()})));
        let snapshot = Snapshot::new(1, Revision(1), records);
        let compiled = Secrets::of(&settings)
            .unwrap()
            .compile(&snapshot, &Room::default());
        let live: Live = Arc::new(ArcSwapOption::from_pointee(compiled.unwrap()));
        let proxy = Proxy::start_with(&settings, Limits::default(), live).unwrap();
        let answer = status(&proxy, "a.test");
        let case = format!("{service} {:?} {answer}", settings.upstream_tls_verify);
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{case}");
        stop(proxy);
    }
}

#[test]
fn a_client_is_shown_the_certificate_for_its_name_and_resumes() {
    let root = authority("root");
    let (port, _heads) = crate::gateway::upstream(&[OK]);
    let exact = leaf(&root, "a.example.test");
    let wild = leaf(&root, "*.example.test");
    let route = json!({"paths": ["/"], "snis": ["a.example.test"]});
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]}), route]);
    records.push(certificate(60, &exact));
    records.push(certificate(61, &wild));
    records.push(record(
        "snis",
        62,
        json!({"name": "a.example.test", "certificate": reference(60)}),
    ));
    records.push(record(
        "snis",
        63,
        json!({"name": "*.example.test", "certificate": reference(61)}),
    ));
    let proxy = start(records);
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let shake = |name: &str| {
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::clone(&config), server).unwrap();
        let mut tcp = TcpStream::connect(proxy.addresses().proxy_tls.unwrap()).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let shown = tls.peer_certificates().unwrap()[0].clone();
        Ok::<_, std::io::Error>((shown, tls.handshake_kind().unwrap()))
    };
    assert_eq!(shake("a.example.test").unwrap().0, exact.der);
    assert_eq!(shake("b.example.test").unwrap().0, wild.der);
    assert_eq!(
        shake("a.example.test").unwrap().1,
        HandshakeKind::Resumed,
        "a second connection costs no signature"
    );
    // The default certificate is for nobody that this client would believe.
    assert!(shake("other.test").is_err());
    stop(proxy);
}

#[test]
fn each_client_is_shown_the_key_that_it_can_check() {
    let root = authority("root");
    let elliptic = leaf(&root, "pair.test");
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = leaf_with(&root, "pair.test", rsa);
    let pair = json!({
        "cert": rsa.pem, "key": rsa.key.serialize_pem(),
        "cert_alt": elliptic.pem, "key_alt": elliptic.key.serialize_pem(),
    });
    let proxy = start(vec![
        record("certificates", 60, pair),
        record(
            "snis",
            61,
            json!({"name": "pair.test", "certificate": reference(60)}),
        ),
    ]);
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let shown = |suites: Vec<rustls::SupportedCipherSuite>| {
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: suites,
            ..rustls::crypto::aws_lc_rs::default_provider()
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let name = ServerName::try_from("pair.test").unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tcp = TcpStream::connect(proxy.addresses().proxy_tls.unwrap()).unwrap();
        tls.complete_io(&mut tcp).unwrap();
        tls.peer_certificates().unwrap()[0].clone()
    };
    let for_rsa = suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    let for_elliptic = suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    assert_eq!(shown(vec![for_rsa]), rsa.der);
    assert_eq!(shown(vec![for_elliptic]), elliptic.der);
    assert_eq!(
        shown(vec![for_rsa, for_elliptic]),
        elliptic.der,
        "the cheaper one"
    );
    stop(proxy);
}

#[test]
fn status_is_told_over_tls_where_its_listener_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let own = leaf(&authority("root"), "status.test");
    let files = ["pem", "key"].map(|name| directory.path().join(name));
    let [certificate, key] = &files;
    std::fs::write(certificate, &own.pem).unwrap();
    std::fs::write(key, own.key.serialize_pem()).unwrap();
    for files in [Some((certificate, key)), None] {
        let settings = Settings {
            status_listen: vec!["127.0.0.1:0 ssl".parse().unwrap()],
            status_tls_certificate: files.map(|(certificate, _)| certificate.clone()),
            status_tls_key: files.map(|(_, key)| key.clone()),
            ..settings()
        };
        let proxy = start_with(&settings, Limits::default(), Vec::new());
        let address = proxy.addresses().status.unwrap();
        // A client that believes whoever shows one.
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified))
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = ServerName::try_from("status.test").unwrap();
        let mut tls = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut tcp = TcpStream::connect(address).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let told = r#"wardgate_certificate_expiry_timestamp{certificate="status_tls_certificate"}"#;
        assert_eq!(answer.contains(told), files.is_some(), "{answer}");
        let shown = &tls.peer_certificates().unwrap()[0];
        assert_eq!(*shown == own.der, files.is_some());
        // Who speaks none is told nothing.
        let mut plain = TcpStream::connect(address).unwrap();
        plain
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
        stop(proxy);
    }
}
