//! What filters keep in a Redis server: the server's address, commands and replies.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use shared::secret::Secret;

/// A Redis server and how to talk to it.
#[derive(Clone, Debug)]
pub struct RedisServer {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The user to log in as; that of `AUTH` without a name if there is only a password.
    pub username: Option<String>,
    /// The password to log in with.
    pub password: Option<Secret<String>>,
    /// Number of the database.
    pub database: i64,
    /// TLS, if the server speaks it.
    pub tls: Option<RedisTls>,
    /// Longest wait for a connection that is logged in.
    pub connect_timeout: Duration,
    /// Longest wait for the replies to commands.
    pub read_timeout: Duration,
}

/// Where a Redis server listens.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// Host and port.
    Network(Address),
    /// The path of a Unix domain socket.
    Socket(PathBuf),
    /// A group of servers that Sentinels look after.
    Sentinel(Sentinels),
    /// A cluster.
    Cluster(Cluster),
}

/// A host and a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Address {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Address {
    /// The port `port` of `host`.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Sentinels and the group that they look after.
#[derive(Clone, Debug)]
pub struct Sentinels {
    /// The Sentinels.
    pub nodes: Vec<Address>,
    /// What they call the group.
    pub name: String,
    /// Which of its servers is meant.
    pub role: SentinelRole,
    /// The user to log in as at Sentinels.
    pub username: Option<String>,
    /// The password to log in with there.
    pub password: Option<Secret<String>>,
}

/// Which server of a group is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SentinelRole {
    /// The one that takes writes.
    Master,
    /// One that follows it.
    Replica,
    /// The master, or one that follows it if that is not there.
    Any,
}

/// A cluster, by nodes that know the others.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Address>,
    /// How often one command is sent to another node.
    pub max_redirections: u32,
}

/// How a Redis server proves who it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RedisTls {
    /// Whether its certificate must be valid for its name.
    pub verify: bool,
    /// The name to ask for, if it is not the host.
    pub server_name: Option<String>,
}

impl RedisServer {
    /// What sets connections to this server apart from those to others, the password included: who
    /// may not log in must not get the connection of somebody who may.
    pub fn connection_key(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            hasher.update(&length.to_be_bytes()).update(bytes);
        };
        part(format!("{:?} {:?}", self.endpoint, self.tls).as_bytes());
        part(&self.database.to_be_bytes());
        part(self.username.as_deref().unwrap_or_default().as_bytes());
        part(match &self.password {
            Some(password) => password.expose().as_bytes(),
            None => &[],
        });
        part(format!("{:?} {:?}", self.connect_timeout, self.read_timeout).as_bytes());
        let sentinel = match &self.endpoint {
            Endpoint::Sentinel(group) => group.password.as_ref(),
            Endpoint::Network(_) | Endpoint::Socket(_) | Endpoint::Cluster(_) => None,
        };
        part(sentinel.map_or(&[], |password| password.expose().as_bytes()));
        *hasher.finalize().as_bytes()
    }
}

/// One command: its name and arguments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Command(pub Vec<Bytes>);

impl Command {
    /// The command `name`, without arguments so far.
    pub fn new(name: &'static str) -> Self {
        Self(vec![Bytes::from_static(name.as_bytes())])
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<Bytes>) -> Self {
        self.0.push(argument.into());
        self
    }

    /// Adds a number as an argument.
    #[must_use]
    pub fn number(self, number: i64) -> Self {
        self.arg(number.to_string())
    }

    /// Adds a time to live as an argument, in milliseconds: one at least, since servers refuse a life of none.
    #[must_use]
    pub fn milliseconds(self, life: Duration) -> Self {
        let milliseconds = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        self.number(milliseconds.max(1))
    }
}

/// What a server replies to one command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// Nothing there.
    Nil,
    /// Done as asked, such as `OK`.
    Status(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bytes(Bytes),
    /// Several.
    List(Vec<Reply>),
    /// The command failed.
    Error(String),
}

impl Reply {
    /// The number, also of a text that is one; `None` for everything else.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Bytes(bytes) => str::from_utf8(bytes).ok()?.parse().ok(),
            Self::Status(text) => text.parse().ok(),
            Self::Nil | Self::List(_) | Self::Error(_) => None,
        }
    }

    /// The bytes; `None` for everything else.
    pub fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Status(text) => Some(Bytes::from(text)),
            Self::Nil | Self::Integer(_) | Self::List(_) | Self::Error(_) => None,
        }
    }
}

/// Why there are no replies.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisError {
    /// Name resolution, connection or TLS failed.
    #[error("connecting to Redis at {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// What went wrong, without secrets.
        reason: String,
    },
    /// The server refuses the user, the password or the database.
    #[error("logging in to Redis at {address}: {reason}")]
    Login {
        /// Where.
        address: String,
        /// What the server said.
        reason: String,
    },
    /// The connection broke, or the server does not speak its protocol.
    #[error("reading from Redis at {address}: {reason}")]
    Broken {
        /// Where.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// It did not answer of late, and is not asked now.
    #[error("Redis at {address} did not answer of late: it is left alone for a moment")]
    Resting {
        /// Where.
        address: String,
    },
    /// There were no replies in time.
    #[error("Redis at {address} did not answer within {timeout:?}")]
    Timeout {
        /// Where.
        address: String,
        /// The limit.
        timeout: Duration,
    },
}
