//! LDAP: a connection for each bind, as a user or not at all.

use std::io;

use futures::{SinkExt as _, StreamExt as _};
use ldap3_proto::LdapCodec;
use ldap3_proto::proto::{
    LdapBindCred, LdapBindRequest, LdapExtendedRequest, LdapMsg, LdapOp, LdapResultCode,
};
use plugins::host::ldap::{LdapError, LdapSecurity, LdapServer};
use rustls_pki_types::ServerName;
use shared::secret::Secret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::Framed;

use crate::upstream::resolve::Resolver;
use crate::upstream::tls::tls_connector;

/// What asks for TLS (RFC 4511 §4.14.1).
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

/// Whether `server` takes `password` for that of `name`.
pub(super) async fn bind(
    resolver: &Resolver,
    server: &LdapServer,
    name: &str,
    password: &Secret<String>,
) -> Result<bool, LdapError> {
    let address = || format!("{}:{}", server.host, server.port);
    let asked = tokio::time::timeout(server.timeout, ask(resolver, server, name, password));
    match asked.await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Failure::Connect(error))) => Err(LdapError::Connect {
            address: address(),
            reason: error.to_string(),
        }),
        Ok(Err(Failure::Broken(reason))) => Err(LdapError::Broken {
            address: address(),
            reason,
        }),
        Err(_) => Err(LdapError::Timeout {
            address: address(),
            timeout: server.timeout,
        }),
    }
}

enum Failure {
    Connect(io::Error),
    Broken(String),
}

async fn ask(
    resolver: &Resolver,
    server: &LdapServer,
    name: &str,
    password: &Secret<String>,
) -> Result<bool, Failure> {
    let connected = resolver.connect(&server.host, server.port).await;
    let mut stream = connected.map_err(Failure::Connect)?;
    let bind = LdapOp::BindRequest(LdapBindRequest {
        version: 3,
        dn: name.to_owned(),
        cred: LdapBindCred::Simple(password.expose().clone()),
    });
    if server.security == LdapSecurity::None {
        return is_bound(exchange(&mut stream, bind).await?);
    }
    if server.security == LdapSecurity::StartTls {
        let wish = LdapOp::ExtendedRequest(LdapExtendedRequest {
            name: START_TLS.to_owned(),
            value: None,
        });
        match exchange(&mut stream, wish).await? {
            LdapOp::ExtendedResponse(answer) if answer.res.code == LdapResultCode::Success => {}
            _ => return Err(Failure::Broken("the server does not begin TLS".to_owned())),
        }
    }
    let name = ServerName::try_from(server.host.clone());
    let name = name.map_err(|error| Failure::Connect(io::Error::other(error)))?;
    let stream = tls_connector(server.verify).connect(name, stream).await;
    is_bound(exchange(stream.map_err(Failure::Connect)?, bind).await?)
}

/// Sends one request and reads the answer to it.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: LdapOp,
) -> Result<LdapOp, Failure> {
    let mut messages = Framed::new(stream, LdapCodec::default());
    let broken = |error: io::Error| Failure::Broken(error.to_string());
    let request = LdapMsg {
        msgid: 1,
        op: request,
        ctrl: Vec::new(),
    };
    messages.send(request).await.map_err(broken)?;
    let answer = messages.next().await;
    let answer = answer.ok_or_else(|| Failure::Broken("the connection was closed".to_owned()))?;
    let answer = answer.map_err(broken)?;
    // Whoever says more than was asked may say it before TLS protects what is said.
    if answer.msgid != 1 || !messages.read_buffer().is_empty() {
        return Err(Failure::Broken(
            "an answer that nobody has asked for".to_owned(),
        ));
    }
    Ok(answer.op)
}

fn is_bound(answer: LdapOp) -> Result<bool, Failure> {
    match answer {
        LdapOp::BindResponse(answer) => Ok(answer.res.code == LdapResultCode::Success),
        _ => Err(Failure::Broken("no answer to a bind".to_owned())),
    }
}
