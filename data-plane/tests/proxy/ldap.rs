//! A directory that proves who somebody is, without TLS and with it.

use std::net::TcpListener;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use ldap3_proto::LdapCodec;
use ldap3_proto::proto::{
    LdapBindCred, LdapBindRequest, LdapBindResponse, LdapExtendedResponse, LdapMsg, LdapOp,
    LdapResult, LdapResultCode,
};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_util::codec::Framed;
use uuid::Uuid;

use crate::gateway::{OK, ask, configuration, plugin, scoped, start, stop, upstream};

fn result(code: LdapResultCode) -> LdapResult {
    LdapResult {
        code,
        matcheddn: String::new(),
        message: String::new(),
        referral: Vec::new(),
    }
}

/// A directory that knows einstein's password. Whether TLS is spoken from the start, it is told.
fn directory(tls: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.into()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                if tls || answer(&mut stream).await {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    answer(&mut stream).await;
                }
            }
        });
    });
    port
}

/// Answers one request; whether it was the wish for TLS.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin) -> bool {
    let mut messages = Framed::new(stream, LdapCodec::default());
    let asked = messages.next().await.unwrap().unwrap();
    let (op, begins) = if let LdapOp::BindRequest(LdapBindRequest { dn, cred, .. }) = asked.op {
        let right =
            dn == "uid=einstein,dc=example" && cred == LdapBindCred::Simple("password".to_owned());
        let res = result(if right {
            LdapResultCode::Success
        } else {
            LdapResultCode::InvalidCredentials
        });
        let saslcreds = None;
        let answer = LdapBindResponse { res, saslcreds };
        (LdapOp::BindResponse(answer), false)
    } else {
        let answer = LdapExtendedResponse {
            res: result(LdapResultCode::Success),
            name: None,
            value: None,
        };
        (LdapOp::ExtendedResponse(answer), true)
    };
    let answer = LdapMsg {
        msgid: asked.msgid,
        op,
        ctrl: Vec::new(),
    };
    messages.send(answer).await.unwrap();
    begins
}

#[test]
fn a_directory_says_who_passes() {
    let (port, heads) = upstream(&[OK]);
    let routes = ["/plain", "/later", "/tls", "/none"].map(|path| json!({ "paths": [path] }));
    let mut records = configuration(port, &json!({}), &routes);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap().port();
    drop(closed);
    for (number, port, more) in [
        (2_u128, directory(false), json!({})),
        (3, directory(false), json!({"start_tls": true})),
        (4, directory(true), json!({"ldaps": true})),
        (5, nobody, json!({})),
    ] {
        let mut config = json!({
            "ldap_host": "127.0.0.1", "ldap_port": port, "base_dn": "dc=example", "attribute": "uid",
        });
        let object = config.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        let route = json!({"route": {"id": Uuid::from_u128(number)}});
        records.push(scoped(plugin(200 + number, "ldap-auth", &config), &route));
    }
    let proxy = start(records);
    let status = |path: &str, credentials: &str| {
        let credentials = STANDARD.encode(credentials);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: ldap {credentials}\r\nConnection: close\r\n\r\n"
        );
        ask(&proxy, &request).split(' ').nth(1).unwrap().to_owned()
    };
    for path in ["/plain", "/later", "/tls"] {
        assert_eq!(status(path, "einstein:password"), "200", "{path}");
        let head = heads.recv().unwrap().to_ascii_lowercase();
        assert!(
            head.contains("x-credential-identifier: einstein\r\n"),
            "{head}"
        );
        assert_eq!(status(path, "einstein:wrong"), "401", "{path}");
        assert_eq!(
            status(path, "einstein,dc=example:password"),
            "401",
            "{path}"
        );
    }
    assert_eq!(status("/none", "einstein:password"), "500");
    stop(proxy);
}
