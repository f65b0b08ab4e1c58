//! Where the Admin API listens, and whom it answers: TLS, tokens, and what it refuses to start with.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use control_plane::certificates::{CertificatesCommand, write};
use control_plane::settings::Settings;
use control_plane::{ControlPlane, StartError, check};
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use shared::clock::UnixTime;
use shared::tls::{provider, read_authorities};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The token of the file.
const TOKEN: &str = "a-token-of-some-length";

fn settings(root: &Path) -> Settings {
    let certificates = root.join("certificates");
    let command = CertificatesCommand {
        out: certificates.clone(),
        data_planes: vec!["node-1".to_owned()],
        groups: Vec::new(),
        names: Vec::new(),
    };
    write(&command, UnixTime::now()).unwrap();
    std::fs::write(root.join("token"), format!("{TOKEN}\n")).unwrap();
    Settings {
        admin_listen: vec!["127.0.0.1:0".parse().unwrap()],
        cluster_listen: "127.0.0.1:0".parse().unwrap(),
        data_directory: root.join("data"),
        cluster_certificate: certificates.join("control-plane.pem"),
        cluster_key: certificates.join("control-plane.key"),
        cluster_ca: certificates.join("ca.pem"),
        addresses_file: Some(root.join("addresses.json")),
        ..Settings::default()
    }
}

#[test]
fn the_admin_api_is_not_exposed_by_accident() {
    let root = tempfile::tempdir().unwrap();
    let base = settings(root.path());
    let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let pair = |settings: Settings| Settings {
        admin_tls_listen: vec![everywhere.into()],
        admin_certificate: Some(settings.cluster_certificate.clone()),
        admin_key: Some(settings.cluster_key.clone()),
        ..settings
    };
    let plain = Settings {
        admin_listen: vec![everywhere.into()],
        ..base.clone()
    };
    let guarded = Settings {
        enforce_rbac: true,
        admin_token_file: Some(root.path().join("token")),
        ..plain.clone()
    };
    for settings in [plain.clone(), guarded, pair(base.clone())] {
        let refused = check(&settings).unwrap_err();
        assert!(matches!(refused, StartError::Exposed { .. }), "{refused}");
        check(&Settings {
            admin_allow_insecure: true,
            ..settings
        })
        .unwrap();
    }
    check(&Settings {
        enforce_rbac: true,
        admin_token_file: Some(root.path().join("token")),
        ..pair(base.clone())
    })
    .unwrap();
    let unfinished = Settings {
        admin_tls_listen: vec![everywhere.into()],
        enforce_rbac: true,
        ..base.clone()
    };
    assert!(matches!(check(&unfinished), Err(StartError::NoCertificate)));
    let file = root.path().join("weak");
    let mut etcd = base.etcd.clone();
    etcd.endpoints = vec!["ftp://a".to_owned()];
    let one: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for (settings, said) in [
        (
            Settings {
                console_listen: vec![one.into()],
                status_listen: vec![one.into()],
                ..base.clone()
            },
            "status_listen: 127.0.0.1:1 is an address of console_listen",
        ),
        (
            Settings {
                data_directory: file.clone(),
                ..base.clone()
            },
            "data_directory",
        ),
        (
            Settings {
                addresses_file: Some(root.path().join("nowhere/addresses.json")),
                ..base.clone()
            },
            "addresses_file",
        ),
        (
            Settings {
                etcd,
                ..base.clone()
            },
            "etcd_endpoints: `ftp://a`",
        ),
        (
            Settings {
                cluster_certificate: base.cluster_ca.with_file_name("node-1.pem"),
                cluster_key: base.cluster_ca.with_file_name("node-1.key"),
                ..base.clone()
            },
            "has not the name that data planes ask for",
        ),
    ] {
        std::fs::write(&file, "short").unwrap();
        let refused = check(&settings).unwrap_err();
        let refused = shared::telemetry::chain(&refused).to_string();
        assert!(refused.contains(said), "{said}: {refused}");
    }
    assert_eq!(check(&base).unwrap(), Vec::<String>::new());
    std::fs::write(root.path().join("weak"), "short").unwrap();
    for name in ["weak", "absent"] {
        let token = Settings {
            admin_token_file: Some(root.path().join(name)),
            ..base.clone()
        };
        assert!(
            matches!(check(&token), Err(StartError::Token { .. })),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_asked_for_over_tls() {
    let root = tempfile::tempdir().unwrap();
    let base = settings(root.path());
    let guarded = Settings {
        enforce_rbac: true,
        ..base.clone()
    };
    let refused = ControlPlane::start(guarded.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::NoUser), "{refused}");
    let control_plane = ControlPlane::start(Settings {
        admin_tls_listen: vec!["127.0.0.1:0".parse().unwrap()],
        admin_certificate: Some(base.cluster_certificate.clone()),
        admin_key: Some(base.cluster_key.clone()),
        admin_token_file: Some(root.path().join("token")),
        data_directory: root.path().join("other"),
        ..guarded
    })
    .await
    .unwrap();
    let addresses = std::fs::read_to_string(root.path().join("addresses.json")).unwrap();
    let addresses: serde_json::Value = serde_json::from_str(&addresses).unwrap();
    let address = addresses.get("admin_tls").unwrap().as_str().unwrap();
    // A connection that never shakes hands holds nobody else up.
    let _idle = TcpStream::connect(address).await.unwrap();
    for (token, status) in [
        ("", "401"),
        ("wrong-wrong-wrong-wrong", "401"),
        (TOKEN, "200"),
    ] {
        let reply = ask(address, &base.cluster_ca, token).await;
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}")),
            "{token}: {reply}"
        );
    }
    assert_eq!(ask_over_http2(address, &base.cluster_ca).await, 200);
    let past = control_plane.publisher().config().revision();
    assert!(past.0 > 0, "the session key was made");
    control_plane.stop().await;
}

#[test]
fn what_keeps_a_control_plane_from_starting_is_found_before_that() {
    let root = tempfile::tempdir().unwrap();
    let base = settings(root.path());
    let other = Settings {
        cluster_key: base.cluster_key.with_file_name("node-1.key"),
        ..base.clone()
    };
    let refused = shared::telemetry::chain(&check(&other).unwrap_err()).to_string();
    assert!(refused.contains("KeyMismatch"), "{refused}");
    let unusable = Settings {
        enforce_rbac: true,
        ..base.clone()
    };
    assert!(matches!(check(&unusable), Err(StartError::NoUser)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_key_is_gone_gets_no_other() {
    let root = tempfile::tempdir().unwrap();
    let base = settings(root.path());
    // As a volume for the store begins.
    std::fs::create_dir_all(root.path().join("data/store")).unwrap();
    check(&base).unwrap();
    ControlPlane::start(base.clone())
        .await
        .unwrap()
        .stop()
        .await;
    let (key, copy) = (root.path().join("data.key"), root.path().join("copy.key"));
    std::fs::rename(&key, &copy).unwrap();
    let started = ControlPlane::start(base.clone()).await.map(drop);
    for refused in [check(&base).map(drop), started] {
        let told = shared::telemetry::chain(&refused.unwrap_err()).to_string();
        assert!(told.contains("data.key is missing while"), "{told}");
    }
    assert!(!key.exists(), "none is made");
    std::fs::rename(&copy, &key).unwrap();
    check(&base).unwrap();
}

#[test]
fn what_an_etcd_that_does_not_answer_holds_is_in_doubt() {
    let root = tempfile::tempdir().unwrap();
    let base = settings(root.path());
    let mut etcd = base.etcd.clone();
    etcd.endpoints = vec!["http://127.0.0.1:1".to_owned()];
    let beside = Settings { etcd, ..base };
    let doubts = check(&beside).unwrap();
    let [doubt] = &doubts[..] else {
        panic!("{doubts:?}");
    };
    assert!(doubt.contains("etcd cannot be reached"), "{doubt}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_gives_way_only_to_one_that_can_start() {
    let root = tempfile::tempdir().unwrap();
    let base = settings(root.path());
    let control_plane = ControlPlane::start(base.clone()).await.unwrap();
    let own = Settings {
        admin_listen: vec![control_plane.admin_address().into()],
        cluster_listen: control_plane.cluster_address(),
        ..base.clone()
    };
    for fine in [&base, &own] {
        control_plane.could_be_followed_by(fine).await.unwrap();
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = root.path().join("other.key");
    std::fs::write(&elsewhere, [7; 32]).unwrap();
    let file = root.path().join("token");
    for (settings, said) in [
        (
            Settings {
                status_listen: vec![taken.local_addr().unwrap().into()],
                ..own.clone()
            },
            "(status_listen)",
        ),
        (
            Settings {
                cluster_listen: "192.0.2.1:8005".parse().unwrap(),
                ..own.clone()
            },
            "192.0.2.1:8005 (cluster_listen)",
        ),
        (
            Settings {
                secrets_key_file: Some(elsewhere),
                ..own.clone()
            },
            "other.key is not the key that the store in",
        ),
        (
            Settings {
                secrets_key_file: Some(root.path().join("absent.key")),
                ..own.clone()
            },
            "absent.key",
        ),
        (
            Settings {
                data_directory: file.join("data"),
                ..own.clone()
            },
            "(data_directory)",
        ),
        (
            Settings {
                enforce_rbac: true,
                ..own.clone()
            },
            "no user with a token yet",
        ),
    ] {
        let refused = control_plane.could_be_followed_by(&settings).await;
        let refused = refused.expect_err(said);
        let refused = shared::telemetry::chain(&refused).to_string();
        assert!(refused.contains(said), "{said}: {refused}");
    }
    control_plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_is_one_control_planes_wherever_its_store_is() {
    let root = tempfile::tempdir().unwrap();
    let base = settings(root.path());
    let control_plane = ControlPlane::start(base.clone()).await.unwrap();
    let mut over_etcd = base.clone();
    // Nobody is there: it is not asked.
    over_etcd.etcd.endpoints = vec!["http://127.0.0.1:9".to_owned()];
    let said = |refused: StartError| {
        let told = shared::telemetry::chain(&refused).to_string();
        assert!(
            matches!(refused, StartError::DataDirectory { .. }),
            "{told}"
        );
        told
    };
    for second in [&base, &over_etcd] {
        let told = said(ControlPlane::start(second.clone()).await.unwrap_err());
        let expected = "(data_directory): another control plane uses it: stop that one first";
        assert!(told.ends_with(expected), "{told}");
    }
    // Nor does one that runs give way to one that would have it.
    let elsewhere = settings(&root.path().join("elsewhere"));
    let other = ControlPlane::start(elsewhere.clone()).await.unwrap();
    let refused = other.could_be_followed_by(&over_etcd).await.unwrap_err();
    assert!(said(refused).contains("another control plane"));
    std::os::unix::fs::symlink(&elsewhere.data_directory, root.path().join("link")).unwrap();
    let same = Settings {
        data_directory: root.path().join("link"),
        secrets_key_file: Some(root.path().join("elsewhere/data.key")),
        ..elsewhere
    };
    other.could_be_followed_by(&same).await.unwrap();
    other.stop().await;
    control_plane.stop().await;
    let refused = ControlPlane::start(over_etcd).await.unwrap_err();
    assert!(matches!(refused, StartError::Store(_)), "{refused}");
}

/// A connection over TLS for one of these protocols.
async fn connect(address: &str, authority: &Path, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(read_authorities(authority).unwrap())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.unwrap()
}

/// The status of `GET /` over HTTP/2.
async fn ask_over_http2(address: &str, authority: &Path) -> u16 {
    let stream = connect(address, authority, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let stream = TokioIo::new(stream);
    let executor = TokioExecutor::new();
    let (mut sender, connection) = http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/")
        .header("kong-admin-token", TOKEN)
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    response.status().as_u16()
}

/// The answer to `GET /` over TLS.
async fn ask(address: &str, authority: &Path, token: &str) -> String {
    let mut stream = connect(address, authority, &[]).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nKong-Admin-Token: {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // A server that closes without a farewell has still answered.
    let _ = stream.read_to_end(&mut reply).await;
    String::from_utf8(reply).unwrap()
}
