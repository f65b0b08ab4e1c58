//! Servers and proxies that answer as they are told.

use std::time::Duration;

use std::sync::Arc;

use plugins::host::{Reach, Repeatable};
use plugins::proxies::{Proxies, Proxy};
use shared::digest::sha256;
use shared::secret::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::settings::Settings;
use crate::upstream::resolve::DnsConfig;

/// A server that takes one connection, reads a head and answers `answer` to it, for each of
/// `answers`. What it read.
async fn server(answers: &[&str]) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let answers: Vec<String> = answers.iter().copied().map(str::to_owned).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heads = Vec::new();
        for answer in answers {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.push(String::from_utf8(head).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        heads
    });
    (port, served)
}

fn limits() -> FetchLimits {
    FetchLimits {
        timeout: Duration::from_secs(10),
        waits: None,
        body: 100,
        verify_tls: false,
        certificate: None,
        proxies: None,
        keep_alive: false,
        http_1_0: false,
        repeatable: Repeatable::Never,
        reach: Reach::Anywhere,
    }
}

/// Fetches with the addresses that need no name server.
async fn fetch(
    request: Request<Bytes>,
    limits: &FetchLimits,
) -> Result<Response<Bytes>, FetchError> {
    let config = DnsConfig::read(&Settings {
        dns_hostsfile: "/nowhere".into(),
        dns_resolver: vec!["127.0.0.1:1".to_owned()],
        dns_order: Vec::new(),
        ..Settings::default()
    })
    .unwrap();
    let means = Means {
        resolver: &Resolver::new(config),
        permitted: &["127.0.0.7".parse().unwrap()],
        limits,
    };
    super::fetch(request, means).await
}

fn request(uri: &str) -> Request<Bytes> {
    Request::get(uri).body(Bytes::new()).unwrap()
}

fn through(port: u16) -> Arc<Proxies> {
    let proxy = Proxy {
        url: format!("http://127.0.0.1:{port}").parse().unwrap(),
        authorization: Some(Secret::new("Basic eDp5".to_owned())),
    };
    Arc::new(Proxies {
        http: Some(proxy.clone()),
        https: Some(proxy),
        without: Vec::new(),
    })
}

#[tokio::test]
async fn a_connection_that_is_not_kept_serves_once_in_the_version_that_is_configured() {
    for (http_1_0, line) in [
        (false, "GET /a?b HTTP/1.1\r\n"),
        (true, "GET /a?b HTTP/1.0\r\n"),
    ] {
        let (port, served) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"]).await;
        let limits = FetchLimits {
            http_1_0,
            ..limits()
        };
        let request = request(&format!("http://127.0.0.1:{port}/a?b"));
        assert!(is_needed(request.uri(), &limits));
        let answer = fetch(request, &limits).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_ref()),
            (200, b"hi".as_slice())
        );
        let head = served.await.unwrap().remove(0);
        assert!(head.starts_with(line), "{head}");
        assert_eq!(head.contains("connection: close"), !http_1_0);
        assert!(head.contains(&format!("host: 127.0.0.1:{port}")));
    }
}

#[tokio::test]
async fn a_proxy_is_told_the_whole_url_and_who_asks() {
    let (port, served) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let limits = FetchLimits {
        proxies: Some(through(port)),
        ..limits()
    };
    fetch(request("http://idp.test/token?x=1"), &limits)
        .await
        .unwrap();
    let head = served.await.unwrap().remove(0);
    assert!(
        head.starts_with("GET http://idp.test/token?x=1 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("host: idp.test\r\n"));
    assert!(head.contains("proxy-authorization: Basic eDp5\r\n"));
}

#[tokio::test]
async fn a_proxy_that_connects_to_nobody_is_an_explained_failure() {
    for (answer, reason) in [
        ("HTTP/1.1 407 Who\r\n\r\n", "the proxy answered 407"),
        ("SSH-2.0 hello\r\n\r\n", "the proxy's answer is malformed"),
    ] {
        let (port, served) = server(match reason {
            "the proxy answered 407" => &["HTTP/1.1 407 Who\r\n\r\n"],
            _ => &["SSH-2.0 hello\r\n\r\n"],
        })
        .await;
        let limits = FetchLimits {
            proxies: Some(through(port)),
            ..limits()
        };
        let error = fetch(request("https://idp.test/token"), &limits)
            .await
            .unwrap_err();
        assert!(error.to_string().ends_with(reason), "{answer}: {error}");
        let head = served.await.unwrap().remove(0);
        assert!(head.starts_with("CONNECT idp.test:443 HTTP/1.1\r\nHost: idp.test:443\r\n"));
        // What is asked of the provider, the proxy does not see.
        assert!(head.contains("Proxy-Authorization: Basic eDp5\r\n") && !head.contains("/token"));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_given_up() {
    for length in [99, 100, 101] {
        let text = "0".repeat(length);
        for answer in [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"),
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{text}\r\n0\r\n\r\n"
            ),
        ] {
            let (port, _served) = server(&[&answer]).await;
            let request = request(&format!("http://127.0.0.1:{port}/"));
            match fetch(request, &limits()).await {
                Ok(whole) => assert_eq!((whole.body().len(), length <= 100), (length, true)),
                Err(error) => assert!(
                    length > 100 && matches!(error, FetchError::TooLarge { limit: 100, .. }),
                    "{answer}: {error}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn rule_72_only_public_and_permitted_addresses_are_connected_to() {
    let narrow = |loopback| FetchLimits {
        reach: Reach::Public { loopback },
        ..limits()
    };
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "[fe80::1]",
    ] {
        for proxies in [None, Some(through(1))] {
            let limits = FetchLimits {
                proxies,
                ..narrow(false)
            };
            let uri = format!("http://{host}:1/");
            let error = fetch(request(&uri), &limits).await.unwrap_err();
            assert!(
                matches!(error, FetchError::Forbidden { .. }),
                "{host}: {error}"
            );
        }
    }
    // A connection is tried, and nobody listens.
    for (host, loopback) in [("127.0.0.7", false), ("localhost", true), ("[::1]", true)] {
        let error = fetch(request(&format!("http://{host}:1/")), &narrow(loopback)).await;
        let error = error.unwrap_err();
        assert!(
            matches!(error, FetchError::Connect { .. }),
            "{host}: {error}"
        );
    }
}

/// A name with these addresses.
struct Name(Vec<Address>);

impl Outside for Name {
    async fn addresses(&self, _: &str) -> Result<Vec<Address>, String> {
        Ok(self.0.clone())
    }

    fn connector(&self, _: bool, _: Option<&ClientCertificate>) -> Result<TlsConnector, String> {
        Err("no connection is secured here".to_owned())
    }

    fn permitted(&self) -> &[Network] {
        &[]
    }
}

/// A server that answers nobody who comes now, and what waits for it already.
fn silent() -> (TcpListener, Vec<std::net::TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let silent = socket.listen(0).unwrap();
    let address = silent.local_addr().unwrap();
    // Nobody takes what is in its queue, and the system leaves those unanswered who come when that is full.
    let mut queued = Vec::new();
    let come = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300));
    while let Ok(connected) = come() {
        queued.push(connected);
    }
    (silent, queued)
}

#[tokio::test]
async fn an_address_that_is_slow_to_answer_is_waited_for_where_there_is_no_other() {
    let (slow, queued) = silent();
    let address = slow.local_addr().unwrap();
    // Nobody may connect to the second one.
    let name = Name(vec![
        (address.ip(), Some(address.port())),
        ("10.0.0.1".parse().unwrap(), None),
    ]);
    let limits = FetchLimits {
        reach: Reach::Public { loopback: true },
        ..limits()
    };
    let asked = fetch::fetch(request("http://idp.test/"), &limits, &name);
    let served = async {
        // Longer than the patience with one of several.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        for _ in &queued {
            slow.accept().await.unwrap();
        }
        let (mut stream, _) = slow.accept().await.unwrap();
        let mut head = [0; 1024];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        stream.write_all(answer).await.unwrap();
        stream
    };
    let both = async { tokio::join!(asked, served) };
    let (answer, _) = tokio::time::timeout(Duration::from_mins(1), both)
        .await
        .unwrap();
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn rule_74_an_address_that_answers_nothing_is_passed_over_for_the_next() {
    let (silent, _queued) = silent();
    let address = silent.local_addr().unwrap();
    let (port, served) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"]).await;
    let ports = [address.port(), port];
    let name = Name(ports.map(|port| (address.ip(), Some(port))).to_vec());
    let limits = FetchLimits {
        reach: Reach::Public { loopback: true },
        ..limits()
    };
    // The system itself gives up after two minutes.
    let asked = fetch::fetch(request("http://idp.test/"), &limits, &name);
    let answer = tokio::time::timeout(Duration::from_mins(1), asked).await;
    assert_eq!(answer.unwrap().unwrap().status(), 200);
    assert_eq!(served.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_certificate_is_presented_through_a_tunnel() {
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use crate::listening::client_certificates::AnyIssuer;
    let made = rcgen::generate_simple_self_signed(vec!["idp.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(shared::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyIssuer::new()))
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 Go\r\n\r\n").await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let shown = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        let shown = shown.map(|first| sha256(first));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        stream.flush().await.unwrap();
        shown
    });
    let client = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
    let certificate = ClientCertificate {
        chain: client.cert.pem(),
        key: Secret::new(client.signing_key.serialize_pem()),
    };
    let limits = FetchLimits {
        proxies: Some(through(port)),
        certificate: Some(Arc::new(certificate)),
        ..limits()
    };
    let answer = fetch(request("https://idp.test/token"), &limits)
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(served.await.unwrap(), Some(sha256(client.cert.der())));
}
