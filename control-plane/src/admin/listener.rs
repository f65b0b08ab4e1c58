//! Serves the Admin API: HTTP/1.1 in the clear, and HTTP/2 as well over TLS. The number of connections, the time for a
//! handshake, and the time that a connection may be idle are limited.
//!
//! ```text
//!  accept ─► a place ─► TLS, if it is ─► HTTP/1.1 or HTTP/2, as ALPN says ─► router
//! ```

mod requests;
mod rest;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use shared::machine::descriptors;
use shared::telemetry::chain;
use shared::tls::{Identity, TlsError, provider};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use shared::shares::Shares;

use super::late::{Timely, late};
use requests::{Answering, Requests, Watched};
use rest::Lent;

/// How long sent bytes may stay unacknowledged, or find no room, in milliseconds: a peer that is gone, or that reads no more,
/// does not keep its place. One that reads slowly opens a large buffer minutes apart, and a network may be away for one.
const UNACKNOWLEDGED: u32 = 300_000;
/// Most requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// Most bytes of an HTTP/2 head.
const MAX_HEAD: u32 = 64 * 1024;
/// Connections that any address may have.
const LEAST_SHARE: usize = 16;
/// How many that have just come are served at once; others wait to be accepted. Else many that come in one moment would be over
/// their address's share before one of them is answered, and so would be whoever wants to see what is going on.
const FRESH: usize = 64;
/// How many that are too many for their address are told so at once, and how long each has to read that.
const TOLD: usize = 64;
const READ: Duration = Duration::from_secs(1);
/// What they are told.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n\
    Content-Length: 61\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    {\"message\":\"too many connections of this address; try again\"}";
/// How many times as long as it may be idle a client of HTTP/2 may take to answer a question, or to leave: over a slow way
/// either comes to it behind what it was sent, 4 MiB in our system's buffer and 6 MiB in its own.
const SPELLS: u32 = 10;
/// The protocol that ALPN calls HTTP/2.
const H2: &[u8] = b"h2";

/// What clients may take up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once. Others wait to be accepted.
    pub(crate) connections: u32,
    /// For how long one that has just come and stays counts among those that have: who waits, or asks for nothing, keeps
    /// nobody out.
    pub(crate) fresh: Duration,
    /// Handshakes at once.
    pub(crate) handshakes: usize,
    /// How long a handshake may take.
    pub(crate) handshake: Duration,
    /// How long a connection may be without a request, and a request without the end of its head.
    pub(crate) idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Data planes and the store need descriptors as well.
            connections: u32::try_from(descriptors() / 2).map_or(1024, |half| half.min(1024)),
            fresh: Duration::from_millis(100),
            handshakes: 64,
            handshake: Duration::from_secs(10),
            idle: Duration::from_mins(1),
        }
    }
}

impl Limits {
    /// Of a page for few: the Admin API needs descriptors as well.
    pub(crate) fn of_a_page() -> Self {
        Self {
            connections: Self::default().connections.min(64),
            ..Self::default()
        }
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The TLS of the Admin API as it is now, if there is any.
pub(crate) type Tls = Option<Arc<ServerConfig>>;

/// TLS 1.2 and 1.3 with the certificate and key in two files.
///
/// # Errors
///
/// If one of them cannot be read or used.
pub(crate) fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let identity = Identity::read(certificate, key)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|source| identity.refused(source))?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves until `stopping` ends, then finishes what is under way.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<watch::Receiver<Tls>>,
    limits: Limits,
    router: Router,
    stopping: oneshot::Receiver<()>,
) {
    listen(listener, tls, limits, router, stopping)
        .await
        .ended()
        .await;
}

/// The connections that are left where nobody listens any more.
pub(crate) struct Left {
    /// Every connection holds one until it ends.
    places: Arc<Semaphore>,
    connections: u32,
}

impl Left {
    /// Waits until they have ended.
    pub(crate) async fn ended(self) {
        let _ = self.places.acquire_many(self.connections).await;
    }
}

/// Serves until `stopping` ends; the socket is closed then.
pub(crate) async fn listen(
    listener: TcpListener,
    tls: Option<watch::Receiver<Tls>>,
    limits: Limits,
    router: Router,
    stopping: oneshot::Receiver<()>,
) -> Left {
    let places = Arc::new(Semaphore::new(size(limits.connections)));
    let (stop, stopped) = watch::channel(false);
    let serving = Serving {
        tls,
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        limits,
        router,
        stopped,
    };
    let share = (size(limits.connections) / 2).max(LEAST_SHARE);
    let shares = Shares::new(share);
    let fresh = Arc::new(Semaphore::new(FRESH.min(share / 2)));
    tokio::select! {
        () = accept(&listener, (&places, &fresh), &shares, &serving) => {}
        // A sender that is gone means the same as one that spoke.
        _ = stopping => {}
    }
    drop(listener);
    stop.send_replace(true);
    Left {
        places,
        connections: limits.connections,
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(Semaphore::MAX_PERMITS)
}

/// One address has half of the places at most.
async fn accept(
    listener: &TcpListener,
    (places, fresh): (&Arc<Semaphore>, &Arc<Semaphore>),
    shares: &Shares,
    serving: &Serving,
) {
    let telling = Arc::new(Semaphore::new(TOLD));
    while let Ok(place) = Arc::clone(places).acquire_owned().await
        && let Ok(turn) = Arc::clone(fresh).acquire_owned().await
    {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection to the admin api failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(share) = shares.take(address.ip()) else {
            tracing::debug!(%address, "a connection to the admin api is closed: its address has too many");
            // Over TLS a handshake would cost more than an answer saves.
            if serving.tls.is_none()
                && let Ok(turn) = Arc::clone(&telling).try_acquire_owned()
            {
                tokio::spawn(async move {
                    _ = tokio::time::timeout(READ, refuse(stream)).await;
                    drop(turn);
                });
            }
            continue;
        };
        let serving = serving.clone();
        tokio::spawn(async move {
            let _place = (place, share);
            let mut served = pin!(serving.connection(stream, address));
            let stays = tokio::time::timeout(serving.limits.fresh, &mut served)
                .await
                .is_err();
            drop(turn);
            if stays {
                served.await;
            }
        });
    }
}

/// Tells a client that its address has too many connections, once it asks for something: who has not asked yet may take the answer
/// for nobody's (Go's `net/http`). What it sends is read until it leaves: closed with bytes unread, the
/// connection would be reset, and the answer lost.
async fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    stream.readable().await?;
    stream.write_all(TOO_MANY).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

/// How long somebody who has just connected and speaks HTTP/2 is waited for when the process stops: the first request is on its
/// way.
const FIRST: Duration = Duration::from_millis(500);
/// How long a connection without a request stays once the process is to stop: its request does not come, or it does not
/// take its leave.
const QUIET: Duration = Duration::from_millis(500);

/// What every connection is served with.
#[derive(Clone)]
struct Serving {
    /// What TLS is spoken by now; none: TLS is not spoken.
    tls: Option<watch::Receiver<Tls>>,
    handshakes: Arc<Semaphore>,
    limits: Limits,
    router: Router,
    /// Whether connections are to end.
    stopped: watch::Receiver<bool>,
}

impl Serving {
    async fn connection(&self, stream: TcpStream, address: SocketAddr) {
        // Small answers must not wait for more.
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED);
        let Some(tls) = &self.tls else {
            return self.speak(stream, address, false).await;
        };
        let Some(config) = tls.borrow().clone() else {
            return;
        };
        let acceptor = TlsAcceptor::from(config);
        let handshake = async {
            let _turn = self.handshakes.acquire().await;
            acceptor.accept(stream).await
        };
        let handshake = tokio::time::timeout(self.limits.handshake, handshake);
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            () = late(self.stopped.clone()) => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
                self.speak(stream, address, http2).await;
            }
            Ok(Err(error)) => tracing::debug!(%address, %error, "an admin client was refused"),
            Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
        }
    }

    /// How one connection is read and written, and how long its client may say nothing. One of HTTP/2 that does not answer a
    /// ping is left after `farewell`.
    fn protocol(&self, http2: bool, farewell: Duration) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // Runs from the connection's beginning, and from the end of each answer: it covers idle ones too.
            .header_read_timeout(self.limits.idle);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(self.limits.idle)
            .keep_alive_timeout(farewell);
        if http2 {
            builder.http2_only()
        } else {
            builder.http1_only()
        }
    }

    /// Answers the requests of one connection.
    async fn speak<S>(&self, stream: S, address: SocketAddr, http2: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let requests = Arc::new(Requests::default());
        let (router, counted) = (self.router.clone(), Arc::clone(&requests));
        let stopped = self.stopped.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let under_way = Requests::begin(&counted);
            let reads = request.method().is_safe().then(|| Arc::clone(&counted));
            request.extensions_mut().insert(ConnectInfo(Peer(address)));
            let waits = request.headers().contains_key(EXPECT);
            let (head, body) = request.into_parts();
            let stopping = stopped.clone();
            let (body, rest) = Lent::new(Timely::new(body, stopped.clone()));
            let answering = router.clone().oneshot(Request::from_parts(head, body));
            async move {
                // A write is done, whoever has gone meanwhile.
                let _turn = match &reads {
                    Some(requests) => requests.turn_to_read().await,
                    None => None,
                };
                let mut answer = answering.await?;
                // Who is to come back later leaves their place to others until then. Nothing can follow a body that does
                // not end, or once the process is to stop.
                let closes = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
                if !http2 && (!rest.ends(waits).await || closes || *stopping.borrow()) {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(answer.map(|body| Answering::new(body, under_way)))
            }
        });
        let farewell = self.limits.idle.saturating_mul(SPELLS);
        let builder = self.protocol(http2, farewell);
        let stream = Watched::new(stream, Arc::clone(&requests));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut stopped = self.stopped.clone();
        let ended = async {
            tokio::select! {
                () = async {
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                    if http2 {
                        requests.begun_within(FIRST).await;
                    }
                } => {}
                () = requests.none_for(self.limits.idle), if http2 => {}
            }
        };
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = ended => {
                // One of HTTP/1.1 that waits for its next request has one more, whose answer says that it is the last: cut
                // at once, it would take along what is on its way.
                if http2 {
                    connection.as_mut().graceful_shutdown();
                }
                let mut stopped = self.stopped.clone();
                // Where there is nothing to finish, this is only a farewell.
                tokio::select! {
                    result = connection => result,
                    () = requests.none_for(farewell) => Ok(()),
                    () = async {
                        let _ = stopped.wait_for(|stopped| *stopped).await;
                        requests.none_for(QUIET).await;
                    } => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%address, error = %chain(&*error), "a connection to the admin api broke");
        }
    }
}

#[cfg(test)]
mod tests;
