//! Reaching a control plane: its URL, mutual TLS, and the first message.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::v1::config_sync_client::ConfigSyncClient;
use proto::v1::node_message::Kind;
use proto::v1::{ControlMessage, Hello, NodeMessage};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use shared::clock::{UnixTime, monotonic};
use shared::renewal::Renewal;
use shared::secret::Secret;
use shared::signature::Verifier;
use shared::tls::{self, CONTROL_PLANE_NAME, ClusterFiles, Role, TlsError};
use shared::version::VERSION;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};
use tonic::{Status, Streaming};
use url::{Host, Url};

use super::Phase;
use super::applier::Applier;
use crate::core::Node as Gateway;

/// The port of a control plane's `cluster_listen`.
const PORT: u16 = 8005;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a silent connection is pinged, and how long the answer may take.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged. Some are sent at least every five seconds: control planes ping as often, and are
/// answered.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// Bytes of one message: a chunk has at most 256 KiB.
const MESSAGE_LIMIT: usize = 1024 * 1024;
/// Bytes under way before this node has to read some.
const WINDOW: u32 = 1024 * 1024;
/// The authority of requests. TLS is the connector's business, hence the scheme.
const AUTHORITY: &str = "http://wardgate-control-plane";
/// Messages that may wait for the connection.
const OUTGOING: usize = 256;

/// Where a control plane listens for data planes: an element of the setting `control_planes`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ControlPlaneUrl {
    host: Host,
    port: u16,
}

impl FromStr for ControlPlaneUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected https://HOST:PORT";
        let url = Url::parse(text).map_err(|error| format!("{error}; {expected}"))?;
        let bare = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if url.scheme() != "https" || !bare {
            return Err(expected.to_owned());
        }
        let host = url.host().ok_or(expected)?.to_owned();
        // A URL forgets that 443 was written, since for https it means the same as nothing.
        let written = text.trim_end_matches('/').ends_with(":443").then_some(443);
        let port = url.port().or(written).unwrap_or(PORT);
        Ok(Self { host, port })
    }
}

impl fmt::Display for ControlPlaneUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

/// What this node is and whom it follows.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The name in its certificate.
    pub(crate) id: String,
    /// Its operator's labels.
    pub(crate) labels: Vec<(String, String)>,
    /// Whom it follows, whichever answers.
    pub(crate) control_planes: Vec<ControlPlaneUrl>,
    /// How it proves who it is, and where that is read again when it changes.
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) files: ClusterFiles,
    /// The machine's name.
    pub(crate) hostname: String,
}

/// What a node's certificate files hold.
#[derive(Debug)]
pub(crate) struct Proofs {
    /// The name in the certificate.
    pub(crate) id: Option<String>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) verifier: Verifier,
    /// The private key.
    pub(crate) secret: Secret<Vec<u8>>,
    /// What keeps control planes from believing them, if anything does.
    pub(crate) doubt: Option<String>,
}

impl Proofs {
    /// Reads the files.
    pub(crate) fn read(files: &ClusterFiles) -> Result<Self, TlsError> {
        let (identity, authorities) = files.read()?;
        let doubt = identity.judge(Role::DataPlane, &authorities, UnixTime::now())?;
        Ok(Self {
            id: identity.chain.first().and_then(tls::common_name),
            tls: tls::cluster_client(&identity, Arc::clone(&authorities))?,
            verifier: Verifier::new(authorities),
            secret: Secret::new(identity.key.secret_der().to_vec()),
            doubt,
        })
    }
}

/// Why no stream came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection: {}", root_cause(.0))]
    Transport(#[from] tonic::transport::Error),
    #[error("refused: {}", said(.0))]
    Refused(Status),
    #[error("no answer within 10 s")]
    Silent,
}

/// The last of a chain of causes says what happened; those before only say where.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What the control plane, or the connection to it, said.
fn said(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => root_cause(cause),
        None => status.message().to_owned(),
    }
}

/// Both directions of a stream.
#[derive(Debug)]
pub(super) struct Subscription {
    /// When it was asked for, by the wall clock.
    pub(super) asked: UnixTime,
    pub(super) incoming: Streaming<ControlMessage>,
    pub(super) outgoing: mpsc::Sender<NodeMessage>,
}

/// Opens streams.
#[derive(Debug)]
pub(super) struct Dialer {
    node: Node,
    /// Tells this run of the process from the next.
    boot: String,
    /// Looks after the certificate files.
    renewal: Renewal,
    gateway: Arc<Gateway>,
}

impl Dialer {
    pub(super) fn new(node: Node, renewal: Renewal, gateway: Arc<Gateway>) -> Self {
        let boot = uuid::Uuid::new_v4().to_string();
        gateway.expiring.in_cluster(node.files.expiries());
        Self {
            node,
            boot,
            renewal,
            gateway,
        }
    }

    /// Reads the certificate files again if they have changed: what they prove from the next connection
    /// on, and the private key.
    pub(super) fn renew(&mut self) -> Option<(Verifier, Secret<Vec<u8>>)> {
        let node = &self.node;
        let proofs = self.renewal.look(monotonic(), || {
            let proofs = Proofs::read(&node.files)?;
            let name = proofs.id.as_deref().unwrap_or_default();
            if !tls::may_be_called(name, &node.id) {
                return Err(TlsError::Unfit {
                    path: node.files.certificate.clone(),
                    what: "is another node's",
                });
            }
            Ok(proofs)
        })?;
        self.gateway.expiring.in_cluster(self.node.files.expiries());
        self.node.tls = proofs.tls;
        Some((proofs.verifier, proofs.secret))
    }

    /// What keeps control planes from believing this node, if anything does: they say so to themselves alone.
    pub(super) fn doubt(&self) -> Option<String> {
        Proofs::read(&self.node.files).ok()?.doubt
    }

    /// The control planes in an order that `random` chooses, so that nodes spread over them.
    pub(super) fn shuffled(&self, random: u64) -> Vec<ControlPlaneUrl> {
        let mut urls = self.node.control_planes.clone();
        let count = u64::try_from(urls.len()).unwrap_or(1).max(1);
        let turn = usize::try_from(random % count).unwrap_or(0);
        urls.rotate_left(turn);
        if let Some((_, others)) = urls.split_first_mut()
            && (random / count) % 2 == 1
        {
            others.reverse();
        }
        urls
    }

    /// Connects to `url` and says what this node is and runs.
    pub(super) async fn subscribe(
        &self,
        url: &ControlPlaneUrl,
        applier: &Applier,
        phase: Phase,
    ) -> Result<Subscription, ConnectError> {
        let opening = self.open(url, self.hello(applier, phase));
        tokio::time::timeout(CONNECT.saturating_mul(2), opening)
            .await
            .unwrap_or(Err(ConnectError::Silent))
    }

    async fn open(
        &self,
        url: &ControlPlaneUrl,
        hello: Hello,
    ) -> Result<Subscription, ConnectError> {
        let (url, tls) = (url.clone(), TlsConnector::from(Arc::clone(&self.node.tls)));
        let connector = tower::service_fn(move |_: Uri| dial(url.clone(), tls.clone()));
        let authority = Uri::from_static(AUTHORITY);
        let channel = Endpoint::from(authority)
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect_with_connector(connector)
            .await?;
        let mut client = ConfigSyncClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let hello = NodeMessage {
            kind: Some(Kind::Hello(hello)),
        };
        let asked = UnixTime::now();
        // There is room for the first message.
        let _ = outgoing.try_send(hello);
        let incoming = client
            .subscribe(ReceiverStream::new(messages))
            .await
            .map_err(ConnectError::Refused)?
            .into_inner();
        Ok(Subscription {
            asked,
            incoming,
            outgoing,
        })
    }

    fn hello(&self, applier: &Applier, phase: Phase) -> Hello {
        applier.takes_up_releases();
        Hello {
            node_id: self.node.id.clone(),
            version: VERSION.to_owned(),
            hostname: self.node.hostname.clone(),
            features: features(),
            labels: self.node.labels.iter().cloned().collect(),
            running: Some((&applier.running()).into()),
            boot_id: self.boot.clone(),
            quarantined: applier.quarantined().iter().map(Into::into).collect(),
            crash_restarts: u32::try_from(applier.crashes()).unwrap_or(u32::MAX),
            handed_over: phase == Phase::HandedOver,
            flights: self.gateway.questions.given.all(),
        }
    }
}

/// What this node knows. A snapshot that needs more is not sent to it.
fn features() -> Vec<String> {
    let kinds = shared::entity::definitions()
        .iter()
        .map(|definition| proto::features::kind(definition.kind));
    let plugins = plugins::registry::definitions()
        .iter()
        .map(|definition| proto::features::plugin(definition.name));
    [
        proto::features::DELTA,
        proto::features::BUCKETS,
        proto::features::URGENT,
        proto::features::CHAIN_KEPT,
        proto::features::BESIDE,
        proto::features::MILESTONES,
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(kinds)
    .chain(plugins)
    .collect()
}

async fn dial(
    url: ControlPlaneUrl,
    tls: TlsConnector,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let stream = match &url.host {
        Host::Domain(name) => TcpStream::connect((name.as_str(), url.port)).await?,
        Host::Ipv4(address) => TcpStream::connect((*address, url.port)).await?,
        Host::Ipv6(address) => TcpStream::connect((*address, url.port)).await?,
    };
    // Small messages must not wait for more.
    stream.set_nodelay(true)?;
    // Nor may a peer that is gone hold what was sent to it for a quarter of an hour.
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let name = ServerName::try_from(CONTROL_PLANE_NAME).map_err(io::Error::other)?;
    Ok(TokioIo::new(tls.connect(name, stream).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_is_named_by_an_https_url() {
        for (text, shown) in [
            ("https://10.0.0.1:9005", "https://10.0.0.1:9005"),
            ("https://cp.internal", "https://cp.internal:8005"),
            ("https://[::1]:8005/", "https://[::1]:8005"),
            ("https://cp.internal:443/", "https://cp.internal:443"),
        ] {
            let url: ControlPlaneUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
        }
        for text in [
            "",
            "cp:8005",
            "http://cp:8005",
            "https://cp/x",
            "https://u@cp",
            "https://cp?x",
        ] {
            assert!(text.parse::<ControlPlaneUrl>().is_err(), "{text}");
        }
    }
}
