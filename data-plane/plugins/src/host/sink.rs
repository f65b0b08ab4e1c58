//! Where logs of exchanges go that are no HTTP server.

use std::path::PathBuf;
use std::time::Duration;

/// A place that takes lines of a log.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Sink {
    /// The end of a file, made if it does not exist.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether it is opened for each line, so that it may be moved away at any time.
        reopen: bool,
    },
    /// A TCP server.
    Tcp {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// The name of its certificate, if it speaks TLS.
        tls: Option<TcpTls>,
        /// Longest wait.
        timeout: Duration,
        /// How long an idle connection is kept.
        keepalive: Duration,
    },
    /// A socket of this machine: one datagram per line.
    Datagram {
        /// Its path.
        path: PathBuf,
    },
    /// A UDP server: one datagram per line.
    Udp {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// Longest wait.
        timeout: Duration,
    },
}

/// TLS to a TCP server.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TcpTls {
    /// The name to ask for, if it is not the host.
    pub server_name: Option<String>,
}

/// Why a line was not written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("writing to {target}: {reason}")]
pub struct SinkError {
    /// Where to.
    pub target: String,
    /// What went wrong.
    pub reason: String,
}
