//! A byte stream, or a session of datagrams, as filters see it once it is over.

use std::net::IpAddr;

use http::StatusCode;
use shared::clock::UnixTime;

use crate::exchange::{Matched, TlsSession, Try};

/// A stream that is over.
#[derive(Debug)]
pub struct StreamLog<'a> {
    /// Its route.
    pub matched: &'a Matched,
    /// The client's address.
    pub client: IpAddr,
    /// The port that it has come from.
    pub client_port: u16,
    /// The port that it came to.
    pub port: u16,
    /// How it ended, by the numbers of nginx's streams: 200 if well.
    pub status: StatusCode,
    /// Whether a server was reached.
    pub connected: bool,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// When it began.
    pub started_at: UnixTime,
    /// Milliseconds until a server was reached; all of them if none was.
    pub kong: u64,
    /// Milliseconds from its beginning to its end.
    pub session: u64,
    /// The TLS that the client spoke, if it ended here.
    pub tls: Option<TlsSession>,
    /// Servers that were tried, in order.
    pub tries: &'a [Try],
}
