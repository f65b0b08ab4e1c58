//! The answers that a node keeps.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use shared::clock::UnixTime;

use super::vary::variant;
use crate::host::Host;

/// Most bytes that a node keeps.
const CAPACITY: u64 = 128 * 1024 * 1024;

/// A kept answer.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) since: UnixTime,
    /// The epochs of the plugin and of the key when it was asked for: in later ones an operator has dropped it.
    pub(super) epochs: [u64; 2],
    /// For how many seconds it is fresh, and held.
    pub(super) fresh: u64,
    pub(super) held: u64,
}

/// What is found under a key.
#[derive(Clone, Debug)]
enum Entry {
    Answer(Arc<Kept>),
    /// There are several answers, which depend on these fields of requests: each is under a key of its own.
    Varies(Arc<[HeaderName]>),
}

/// The answers that a node keeps.
pub(super) struct Store(Cache<[u8; 32], Entry, Size>);

#[derive(Clone)]
struct Size;

impl Weighter<[u8; 32], Entry> for Size {
    fn weight(&self, _: &[u8; 32], entry: &Entry) -> u64 {
        let length = match entry {
            Entry::Answer(kept) => {
                let headers = kept.headers.iter();
                let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
                kept.body.len() + headers.sum::<usize>()
            }
            Entry::Varies(names) => names.iter().map(|name| name.as_str().len() + 32).sum(),
        };
        u64::try_from(length + 256).unwrap_or(u64::MAX)
    }
}

impl Default for Store {
    fn default() -> Self {
        Self(Cache::with_weighter(10_000, CAPACITY, Size))
    }
}

impl Store {
    /// The answer under `key` to a request with these `headers`.
    pub(super) fn find(&self, key: &[u8; 32], headers: &HeaderMap) -> Option<Arc<Kept>> {
        let found = match self.0.get(key)? {
            Entry::Varies(names) => self.0.get(&variant(key, &names, headers))?,
            found @ Entry::Answer(_) => found,
        };
        match found {
            Entry::Answer(kept) => Some(kept),
            Entry::Varies(_) => None,
        }
    }

    /// Keeps an answer to a request with these `headers`, which depends on `names` among them.
    pub(super) fn keep(
        &self,
        key: [u8; 32],
        names: Vec<HeaderName>,
        headers: &HeaderMap,
        kept: Kept,
    ) {
        let answer = Entry::Answer(Arc::new(kept));
        if names.is_empty() {
            self.0.insert(key, answer);
        } else {
            self.0.insert(variant(&key, &names, headers), answer);
            self.0.insert(key, Entry::Varies(names.into()));
        }
    }
}

#[derive(Default)]
struct Held(OnceCell<Arc<Store>>);

/// The store of this node.
pub(super) fn store(host: &impl Host) -> Arc<Store> {
    let held = host.core_state::<Held>();
    Arc::clone(held.0.get_or_init(|| host.node_state()))
}
