//! Certificates of etcd that are replaced, and those that are not taken.

use std::fs::write;
use std::path::Path;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use shared::clock::monotonic;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::ALL;
use super::*;

/// A certificate for this machine that vouches for itself, put where members look for their authority.
fn certificate(authority: &Path) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    write(authority, made.cert.pem()).unwrap();
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], made.signing_key.into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers the next request that comes with a certificate that is believed.
async fn serve(listener: &TcpListener, acceptor: &TlsAcceptor) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else {
            continue;
        };
        let mut asked = [0; 4096];
        let _ = stream.read(&mut asked).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        stream.write_all(answer).await.unwrap();
        stream.flush().await.unwrap();
        return;
    }
}

#[tokio::test]
async fn an_authority_that_takes_the_place_of_another_is_believed_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca.pem");
    let first = certificate(&authority);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = EtcdSettings {
        endpoints: vec![format!("https://localhost:{port}")],
        ca: Some(authority.clone()),
        ..EtcdSettings::default()
    };
    let members = Members::new(&settings).unwrap();
    let body = json!({});
    let ask = || members.ask("/v3/kv/range", &body, ALL);
    let (answer, ()) = tokio::join!(ask(), serve(&listener, &first));
    assert_eq!(answer.unwrap(), json!({}));

    let second = certificate(&authority);
    let refused = tokio::select! {
        answer = ask() => answer,
        () = serve(&listener, &second) => panic!("a stranger is believed"),
    };
    assert!(
        matches!(refused, Err(EtcdError::Unreachable(_))),
        "{refused:?}"
    );
    members.renew(monotonic());
    let (answer, ()) = tokio::join!(ask(), serve(&listener, &second));
    assert_eq!(answer.unwrap(), json!({}));
    // What cannot be used changes nothing.
    write(&authority, "nothing").unwrap();
    members.renew(monotonic());
    let (answer, ()) = tokio::join!(ask(), serve(&listener, &second));
    assert_eq!(answer.unwrap(), json!({}));
}

/// Lets nobody in, by TLS of `versions`, whom `made` has not signed.
async fn admit(
    listener: &TcpListener,
    made: &rcgen::CertifiedKey<rcgen::KeyPair>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) {
    let mut clients = RootCertStore::empty();
    clients.add(made.cert.der().clone()).unwrap();
    let provider = tls::provider();
    let clients = WebPkiClientVerifier::builder_with_provider(clients.into(), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![made.cert.der().clone()],
            made.signing_key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let refused = acceptor.accept(stream).into_fallible().await;
        // What the client has sent is read: a reset would overtake the alert.
        if let Err((_, mut stream)) = refused {
            _ = stream.read(&mut [0; 4096]).await;
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_certificates_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca.pem");
    let (own, key) = (
        directory.path().join("own.pem"),
        directory.path().join("own.key"),
    );
    let stranger = rcgen::generate_simple_self_signed(vec!["stranger".to_owned()]).unwrap();
    write(&own, stranger.cert.pem()).unwrap();
    write(&key, stranger.signing_key.serialize_pem()).unwrap();
    let shown = (Some(own), Some(key));
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        for ((certificate, key), said) in [
            ((None, None), "set etcd_certificate and etcd_key"),
            (shown.clone(), "does not take etcd_certificate"),
        ] {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            write(&authority, made.cert.pem()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let members = Members::new(&EtcdSettings {
                endpoints: vec![format!("https://localhost:{port}")],
                ca: Some(authority.clone()),
                certificate,
                key,
                ..EtcdSettings::default()
            });
            let members = members.unwrap();
            // Nothing was written, so nobody has to wonder.
            for path in ["/v3/kv/range", "/v3/kv/txn"] {
                let body = json!({});
                let refused = tokio::select! {
                    refused = members.ask(path, &body, ALL) => refused.unwrap_err(),
                    () = admit(&listener, &made, versions) => panic!("there is no end of it"),
                };
                let told = refused.to_string();
                assert!(
                    told.starts_with("etcd cannot be reached: https://localhost")
                        && told.contains(said),
                    "{versions:?} {path}: {told}"
                );
            }
        }
    }
}

/// Answers the next connection with `answer` and closes it.
async fn close(listener: &TcpListener, answer: &[u8]) {
    let (mut stream, _) = listener.accept().await.unwrap();
    _ = stream.read(&mut [0; 4096]).await.unwrap();
    stream.write_all(answer).await.unwrap();
}

#[tokio::test]
async fn another_protocol_is_said_with_what_to_write() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca.pem");
    _ = certificate(&authority);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for (scheme, path, answer, said) in [
        (
            "https",
            "/v3/kv/txn",
            &plain[..],
            "write `http://` in etcd_endpoints",
        ),
        (
            "http",
            "/v3/kv/range",
            b"",
            "etcd cannot be reached: http://localhost",
        ),
        (
            "http",
            "/v3/kv/range",
            b"",
            "write `https://` in etcd_endpoints",
        ),
        // Whether it has taken the request, nobody knows.
        (
            "http",
            "/v3/kv/txn",
            b"",
            "did not say whether it has written",
        ),
        (
            "http",
            "/v3/kv/txn",
            &plain[..],
            "400 Bad Request: Client sent an HTTP request",
        ),
    ] {
        let members = Members::new(&EtcdSettings {
            endpoints: vec![format!("{scheme}://localhost:{port}")],
            ca: Some(authority.clone()),
            ..EtcdSettings::default()
        });
        let members = members.unwrap();
        let body = json!({});
        let (told, ()) = tokio::join!(members.ask(path, &body, ALL), close(&listener, answer));
        let told = told.unwrap_err().to_string();
        assert!(told.contains(said), "{scheme} {path}: {told}");
    }
}

#[tokio::test]
async fn a_member_that_has_answered_and_goes_is_not_taken_for_one_of_another_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let members = Members::new(&EtcdSettings {
        endpoints: vec![format!("http://localhost:{port}")],
        ..EtcdSettings::default()
    });
    let members = members.unwrap();
    let body = json!({});
    let ask = || members.ask("/v3/kv/range", &body, ALL);
    let (told, ()) = tokio::join!(ask(), close(&listener, b""));
    let told = told.unwrap_err().to_string();
    assert!(told.contains("write `https://`"), "{told}");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let (answered, ()) = tokio::join!(ask(), close(&listener, answer));
    answered.unwrap();
    let (told, ()) = tokio::join!(ask(), close(&listener, b""));
    let told = told.unwrap_err().to_string();
    assert!(
        told.contains("etcd cannot be reached: http://localhost"),
        "{told}"
    );
    assert!(!told.contains("https"), "{told}");
}

#[tokio::test]
async fn what_one_member_says_is_told_where_the_next_is_silent() {
    let listener = || TcpListener::bind("127.0.0.1:0");
    let (gone, silent) = (listener().await.unwrap(), listener().await.unwrap());
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let endpoints = vec![url(&gone), url(&silent)];
    let silence = [
        (
            Duration::from_secs(30),
            format!("{}/ is silent", endpoints[1]),
        ),
        (Duration::from_secs(1), "no answer within 1.0 s".to_owned()),
    ];
    let members = Members::new(&EtcdSettings {
        endpoints,
        ..EtcdSettings::default()
    });
    let members = members.unwrap();
    drop(gone);
    for (within, silence) in silence {
        for path in ["/v3/kv/range", "/v3/kv/txn"] {
            members.first.store(0, Ordering::Relaxed);
            let told = members.ask(path, &json!({}), within).await.unwrap_err();
            let is_unknown = matches!(told, EtcdError::Unknown(_));
            assert_eq!(is_unknown, path.ends_with("txn"), "{told}");
            let told = told.to_string();
            let (said, then) = told.split_once("; and then: ").unwrap();
            assert!(said.contains("onnection refused"), "{told}");
            assert_eq!(then, silence);
        }
    }
}

#[tokio::test]
async fn a_member_that_goes_is_one_that_does_not_answer() {
    let (one, other) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let body = json!({});
    for (status, code) in [
        ("408 Request Timeout", 1),
        ("504 Gateway Timeout", 4),
        ("503 Service Unavailable", 14),
    ] {
        let members = Members::new(&EtcdSettings {
            endpoints: vec![url(&one), url(&other)],
            ..EtcdSettings::default()
        });
        let members = members.unwrap();
        let said = format!(r#"{{"error":"grpc: the client connection is closing","code":{code}}}"#);
        let going = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}",
            said.len()
        );
        let well = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        // What it was to write may be written: nobody else is told to.
        let (told, ()) = tokio::join!(
            members.ask("/v3/kv/txn", &body, ALL),
            close(&one, going.as_bytes())
        );
        assert!(matches!(told, Err(EtcdError::Unknown(_))), "{told:?}");
        let (told, (), ()) = tokio::join!(
            members.ask("/v3/kv/range", &body, ALL),
            close(&other, going.as_bytes()),
            close(&one, well)
        );
        assert_eq!(told.unwrap(), body, "{status}");
    }
}

#[test]
fn what_is_wrong_with_a_setting_is_said_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| Some(directory.path().join(name));
    let pair = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        write(file(&format!("{name}.pem")).unwrap(), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        write(file(&format!("{name}.key")).unwrap(), key).unwrap();
    };
    pair("own");
    pair("other");
    write(file("empty").unwrap(), "").unwrap();
    for (ca, certificate, key, said) in [
        ("nowhere", "own.pem", "own.key", "etcd_ca: reading "),
        ("empty", "own.pem", "own.key", "etcd_ca: "),
        (
            "own.pem",
            "nowhere",
            "own.key",
            "etcd_certificate: reading ",
        ),
        ("own.pem", "empty", "own.key", "etcd_certificate: "),
        ("own.pem", "own.pem", "nowhere", "etcd_key: reading "),
        ("own.pem", "own.pem", "empty", "etcd_key: "),
        (
            "own.pem",
            "own.pem",
            "other.key",
            "etcd_certificate and etcd_key: ",
        ),
    ] {
        let settings = EtcdSettings {
            endpoints: vec!["https://localhost".to_owned()],
            ca: file(ca),
            certificate: file(certificate),
            key: file(key),
            ..EtcdSettings::default()
        };
        let told = settings.check().unwrap_err().to_string();
        assert!(told.starts_with(said), "{told}");
    }
    for (endpoint, said) in [
        (
            "http://root:secretpw@localhost:2379",
            "no user signs in there",
        ),
        ("http://root@localhost:2379", "no user signs in there"),
        (
            "ftp://root:secretpw@localhost",
            "expected http:// or https://",
        ),
        ("http://root:secretpw@local host", ""),
        ("http://localhost:2379/v3", "scheme, host and port alone"),
        ("http://localhost:2379/?a", "scheme, host and port alone"),
        ("http://localhost:2379/#a", "scheme, host and port alone"),
    ] {
        let settings = EtcdSettings {
            endpoints: vec![endpoint.to_owned()],
            ..EtcdSettings::default()
        };
        let told = settings.check().unwrap_err().to_string();
        assert!(
            told.starts_with("etcd_endpoints: `") && told.contains(said),
            "{told}"
        );
        assert!(!told.contains("secretpw"), "{told}");
    }
    for endpoint in ["http://localhost:2379", "http://[::1]:2379/"] {
        let settings = EtcdSettings {
            endpoints: vec![endpoint.to_owned()],
            ..EtcdSettings::default()
        };
        settings.check().unwrap();
    }
}
