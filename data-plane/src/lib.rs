//! Wardgate's data plane: the proxy and its OpenID Connect relying party.
//!
//! ```text
//!  client ─► listener ─► pipeline ─► router: the CompiledRoute, from the live snapshot
//!                           │
//!                           ├─► filters, by priority; any of them may answer
//!                           └─► forward ─► upstream: a pooled connection ─► server
//! ```
//!
//! ```text
//!  control plane ─► config_sync ─► compile ─► live, the pointer that requests begin at
//!                       └─► last_good: the file that a start without a control plane uses; beside it,
//!                           unstored: the revocations that no control plane has stored yet, and
//!                           discovered: what OpenID providers last said of themselves
//! ```
//!
//! A request runs from its first to its last byte on the core that accepted it, and by the snapshot
//! that it began with.

mod access_log;
mod apart;
mod ask;
mod background;
mod balancer;
mod body;
mod buffers;
mod carry;
pub mod compile;
mod config_sync;
mod contact;
mod core;
mod discovered;
mod ending;
pub mod error;
mod expiring;
mod forward;
mod heard;
mod host;
mod http1;
mod http2;
mod last_good;
pub mod limits;
pub mod listening;
pub mod live;
mod memory;
mod metrics;
mod orders;
mod pipeline;
pub mod proxy;
mod quota;
mod router;
pub mod secrets;
mod server;
pub mod settings;
mod status;
mod stream;
mod streams;
pub mod succession;
mod timer;
mod trusted;
mod unstored;
mod upstream;

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::compile::room::Room;
use crate::contact::Contact;
use crate::heard::Heard;
use config_sync::{ControlPlaneUrl, Phase, Proofs, Taken};
use discovered::Discovered;
use last_good::LastGood;
use limits::Limits;
use listening::inherited::{InheritError, Inherited};
use live::Live;
use proxy::{Addresses, Proxy, ProxyError};
use secrets::{Secrets, UpstreamTlsError};
use settings::Settings;
use shared::clock::{UnixTime, monotonic};
use shared::machine::{check_directory, check_file, check_files, lock_file, write_whole};
use shared::renewal::Renewal;
use shared::snapshot::Snapshot;
use shared::tls::{self, ClusterFiles, TlsError};
use succession::{SuccessionError, Successor, given, tell_when_ready};
use tokio::sync::{oneshot, watch};
use unstored::Unstored;

/// Why a data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node's certificate.
    #[error(
        "cluster_certificate, cluster_key, cluster_ca (`wardgate-control-plane certificates --out DIR --data-plane NAME` makes them)"
    )]
    Certificates(#[from] TlsError),
    /// The certificate does not say who this is.
    #[error("cluster_certificate: {0} has no common name, which would be the node's id")]
    Nameless(PathBuf),
    /// The certificate is not for a node of this name.
    #[error("node_name: a node with the certificate of `{1}` cannot be called `{0}`")]
    NodeName(String, String),
    /// A control plane's address is none.
    #[error("control_planes: `{url}`: {reason}")]
    ControlPlane {
        /// What the setting says.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nobody to follow.
    #[error("control_planes: a data plane follows at least one")]
    NoControlPlane,
    /// The directory of the last good configuration.
    #[error("preparing {path} (data_directory)")]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// What the settings name for TLS to upstream servers.
    #[error(transparent)]
    UpstreamTls(#[from] UpstreamTlsError),
    /// A thread could not be started.
    #[error("starting config sync")]
    Thread(#[source] std::io::Error),
    /// What the process before this one runs is not known.
    #[error("the process before this one does not tell what it runs")]
    Untold(#[source] std::io::Error),
    /// What the process before this one runs.
    #[error("what the process before this one runs cannot be run: {0}")]
    Given(String),
    /// The sockets that the process was started with.
    #[error(transparent)]
    Inherited(#[from] InheritError),
    /// The file for the chosen addresses cannot be written.
    #[error("writing {path} (addresses_file)")]
    Addresses {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A running data plane.
#[derive(Debug)]
pub struct DataPlane {
    /// Kept for its lock.
    _directory: Arc<File>,
    proxy: Proxy,
    phase: watch::Sender<Phase>,
    config_sync: JoinHandle<()>,
}

impl DataPlane {
    /// Starts to serve the last good configuration, if there is one, and to follow a control plane.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        Self::start_on(settings, Inherited::default())
    }

    /// Starts in the same way, on the sockets that the process was started with as far as there are any.
    pub fn start_on(settings: &Settings, mut inherited: Inherited) -> Result<Self, StartError> {
        let (node, proofs, renewal) = node(settings)?;
        if let Some(doubt) = &proofs.doubt {
            tracing::error!("{doubt}");
        }
        let failed = |source| StartError::DataDirectory {
            path: settings.data_directory.clone(),
            source,
        };
        // Before anything there is read, or counted as a crash.
        let directory = hold(&settings.data_directory, inherited.succeeds()).map_err(failed)?;
        let last_good = if inherited.succeeds() {
            LastGood::open_beside(&settings.data_directory, proofs.secret, &node.id)
        } else {
            LastGood::open(&settings.data_directory, proofs.secret, &node.id)
        }
        .map_err(failed)?;
        let live = Live::default();
        let secrets = Secrets::of(settings)?;
        // What has run before is not refused for what it takes.
        let room = Room::default();
        let compile = |snapshot: &Snapshot| {
            secrets.compile(snapshot, &room).map_err(|faults| {
                let all: Vec<_> = faults.iter().map(ToString::to_string).collect();
                all.join("; ")
            })
        };
        let (compiled, mut running) = last_good.load(&proofs.verifier, compile).unzip();
        if let Some(compiled) = &compiled {
            compiled.alarm(None);
        }
        live.store(compiled.map(Arc::new));
        let unstored = Unstored::open(
            &settings.data_directory,
            Arc::clone(last_good.sealing()),
            UnixTime::now(),
        );
        let sealing = Arc::clone(last_good.sealing());
        let kept = (
            unstored,
            Discovered::open(&settings.data_directory, sealing),
        );
        let limits = Limits::of(settings);
        // Without these nothing is kept of it.
        let notes = settings.max_staleness > 0 || settings.sessions_max_silence > 0;
        let heard = Heard::new(&settings.data_directory);
        let before = heard.silence(UnixTime::now(), notes && running.is_some());
        let contact = if running.is_some() || inherited.succeeds() {
            Contact::with_last_good(monotonic())
        } else {
            Contact::new(monotonic())
        };
        let contact = contact.after(before);
        let proxy = Proxy::start_on(settings, limits, live, kept, contact, &mut inherited)?;
        let predecessor = inherited.finish()?;
        let gateway = Arc::clone(proxy.node());
        let given = given::ask(predecessor.as_ref()).map_err(StartError::Untold)?;
        let (leaves, left) = oneshot::channel();
        let given = match given {
            Some(given) => {
                let here = (&*gateway, &last_good, &proofs.verifier);
                let taken = given.take(&mut running, here, compile);
                taken.map_err(StartError::Given)?;
                let keys = given.keys;
                Some(Taken { keys, left })
            }
            None => None,
        };
        let leaves = given.is_some().then_some(leaves);
        // If this start fails, those of the process before it hold.
        let addresses = proxy.addresses();
        if let Some(path) = &settings.addresses_file {
            let told = serde_json::json!(addresses).to_string();
            write_whole(path, &told).map_err(|source| StartError::Addresses {
                path: path.clone(),
                source,
            })?;
        }
        let (phase, phases) = watch::channel(Phase::Serving);
        let id = node.id.clone();
        let config_sync = config_sync::start(config_sync::Start {
            node,
            renewal,
            gateway: Arc::clone(&gateway),
            running,
            last_good,
            verifier: proofs.verifier,
            secrets,
            heard,
            given,
            phase: phases,
        })
        .map_err(StartError::Thread)?;
        tracing::info!(node_id = id, listeners = ?addresses.listeners, streams = ?addresses.stream, status = ?addresses.status, "data plane started");
        std::thread::Builder::new()
            .name("ready".to_owned())
            .spawn(move || tell_when_ready(&gateway, predecessor.as_ref(), leaves))
            .map_err(StartError::Thread)?;
        Ok(Self {
            _directory: directory,
            proxy,
            phase,
            config_sync,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.proxy.addresses()
    }

    /// Opens the access log, and the files that plugins log to, anew: they may have been moved away.
    pub fn reopen_logs(&self) {
        tracing::info!("the files of logs are reopened");
        self.proxy.node().access_log.reopen();
        host::sink::reopen(self.proxy.node());
    }

    /// Starts another process of this program, which gets the sockets of this one and what it knows, and takes over; then this
    /// one is to be [`Self::hand_over`].
    ///
    /// # Errors
    ///
    /// It does not. This process goes on.
    pub async fn succeed(&self) -> Result<Successor, SuccessionError> {
        let node = self.proxy.node();
        let mut successor = Successor::start(self.proxy.sockets()?, node)?;
        successor.takes_over(node, &self.phase).await?;
        Ok(successor)
    }

    /// Lets exchanges end within the drain timeout, or until `at_once`, and stops, while `successor` takes new
    /// connections.
    pub async fn hand_over(mut self, successor: &mut Successor, at_once: impl Future<Output = ()>) {
        self.proxy.hand_over();
        let node = Arc::clone(self.proxy.node());
        let mut holds = node.holds.subscribe();
        self.phase.send_replace(Phase::HandedOver);
        // From then on config sync takes nothing in this node's name, and writes nothing.
        let left = holds.wait_for(Option::is_none);
        _ = tokio::time::timeout(LEAVES, left).await;
        successor.hear_more(&node).await;
        let (ends, ended) = oneshot::channel::<()>();
        let end = async {
            self.end(Phase::HandedOver, at_once).await;
            drop(ends);
        };
        let ended = async { _ = ended.await };
        // It may be long, and exchanges come to their end meanwhile.
        tokio::join!(end, successor.hear_of_filters(&node, ended));
        successor.hear_more(&node).await;
        successor
            .hear_of_filters(&node, std::future::ready(()))
            .await;
    }

    /// Takes no new connections, lets exchanges end within the drain timeout, or until `at_once`, and stops.
    pub async fn stop(self, at_once: impl Future<Output = ()>) {
        self.end(Phase::Draining, at_once).await;
    }

    async fn end(self, phase: Phase, at_once: impl Future<Output = ()>) {
        self.phase
            .send_if_modified(|now| std::mem::replace(now, phase) != phase);
        tokio::select! {
            () = self.proxy.stop() => {}
            () = at_once => tracing::warn!("told to stop at once: exchanges are cut off"),
        }
        self.phase.send_replace(Phase::Stopped);
        let joined = tokio::task::spawn_blocking(|| self.config_sync.join());
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("config sync ended badly");
        }
    }
}

/// How long config sync may take to leave what is on the disk to a successor.
const LEAVES: Duration = Duration::from_secs(2);

/// Makes `directory` and locks it, since two nodes would overwrite each other's files there; a successor once the process
/// before it has ended.
fn hold(directory: &Path, succeeds: bool) -> std::io::Result<Arc<File>> {
    last_good::make(directory)?;
    check_files(directory, &last_good::FILES)?;
    let lock = match lock_file(&directory.join("lock")) {
        Ok(lock) => Arc::new(lock),
        Err(error) => {
            tracing::warn!(%error, "data_directory is not locked");
            return File::open(directory).map(Arc::new);
        }
    };
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) if succeeds => {
            let waiting = Arc::clone(&lock);
            std::thread::Builder::new()
                .name("lock".to_owned())
                .spawn(move || {
                    if let Err(error) = waiting.lock() {
                        tracing::warn!(%error, "data_directory is not locked");
                    }
                })?;
        }
        Err(TryLockError::WouldBlock) => {
            let reason = "another data plane uses it: each node needs one of its own";
            return Err(std::io::Error::new(ErrorKind::ResourceBusy, reason));
        }
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, "data_directory is not locked");
        }
    }
    Ok(lock)
}

/// Checks what [`DataPlane::start`] would read and where it would write, without listening or connecting. What keeps nothing
/// from running is returned.
pub fn check(settings: &Settings) -> Result<Vec<String>, StartError> {
    let (_, proofs, _) = node(settings)?;
    let mut doubts = proxy::check(settings)?;
    Secrets::of(settings)?;
    doubts.extend(proofs.doubt);
    let path = &settings.data_directory;
    check_files(path, &last_good::FILES).map_err(|source| StartError::DataDirectory {
        path: path.clone(),
        source,
    })?;
    match check_directory(path) {
        // A node serves without a disk, and says that it keeps nothing.
        Err(source) if path.is_dir() => {
            doubts.push(format!(
                "data_directory {}: nothing can be kept there: {source}",
                path.display()
            ));
        }
        checked => checked.map_err(|source| StartError::DataDirectory {
            path: path.clone(),
            source,
        })?,
    }
    if let Some(path) = &settings.addresses_file {
        check_file(path).map_err(|source| StartError::Addresses {
            path: path.clone(),
            source,
        })?;
    }
    Ok(doubts)
}

/// The id of a node whose certificate says `name`.
fn node_id(name: String, own: Option<&str>) -> Result<String, StartError> {
    let Some(group) = tls::group_of(&name) else {
        return match own {
            Some(own) if own != name => Err(StartError::NodeName(own.to_owned(), name)),
            _ => Ok(name),
        };
    };
    // Of a machine that is called `web-1.example.com`, the first part.
    let machine = shared::machine::hostname();
    let own = own.unwrap_or_else(|| machine.split('.').next().unwrap_or_default());
    let id = format!("{own}.{group}");
    if tls::may_be_called(&name, &id) {
        Ok(id)
    } else {
        Err(StartError::NodeName(own.to_owned(), name))
    }
}

/// Who this node is, how it proves that, and what looks after the files that say so, from before they were read.
fn node(settings: &Settings) -> Result<(config_sync::Node, Proofs, Renewal), StartError> {
    let files = ClusterFiles {
        certificate: settings.cluster_certificate.clone(),
        key: settings.cluster_key.clone(),
        authorities: settings.cluster_ca.clone(),
    };
    let renewal = files.renewal();
    let proofs = Proofs::read(&files)?;
    let name = proofs
        .id
        .clone()
        .ok_or_else(|| StartError::Nameless(settings.cluster_certificate.clone()))?;
    let id = node_id(name, settings.node_name.as_deref())?;
    if settings.control_planes.is_empty() {
        return Err(StartError::NoControlPlane);
    }
    let control_planes = settings.control_planes.iter().map(|url| {
        url.parse::<ControlPlaneUrl>()
            .map_err(|reason| StartError::ControlPlane {
                url: url.clone(),
                reason,
            })
    });
    let node = config_sync::Node {
        id,
        labels: settings.labels.clone(),
        control_planes: control_planes.collect::<Result<_, _>>()?,
        tls: Arc::clone(&proofs.tls),
        files,
        hostname: shared::machine::hostname(),
    };
    Ok((node, proofs, renewal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_for_one_node_and_its_successors() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("data");
        let first = hold(&directory, false).unwrap();
        let refused = hold(&directory, false).unwrap_err();
        assert!(
            refused.to_string().contains("another data plane"),
            "{refused}"
        );
        let successor = hold(&directory, true).unwrap();
        drop(first);
        drop(successor);
        // Nobody would ever write there.
        std::os::unix::fs::symlink("/dev/zero", directory.join("heard")).unwrap();
        let refused = hold(&directory, false).unwrap_err();
        assert!(refused.to_string().contains("heard"), "{refused}");
    }

    #[test]
    fn a_node_of_a_group_has_a_name_of_its_own() {
        let check = |name: &str, own: Option<&str>, expected: Option<&str>| {
            let found = node_id(name.to_owned(), own).ok();
            assert_eq!(found.as_deref(), expected, "{name} {own:?}");
        };
        check("node-1", None, Some("node-1"));
        check("node-1", Some("node-1"), Some("node-1"));
        check("node-1", Some("node-2"), None);
        check("*.pods", Some("web-1"), Some("web-1.pods"));
        check("*.pods", Some("web.1"), None);
        check("*.pods", Some(""), None);
        assert!(
            node_id("*.pods".to_owned(), None).is_ok_and(|id| tls::may_be_called("*.pods", &id))
        );
    }
}
