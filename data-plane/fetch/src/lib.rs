//! Single requests over a connection of their own: through a proxy, with a client certificate, in HTTP/1.0, or where no
//! connection is kept. A data plane makes them, and so does a control plane that checks a configuration for it, in the
//! same way.
//!
//! ```text
//! TCP to the server, or to the proxy ─► CONNECT, if the target is https ─► TLS ─► one request
//! ```

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HOST, PROXY_AUTHORIZATION};
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body_util::Full;
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use plugins::host::{ClientCertificate, FetchError, FetchLimits, Reach};
use plugins::proxies::Proxy;
use rustls_pki_types::ServerName;
use shared::authority::bare;
use shared::network::Network;
use shared::telemetry::chain;
use shared::tls::Mistrust;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Longest head of a proxy's answer, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// A connection, whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// An address, and the port there if it is not that of the URL.
pub type Address = (IpAddr, Option<u16>);

/// What a process gets to servers by.
pub trait Outside {
    /// The addresses of a host, in lower case, in the order in which they are tried.
    ///
    /// # Errors
    ///
    /// Why there is none.
    fn addresses(&self, host: &str) -> impl Future<Output = Result<Vec<Address>, String>>;

    /// What makes TLS connections: to servers that are verified or not, with a certificate or without.
    ///
    /// # Errors
    ///
    /// Why the certificate cannot be presented.
    fn connector(
        &self,
        verify: bool,
        certificate: Option<&ClientCertificate>,
    ) -> Result<TlsConnector, String>;

    /// Networks in which providers may be besides public addresses.
    fn permitted(&self) -> &[Network];
}

/// The proxy that a fetch of `target` goes by, if any.
pub fn proxy<'a>(target: &Uri, limits: &'a FetchLimits) -> Option<&'a Proxy> {
    limits.proxies.as_ref()?.of(target)
}

/// A URL without its query, which may hold secrets.
pub fn without_query(url: &Uri) -> String {
    let text = url.to_string();
    text.split_once('?')
        .map_or(text.clone(), |(before, _)| before.to_owned())
}

/// Connects to `address`, for as long as `reach` has patience if there is another one (`has_next`).
///
/// # Errors
///
/// If that fails, or takes longer.
pub async fn dial(address: SocketAddr, reach: Reach, has_next: bool) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect(address);
    let stream = match reach.patience().filter(|_| has_next) {
        None => connecting.await?,
        Some(limit) => timeout(limit, connecting).await??,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `request` over a connection of its own and reads the whole answer.
pub async fn fetch(
    request: Request<Bytes>,
    limits: &FetchLimits,
    outside: &impl Outside,
) -> Result<Response<Bytes>, FetchError> {
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.clone();
    let bad = || FetchError::Url(without_query(&target));
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
    let way = Way { limits, outside };
    let mut stream = match proxy {
        None => way.connect(&target).await?,
        Some(proxy) => {
            // What a name leads to is the proxy's to find out, but for the names of its own machine; an
            // address is told here.
            let (host, _) = host_and_port(&target)?;
            let own = host.eq_ignore_ascii_case("localhost")
                || host.to_ascii_lowercase().ends_with(".localhost");
            let told = if own {
                Ok(Ipv4Addr::LOCALHOST.into())
            } else {
                host.parse()
            };
            if let Ok(address) = told {
                way.check(address, &target)?;
            }
            let mut stream = way.connect(&proxy.url).await?;
            if proxy.url.scheme() == Some(&Scheme::HTTPS) {
                stream = way.secured(stream, &proxy.url, None).await?;
            }
            if secure {
                stream = tunnel(stream, proxy, &target).await?;
            }
            stream
        }
    };
    if secure {
        let certificate = limits.certificate.as_deref();
        stream = way.secured(stream, &target, certificate).await?;
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
        Failure::Broken(error) => broken(chain(&error).to_string()),
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
        .ok_or_else(|| FetchError::Url(without_query(url)))?;
    let host = bare(host).to_owned();
    let own = if url.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    Ok((host, url.port_u16().unwrap_or(own)))
}

/// Host and port as they stand in `url`.
fn authority(url: &Uri) -> String {
    url.authority().map(ToString::to_string).unwrap_or_default()
}

fn unreachable(url: &Uri, reason: &impl ToString) -> FetchError {
    FetchError::Connect {
        authority: authority(url),
        reason: reason.to_string(),
    }
}

/// What one fetch goes by.
struct Way<'a, O> {
    limits: &'a FetchLimits,
    outside: &'a O,
}

impl<O: Outside> Way<'_, O> {
    /// Whether `address`, which `url` leads to, may be connected to.
    fn check(&self, address: IpAddr, url: &Uri) -> Result<(), FetchError> {
        if self.limits.reach.allows(address, self.outside.permitted()) {
            return Ok(());
        }
        Err(FetchError::Forbidden {
            authority: authority(url),
            address,
        })
    }

    /// A connection to the first of the addresses of `url` that takes one.
    async fn connect(&self, url: &Uri) -> Result<Box<dyn Stream>, FetchError> {
        let (host, port) = host_and_port(url)?;
        let found = self.outside.addresses(&host.to_ascii_lowercase()).await;
        let found = found.map_err(|error| unreachable(url, &error))?;
        let mut failure = unreachable(url, &"the name has no address");
        let mut allowed = Vec::new();
        for (address, own) in found {
            match self.check(address, url) {
                Ok(()) => {
                    let port = own.filter(|port| *port != 0).unwrap_or(port);
                    allowed.push(SocketAddr::new(address, port));
                }
                Err(forbidden) => failure = forbidden,
            }
        }
        let mut allowed = allowed.into_iter().peekable();
        while let Some(address) = allowed.next() {
            match dial(address, self.limits.reach, allowed.peek().is_some()).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => failure = unreachable(url, &error),
            }
        }
        Err(failure)
    }

    async fn secured(
        &self,
        stream: Box<dyn Stream>,
        url: &Uri,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let (host, _) = host_and_port(url)?;
        let name = ServerName::try_from(host).map_err(|error| unreachable(url, &error))?;
        let connector = self.outside.connector(self.limits.verify_tls, certificate);
        let connector = connector.map_err(|error| unreachable(url, &error))?;
        let stream =
            connector
                .connect(name, stream)
                .await
                .map_err(|error| match Mistrust::of(&error) {
                    Some(why) => FetchError::Untrusted {
                        authority: authority(url),
                        reason: error.to_string(),
                        why,
                    },
                    None => unreachable(url, &error),
                })?;
        Ok(Box::new(stream))
    }
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
