//! Where the Admin API is served: plain as HTTP/1.1, over TLS also as HTTP/2. Bounded are the connections at
//! once, the handshakes, and how long a connection may be without a request.
//!
//! ```text
//!  accept ─► a place ─► TLS, if it is ─► HTTP/1.1 or HTTP/2, as ALPN says ─► router
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use shared::machine::descriptors;
use shared::telemetry::chain;
use shared::tls::{Identity, TlsError, provider};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use shared::shares::Shares;

use super::late::Timely;

/// How long sent bytes may stay unacknowledged, in milliseconds: a peer that is gone, or that reads no more,
/// does not keep its place.
const UNACKNOWLEDGED: u32 = 60_000;
/// Most requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// Most bytes of an HTTP/2 head.
const MAX_HEAD: u32 = 64 * 1024;
/// Connections that any address may have.
const LEAST_SHARE: usize = 16;
/// The protocol that ALPN calls HTTP/2.
const H2: &[u8] = b"h2";

/// What clients may take up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once. Others wait to be accepted.
    pub(crate) connections: u32,
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
    let places = Arc::new(Semaphore::new(size(limits.connections)));
    let (stop, stopped) = watch::channel(false);
    let serving = Serving {
        tls,
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        limits,
        router,
        stopped,
    };
    let shares = Shares::new((size(limits.connections) / 2).max(LEAST_SHARE));
    tokio::select! {
        () = accept(&listener, &places, &shares, &serving) => {}
        // A sender that is gone means the same as one that spoke.
        _ = stopping => {}
    }
    drop(listener);
    stop.send_replace(true);
    // Every connection holds a place until it ends.
    let _ = places.acquire_many(limits.connections).await;
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(Semaphore::MAX_PERMITS)
}

/// One address has half of the places at most.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    shares: &Shares,
    serving: &Serving,
) {
    while let Ok(place) = Arc::clone(places).acquire_owned().await {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection to the admin api failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(share) = shares.take(address.ip()) else {
            tracing::debug!(%address, "a connection to the admin api is closed: that address has too many");
            continue;
        };
        let serving = serving.clone();
        tokio::spawn(async move {
            let _place = (place, share);
            serving.connection(stream, address).await;
        });
    }
}

/// How long somebody who has just connected is waited for when the process stops: the first request is on its way.
const FIRST: Duration = Duration::from_millis(500);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(10);

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
        match tokio::time::timeout(self.limits.handshake, handshake).await {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
                self.speak(stream, address, http2).await;
            }
            Ok(Err(error)) => tracing::debug!(%address, %error, "an admin client was refused"),
            Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
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
            request.extensions_mut().insert(ConnectInfo(Peer(address)));
            let request = request.map(|body| Timely::new(body, stopped.clone()));
            let answering = router.clone().oneshot(request);
            async move {
                let answer: Result<_, Infallible> = answering.await;
                drop(under_way);
                answer
            }
        });
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
            .keep_alive_timeout(self.limits.handshake);
        let builder = if http2 {
            builder.http2_only()
        } else {
            builder.http1_only()
        };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut stopped = self.stopped.clone();
        let ended = async {
            tokio::select! {
                () = async {
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                    requests.begun_within(FIRST).await;
                } => {}
                () = requests.none_for(self.limits.idle), if http2 => {}
            }
        };
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = ended => {
                connection.as_mut().graceful_shutdown();
                if requests.are_none() {
                    // There is nothing to finish, so this is only a farewell.
                    let farewell = tokio::time::timeout(self.limits.handshake, connection);
                    farewell.await.unwrap_or(Ok(()))
                } else {
                    connection.await
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%address, error = %chain(&*error), "a connection to the admin api broke");
        }
    }
}

/// The requests of a connection that are under way.
#[derive(Debug, Default)]
struct Requests {
    now: AtomicUsize,
    so_far: AtomicUsize,
}

/// One of them. Dropped, it has ended.
struct UnderWay(Arc<Requests>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Requests {
    /// Waits until one has begun, but no longer than this.
    async fn begun_within(&self, longest: Duration) {
        let begun = async {
            while self.so_far.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Who has nothing to ask is not waited for.
        let _ = tokio::time::timeout(longest, begun).await;
    }

    fn begin(this: &Arc<Self>) -> UnderWay {
        this.now.fetch_add(1, Ordering::Relaxed);
        this.so_far.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(this))
    }

    fn are_none(&self) -> bool {
        self.now.load(Ordering::Relaxed) == 0
    }

    /// Waits until there was none for a time between `idle` and twice that.
    async fn none_for(&self, idle: Duration) {
        let mut before = usize::MAX;
        loop {
            let so_far = self.so_far.load(Ordering::Relaxed);
            if self.are_none() && so_far == before {
                return;
            }
            before = so_far;
            tokio::time::sleep(idle).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn start(
        limits: Limits,
    ) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = oneshot::channel();
        let router = Router::new().route("/", get(|| async { "here" }).post(|_: Bytes| async {}));
        let served = tokio::spawn(serve(listener, None, limits, router, stopping));
        (address, stop, served)
    }

    /// What comes until the connection is closed.
    async fn rest(mut stream: TcpStream) -> String {
        let mut text = String::new();
        // Closed with bytes unread, it may also be reset.
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    #[tokio::test]
    async fn a_connection_without_a_whole_request_is_closed() {
        let limits = Limits {
            idle: Duration::from_millis(50),
            ..Limits::default()
        };
        let (address, _stop, _) = start(limits).await;
        for head in ["", "GET / HTTP/1.1\r\nHost: loc"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            assert_eq!(rest(stream).await, "", "{head}");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        assert!(rest(stream).await.ends_with("here"));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_holds_the_end_up_for_a_moment_only() {
        let (address, stop, served) = start(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let half = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(half).await.unwrap();
        // It is under way.
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100");
        stop.send(()).unwrap();
        served.await.unwrap();
        assert!(rest(stream).await.contains("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_connection_ends() {
        let limits = Limits {
            connections: 1,
            ..Limits::default()
        };
        let (address, stop, served) = start(limits).await;
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        drop(first);
        let mut answer = [0; 15];
        second.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        // An idle connection does not hold the end up.
        stop.send(()).unwrap();
        served.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
