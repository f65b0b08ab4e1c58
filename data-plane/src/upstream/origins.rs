//! Origins that only become known with a request: those of balanced targets, and those whose TLS name the client
//! chooses. Each core has its own, so that no lock is taken.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use http::HeaderValue;
use plugins::host::Reach;
use rustls_pki_types::ServerName;

use super::origin::{Origin, OriginKey, OriginTls};
use super::tls::TlsProfile;
use shared::authority::{bare, split_port};

use crate::balancer::Peer;

/// Most origins that are remembered.
const REMEMBERED: usize = 8192;

/// How a service speaks to whatever server it is sent to.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) tls: Option<Arc<TlsProfile>>,
    pub(crate) http2: bool,
}

impl Transport {
    /// The port that goes without saying.
    pub(crate) const fn own_port(&self) -> u16 {
        if self.tls.is_some() { 443 } else { 80 }
    }

    /// A host with its port, as it is told.
    pub(crate) fn authority(&self, host: &str, port: u16) -> String {
        let shown = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        if port == self.own_port() {
            shown
        } else {
            format!("{shown}:{port}")
        }
    }

    /// The origin at `host` and `port`, which is called `name` in TLS.
    pub(crate) fn origin(&self, host: String, port: u16, name: ServerName<'static>) -> Arc<Origin> {
        let tls = self.tls.clone().map(|profile| OriginTls {
            server_name: name,
            profile,
        });
        Origin::of(OriginKey {
            host,
            port,
            tls,
            http2: self.http2,
            reach: Reach::Anywhere,
        })
    }
}

/// The origins of one core.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    known: RefCell<HashMap<Key, Arc<Origin>>>,
    /// What peers are called where nothing else is said, by their number and the port that goes without saying.
    hosts: RefCell<HashMap<(u64, u16), HeaderValue>>,
}

#[derive(Debug, Eq, Hash, PartialEq)]
struct Key {
    place: Place,
    profile: Option<Arc<TlsProfile>>,
    http2: bool,
    /// Only where it decides about TLS.
    host: Option<HeaderValue>,
}

#[derive(Debug, Eq, Hash, PartialEq)]
enum Place {
    Peer(u64),
    Origin(usize),
}

/// Where a server is, and its own name.
struct Own {
    address: String,
    port: u16,
    name: String,
}

impl Origins {
    /// The origin of `peer`, spoken to by `transport` under the name in `host`.
    pub(crate) fn of_peer(
        &self,
        peer: &Peer,
        transport: &Transport,
        host: &HeaderValue,
    ) -> Arc<Origin> {
        let key = &peer.key;
        self.of(Place::Peer(peer.number), transport, host, || Own {
            address: key.address.to_string(),
            port: key.port,
            name: key.host.clone(),
        })
    }

    /// What `peer` is called as it is configured; `None` if that can be no value of a field.
    pub(crate) fn host_of(&self, peer: &Peer, transport: &Transport) -> Option<HeaderValue> {
        let mut hosts = self.hosts.borrow_mut();
        let key = (peer.number, transport.own_port());
        if let Some(host) = hosts.get(&key) {
            return Some(host.clone());
        }
        if hosts.len() >= REMEMBERED {
            hosts.clear();
        }
        let host = transport.authority(&peer.key.host, peer.key.port);
        let host = HeaderValue::from_maybe_shared(Bytes::from(host)).ok()?;
        hosts.insert(key, host.clone());
        Some(host)
    }

    /// The server of `origin`, called by the name in `host` instead of its own.
    pub(crate) fn renamed(
        &self,
        origin: &Arc<Origin>,
        transport: &Transport,
        host: &HeaderValue,
    ) -> Arc<Origin> {
        if transport.tls.is_none() {
            return Arc::clone(origin);
        }
        let key = origin.key();
        self.of(Place::Origin(origin.number()), transport, host, || Own {
            address: key.host.clone(),
            port: key.port,
            name: key.host.clone(),
        })
    }

    fn of(
        &self,
        place: Place,
        transport: &Transport,
        host: &HeaderValue,
        own: impl FnOnce() -> Own,
    ) -> Arc<Origin> {
        let key = Key {
            place,
            profile: transport.tls.clone(),
            http2: transport.http2,
            host: transport.tls.as_ref().map(|_| lower_case(host)),
        };
        let mut known = self.known.borrow_mut();
        if let Some(origin) = known.get(&key) {
            return Arc::clone(origin);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let own = own();
        let name = server_name(key.host.as_ref().unwrap_or(host))
            .or_else(|| ServerName::try_from(own.name).ok())
            .unwrap_or_else(|| ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        let origin = transport.origin(own.address, own.port, name);
        known.insert(key, Arc::clone(&origin));
        origin
    }

    /// Lets go of what the last configuration has made known. Pools keep what is in use.
    pub(crate) fn forget(&self) {
        self.known.borrow_mut().clear();
        self.hosts.borrow_mut().clear();
    }
}

/// The name in a `Host`, without its port.
fn server_name(host: &HeaderValue) -> Option<ServerName<'static>> {
    let (name, _) = split_port(host.to_str().ok()?);
    ServerName::try_from(bare(name).to_owned()).ok()
}
/// The same host, for which one connection is as good as another.
fn lower_case(host: &HeaderValue) -> HeaderValue {
    if !host.as_bytes().iter().any(u8::is_ascii_uppercase) {
        return host.clone();
    }
    let lower = host.as_bytes().to_ascii_lowercase();
    HeaderValue::from_bytes(&lower).unwrap_or_else(|_| host.clone())
}
