//! Fetches that need a connection of their own: by way of a proxy, with a certificate, in HTTP/1.0, or
//! where the configuration keeps no connection. Rare, so nothing is pooled.
//!
//! ```text
//! TCP to the server, or to the proxy ─► CONNECT, if the target is https ─► TLS ─► one request
//! ```

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HOST};
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Request, Response, Uri, Version};
use http_body_util::Full;
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use plugins::host::{FetchError, FetchLimits};
use plugins::openid_connect::client_keys::ClientCertificate;
use plugins::proxies::Proxy;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::upstream::tls::{TlsSetupError, presenting};

/// Longest head of a proxy's answer, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

const PROXY_AUTHORIZATION: HeaderName = http::header::PROXY_AUTHORIZATION;

/// A connection, whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Whether a fetch needs a connection of its own.
pub(super) fn is_needed(target: &Uri, limits: &FetchLimits) -> bool {
    limits.certificate.is_some()
        || !limits.keep_alive
        || limits.http_1_0
        || proxy(target, limits).is_some()
}

fn proxy<'a>(target: &Uri, limits: &'a FetchLimits) -> Option<&'a Proxy> {
    limits.proxies.as_ref()?.of(target)
}

/// Sends `request` over a connection of its own and reads the whole answer.
pub(super) async fn fetch(
    request: Request<Bytes>,
    limits: &FetchLimits,
) -> Result<Response<Bytes>, FetchError> {
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.clone();
    let bad = || FetchError::Url(super::without_query(&target));
    let authority = target.authority().cloned().ok_or_else(bad)?;
    if authority.as_str().contains('@') {
        return Err(bad());
    }
    let secure = match target.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(bad()),
    };
    let proxy = proxy(&target, limits);
    let mut stream = match proxy {
        None => connect(&target).await?,
        Some(proxy) => {
            let mut stream = connect(&proxy.url).await?;
            if proxy.url.scheme() == Some(&Scheme::HTTPS) {
                stream = secured(stream, &proxy.url, limits.verify_tls, None).await?;
            }
            if secure {
                stream = tunnel(stream, proxy, &target).await?;
            }
            stream
        }
    };
    if secure {
        let certificate = limits.certificate.as_ref();
        stream = secured(stream, &target, limits.verify_tls, certificate).await?;
    }
    parts.headers.remove(CONNECTION);
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
    parts.headers.insert(HOST, host);
    if limits.http_1_0 {
        parts.version = Version::HTTP_10;
    } else {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    match proxy {
        // The proxy is told the whole URL (RFC 9112 §3.2.2).
        Some(proxy) if !secure => {
            if let Some(value) = authorization(proxy)? {
                parts.headers.insert(PROXY_AUTHORIZATION, value);
            }
        }
        _ => {
            let path = target.path_and_query().map_or("/", |path| path.as_str());
            parts.uri = path.parse().map_err(|_| bad())?;
        }
    }
    let broken = |reason: String| FetchError::Broken {
        authority: authority.to_string(),
        reason,
    };
    let request = Request::from_parts(parts, Full::new(body));
    let answer = exchange(stream, request, limits.body).await;
    answer.map_err(|failure| match failure {
        Failure::Broken(error) => broken(error.to_string()),
        Failure::TooLarge => FetchError::TooLarge {
            authority: authority.to_string(),
            limit: limits.body,
        },
    })
}

enum Failure {
    Broken(hyper::Error),
    TooLarge,
}

/// One request and its answer; the connection is driven by whoever waits for it.
async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Response<Bytes>, Failure> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(Failure::Broken)?;
    let mut connection = pin!(connection);
    let mut asked = pin!(async move {
        let answer = sender.send_request(request).await?;
        let (parts, mut body) = answer.into_parts();
        let mut whole = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            whole.extend_from_slice(&frame?.into_data().unwrap_or_default());
            if whole.len() > limit {
                return Ok(None);
            }
        }
        Ok::<_, hyper::Error>(Some(Response::from_parts(parts, whole.freeze())))
    });
    let mut ended = false;
    let answer = poll_fn(|cx| {
        if !ended && connection.as_mut().poll(cx).is_ready() {
            // Why it ended, the one who waits is told.
            ended = true;
        }
        match asked.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    answer.map_err(Failure::Broken)?.ok_or(Failure::TooLarge)
}

fn host_and_port(url: &Uri) -> Result<(String, u16), FetchError> {
    let host = url
        .host()
        .ok_or_else(|| FetchError::Url(super::without_query(url)))?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let own = if url.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    Ok((host, url.port_u16().unwrap_or(own)))
}

fn unreachable(url: &Uri, reason: &impl ToString) -> FetchError {
    FetchError::Connect {
        authority: url.authority().map(ToString::to_string).unwrap_or_default(),
        reason: reason.to_string(),
    }
}

async fn connect(url: &Uri) -> Result<Box<dyn Stream>, FetchError> {
    let address = host_and_port(url)?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| unreachable(url, &error))?;
    stream
        .set_nodelay(true)
        .map_err(|error| unreachable(url, &error))?;
    Ok(Box::new(stream))
}

async fn secured(
    stream: Box<dyn Stream>,
    url: &Uri,
    verify: bool,
    certificate: Option<&Arc<ClientCertificate>>,
) -> Result<Box<dyn Stream>, FetchError> {
    let (host, _) = host_and_port(url)?;
    let name = ServerName::try_from(host).map_err(|error| unreachable(url, &error))?;
    let pair = certificate.map(|certificate| (certificate.chain.as_str(), &certificate.key));
    let connector =
        presenting(verify, pair).map_err(|error: TlsSetupError| unreachable(url, &error))?;
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|error| unreachable(url, &error))?;
    Ok(Box::new(stream))
}

/// Has the proxy connect to `target` (RFC 9110 §9.3.6).
async fn tunnel(
    mut stream: Box<dyn Stream>,
    proxy: &Proxy,
    target: &Uri,
) -> Result<Box<dyn Stream>, FetchError> {
    let failed = |reason: &str| unreachable(&proxy.url, &reason);
    let (host, port) = host_and_port(target)?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let mut head =
        format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(value) = authorization(proxy)? {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream
        .write_all(&head)
        .await
        .map_err(|error| unreachable(&proxy.url, &error))?;
    // Byte by byte: what follows the head is the target's.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= LONGEST_HEAD {
            return Err(failed("the proxy's answer is too long"));
        }
        let byte = stream.read_u8().await;
        answer.push(byte.map_err(|error| unreachable(&proxy.url, &error))?);
    }
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut fields);
    match parsed.parse(&answer) {
        Ok(httparse::Status::Complete(_)) if parsed.code.is_some_and(|code| code / 100 == 2) => {
            Ok(stream)
        }
        Ok(_) => Err(failed(&format!(
            "the proxy answered {}",
            parsed.code.unwrap_or_default()
        ))),
        Err(_) => Err(failed("the proxy's answer is malformed")),
    }
}

fn authorization(proxy: &Proxy) -> Result<Option<HeaderValue>, FetchError> {
    let Some(value) = &proxy.authorization else {
        return Ok(None);
    };
    let mut value = HeaderValue::from_str(value.expose()).map_err(|_| {
        unreachable(
            &proxy.url,
            &"the value of Proxy-Authorization is no header value",
        )
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plugins::proxies::Proxies;
    use shared::secret::Secret;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that takes one connection, reads a head and answers `answer` to it, for each of
    /// `answers`. What it read.
    async fn server(
        answers: &'static [&'static str],
    ) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
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
            body: 100,
            verify_tls: false,
            certificate: None,
            proxies: None,
            keep_alive: false,
            http_1_0: false,
        }
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
            assert!(
                head.contains("Proxy-Authorization: Basic eDp5\r\n") && !head.contains("/token")
            );
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_given_up() {
        let (port, _served) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345"]).await;
        let request = request(&format!("http://127.0.0.1:{port}/"));
        let error = fetch(request, &limits()).await.unwrap_err();
        assert!(
            matches!(error, FetchError::TooLarge { limit: 100, .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_certificate_is_presented_through_a_tunnel() {
        use rustls::crypto::aws_lc_rs::default_provider;
        use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

        use crate::client_certificates::{Asking, thumbprint};
        let made = rcgen::generate_simple_self_signed(vec!["idp.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let live = crate::live::Live::default();
        let mut snapshot = crate::compile::compile(&shared::snapshot::Snapshot::new(
            1,
            shared::snapshot::Revision(1),
            Vec::new(),
        ))
        .unwrap();
        snapshot.asks_for_certificates = true;
        live.store(Some(Arc::new(snapshot)));
        let provider = Arc::new(default_provider());
        let asking = Arc::new(Asking::new(live, Arc::clone(&provider)));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(asking)
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
            let shown = shown.and_then(thumbprint);
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
        assert_eq!(served.await.unwrap(), thumbprint(client.cert.der()));
    }
}
