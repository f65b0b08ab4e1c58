//! The proxy as a whole: a thread per core, and one for what operators ask.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use plugins::revocations::Revocations;
use shared::clock::UnixTime;
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::ask::Questions;
use crate::balancer::Balancers;
use crate::certificates::{CertificateError, expires_at, server_config};
use crate::contact::Contact;
use crate::core::Node;
use crate::limits::Limits;
use crate::listener::{Bound, bind, run};
use crate::live::Live;
use crate::settings::Settings;
use crate::status;
use crate::told::Told;
use crate::trusted::{RealIp, TrustedPeers};
use crate::upstream::resolve::DnsConfig;

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// An address cannot be listened on.
    #[error("listening on {address} ({setting})")]
    Listen {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TLS listener has no certificate.
    #[error("proxy_tls_certificate, proxy_tls_key")]
    Certificate(#[from] CertificateError),
    /// `trusted_ips` is malformed.
    #[error("trusted_ips: {0}")]
    TrustedIps(String),
    /// `headers` or `headers_upstream` names something unknown.
    #[error("{0}")]
    Headers(String),
    /// A setting about DNS is wrong.
    #[error("{0}")]
    Dns(String),
    /// `real_ip_header` is no field.
    #[error("real_ip_header: {0}")]
    RealIp(String),
    /// The access log cannot be opened.
    #[error("access_log")]
    AccessLog(#[source] io::Error),
    /// A thread or runtime cannot be started.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// Where the proxy listens.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Addresses {
    /// Plain HTTP.
    pub proxy: SocketAddr,
    /// HTTPS.
    pub proxy_tls: SocketAddr,
    /// Status and metrics.
    pub status: SocketAddr,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    addresses: Addresses,
    stop: watch::Sender<bool>,
    status: watch::Sender<bool>,
    node: Arc<Node>,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

impl Proxy {
    /// Starts to serve what `live` holds.
    pub fn start(settings: &Settings, live: Live) -> Result<Self, ProxyError> {
        Self::start_with(settings, Limits::default(), live)
    }

    /// Starts to serve what `live` holds, within `limits`.
    pub fn start_with(settings: &Settings, limits: Limits, live: Live) -> Result<Self, ProxyError> {
        let files = settings
            .proxy_tls_certificate
            .as_deref()
            .zip(settings.proxy_tls_key.as_deref());
        let tls = server_config(files, Arc::clone(&live))?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = if settings.workers == 0 {
            cores
        } else {
            settings.workers
        };
        let revocations = Arc::new(Revocations::default());
        if let Some(snapshot) = live.load().as_ref() {
            revocations.add(snapshot.revocations.iter().copied(), UnixTime::now());
        }
        let node = Arc::new(Node {
            id: uuid::Uuid::new_v4().to_string(),
            live,
            revocations,
            contact: Contact::new(UnixTime::now()),
            questions: Questions::default(),
            certificate_expires_at: files.and_then(|(certificate, _)| expires_at(certificate)),
            trusted: TrustedPeers::parse(&settings.trusted_ips).map_err(ProxyError::TrustedIps)?,
            states: plugins::state::NodeStates::default(),
            access_log: AccessLog::open(&settings.access_log).map_err(ProxyError::AccessLog)?,
            metrics: (0..workers).map(|_| Arc::default()).collect(),
            draining: AtomicBool::new(false),
            limits,
            told: told(settings)?,
            error_default_type: settings.error_default_type,
            debug: settings.allow_debug_header,
            real_ip: real_ip(settings)?,
            max_staleness: (settings.max_staleness > 0)
                .then(|| Duration::from_secs(settings.max_staleness)),
            balancers: Balancers::default(),
            dns: dns(settings)?,
            provider_networks: settings.provider_networks.as_slice().into(),
            sessions_max_silence: (settings.sessions_max_silence > 0)
                .then(|| Duration::from_secs(settings.sessions_max_silence)),
            workers,
        });
        let plain = sockets("proxy_listen", settings.proxy_listen, workers)?;
        let secure = sockets("proxy_tls_listen", settings.proxy_tls_listen, workers)?;
        let mut status = sockets("status_listen", settings.status_listen, 1)?;
        let address = |sockets: &[std::net::TcpListener], asked| {
            sockets
                .first()
                .and_then(|socket| socket.local_addr().ok())
                .unwrap_or(asked)
        };
        let addresses = Addresses {
            proxy: address(&plain, settings.proxy_listen),
            proxy_tls: address(&secure, settings.proxy_tls_listen),
            status: address(&status, settings.status_listen),
        };
        let (stop, stopping) = watch::channel(false);
        let (status_stop, status_stopping) = watch::channel(false);
        let drain = settings.drain_timeout();
        let mut threads = Vec::new();
        let sockets = plain.into_iter().zip(secure);
        for (number, ((plain, secure), metrics)) in sockets.zip(&node.metrics).enumerate() {
            let (metrics, stopping) = (Arc::clone(metrics), stopping.clone());
            let node = Arc::clone(&node);
            let listeners = vec![
                Bound {
                    socket: plain,
                    tls: None,
                },
                Bound {
                    socket: secure,
                    tls: Some(Arc::clone(&tls)),
                },
            ];
            let worker = move || run(node, metrics, listeners, stopping, drain);
            threads.push(spawn(format!("proxy-{number}"), worker)?);
        }
        {
            let (node, stopping) = (Arc::clone(&node), stopping.clone());
            spawn("balancer".to_owned(), move || watch_targets(node, stopping))?;
        }
        if let Some(socket) = status.pop() {
            // Not joined: it answers until the rest has stopped.
            let node = Arc::clone(&node);
            spawn("status".to_owned(), move || {
                serve_status(node, socket, status_stopping)
            })?;
        }
        Ok(Self {
            addresses,
            stop,
            status: status_stop,
            node,
            workers: threads,
        })
    }

    /// What its cores share.
    pub(crate) const fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where it listens.
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Takes no new connections, lets exchanges end, and returns when all have, or the drain timeout
    /// is over.
    pub async fn stop(self) {
        self.node.draining.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                match worker.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "a worker failed"),
                    Err(_) => tracing::error!("a worker panicked"),
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!("waiting for the workers failed");
        }
        self.status.send_replace(true);
    }
}

/// Reads the files that the settings of the proxy name.
pub(crate) fn check(settings: &Settings) -> Result<(), ProxyError> {
    let files = settings
        .proxy_tls_certificate
        .as_deref()
        .zip(settings.proxy_tls_key.as_deref());
    server_config(files, Live::default())?;
    TrustedPeers::parse(&settings.trusted_ips).map_err(ProxyError::TrustedIps)?;
    told(settings)?;
    real_ip(settings)?;
    dns(settings)?;
    Ok(())
}

fn told(settings: &Settings) -> Result<Told, ProxyError> {
    Told::parse(&settings.headers, &settings.headers_upstream).map_err(ProxyError::Headers)
}

fn dns(settings: &Settings) -> Result<DnsConfig, ProxyError> {
    DnsConfig::read(
        &settings.dns_hostsfile,
        &settings.dns_resolver,
        &settings.dns_order,
    )
    .map_err(ProxyError::Dns)
}

fn real_ip(settings: &Settings) -> Result<RealIp, ProxyError> {
    RealIp::parse(&settings.real_ip_header, settings.real_ip_recursive).map_err(ProxyError::RealIp)
}

fn sockets(
    setting: &'static str,
    address: SocketAddr,
    count: usize,
) -> Result<Vec<std::net::TcpListener>, ProxyError> {
    let failed = |source| ProxyError::Listen {
        setting,
        address,
        source,
    };
    if address.port() != 0 {
        // Sockets of another process that share a port as ours do would take half of the connections
        // in silence; one that does not share finds them.
        drop(std::net::TcpListener::bind(address).map_err(failed)?);
    }
    let first = bind(address).map_err(failed)?;
    // A port that the system has chosen is the port of all.
    let chosen = first.local_addr().map_err(failed)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind(chosen).map_err(failed)?);
    }
    Ok(sockets)
}

/// Looks after the targets of upstreams until the node stops.
fn watch_targets(node: Arc<Node>, stop: watch::Receiver<bool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(crate::balancer::watch::run(node, stop));
    Ok(())
}

fn serve_status(
    node: Arc<Node>,
    socket: std::net::TcpListener,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(socket)?;
        tokio::select! {
            () = status::serve(node, listener) => {}
            _ = stop.wait_for(|stopping| *stopping) => {}
        }
        Ok(())
    })
}

fn spawn(
    name: String,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<io::Result<()>>, ProxyError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(work)
        .map_err(ProxyError::Thread)
}
