//! An origin: scheme, host and port that requests go to, with a number by which each core finds its pool.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

use plugins::host::Reach;
use rustls_pki_types::ServerName;
use slab::Slab;

use super::tls::TlsProfile;
use crate::quota::Stock;

/// What tells one pool of connections from another.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct OriginKey {
    /// DNS name or IP address, without brackets, in lower case.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// TLS, if the scheme asks for it.
    pub(crate) tls: Option<OriginTls>,
    /// Whether HTTP/2 is spoken, without asking first where there is no TLS.
    pub(crate) http2: bool,
    /// Where its connections may lead. Others are not used in their place.
    pub(crate) reach: Reach,
}

/// How TLS is spoken to an origin.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct OriginTls {
    /// The name in the handshake, and in the certificate.
    pub(crate) server_name: ServerName<'static>,
    /// How the server is verified, and who we say we are.
    pub(crate) profile: Arc<TlsProfile>,
}

/// A server to connect to. Origins with equal keys are one value as long as anyone holds it.
#[derive(Debug)]
pub(crate) struct Origin {
    key: OriginKey,
    address: Option<IpAddr>,
    /// Small, and reused once the origin is gone: a place in each core's table of pools.
    number: usize,
    /// Exchanges that may be under way with it.
    exchanges: OnceLock<Arc<Stock>>,
}

#[derive(Default)]
struct Registry {
    numbers: HashMap<OriginKey, usize>,
    origins: Slab<Weak<Origin>>,
}

/// Only compilation and provider calls come here, never a proxied request.
static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

impl Origin {
    /// The origin with this key.
    pub(crate) fn of(key: OriginKey) -> Arc<Self> {
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        let known = registry
            .numbers
            .get(&key)
            .and_then(|number| registry.origins.get(*number));
        if let Some(origin) = known.and_then(Weak::upgrade) {
            return origin;
        }
        let address = key.host.parse().ok();
        let entry = registry.origins.vacant_entry();
        let number = entry.key();
        let origin = Arc::new(Self {
            key: key.clone(),
            address,
            number,
            exchanges: OnceLock::new(),
        });
        entry.insert(Arc::downgrade(&origin));
        registry.numbers.insert(key, number);
        origin
    }

    /// What it was made from.
    pub(crate) fn key(&self) -> &OriginKey {
        &self.key
    }

    /// The host, if it is an address and no name.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The exchanges that all cores may have under way with it: `limit`, dealt out to `cores`.
    pub(crate) fn exchanges(&self, limit: usize, cores: usize) -> Arc<Stock> {
        let stock = self.exchanges.get_or_init(|| Stock::new(limit, cores));
        Arc::clone(stock)
    }

    /// Its place in each core's table of pools.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        registry.origins.try_remove(self.number);
        // A successor with the same key may have registered since the last holder let go.
        if registry.numbers.get(&self.key) == Some(&self.number) {
            registry.numbers.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_share_one_origin_and_a_number_is_reused_only_after_it() {
        let key = |host: &str| OriginKey {
            host: host.to_owned(),
            port: 1,
            tls: None,
            http2: false,
            reach: Reach::Anywhere,
        };
        let (one, same) = (Origin::of(key("one.test")), Origin::of(key("one.test")));
        let other = Origin::of(key("other.test"));
        assert!(Arc::ptr_eq(&one, &same) && one.number() != other.number());
        let number = one.number();
        drop((one, same));
        let again = Origin::of(key("one.test"));
        assert_ne!(again.number(), other.number());
        drop(again);
        assert!(
            REGISTRY
                .lock()
                .unwrap()
                .numbers
                .get(&key("one.test"))
                .is_none_or(|kept| *kept != number)
        );
    }
}
