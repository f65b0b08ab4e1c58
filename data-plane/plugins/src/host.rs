//! What filters may ask of the outside: HTTP, time, randomness, state that outlives a snapshot.
//!
//! The data plane implements [`Host`] once per core; unit tests bring a fake.

pub mod ldap;
pub mod redis;
pub mod sink;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use shared::clock::{Ahead, UnixTime};
use shared::entity::Revocation;
use shared::network::{self, Network};
use shared::secret::Secret;
use shared::tls::Mistrust;

use crate::client_keys::ClientKeys;
use crate::proxies::Proxies;
use crate::sessions::revocations::Revocations;

/// The port to the outside. Cheap to clone; a clone may outlive the request, in a task of its own.
pub trait Host: Clone + 'static {
    /// Sends `request` to a provider and reads the whole answer.
    ///
    /// Follows no redirect. A status of 4xx or 5xx is an answer, not an error.
    fn fetch(
        &self,
        request: http::Request<Bytes>,
        limits: FetchLimits,
    ) -> impl Future<Output = Result<http::Response<Bytes>, FetchError>>;

    /// Sends `commands` to a Redis server in one go and gives back its replies in their order. A reply
    /// that is an error is one of these, so that the others are not lost.
    fn redis(
        &self,
        server: &Arc<redis::RedisServer>,
        commands: Vec<redis::Command>,
    ) -> impl Future<Output = Result<Vec<redis::Reply>, redis::RedisError>>;

    /// Whether an LDAP server takes `password` for that of `name`.
    fn bind(
        &self,
        server: &ldap::LdapServer,
        name: &str,
        password: &Secret<String>,
    ) -> impl Future<Output = Result<bool, ldap::LdapError>>;

    /// Writes `bytes` to where logs go.
    fn write(
        &self,
        sink: &sink::Sink,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), sink::SinkError>>;

    /// The text of a `.proto` file on this node, or why it cannot be read. Once a configuration.
    fn read_definition(&self, _path: &str) -> Result<String, String> {
        Err("there are no such files here".to_owned())
    }

    /// What was [kept](Self::keep) under `key`, also by a process before this one.
    fn kept(&self, _key: &[u8; 32]) -> Option<Bytes> {
        None
    }

    /// Keeps `value` under `key`, for this node and the process that comes next; soon, and as far as there is room.
    fn keep(&self, _key: [u8; 32], _value: Bytes) {}

    /// How many bytes of one kind the cores of this node may keep together of what is only a help, of the `most` that serve:
    /// fewer where the node may have little memory.
    fn room(&self, most: usize) -> usize {
        most
    }

    /// The same of what each core keeps for itself.
    fn room_of_core(&self, most: usize) -> usize {
        most
    }

    /// The wall clock, corrected by nothing: for the lifetimes of tokens, keys and sessions.
    fn now(&self) -> UnixTime;

    /// How far that clock is ahead of the control plane's; nothing as long as none has been heard.
    fn ahead(&self) -> Ahead {
        Ahead::default()
    }

    /// The earliest that it is `at` by our clock and the control plane's, for what one node says and another compares: when a
    /// session began. Either clock may be wrong, and a logout reaches it nevertheless.
    fn earliest(&self, at: UnixTime) -> UnixTime {
        at.min(self.ahead().behind(at))
    }

    /// The latest that it is `at` by these two: what began before a logout is over.
    fn latest(&self, at: UnixTime) -> UnixTime {
        at.max(self.ahead().behind(at))
    }

    /// What names this node in its cluster.
    fn node_id(&self) -> &str;

    /// The share of traces, from 0 to 1, that this node keeps where a plugin leaves that to it.
    fn sampling_rate(&self) -> f64 {
        SAMPLING_RATE
    }

    /// What the gateway proves itself with at providers, by the newest snapshot.
    fn client_keys(&self) -> Arc<ClientKeys>;

    /// Fills `buffer` from the operating system's random source.
    fn random(&self, buffer: &mut [u8]);

    /// Runs `task` to its end even if the request that started it goes away.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);

    /// Has a core of the node's own run what `task` makes of it. That core serves no client, and outlives those that do. A host
    /// that has but one runs it there.
    fn spawn_on_node(
        &self,
        task: impl FnOnce(Self) -> LocalBoxFuture<'static, ()> + Send + 'static,
    ) {
        self.spawn(task(self.clone()));
    }

    /// Sleeps on the monotonic clock.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// The value of type `T` of this core, made at its first use. Never contended.
    fn core_state<T: Default + 'static>(&self) -> Rc<T>;

    /// The value of type `T` of this node, shared by its cores. Not for the hot path.
    fn node_state<T: Default + Send + Sync + 'static>(&self) -> Arc<T>;

    /// The revocations that this node knows, its own and those of others.
    fn revocations(&self) -> &Revocations;

    /// Ends sessions: on this node before the first wait, and on all others once the control plane
    /// has stored the revocations, which is when the future ends. One attempt is waited for; what
    /// that does not bring about, the data plane goes on with by itself.
    fn revoke(&self, revocations: Vec<Revocation>)
    -> impl Future<Output = Result<(), RevokeError>>;

    /// Whose the operation `key` is, so that it runs once in the cluster. Waits for the result of
    /// whoever came first, but not for long.
    fn claim(&self, _key: [u8; 32], _work: Work) -> impl Future<Output = Claim> {
        std::future::ready(Claim::Alone)
    }

    /// Hands the result of a claimed operation to the nodes that wait for it: sealed and no longer than
    /// [`LONGEST_RESULT`], or nothing if it failed.
    fn publish(&self, _key: [u8; 32], _begun: Number, _sealed: Option<Vec<u8>>) {}

    /// Says that the caller runs the operation `key` although [nobody can say](Claim::Alone) whose it is, and publishes its
    /// result: a control plane that is heard again takes it for the caller's.
    fn undertake(&self, _key: [u8; 32]) -> Number {
        Number::default()
    }

    /// Puts `sealed` aside as `key` for whichever node needs it next: no longer than [`LONGEST_ASIDE`], for some minutes, and
    /// as far as there is room. Ends once a control plane has it, or does not take it.
    fn put_aside(&self, _key: [u8; 32], _sealed: Vec<u8>) -> impl Future<Output = ()> {
        std::future::ready(())
    }

    /// Takes what a node, this or another, has put aside as `key`.
    fn take_aside(&self, _key: [u8; 32]) -> impl Future<Output = Option<Vec<u8>>> {
        std::future::ready(None)
    }

    /// Says that nobody needs what was put aside as `key` any more.
    fn forget_aside(&self, _key: [u8; 32]) {}
}

/// The share of traces that a node keeps unless it is told otherwise (Kong 3.9, `tracing_sampling_rate`).
pub const SAMPLING_RATE: f64 = 0.01;

/// Longest result that other nodes are told of, in bytes.
pub const LONGEST_RESULT: usize = 32 * 1024;

/// Longest content that is put aside, in bytes.
pub const LONGEST_ASIDE: usize = 66 * 1024;

/// What operation it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// The refresh of tokens. Done twice it ends a session.
    Refresh,
    /// A code to redeem, which anybody can bring. Done twice it is refused, no more.
    Code,
}

/// One beginning of an operation: another one of the same key has another number. 0 if it is not known which one it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Number(pub u64);

/// Whose operation it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Claim {
    /// The caller's: it runs the operation and publishes the result.
    Ours(Number),
    /// Another node's, whose result this is, as it was published.
    Theirs(Vec<u8>),
    /// Another node's, which is still at it after a long wait: the caller does without the result.
    Taken,
    /// Nobody can say, or only who has not been heard for long, or could not ask others: the caller [runs](Host::undertake)
    /// the operation for itself, and another node may be at it, too.
    Alone,
}

/// Why revocations do not hold everywhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RevokeError {
    /// No control plane has stored them yet: they hold on this node, which sends them on once one is heard.
    #[error("the control plane has not stored the revocation")]
    NotStored,
    /// There are too many: they hold nowhere.
    #[error("this node knows too many revocations to take another")]
    Full,
}

/// What a fetch may cost.
#[derive(Clone, Debug)]
pub struct FetchLimits {
    /// Longest time from start to the last byte of the answer.
    pub timeout: Duration,
    /// How long single steps may take; as long as all of it if nothing is said.
    pub waits: Option<Waits>,
    /// Largest body of an answer, in bytes.
    pub body: usize,
    /// Whether the server's certificate must be valid for its name.
    pub verify_tls: bool,
    /// What the client presents in the TLS handshake.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The proxies on the way.
    pub proxies: Option<Arc<Proxies>>,
    /// Whether the connection may be kept for later requests.
    pub keep_alive: bool,
    /// Whether HTTP/1.0 is spoken.
    pub http_1_0: bool,
    /// Whether the request may reach the server twice. A GET always may.
    pub repeatable: Repeatable,
    /// Where the connection may lead.
    pub reach: Reach,
}

/// Whether a request may reach its server twice: nobody knows what became of one whose connection ended without an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repeatable {
    /// No: it spends what it brings, a code or a refresh token (RFC 9110 §9.2.2, RFC 9700 §4.14.2). It goes over a
    /// connection of its own, since a kept one may be closed by the server at any time.
    Never,
    /// If a kept connection closed without a word: most likely it was before.
    Unanswered,
    /// Yes: it only asks.
    Always,
}

/// Longest waits for the steps of a fetch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Waits {
    /// Until the connection stands.
    pub connect: Duration,
    /// Between two writes.
    pub send: Duration,
    /// Between two reads.
    pub read: Duration,
}

impl Waits {
    /// All of them together.
    pub fn sum(self) -> Duration {
        [self.connect, self.send, self.read].iter().sum()
    }
}

/// A certificate that the gateway presents to a server.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The certificate and those of its authorities, in PEM.
    pub chain: String,
    /// Its private key, in PEM.
    pub key: Secret<String>,
}

/// Which addresses a fetch may connect to, whatever led to them: a name, an address or a redirect.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reach {
    /// Any: only whoever runs the gateway names the server.
    Anywhere,
    /// Public ones, and those of networks that the process was told of; `loopback`: those as well.
    Public {
        /// Whether this machine's own addresses are meant.
        loopback: bool,
    },
}

impl Reach {
    /// How long an address may take to take a connection before the next one of its name is tried, if there is one; none: as
    /// long as all of them. Where a provider's name leads is not ours to choose, and one of its servers may be gone.
    pub const fn patience(self) -> Option<Duration> {
        match self {
            Self::Anywhere => None,
            Self::Public { .. } => Some(Duration::from_secs(2)),
        }
    }

    /// Whether a connection to `address` may be made where `permitted` are the networks that the
    /// process was told of. To be asked of the very address that is connected to.
    pub fn allows(self, address: IpAddr, permitted: &[Network]) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Public { loopback } => {
                network::is_public(address)
                    || (loopback && address.to_canonical().is_loopback())
                    || permitted.iter().any(|network| network.contains(address))
            }
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is not one that can be asked.
    #[error("the URL {0} cannot be fetched")]
    Url(String),
    /// Name resolution, connection or TLS failed.
    #[error("connecting to {authority}: {reason}")]
    Connect {
        /// Host and port.
        authority: String,
        /// What went wrong, without secrets.
        reason: String,
    },
    /// The server's certificate is not believed.
    #[error("connecting to {authority}: {reason}")]
    Untrusted {
        /// Host and port.
        authority: String,
        /// What TLS said.
        reason: String,
        /// What is wrong with it.
        why: Mistrust,
    },
    /// The server's address is none that may be connected to.
    #[error(
        "{authority} has the address {address}, which is not public: if it is meant, provider_networks has to list it"
    )]
    Forbidden {
        /// Host and port.
        authority: String,
        /// What the host stands for.
        address: IpAddr,
    },
    /// The connection broke or the answer is not HTTP.
    #[error("reading the answer of {authority}: {reason}")]
    Broken {
        /// Host and port.
        authority: String,
        /// What went wrong, without secrets.
        reason: String,
    },
    /// The answer did not end in time.
    #[error("{authority} did not answer within {timeout:?}")]
    Timeout {
        /// Host and port.
        authority: String,
        /// The limit.
        timeout: Duration,
    },
    /// The answer's body is larger than allowed.
    #[error("the answer of {authority} is larger than {limit} bytes")]
    TooLarge {
        /// Host and port.
        authority: String,
        /// The limit, in bytes.
        limit: usize,
    },
}
