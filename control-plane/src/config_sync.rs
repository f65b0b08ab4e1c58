//! Config sync, the control plane's end: snapshots to data planes over mutual TLS.
//!
//! ```text
//!  publisher ─► target.rs    publishes, some milliseconds after a change
//!                  │  conductor.rs, rollouts.rs, targets.rs: which state for which node
//!                  │
//!  listener.rs ─► stream.rs  one task per node: sends, waits for its answer, sends the newest again
//!  admission.rs              how many streams may begin in a second
//!  endpoint.rs               gRPC, by hand for what leaves
//!  outgoing.rs, update.rs    an update, piece by piece, and what passes it
//!  pace.rs                   how much of it is under way at once
//!                  │
//!               session.rs   what to offer to a node; pure
//! ```

mod admission;
mod asides;
mod certificates;
mod conductor;
mod ended;
mod endpoint;
mod flights;
mod listener;
mod outgoing;
mod pace;
mod relay;
mod rollouts;
mod session;
mod stream;
mod target;
mod targets;
#[cfg(test)]
mod tests;
mod told;
mod update;
mod waits;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::v1::control_message::Kind;
use proto::v1::{Hold, NodeMessage};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use shared::clock::{UnixTime, monotonic};
use shared::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;
use tonic::{Status, Streaming};
use uuid::Uuid;

use crate::fleet::{Fleet, steady};
use crate::publisher::Publisher;
use crate::revocations::Revoker;
use crate::rollout::JournalError;
use crate::snapshot::frame;
use crate::store::etcd::Claims;
use admission::Admission;
use outgoing::{Messages, outgoing};
use relay::Relay;
use session::Session;

/// Where nodes are led.
pub(crate) type Target = watch::Receiver<Targets>;

/// How often a silent connection is pinged. A node that takes in much says nothing meanwhile. With the time that what was sent
/// may stay unacknowledged (`listener.rs`), or a ping unanswered, who is silent is noticed within 15 s: a link that loses all by the
/// system, however busy either side is.
const PING: Duration = Duration::from_secs(5);
/// How long a node may take to introduce itself.
const HELLO: Duration = Duration::from_secs(10);
/// How long the answer to a ping may take: it comes once the node has read what it was sent before, over whatever link it has. Of
/// an update that is little (`pace.rs`).
const PONG: Duration = Duration::from_secs(10);
/// How long streams may take to end.
const GOODBYE: Duration = Duration::from_secs(20);
/// Bytes under way to a node before it has to read some.
const WINDOW: u32 = 1024 * 1024;
/// Nodes that are sent all records at once; the others wait their turn, which is over in a moment.
const TRANSFERS: usize = 32;

pub(crate) use certificates::{Certificates, judge};
pub(crate) use conductor::Staging;
pub(crate) use listener::BACKLOG;
pub(crate) use rollouts::{Order, OrderError, Rollouts};
pub(crate) use targets::Targets;

/// Config sync at work. Dropping it ends every stream.
#[derive(Debug)]
pub(crate) struct Running {
    target: Target,
    rollouts: Rollouts,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What config sync starts with.
#[derive(Debug)]
pub(crate) struct Start {
    /// What nodes are led towards.
    pub publisher: Publisher,
    /// What is known of them.
    pub fleet: Fleet,
    /// Names this process.
    pub replica: Uuid,
    /// The names in certificates of those that are led; empty: all.
    pub allowed: Vec<String>,
    /// Where they connect.
    pub listener: TcpListener,
    /// The certificates that they are spoken to by, and that sign what they get.
    pub certificates: Certificates,
    /// Who keeps what they revoke.
    pub revoker: Revoker,
    /// Where several control planes agree on whose node does what, if there are several.
    pub claims: Option<Claims>,
    /// How changes are rolled out.
    pub staging: Staging,
}

/// Starts to lead the nodes that connect towards what is published.
pub(crate) fn start(start: Start) -> Result<Running, JournalError> {
    let Start {
        publisher,
        fleet,
        replica,
        allowed,
        listener,
        certificates,
        revoker,
        claims,
        staging,
    } = start;
    let Certificates {
        config,
        signer,
        authorities,
        renewing,
        expiries: _,
    } = certificates;
    let (target, rollouts, following) =
        target::follow(&publisher, signer, &fleet, staging, replica)?;
    let unknown = fleet.unknown_among(&allowed);
    if !unknown.is_empty() {
        tracing::warn!(
            names = unknown.join(", "),
            "cluster_data_planes: no data plane that has been here has a certificate with these names"
        );
    }
    let (stop, stopping) = watch::channel(false);
    let several = claims.map(|claims| (claims, publisher.clone()));
    let relay = Relay::new(several, fleet.awaited_processes(monotonic()));
    let streams = Streams {
        publisher,
        fleet,
        replica: replica.to_string(),
        allowed: allowed.into(),
        target: target.clone(),
        transfers: Arc::new(Semaphore::new(TRANSFERS)),
        admission: Arc::new(Mutex::new(Admission::new(monotonic()))),
        revoker,
        relay,
        authorities,
        stopping: stopping.clone(),
    };
    let (connections, accepting) = listener::accept(listener, config);
    let serving = tokio::spawn(endpoint::serve(connections, streams, stopping));
    Ok(Running {
        target,
        rollouts,
        stop,
        tasks: vec![following, accepting, renewing, serving],
    })
}

impl Running {
    /// Where nodes are led.
    pub(crate) fn target(&self) -> Target {
        self.target.clone()
    }

    /// Changes on their way through the fleet.
    pub(crate) fn rollouts(&self) -> Rollouts {
        self.rollouts.clone()
    }

    /// Says goodbye to every node, then stops.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(serving) = self.tasks.pop()
            && tokio::time::timeout(GOODBYE, serving).await.is_err()
        {
            tracing::warn!("a config sync stream did not end in time");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What every stream works with.
#[derive(Clone, Debug)]
struct Streams {
    publisher: Publisher,
    fleet: Fleet,
    replica: String,
    allowed: Arc<[String]>,
    target: Target,
    transfers: Arc<Semaphore>,
    admission: Arc<Mutex<Admission>>,
    revoker: Revoker,
    relay: Relay,
    authorities: watch::Receiver<Arc<RootCertStore>>,
    stopping: watch::Receiver<bool>,
}

impl Streams {
    /// Whether a stream may begin now, or when to come again.
    fn admit(&self) -> Result<(), Duration> {
        let mut admission = self
            .admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        admission.admit(monotonic())
    }

    /// Begins the stream of `peer`, which says `incoming`: what it is sent.
    async fn subscribe(
        &self,
        peer: &Peer,
        mut incoming: Streaming<NodeMessage>,
    ) -> Result<Messages, Status> {
        let hello = tokio::time::timeout(HELLO, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello within 10 s"))??;
        let flights = wire::flights(hello.as_ref());
        let introduction = wire::introduction(hello, peer)?;
        if !self.allowed.is_empty() && !self.allowed.contains(&peer.name) {
            tracing::warn!(
                node_id = introduction.name,
                "a data plane that cluster_data_planes does not name is sent away"
            );
            return Err(Status::permission_denied(format!(
                "`{}` is not among the cluster_data_planes of this control plane",
                peer.name
            )));
        }
        let node = introduction.name.clone();
        let running = introduction.running;
        let (outgoing, messages) = outgoing();
        if let Err(wait) = self.admit() {
            let hold = frame(Kind::Hold(Hold {
                retry_after_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
                reason: "too many data planes connect at once".to_owned(),
            }));
            outgoing.end_with(hold);
            return Ok(messages);
        }
        let abilities = wire::abilities(&introduction);
        let joined = self.fleet.join(introduction, steady());
        let (member, refused) =
            joined.map_err(|full| Status::resource_exhausted(full.to_string()))?;
        tracing::info!(node_id = node, revision = %running.revision, "data plane connected");
        let session = Session::new(running, refused, abilities);
        let by = self.relay.stream(&member.process(), flights);
        let chain = peer.chain.clone();
        let mut stream =
            stream::NodeStream::new(self.clone(), member, outgoing, session, (chain, by));
        tokio::spawn(async move {
            let why = stream.run(&mut incoming).await;
            drop(stream);
            tracing::info!(node_id = node, %why, "data plane disconnected");
        });
        Ok(messages)
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
struct Peer {
    /// The certificates that it has shown, its own first.
    chain: Arc<[CertificateDer<'static>]>,
    /// The common name in its certificate.
    name: String,
    address: Option<SocketAddr>,
    certificate_expires_at: Option<UnixTime>,
}

fn peer(connection: &TlsStream<TcpStream>) -> Result<Peer, Status> {
    let (socket, session) = connection.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    let certificate = chain
        .first()
        .ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    let name = tls::common_name(certificate)
        .ok_or_else(|| Status::unauthenticated("the client certificate has no common name"))?;
    Ok(Peer {
        name,
        address: socket.peer_addr().ok(),
        certificate_expires_at: tls::expires_at(certificate),
        chain: chain
            .iter()
            .cloned()
            .map(CertificateDer::into_owned)
            .collect(),
    })
}
