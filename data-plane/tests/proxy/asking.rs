//! Who is asked for a certificate in the TLS handshake, and which requests the connection is then good for.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data_plane::proxy::Proxy;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, SignatureScheme, Stream};
use serde_json::json;
use shared::tls::{Unverified, provider};
use uuid::Uuid;

use crate::gateway::{OK, configuration, plugin, scoped, start, stop, upstream};

/// A client's certificate, and whether anybody has asked for it.
#[derive(Debug)]
struct Own {
    key: Arc<CertifiedKey>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::SeqCst);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Client {
    own: Arc<Own>,
    config: Arc<ClientConfig>,
}

impl Client {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let key = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider());
        let own = Arc::new(Own {
            key: Arc::new(key.unwrap()),
            asked: AtomicBool::new(false),
        });
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified))
            .with_client_cert_resolver(Arc::clone(&own) as _);
        Self {
            own,
            config: Arc::new(config),
        }
    }

    /// A connection to `name` on which `host` is asked for: whether the client was asked for its certificate, how the
    /// handshake went, and the head of the answer.
    fn get(&self, proxy: &Proxy, name: &str, host: &str) -> (bool, HandshakeKind, String) {
        self.own.asked.store(false, Ordering::SeqCst);
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::clone(&self.config), server).unwrap();
        let mut tcp = TcpStream::connect(proxy.addresses().proxy_tls.unwrap()).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        let answer = String::from_utf8(answer).unwrap();
        let asked = self.own.asked.load(Ordering::SeqCst);
        (asked, tls.handshake_kind().unwrap(), answer)
    }
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

#[test]
fn clients_of_hosts_that_want_no_certificate_are_not_asked_for_one() {
    let (port, _heads) = upstream(&[OK]);
    let routes = [
        json!({ "hosts": ["mutual.test"] }),
        json!({ "hosts": ["plain.test", "other.test"] }),
    ];
    let mut records = configuration(port, &json!({}), &routes);
    let on = json!({ "route": { "id": Uuid::from_u128(2) } });
    records.push(scoped(
        plugin(90, "tls-handshake-modifier", &json!({})),
        &on,
    ));
    let proxy = start(records);
    let client = Client::new();
    for _ in 0..2 {
        // Also on resumed sessions.
        let (asked, _, head) = client.get(&proxy, "plain.test", "plain.test");
        assert_eq!((asked, status(&head)), (false, "200"), "{head}");
        let (_, _, head) = client.get(&proxy, "mutual.test", "mutual.test");
        assert_eq!(status(&head), "200", "{head}");
    }
    let client = Client::new();
    let (asked, kind, _) = client.get(&proxy, "mutual.test", "mutual.test");
    assert_eq!((asked, kind), (true, HandshakeKind::Full));
    let (_, kind, _) = client.get(&proxy, "mutual.test", "mutual.test");
    assert_eq!(kind, HandshakeKind::Resumed);
    // A connection that was not asked is none for a route that wants to be: it ends, and the client comes again.
    let (asked, _, head) = client.get(&proxy, "plain.test", "mutual.test");
    assert_eq!((asked, status(&head)), (false, "421"), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    // A proxy in front may use one name, which is nobody's, whatever is asked for behind it.
    for host in ["mutual.test", "plain.test"] {
        let (asked, _, head) = Client::new().get(&proxy, "gateway.internal", host);
        assert_eq!((asked, status(&head)), (true, "200"), "{head}");
    }
    // A connection that was asked may ask for others.
    let (_, _, head) = client.get(&proxy, "mutual.test", "plain.test");
    assert_eq!(status(&head), "200", "{head}");
    // By its address a client asks for no name, and may mean any host.
    let (asked, _, head) = client.get(&proxy, "127.0.0.1", "mutual.test");
    assert_eq!((asked, status(&head)), (true, "200"), "{head}");
    stop(proxy);
}

#[test]
fn a_plugin_of_all_routes_has_all_clients_asked_if_any_route_has_no_name() {
    let (port, _heads) = upstream(&[OK]);
    let routes = [json!({ "hosts": ["a.test"] }), json!({ "paths": ["/"] })];
    let mut records = configuration(port, &json!({}), &routes);
    records.push(plugin(90, "tls-handshake-modifier", &json!({})));
    let proxy = start(records);
    let (asked, _, head) = Client::new().get(&proxy, "any.test", "b.test");
    assert_eq!((asked, status(&head)), (true, "200"), "{head}");
    stop(proxy);
}
