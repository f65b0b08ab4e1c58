//! The far side: connections to upstream servers and to OpenID providers, one pool per core.
//!
//! There is no task and no channel. Whoever wants an answer holds the connection, polls it in its own
//! task, and gives it back when the answer has been read to its end.
//!
//! ```text
//! Origin (compiled) ─► Pool (of this core) ─► Connection ─► exchange ─► ResponseHead, UpstreamBody
//!                        idle: last in, first out                              │ read to its end
//!                        ▲─────────────────────────────────────────────────────┘
//! ```

pub(crate) mod exchange;
pub(crate) mod http2;
pub(crate) mod origin;
pub(crate) mod origins;
pub(crate) mod pool;
pub(crate) mod resolve;
pub(crate) mod retries;
pub(crate) mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::body::RequestBodyError;
use crate::buffers::Input;
use crate::http1::FramingError;
use crate::http1::head::HeadFinder;
use crate::http1::writer::Writer;
use crate::stream::Stream;
use crate::timer::Timer;

/// Why an upstream server gave no answer, or not all of one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The host's name has no address.
    #[error("resolving {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The server's address is none that whoever asks may connect to.
    #[error("{address} is not public, nor in a network that is permitted")]
    Forbidden {
        /// What the host stands for.
        address: IpAddr,
    },
    /// No connection came about.
    #[error("connecting to {address}")]
    Connect {
        /// The server.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No connection came about in time.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// TLS failed: a protocol fault or a certificate that is not trusted.
    #[error("TLS handshake with {address}")]
    Tls {
        /// The server.
        address: SocketAddr,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// The connection broke while the request was written.
    #[error("sending the request")]
    Send(#[source] io::Error),
    /// The server took no byte of the request for too long.
    #[error("the server stopped reading the request")]
    SendTimeout,
    /// The connection broke while the answer was read.
    #[error("reading the answer")]
    Receive(#[source] io::Error),
    /// The connection ended before the answer did.
    #[error("the server closed the connection early")]
    Closed,
    /// The server sent no byte of the answer for too long.
    #[error("the server stopped answering")]
    ReadTimeout,
    /// The answer is not HTTP/1.1, or ambiguous.
    #[error("the answer is malformed")]
    Framing(#[from] FramingError),
    /// More informational answers than anyone needs, or a switch of protocols that nobody asked for.
    #[error("unexpected informational answer")]
    Informational,
    /// A filter needs all of the answer's body, and it is longer than that filter takes.
    #[error("the answer is larger than a filter takes")]
    TooLarge,
    /// What the request was let through by has ended before its answer did.
    #[error("the session or token of the request has ended")]
    Ended,
    /// None of the upstream's targets may be asked.
    #[error("no target of the upstream is available")]
    NoPeer,
    /// As many exchanges with the server are under way as may be.
    #[error("too many exchanges with the server are under way")]
    Busy,
    /// The `Host` to send cannot be one of HTTP/2.
    #[error("the host is no authority")]
    Authority,
    /// HTTP/2 failed.
    #[error("HTTP/2 with the server")]
    Http2(#[source] hyper::Error),
    /// The client's request body failed.
    #[error("reading the request body")]
    RequestBody(#[source] RequestBodyError),
}

impl UpstreamError {
    /// Whether the server is to blame for nothing but slowness.
    pub(crate) const fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout | Self::ReadTimeout | Self::SendTimeout
        )
    }

    /// What logs tell of an attempt that has failed by it.
    pub(crate) const fn code(&self) -> u16 {
        if self.is_timeout() { 504 } else { 502 }
    }
}

/// A connection to an upstream server, idle or in use by one exchange.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// Where it leads.
    pub(crate) address: SocketAddr,
    /// What has arrived and not been taken.
    pub(crate) input: Input,
    /// What has not been written yet.
    pub(crate) output: Writer,
    pub(crate) timer: Timer,
    /// What `timer` watches over.
    pub(crate) phase: exchange::Phase,
    /// How far the answer's head has been looked at.
    pub(crate) finder: HeadFinder,
    /// Bytes of informational answers to the current request.
    pub(crate) informational: usize,
    /// How many exchanges it has carried before this one.
    pub(crate) served: u32,
    /// Since when it is idle.
    pub(crate) idle_since: Instant,
}
