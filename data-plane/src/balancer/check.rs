//! Checks the health of one peer (Kong 3.9, active health checks).

use std::io;
use std::net::SocketAddr;

use http::StatusCode;
use rustls_pki_types::ServerName;
use shared::entity::health_check::CheckKind;
use shared::telemetry::chain;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Event, Peer};
use crate::compile::upstreams::{CompiledChecks, CompiledUpstream};
use crate::upstream::tls::TlsProfile;

/// Most bytes that are read to find the status.
const MAX_STATUS_LINE: usize = 1024;

/// What a check of `peer` says; nothing if its status is on neither list.
pub(super) async fn check(
    upstream: &CompiledUpstream,
    checks: &CompiledChecks,
    peer: &Peer,
) -> Option<Event> {
    match tokio::time::timeout(checks.timeout, ask(upstream, checks, peer)).await {
        Err(_) => Some(Event::Timeout),
        Ok(Err(error)) => {
            tracing::debug!(error = %chain(&error), "a health check failed");
            Some(Event::TcpFailure)
        }
        Ok(Ok(None)) => Some(Event::Success),
        Ok(Ok(Some(status))) => checks.judgement.judge(status),
    }
}

/// The status of the answer; none where a connection is all that is asked for.
async fn ask(
    upstream: &CompiledUpstream,
    checks: &CompiledChecks,
    peer: &Peer,
) -> io::Result<Option<StatusCode>> {
    let address = SocketAddr::new(peer.key.address, peer.key.port);
    let mut stream = TcpStream::connect(address).await?;
    match checks.kind {
        CheckKind::Tcp | CheckKind::Grpc => Ok(None),
        CheckKind::Http => request(&mut stream, upstream, checks, peer).await.map(Some),
        CheckKind::Https | CheckKind::Grpcs => {
            let name = checks
                .server_name
                .as_deref()
                .or(upstream.host_header.as_deref())
                .unwrap_or(&peer.key.host);
            let (name, _) = shared::authority::split_port(name);
            let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
            let profile = TlsProfile::of(checks.verify, None, None, upstream.identity.as_ref());
            let http2 = checks.kind == CheckKind::Grpcs;
            let mut stream = profile.connector(http2).connect(name, stream).await?;
            if http2 {
                return Ok(None);
            }
            request(&mut stream, upstream, checks, peer).await.map(Some)
        }
    }
}

async fn request(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upstream: &CompiledUpstream,
    checks: &CompiledChecks,
    peer: &Peer,
) -> io::Result<StatusCode> {
    let mut head = format!("GET {} HTTP/1.1\r\nConnection: close\r\n", checks.path);
    let own_host = checks
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !own_host {
        let host = match &upstream.host_header {
            Some(host) => host.clone(),
            None if peer.key.host.contains(':') => format!("[{}]", peer.key.host),
            None => peer.key.host.clone(),
        };
        for part in ["Host: ", &host, "\r\n"] {
            head.push_str(part);
        }
    }
    for (name, value) in &checks.headers {
        for part in [name, ": ", value, "\r\n"] {
            head.push_str(part);
        }
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut line = Vec::new();
    let mut part = [0_u8; 256];
    while !line.contains(&b'\n') && line.len() < MAX_STATUS_LINE {
        let count = stream.read(&mut part).await?;
        if count == 0 {
            break;
        }
        line.extend_from_slice(part.get(..count).unwrap_or_default());
    }
    status(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no status line"))
}

/// The status in a line such as `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<StatusCode> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let code = rest.get(2..5).filter(|_| rest.get(1) == Some(&b' '))?;
    StatusCode::from_bytes(code).ok()
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn a_status_line_is_read() {
        for (line, expected) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], Some(200)),
            (b"HTTP/1.0 503\r\n", Some(503)),
            (b"HTTP/2 200\r\n", None),
            (b"SSH-2.0", None),
            (b"", None),
        ] {
            assert_eq!(status(line).map(|status| status.as_u16()), expected);
        }
    }
}
