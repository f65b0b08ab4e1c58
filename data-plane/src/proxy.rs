//! The proxy as a whole: a thread per core, and one for the status API.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use plugins::sessions::revocations::Revocations;
use shared::clock::{UnixTime, monotonic};
use shared::listen::distinct;
use shared::machine::{descriptors, open_descriptors};
use shared::told::Told;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch};

use crate::access_log::{self, AccessLog, Format};
use crate::ask::Questions;
use crate::background::{self, Work};
use crate::contact::Contact;
use crate::core::Node;
use crate::discovered::Discovered;
use crate::error::ErrorStyle;
use crate::expiring::Expiring;
use crate::limits::{Limits, Opened};
use crate::listening::certificates::CertificateError;
use crate::listening::connections::Connections;
use crate::listening::inherited::Inherited;
use crate::listening::listener::{OfCore, run};
use crate::listening::tls::Tls;
use crate::listening::{Listeners, Security, listen};
use crate::live::Live;
use crate::memory::{self, Memory};
use crate::orders::{Orders, stopped};
use crate::quota::Stock;
use crate::settings::{Settings, StreamKind};
use crate::status;
use crate::trusted::RealIp;
use crate::unstored::Unstored;
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
    /// A list of addresses contradicts itself.
    #[error("{0}")]
    Listeners(String),
    /// A listening socket cannot be kept for a successor.
    #[error("keeping the listening sockets")]
    Sockets(#[source] io::Error),
    /// The TLS listeners have no certificate.
    #[error("proxy_tls_certificate, proxy_tls_key")]
    Certificate(#[source] CertificateError),
    /// Those of status have none.
    #[error("status_tls_certificate, status_tls_key")]
    StatusCertificate(#[source] CertificateError),
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
    /// A setting about the access log's lines cannot be used.
    #[error("access_log_format: {0}")]
    AccessLogFormat(String),
    /// A setting about errors cannot be used.
    #[error("{0}")]
    Errors(String),
    /// There are too few descriptors to serve anybody.
    #[error(
        "this process may have {descriptors} files and sockets open (`ulimit -n`, LimitNOFILE), and needs {needed} for itself: \
         let it have more, or fewer workers"
    )]
    Descriptors {
        /// How many it may have.
        descriptors: usize,
        /// How many it needs before it serves a client.
        needed: usize,
    },
    /// A thread or runtime cannot be started.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// Where the proxy listens.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Addresses {
    /// Plain HTTP, at the first of its addresses.
    pub proxy: Option<SocketAddr>,
    /// HTTPS, at the first of its addresses.
    pub proxy_tls: Option<SocketAddr>,
    /// HTTP and HTTPS, all addresses.
    pub listeners: Vec<SocketAddr>,
    /// Status and metrics, at the first of their addresses.
    pub status: Option<SocketAddr>,
    /// Byte streams and datagrams.
    pub stream: Vec<SocketAddr>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    addresses: Addresses,
    orders: watch::Sender<Orders>,
    status: watch::Sender<Orders>,
    /// What a successor is given. A socket on which nobody accepts any more must not stay open here.
    sockets: Vec<(String, OwnedFd)>,
    node: Arc<Node>,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

/// How many cores serve: as many as are set, or as there are.
fn workers(settings: &Settings) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if settings.workers == 0 {
        cores
    } else {
        settings.workers
    }
}

impl Proxy {
    /// Starts to serve what `live` holds.
    pub fn start(settings: &Settings, live: Live) -> Result<Self, ProxyError> {
        Self::start_with(settings, Limits::of(settings), live)
    }

    /// Starts to serve what `live` holds, within `limits`.
    pub fn start_with(settings: &Settings, limits: Limits, live: Live) -> Result<Self, ProxyError> {
        let kept = (Unstored::default(), Discovered::default());
        let contact = Contact::new(monotonic());
        let inherited = &mut Inherited::default();
        Self::start_on(settings, limits, live, kept, contact, inherited)
    }

    /// Starts in the same way, on the sockets that were passed on as far as there are any, and with the
    /// revocations that are still unstored and what providers have said, as the process before has `kept` them. Clients are served once `contact` says so.
    pub(crate) fn start_on(
        settings: &Settings,
        limits: Limits,
        live: Live,
        kept: (Unstored, Discovered),
        contact: Contact,
        inherited: &mut Inherited,
    ) -> Result<Self, ProxyError> {
        check_listeners(settings)?;
        let succeeds = inherited.succeeds();
        let withdrawn = inherited.is_withdrawn().unwrap_or_else(|error| {
            tracing::error!(%error, "it is not known whether this node was told to drain");
            false
        });
        let security = Security::of(settings, &live)?;
        let workers = workers(settings);
        let revocations = Arc::new(Revocations::default());
        if let Some(snapshot) = live.load().as_ref() {
            revocations.add(snapshot.revocations.iter().copied(), UnixTime::now());
        }
        let (background, work) = mpsc::unbounded_channel();
        let (unstored, discovered) = kept;
        revocations.add(unstored.all(), UnixTime::now());
        let mut node = Node {
            id: uuid::Uuid::new_v4().to_string(),
            live,
            revocations,
            unstored: Arc::new(unstored),
            discovered: Arc::new(discovered),
            contact,
            holds: watch::Sender::new(None),
            leaves: watch::Sender::new(false),
            questions: Questions::default(),
            background,
            expiring: Expiring::new(security.defaults.clone()),
            trusted: settings.trusted_ips.clone().into(),
            states: plugins::state::NodeStates::default(),
            access_log: AccessLog::open(&settings.access_log, format(settings)?)
                .map_err(ProxyError::AccessLog)?,
            metrics: (0..workers).map(|_| Arc::default()).collect(),
            draining: AtomicBool::new(false),
            withdrawn: AtomicBool::new(withdrawn),
            drain: settings.drain_timeout(),
            connections: Arc::new(Connections::default()),
            sessions: Arc::new(Connections::default()),
            requests: Stock::new(limits.in_flight, workers),
            memory: Memory::default(),
            held: memory::held(limits.held, limits.memory, workers),
            limits,
            told: told(settings)?,
            errors: ErrorStyle::read(settings).map_err(ProxyError::Errors)?,
            debug: settings.allow_debug_header,
            sampling_rate: settings.tracing_sampling_rate,
            real_ip: real_ip(settings)?,
            port_maps: settings.port_maps.clone(),
            max_staleness: (settings.max_staleness > 0)
                .then(|| Duration::from_secs(settings.max_staleness)),
            balancers: Arc::default(),
            dns: dns(settings)?,
            provider_networks: settings.provider_networks.as_slice().into(),
            sessions_max_silence: (settings.sessions_max_silence > 0)
                .then(|| Duration::from_secs(settings.sessions_max_silence)),
            workers,
        };
        let Listeners {
            addresses,
            kept,
            of_cores,
            status,
        } = listen(settings, &limits, &security, workers, inherited)?;
        let opened = Opened {
            descriptors: number(open_descriptors()),
            listening: kept.len(),
            threads: workers + status.len(),
            datagrams: of_cores.iter().any(|own| !own.datagrams.is_empty()),
        };
        keep_within(&mut node.limits, &opened, workers)?;
        let node = Arc::new(node);
        let (orders, ordered) = watch::channel(Orders::default());
        let (status_orders, status_ordered) = watch::channel(Orders::default());
        let threads = start_cores(&node, of_cores, &ordered, work)?;
        {
            let (node, orders) = (Arc::clone(&node), orders.clone());
            spawn("watch".to_owned(), move |runtime| {
                watch_over(&runtime, node, orders);
                Ok(())
            })?;
        }
        for socket in status {
            // Not joined: it answers until the rest has stopped.
            let (node, ordered) = (Arc::clone(&node), status_ordered.clone());
            spawn("status".to_owned(), move |runtime| {
                serve_status(&runtime, node, socket, ordered, succeeds)
            })?;
        }
        Ok(Self {
            addresses,
            orders,
            status: status_orders,
            sockets: kept,
            node,
            workers: threads,
        })
    }

    /// What its cores share.
    pub(crate) const fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// The listening sockets, for a process that takes over.
    pub(crate) fn sockets(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut sockets = Vec::new();
        for (name, socket) in &self.sockets {
            sockets.push((name.clone(), socket.try_clone()?));
        }
        Ok(sockets)
    }

    /// Leaves new connections to the process that has the sockets.
    pub(crate) fn hand_over(&mut self) {
        let handed_over = |orders: &mut Orders| orders.handed_over = true;
        self.orders.send_modify(handed_over);
        // Its status is that of the node.
        self.status.send_modify(|orders| orders.stopping = true);
    }

    /// Takes no new connections, lets exchanges end, and returns when all have, or the drain timeout
    /// is over.
    pub async fn stop(self) {
        // Where nobody accepts any more, nobody is to connect.
        drop(self.sockets);
        self.orders.send_modify(|orders| orders.stopping = true);
        // Not before each connection can see it: who is told may end an exchange, and count on the end of its connection.
        self.node.draining.store(true, Ordering::Release);
        tracing::info!("stopping: requests under way are finished first");
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
        self.status.send_modify(|orders| orders.stopping = true);
    }
}

/// Lowers the `limits` of a node with so many `workers` to what it can take with what it has `opened`.
fn keep_within(limits: &mut Limits, opened: &Opened, workers: usize) -> Result<(), ProxyError> {
    let descriptors = number(descriptors());
    let affordable = opened.connections(descriptors);
    if affordable == 0 {
        let needed = opened.needs();
        return Err(ProxyError::Descriptors {
            descriptors,
            needed,
        });
    }
    // Each core may have served all clients in its turn.
    let kept = affordable.div_ceil(workers);
    if affordable < limits.connections {
        tracing::warn!(
            max_connections = limits.connections,
            affordable,
            upstream_keepalive_pool_size = limits.keep_alive.connections.min(kept),
            "fewer connections than max_connections are taken: each may need three descriptors (LimitNOFILE)"
        );
    }
    limits.connections = limits.connections.min(affordable);
    limits.keep_alive.connections = limits.keep_alive.connections.min(kept);
    Ok(())
}

/// So many, or as many as can be counted.
fn number(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Reads the files that the settings of the proxy name, and looks where it writes to. What keeps nothing from running is
/// returned.
pub(crate) fn check(settings: &Settings) -> Result<Vec<String>, ProxyError> {
    Security::of(settings, &Live::default())?;
    told(settings)?;
    real_ip(settings)?;
    check_listeners(settings)?;
    dns(settings)?;
    format(settings)?;
    access_log::check(&settings.access_log).map_err(ProxyError::AccessLog)?;
    ErrorStyle::read(settings).map_err(ProxyError::Errors)?;
    let secrets = settings.secrets_directory.iter();
    let absent = secrets.filter(|directory| !directory.is_dir());
    let absent = absent.map(|directory| {
        let directory = directory.display();
        format!(
            "secrets_directory: {directory} is no directory: references to files in it lead nowhere"
        )
    });
    Ok(absent.collect())
}

/// Refuses listeners of which each would get some of the other's clients.
fn check_listeners(settings: &Settings) -> Result<(), ProxyError> {
    let proxies = settings.proxies().map_err(ProxyError::Listeners)?;
    let streams = settings.streams().map_err(ProxyError::Listeners)?;
    let statuses = settings.statuses().map_err(ProxyError::Listeners)?;
    let (datagrams, streams): (Vec<_>, Vec<_>) = streams
        .into_iter()
        .partition(|one| one.kind == StreamKind::Udp);
    let of_tcp = proxies
        .into_iter()
        .map(|(setting, one)| (setting, one.address))
        .chain(streams.iter().map(|one| ("stream_listen", one.address)))
        .chain(statuses.iter().map(|one| ("status_listen", one.address)));
    distinct(of_tcp).map_err(ProxyError::Listeners)?;
    let datagrams = datagrams.iter().map(|one| ("stream_listen", one.address));
    distinct(datagrams).map_err(ProxyError::Listeners)
}

fn told(settings: &Settings) -> Result<Told, ProxyError> {
    Told::parse(&settings.headers, &settings.headers_upstream).map_err(ProxyError::Headers)
}

fn format(settings: &Settings) -> Result<Format, ProxyError> {
    let format = settings.access_log_format.parse();
    format.map_err(ProxyError::AccessLogFormat)
}

fn dns(settings: &Settings) -> Result<DnsConfig, ProxyError> {
    DnsConfig::read(settings).map_err(ProxyError::Dns)
}

fn real_ip(settings: &Settings) -> Result<RealIp, ProxyError> {
    let real_ip = RealIp::parse(&settings.real_ip_header, settings.real_ip_recursive)
        .map_err(ProxyError::RealIp)?;
    let proxies = settings.proxies().map_err(ProxyError::Listeners)?;
    let streams = settings.streams().map_err(ProxyError::Listeners)?;
    let mut listeners = (proxies.iter().map(|(_, one)| one.proxy_protocol))
        .chain(streams.iter().map(|one| one.proxy_protocol));
    if real_ip.is_told_first() && !listeners.any(|spoken| spoken) {
        return Err(ProxyError::RealIp(
            "no listener speaks the PROXY protocol: put `proxy_protocol` behind an address in proxy_listen, \
             proxy_tls_listen or stream_listen"
                .to_owned(),
        ));
    }
    Ok(real_ip)
}

/// Looks after the targets of upstreams, and after the memory, until the node stops.
fn watch_over(runtime: &LocalRuntime, node: Arc<Node>, orders: watch::Sender<Orders>) {
    runtime.block_on(async {
        tokio::select! {
            () = crate::balancer::watch::run(Arc::clone(&node), orders.subscribe()) => {}
            never = memory::watch(node, orders) => match never {},
        }
    });
}

fn serve_status(
    runtime: &LocalRuntime,
    node: Arc<Node>,
    (socket, tls): (std::net::TcpListener, Option<Tls>),
    mut orders: watch::Receiver<Orders>,
    succeeds: bool,
) -> io::Result<()> {
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(socket)?;
        tokio::select! {
            () = async {
                // Until it serves, the process before it speaks for the node.
                if succeeds {
                    node.contact.settled().await;
                }
                status::serve(node, listener, tls).await;
            } => {}
            () = stopped(&mut orders) => {}
        }
        Ok(())
    })
}

/// Starts the cores of `node` that serve clients, and its own, which does the `work` that they give it and outlives them.
fn start_cores(
    node: &Arc<Node>,
    of_cores: Vec<OfCore>,
    orders: &watch::Receiver<Orders>,
    work: mpsc::UnboundedReceiver<Work>,
) -> Result<Vec<JoinHandle<io::Result<()>>>, ProxyError> {
    let mut threads = Vec::new();
    // Each core holds a receiver until it ends.
    let (cores, core) = watch::channel(());
    for (number, (own, metrics)) in of_cores.into_iter().zip(&node.metrics).enumerate() {
        let (metrics, orders, core) = (Arc::clone(metrics), orders.clone(), core.clone());
        let node = Arc::clone(node);
        let worker = move |runtime: LocalRuntime| {
            let _core = core;
            let outcome = run(&runtime, node, metrics, own, orders);
            drop(runtime);
            outcome
        };
        threads.push(spawn(format!("proxy-{number}"), worker)?);
    }
    let (node, orders) = (Arc::clone(node), orders.clone());
    let background = move |runtime: LocalRuntime| {
        background::run(&runtime, node, work, orders, cores);
        Ok(())
    };
    threads.push(spawn("background".to_owned(), background)?);
    Ok(threads)
}

/// Starts a thread that does `work` on a runtime of its own. A node that has no descriptors for all of its threads is not to
/// start: clients would wait at the sockets of those that are missing.
fn spawn(
    name: String,
    work: impl FnOnce(LocalRuntime) -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<io::Result<()>>, ProxyError> {
    let (begins, begun) = std::sync::mpsc::sync_channel(1);
    let thread = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                // It is waited for.
                let _ = begins.send(Err(error));
                return Ok(());
            }
        };
        let _ = begins.send(Ok(()));
        work(runtime)
    };
    let thread = std::thread::Builder::new().name(name).spawn(thread);
    let thread = thread.map_err(ProxyError::Thread)?;
    let begun = begun
        .recv()
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    begun.map_err(ProxyError::Thread)?;
    Ok(thread)
}
