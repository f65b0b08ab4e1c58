//! The control plane: the writer of the configuration.
//!
//! ```text
//!  admin ─► Command ─► decide(Config, Command) ─► Change ─► store ─► evolve(Config, Change) ─► Config
//!                                                                                                │
//!  data planes ◄─ config_sync ◄─ snapshot: every record encoded once per revision ◄──────────────┘
//! ```

pub mod admin;
mod capacity;
pub mod certificates;
mod client_keys;
pub mod command;
pub mod config;
mod config_sync;
mod console;
mod data_directory;
pub mod declarative;
mod difference;
mod exporter;
mod fleet;
pub mod history;
mod judge;
mod listeners;
mod opening;
mod outbound;
mod presence;
pub mod publisher;
mod revocations;
mod rollout;
mod session_keys;
pub mod settings;
mod snapshot;
mod status;
pub mod store;
mod succession;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::clock::{UnixTime, monotonic};
use shared::machine::write_whole;
use shared::telemetry::chain;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use admin::Admin;
use admin::files::Files;
pub use admin::files::TokenError;
use config_sync::Certificates;
use data_directory::{export_path, nodes_path};
use exporter::Exporter;
use fleet::{Fleet, Had, Kept};
pub use judge::check;
use judge::{Judged, judge};
pub use listeners::Inherited;
use listeners::{Admins, Page, Pages, Sockets};
pub use presence::Disagreement;
use presence::Presence;
use publisher::{ExecuteError, Publisher};
use revocations::Revoker;
use settings::Settings;
use store::etcd::Board;
use store::{SecretsKey, StoreError};
use succession::Opened;

/// How long requests to the Admin API may take to end when the process is to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// By how much more our clock may go on than time does before it is a jump.
const JUMP: Duration = Duration::from_mins(1);

/// A data plane that was heard within this time is expected to have a key before it is used.
const LIVES: Duration = Duration::from_mins(15);

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("starting the store")]
    Store(#[from] StoreError),
    /// A list of addresses that contradicts itself.
    #[error("{0}")]
    Listeners(String),
    /// `headers` names something unknown.
    #[error("{0}")]
    Headers(String),
    /// An address is in use or not ours.
    #[error("listening on {address} ({setting})")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The setting that chose it.
        setting: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Anyone who reaches the address could configure the gateway, or read the tokens of those who may.
    #[error(
        "{setting} is {address}: beyond loopback the Admin API needs {missing}; admin_allow_insecure does without"
    )]
    Exposed {
        /// The setting that chose it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// What it lacks.
        missing: &'static str,
    },
    /// An address for TLS without what TLS needs.
    #[error(
        "the Admin API's TLS (admin_tls_listen, or `ssl` in admin_listen) needs admin_certificate and admin_key"
    )]
    NoCertificate,
    /// The Admin API's certificate.
    #[error("loading the Admin API's certificate (admin_certificate, admin_key)")]
    AdminCertificate(#[source] shared::tls::TlsError),
    /// The file with the token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The directory of the store.
    #[error("preparing {path} (data_directory)")]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Nobody could use the Admin API.
    #[error("enforce_rbac is on, but there is no user with a token yet: set admin_token_file")]
    NoUser,
    /// The cluster's certificates.
    #[error(
        "cluster_certificate, cluster_key, cluster_ca (`wardgate-control-plane certificates --out DIR` makes them)"
    )]
    Certificates(#[from] shared::tls::TlsError),
    /// Other control planes over the same etcd run otherwise.
    #[error("running beside other control planes")]
    Disagreement(#[from] Disagreement),
    /// Roll-outs cannot be kept.
    #[error("reading and writing the roll-outs")]
    Rollouts(#[from] rollout::JournalError),
    /// The session keys cannot be stored.
    #[error("making the session keys")]
    SessionKeys(#[from] ExecuteError),
    /// The file for the chosen addresses cannot be written.
    #[error("writing {path} (addresses_file)")]
    Addresses {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    admin: SocketAddr,
    cluster: SocketAddr,
    publisher: Publisher,
    config_sync: config_sync::Running,
    stop: Vec<oneshot::Sender<()>>,
    served: JoinHandle<()>,
    pages: Pages,
    keys: JoinHandle<()>,
    exports: JoinHandle<()>,
    /// Take in what other control planes commit, and what files hold anew.
    following: Vec<JoinHandle<()>>,
    /// Tells other control planes of the nodes here.
    presence: Option<Presence>,
    /// Remembers the nodes for the next start.
    nodes: Kept,
    /// What a process that takes this one's place is given. A socket on which nobody accepts any more must not stay open.
    sockets: Vec<(String, OwnedFd)>,
    store: Opened,
}

impl ControlPlane {
    /// Opens the store and starts to listen.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        Self::start_on(settings, Inherited::default()).await
    }

    /// The same, on the sockets that the process was started with as far as there are any.
    pub async fn start_on(settings: Settings, inherited: Inherited) -> Result<Self, StartError> {
        let mut sockets = Sockets::new(inherited);
        // What is put in their place from here on is taken up.
        let admin_files = Files::of(settings.admin_pair(), settings.admin_token_file.clone());
        let Judged {
            files,
            admin_tls,
            access,
            headers,
        } = judge(&settings)?;
        let others = settings.clone();
        let certificates = Certificates::follow(files, move || others.other_expiries())?;
        let expiries = certificates.expiries.clone();
        let key = opening::key(&settings).await?;
        let store = Opened::by(&settings, key.clone())?;
        let publisher = open(&settings, key.clone()).await?;
        let (etcd, mut following) = opening::follow(&settings, &publisher)?;
        let exports = export_path(&settings.data_directory);
        let exporter = Exporter::new(publisher.clone(), key.clone(), exports);
        let exports = tokio::spawn(export(exporter.clone(), settings.export_interval));
        let (renewed, admin_tls) = watch::channel(admin_tls);
        following.push(tokio::spawn(admin_files.follow(renewed, access.clone())));
        let admins = Admins::listen(&mut sockets, &settings, &admin_tls)?;
        let admin = admins.first()?;
        let (cluster, cluster_address) = sockets.listen(
            "cluster_listen",
            settings.cluster_listen,
            config_sync::BACKLOG,
        )?;
        let id = Uuid::new_v4();
        let (fleet, shared) = opening::fleet(&settings, &key)?;
        let nodes = keep(&fleet, publisher.clone(), &settings);
        let (mut board, claims) = shared.map(|shared| (shared.board, shared.claims)).unzip();
        let plan = settings.plan();
        if let Some(board) = &mut board {
            presence::agree(board, id, &plan)?;
        }
        let revoker = Revoker::start(publisher.clone(), fleet.clone());
        let config_sync = config_sync::start(config_sync::Start {
            publisher: publisher.clone(),
            fleet: fleet.clone(),
            replica: id,
            allowed: settings.cluster_data_planes.clone(),
            listener: cluster,
            certificates,
            revoker: revoker.clone(),
            claims,
            staging: settings.staging(board.as_ref().map(Board::rollouts)),
        })?;
        let (target, rollouts) = (config_sync.target(), config_sync.rollouts());
        let staged = rollouts.plan.is_some();
        let presence = board.map(|board| Presence::start(board, fleet.clone(), id, plan, staged));
        let rotation = Duration::from_secs(settings.session_key_rotation);
        let rotating = rotate(publisher.clone(), rotation, fleet.clone(), target.clone());
        let told = status::Told {
            publisher: publisher.clone(),
            fleet: fleet.clone(),
            target: target.clone(),
            expiries,
            etcd,
        };
        let pages = settings.pages().map_err(StartError::Listeners)?;
        let router = Admin::new(publisher.clone(), id, admins.shown())
            .with_fleet(fleet, target)
            .with_rollouts(rollouts)
            .with_revoker(revoker)
            .with_exporter(exporter)
            .with_metrics(told.clone())
            .with_names(settings.admin_names, &settings.admin_gui_origins)
            .with_headers(headers)
            .with_access(access)
            .with_provider_networks(settings.provider_networks)
            .router();
        let mut addresses = admins.addresses(cluster_address);
        let (stop, served) = admins.serve(&router);
        let shown = [
            (console::router(router), false),
            (status::router(told), true),
        ]
        .map(|(router, apart)| Page { router, apart });
        let pages = Pages::start(&mut sockets, pages.into_iter().zip(shown))?;
        addresses.extend(pages.addresses.clone());
        tell(settings.addresses_file.as_deref(), &addresses.into())?;
        tracing::info!(%admin, cluster = %cluster_address, revision = %publisher.config().revision(), "control plane started");
        Ok(Self {
            admin,
            cluster: cluster_address,
            publisher,
            config_sync,
            stop,
            served,
            pages,
            keys: tokio::spawn(rotating),
            exports,
            following,
            presence,
            nodes,
            sockets: sockets.finish(),
            store,
        })
    }

    /// Where the Admin API listens.
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Where the console is, if there is one.
    pub fn console_address(&self) -> Option<SocketAddr> {
        self.pages.addresses.get("console")?.as_str()?.parse().ok()
    }

    /// Where data planes connect.
    pub const fn cluster_address(&self) -> SocketAddr {
        self.cluster
    }

    /// The way to read and change the configuration.
    pub const fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Stops in the same way as [`Self::stop`], but for the sockets: clients that come meanwhile wait at these for the
    /// process that is given them.
    pub async fn leave(mut self) -> Vec<(String, OwnedFd)> {
        let sockets = std::mem::take(&mut self.sockets);
        self.stop().await;
        sockets
    }

    /// Finishes the requests that are under way, then stops. A client that does not get on with its own
    /// is not waited for.
    pub async fn stop(mut self) {
        drop(self.sockets);
        drop(self.stop);
        self.keys.abort();
        self.exports.abort();
        self.pages.end().await;
        self.following.iter().for_each(JoinHandle::abort);
        self.nodes.stop();
        self.config_sync.stop().await;
        if let Some(presence) = self.presence {
            presence.stop().await;
        }
        match tokio::time::timeout(DRAIN, &mut self.served).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "admin api ended badly"),
            Err(_) => {
                tracing::warn!("requests to the admin api that do not end are cut off");
                self.served.abort();
            }
        }
    }
}

/// Opens the store, and sees to it that there is what serving needs: session keys, and a user where tokens are asked for.
async fn open(settings: &Settings, key: SecretsKey) -> Result<Publisher, StartError> {
    let publisher = opening::open(settings, key).await?;
    if settings.needs_user() && has_no_user(&publisher) {
        return Err(StartError::NoUser);
    }
    let rotation = Duration::from_secs(settings.session_key_rotation);
    make_session_keys(&publisher, rotation)?;
    Ok(publisher)
}

/// Keeps the nodes of `fleet` in the data directory, and what `publisher` had.
fn keep(fleet: &Fleet, publisher: Publisher, settings: &Settings) -> Kept {
    let nodes = nodes_path(&settings.data_directory);
    Kept::start(fleet.clone(), nodes, move || Had::of(&publisher))
}

/// Whether nobody could use the Admin API with a token.
fn has_no_user(publisher: &Publisher) -> bool {
    let config = publisher.config();
    config.keys("rbac_users", Uuid::nil()).next().is_none()
}

/// Makes session keys, or new ones where it is time.
fn make_session_keys(publisher: &Publisher, rotation: Duration) -> Result<(), StartError> {
    let occasion = session_keys::Occasion {
        now: UnixTime::now(),
        agreed: None,
        rotation,
        behind: false,
    };
    if let Err(error) = session_keys::keep(publisher, occasion) {
        // With a key, a store that takes no writes now is no reason not to serve what it holds.
        if session_keys::none(&publisher.config()) {
            return Err(error.into());
        }
        tracing::error!(error = %chain(&error), "session keys not rotated");
    }
    Ok(())
}

/// Writes the chosen addresses to the file for them, if there is one.
fn tell(path: Option<&Path>, addresses: &serde_json::Value) -> Result<(), StartError> {
    let Some(path) = path else { return Ok(()) };
    write_whole(path, &addresses.to_string()).map_err(|source| StartError::Addresses {
        path: path.to_owned(),
        source,
    })
}

/// Looks after session keys and client keys, for as long as the process lives.
async fn rotate(
    publisher: Publisher,
    rotation: Duration,
    fleet: Fleet,
    target: config_sync::Target,
) {
    let client_keys = client_keys::follow(publisher.clone());
    tokio::join!(
        client_keys,
        rotate_session_keys(publisher, rotation, fleet, target)
    );
}

/// Looks after the session keys and the revocations, for as long as the process lives.
async fn rotate_session_keys(
    publisher: Publisher,
    rotation: Duration,
    fleet: Fleet,
    target: config_sync::Target,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(30));
    let mut last = (UnixTime::now(), monotonic());
    loop {
        ticks.tick().await;
        let publisher = publisher.clone();
        let now = UnixTime::now();
        let (before, at) = std::mem::replace(&mut last, (now, monotonic()));
        // By the next time the nodes have told how far their clocks are from ours as it is now.
        let jumped = now.saturating_since(before) > at.elapsed() + JUMP;
        let targets = target.borrow().clone();
        let occasion = session_keys::Occasion {
            now,
            agreed: fleet.agreed_time(now).filter(|_| !jumped),
            rotation,
            behind: fleet.is_behind(|node| targets.position_of(node), LIVES, fleet::steady()),
        };
        let kept = tokio::task::spawn_blocking(move || {
            if let Some(agreed) = occasion.agreed
                && let Err(error) = revocations::sweep(&publisher, agreed)
            {
                tracing::error!(error = %chain(&error), "expired revocations not removed");
            }
            session_keys::keep(&publisher, occasion)
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %chain(&error), "session keys not rotated"),
            Err(error) => tracing::error!(error = %chain(&error), "session keys not rotated"),
        }
    }
}

/// Exports the store at once and then regularly, for as long as the process lives.
async fn export(exporter: Exporter, seconds: u64) {
    let mut ticks = tokio::time::interval(Duration::from_secs(seconds));
    loop {
        ticks.tick().await;
        let exporter = exporter.clone();
        let written =
            tokio::task::spawn_blocking(move || exporter.regularly(UnixTime::now())).await;
        match written {
            Ok(Ok(Some(path))) => tracing::info!(path = %path.display(), "store exported"),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::error!(error = %chain(&error), "store not exported"),
            Err(error) => tracing::error!(error = %chain(&error), "store not exported"),
        }
    }
}
