//! Byte streams: TCP as it is, TLS that ends here, and TLS that is passed on (Kong 3.9, stream proxy).
//!
//! ```text
//!  client ─► on a TLS listener: the ClientHello is read ─► routes: passed on, or TLS ends here
//!         └► else: stream_routes ─► balancer, upstream ─► carry, until both sides have ended
//! ```

pub(crate) mod datagrams;
pub(crate) mod routes;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, StatusCode};
use plugins::exchange::{Captures, Identity, TlsSession, Try};
use plugins::filter::{Counts, Filter as _, Over};
use plugins::stream::StreamLog;
use rustls::server::{Accepted, Acceptor};
use serde::Serialize;
use shared::clock::{UnixTime, monotonic};
use shared::telemetry::chain;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;
use uuid::Uuid;

use crate::balancer::hash::{self, Hashable};
use crate::balancer::{Lease, NoPeer, Peer};
use crate::carry::{Carried, Early, carry};
use crate::compile::{CompiledService, CompiledSnapshot, Destination};
use crate::core::{Core, Held};
use crate::forward::pass_over;
use crate::host::CoreHost;
use crate::http1::headers::View;
use crate::listening::handshake::session;
use crate::listening::tls::Tls;
use crate::metrics::Ended;
use crate::pipeline::{Put, milliseconds};
use crate::quota::fair::Place;
use crate::stream::{MOST_GREETING, Stream};
use crate::upstream::UpstreamError;
use crate::upstream::origin::Origin;
use routes::{Asked, Kind, StreamRoute};

/// Why a stream was not carried to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("no configuration")]
    NotReady,
    #[error("no route")]
    NoRoute,
    #[error("a plugin does not let the client pass")]
    Forbidden,
    #[error("no service, or one whose protocol is not supported")]
    NoService,
    #[error("TLS handshake with the client")]
    Handshake(#[source] io::Error),
    #[error("the client took too long for its TLS handshake")]
    Slow,
    #[error("there is no memory for the client's TLS handshake")]
    Crowded,
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the node stops, and waits no longer")]
    CutOff,
    #[error("carrying bytes")]
    Broken(#[source] io::Error),
}

impl StreamError {
    /// What an access log shows for it, as nginx's streams do.
    const fn status(&self) -> u16 {
        match self {
            Self::NoRoute => 404,
            Self::Forbidden => 403,
            Self::NotReady | Self::NoService | Self::CutOff | Self::Crowded => 503,
            Self::Handshake(_) | Self::Slow => 400,
            Self::Upstream(_) => 502,
            Self::Broken(_) => 500,
        }
    }
}

/// One stream in the access log.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line {
    started_at: u64,
    client_ip: Option<IpAddr>,
    protocol: &'static str,
    server_name: Option<String>,
    status: u16,
    session_ms: u64,
    bytes_received: u64,
    bytes_sent: u64,
    route: Option<Uuid>,
    service: Option<Uuid>,
    #[serde(skip)]
    run: Run,
}

/// What plugins will be told of a stream.
#[derive(Debug, Default)]
struct Run {
    route: Option<Arc<StreamRoute>>,
    /// The ports that the stream has come from, and to.
    client_port: u16,
    port: u16,
    /// When a server was reached.
    connected: Option<Instant>,
    tls: Option<TlsSession>,
    tries: Vec<Try>,
}

impl Line {
    /// The line of a stream from `source` to `port` that begins now.
    pub(crate) fn new(protocol: &'static str, source: SocketAddr, port: u16) -> Self {
        Self {
            started_at: UnixTime::now().as_millis(),
            client_ip: Some(source.ip().to_canonical()),
            protocol,
            run: Run {
                client_port: source.port(),
                port,
                ..Run::default()
            },
            ..Self::default()
        }
    }

    /// Notes the stream's route, whose plugins may be against it, and answers with its service.
    pub(crate) fn enter(
        &mut self,
        route: &Arc<StreamRoute>,
        client: IpAddr,
    ) -> Result<Arc<CompiledService>, StreamError> {
        self.route = Some(route.id);
        self.service = route.service.as_ref().map(|service| service.id);
        self.run.route = Some(Arc::clone(route));
        if !route.run.admit(client) {
            return Err(StreamError::Forbidden);
        }
        route.service.clone().ok_or(StreamError::NoService)
    }

    /// Notes that `origin` is tried now.
    pub(crate) fn attempt(&mut self, origin: &Origin) {
        let key = origin.key();
        self.run.tries.push(Try {
            host: key.host.clone(),
            port: key.port,
            name: key.host.clone(),
            started_at: UnixTime::now().as_millis(),
            ..Try::default()
        });
    }

    /// Notes that the attempt has failed by `error`.
    pub(crate) fn failed(&mut self, error: &UpstreamError) {
        if let Some(attempt) = self.run.tries.last_mut() {
            attempt.failed = Some(error.code());
        }
    }

    /// Notes that a server was reached.
    pub(crate) fn connected(&mut self) {
        self.run.connected = Some(monotonic());
    }

    /// Writes the line, once the stream that began at `start` is over.
    pub(crate) fn close(
        mut self,
        core: &Rc<Core>,
        start: Instant,
        carried: &Carried,
        served: Result<(), StreamError>,
    ) {
        self.status = served.as_ref().map_or_else(StreamError::status, |()| 200);
        if let Err(error) = served {
            tracing::debug!(error = %chain(&error), "a stream was not carried to its end");
        }
        self.session_ms = milliseconds(start, monotonic());
        self.bytes_received = carried.received.get();
        self.bytes_sent = carried.sent.get();
        self.tell(core, start);
        core.node.access_log.write(&self);
    }

    /// Counts the stream, and tells the plugins of its route.
    fn tell(&self, core: &Rc<Core>, start: Instant) {
        let Some(route) = &self.run.route else {
            return;
        };
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        let connected = self.run.connected;
        core.metrics.streams.observe(&Ended {
            route: (route.id, &route.run.labels),
            counts: route.run.counts.unwrap_or(Counts::DEFAULT),
            status,
            connected: connected.is_some(),
            received: self.bytes_received,
            sent: self.bytes_sent,
            session: self.session_ms,
        });
        let (Some(client), false) = (self.client_ip, route.run.filters.is_empty()) else {
            return;
        };
        let log = StreamLog {
            matched: &route.run.matched,
            client,
            client_port: self.run.client_port,
            port: self.run.port,
            status,
            connected: connected.is_some(),
            received: self.bytes_received,
            sent: self.bytes_sent,
            started_at: UnixTime::from_millis(self.started_at),
            kong: connected.map_or(self.session_ms, |at| milliseconds(start, at)),
            session: self.session_ms,
            tls: self.run.tls,
            tries: &self.run.tries,
        };
        let host = CoreHost::new(Rc::clone(core));
        for filter in &route.run.filters {
            filter.on_log(Over::Stream(&log), &host);
        }
    }
}

/// Serves one stream that has come from `source` to `port`, with TLS if the listener speaks it.
pub(crate) async fn serve(
    core: Rc<Core>,
    stream: TcpStream,
    source: SocketAddr,
    port: u16,
    tls: Option<Tls>,
) {
    let start = monotonic();
    let carried = Rc::new(Carried::default());
    let destination = stream.local_addr();
    let own_port = destination.as_ref().map_or(0, SocketAddr::port);
    let mut line = Line::new("tcp", source, own_port);
    let served = match destination {
        Ok(destination) => {
            let asked = Asked {
                kind: Kind::Plain,
                source: (source.ip().to_canonical(), source.port()),
                destination: (destination.ip().to_canonical(), port),
                name: None,
            };
            let carrying = route_and_carry(&core, stream, asked, tls, &carried, &mut line);
            tokio::select! {
                served = carrying => served,
                () = core.until_cut_off() => Err(StreamError::CutOff),
            }
        }
        Err(error) => Err(StreamError::Broken(error)),
    };
    line.close(&core, start, &carried, served);
}

async fn route_and_carry(
    core: &Core,
    mut stream: TcpStream,
    asked: Asked<'_>,
    tls: Option<Tls>,
    carried: &Rc<Carried>,
    line: &mut Line,
) -> Result<(), StreamError> {
    let snapshot = core.snapshot().ok_or(StreamError::NotReady)?;
    let routes = &snapshot.stream_routes;
    let Some(tls) = tls else {
        let route = routes.find(&asked).cloned().ok_or(StreamError::NoRoute)?;
        let upstream = connect(core, snapshot, &route, asked.source.0, line).await?;
        return upstream.carry(stream, Early::default(), carried).await;
    };
    line.protocol = "tls";
    let (bytes, begun) = in_time(core, hello(&mut stream)).await?;
    let name = begun.client_hello().server_name().map(str::to_owned);
    line.server_name.clone_from(&name);
    let asked = Asked {
        kind: Kind::Passed,
        name: name.as_deref(),
        ..asked
    };
    if let Some(route) = routes.find(&asked).cloned() {
        line.protocol = "tls_passthrough";
        let upstream = connect(core, snapshot, &route, asked.source.0, line).await?;
        let early = Early {
            to_server: bytes,
            ..Early::default()
        };
        return upstream.carry(stream, early, carried).await;
    }
    let asked = Asked {
        kind: Kind::Tls,
        ..asked
    };
    // Whoever has no route hears so before any certificate is shown.
    let route = routes.find(&asked).cloned().ok_or(StreamError::NoRoute)?;
    let rest = tls.finish(StartHandshake::from_parts(begun, stream));
    let client = in_time(core, rest).await?;
    line.run.tls = session(client.get_ref().1);
    let upstream = connect(core, snapshot, &route, asked.source.0, line).await?;
    upstream.carry(client, Early::default(), carried).await
}

/// What a part of a handshake comes to, if that takes no longer than it may, and memory suffices.
async fn in_time<T>(
    core: &Core,
    part: impl Future<Output = io::Result<T>>,
) -> Result<T, StreamError> {
    tokio::select! {
        ended = tokio::time::timeout(core.node.limits.handshake, part) => ended
            .map_err(|_| StreamError::Slow)?
            .map_err(StreamError::Handshake),
        () = core.until_critical() => Err(StreamError::Crowded),
    }
}

/// Reads up to the end of a `ClientHello`: all bytes, and the handshake that they begin.
async fn hello(stream: &mut TcpStream) -> io::Result<(Vec<u8>, Accepted)> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes.len() > MOST_GREETING {
            return Err(io::Error::other("a ClientHello that is too long"));
        }
        let mut fresh = bytes.get(before..).unwrap_or_default();
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((bytes, accepted)),
            Ok(None) => {}
            Err((error, _)) => return Err(io::Error::other(error)),
        }
    }
}

/// A connection to a server, with what counts it there.
struct Upstream {
    stream: Stream,
    service: Arc<CompiledService>,
    _permit: Place,
    _lease: Option<Lease>,
}

impl Upstream {
    async fn carry(
        mut self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        early: Early,
        carried: &Rc<Carried>,
    ) -> Result<(), StreamError> {
        let idle = self.service.timeouts.read;
        let ended = carry(client, &mut self.stream, early, idle, carried).await;
        match ended {
            // One side has gone, and with that the stream is over.
            Err(error) if is_gone(&error) => Ok(()),
            ended => ended.map_err(StreamError::Broken),
        }
    }
}

/// Whether the other end of a connection has gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Connects to the server behind `route`, or to another one of its upstream if that fails. The snapshot is given up: it is
/// not kept for as long as a client likes to talk.
async fn connect(
    core: &Core,
    snapshot: Rc<Held>,
    route: &Arc<StreamRoute>,
    client: IpAddr,
    line: &mut Line,
) -> Result<Upstream, StreamError> {
    let service = &line.enter(route, client)?;
    let asked_for = line.server_name.as_ref().filter(|_| route.preserve_host);
    let name = asked_for.and_then(|name| HeaderValue::from_str(name).ok());
    let mut failing: Vec<Arc<Peer>> = Vec::new();
    let mut full = Vec::new();
    let mut attempts_left = service.retries;
    loop {
        let (origin, lease) =
            choose(core, &snapshot, service, client, name.as_ref(), &failing).await?;
        let pool = core.pools.of(&origin);
        let Some(permit) = pool.enter(|| core.node.counted(client)) else {
            pass_over(lease.as_ref(), &mut full, &mut failing)?;
            continue;
        };
        line.attempt(&origin);
        if let Some(lease) = &lease {
            lease.start_over(&mut failing);
        }
        let opening = tokio::time::timeout(service.timeouts.connect, pool.open());
        let error = match opening.await.unwrap_or(Err(UpstreamError::ConnectTimeout)) {
            Ok(stream) => {
                line.connected();
                return Ok(Upstream {
                    stream,
                    service: Arc::clone(service),
                    _permit: permit,
                    _lease: lease,
                });
            }
            Err(error) => error,
        };
        line.failed(&error);
        if let Some(lease) = lease {
            if error.is_timeout() {
                lease.timed_out();
            } else {
                lease.failed();
            }
            failing.push(Arc::clone(&lease.peer));
        }
        if attempts_left == 0 || matches!(error, UpstreamError::Resolve { .. }) {
            return Err(error.into());
        }
        attempts_left -= 1;
        tracing::debug!(error = %chain(&error), "trying again");
    }
}

/// Which server a stream goes to, and that under `name` instead of its own, if there is one.
pub(crate) async fn choose(
    core: &Core,
    snapshot: &CompiledSnapshot,
    service: &CompiledService,
    client: IpAddr,
    name: Option<&HeaderValue>,
    tried: &[Arc<Peer>],
) -> Result<(Arc<Origin>, Option<Lease>), UpstreamError> {
    let place = match &service.destination {
        Destination::Origin { origin, .. } => {
            let renamed = |name| core.origins.renamed(origin, &service.transport, name);
            return Ok((name.map_or_else(|| Arc::clone(origin), renamed), None));
        }
        Destination::Upstream(place) => *place,
    };
    let balancers = snapshot.balancers(&core.node.balancers);
    let balancer = balancers.get(place).ok_or(UpstreamError::NoPeer)?;
    if balancer.has_names() {
        Box::pin(balancer.ready(&core.resolver)).await;
    }
    // Of a stream nothing but its client's address is known.
    let (identity, captures, headers) =
        (Identity::default(), Captures::default(), HeaderMap::new());
    let hashable = Hashable {
        identity: &identity,
        client,
        headers: View::Map(&headers),
        put: Put::default(),
        path: "",
        query: None,
        captures: &captures,
    };
    let config = &balancer.config;
    let hashed = hash::hash(
        &config.hash_on,
        &config.hash_fallback,
        &config.hash_on_cookie_path,
        &hashable,
        || client.to_string(),
    );
    let lease = balancer
        .pick(hashed.hash, tried)
        .map_err(|NoPeer| UpstreamError::NoPeer)?;
    let own = config.host_header.as_ref().unwrap_or(&lease.peer.key.host);
    let own = HeaderValue::from_str(own).map_err(|_| UpstreamError::Authority)?;
    let name = name.unwrap_or(&own);
    let origin = core.origins.of_peer(&lease.peer, &service.transport, name);
    Ok((origin, Some(lease)))
}
