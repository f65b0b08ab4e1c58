//! Certificates of etcd that are replaced.

use std::fs::write;
use std::path::Path;

use rustls::ServerConfig;
use serde_json::json;
use shared::clock::monotonic;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

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
    let ask = || members.ask("/v3/kv/range", &body);
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
