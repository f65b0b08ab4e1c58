//! The answers that a node keeps.

use std::cell::OnceCell;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use shared::clock::UnixTime;

use super::vary::variant;
use crate::host::Host;

/// Most bytes that a node keeps: anybody can have it keep them.
const CAPACITY: usize = 128 * 1024 * 1024;

/// Bytes for which there is a lock of their own: a few of the largest answers.
const OF_A_LOCK: usize = 8 * 1024 * 1024;

/// How many answers are looked for.
const ANSWERS: usize = 10_000;

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
#[derive(Default)]
pub struct Store(OnceLock<Answers>);

type Answers = Cache<[u8; 32], Entry, Size>;

shared::unsaid!(Store);

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

/// Room for answers of so many `bytes`.
fn answers(bytes: usize) -> Answers {
    let options = OptionsBuilder::new()
        .estimated_items_capacity(ANSWERS)
        .weight_capacity(u64::try_from(bytes).unwrap_or(u64::MAX))
        .shards(bytes / OF_A_LOCK)
        .build();
    let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
    Cache::with_options(
        options.expect("each option that is asked for is there"),
        Size,
        hasher,
        lifecycle,
    )
}

impl Store {
    /// Lets go of all, for want of memory.
    pub fn let_go(&self) {
        if let Some(answers) = self.0.get() {
            answers.clear();
        }
    }

    /// The answer under `key` to a request with these `headers`.
    pub(super) fn find(&self, key: &[u8; 32], headers: &HeaderMap) -> Option<Arc<Kept>> {
        let answers = self.0.get()?;
        let found = match answers.get(key)? {
            Entry::Varies(names) => answers.get(&variant(key, &names, headers))?,
            found @ Entry::Answer(_) => found,
        };
        match found {
            Entry::Answer(kept) => Some(kept),
            Entry::Varies(_) => None,
        }
    }

    /// Keeps an answer to a request with these `headers`, which depends on `names` among them, as far as `host` has room.
    pub(super) fn keep(
        &self,
        key: [u8; 32],
        names: Vec<HeaderName>,
        headers: &HeaderMap,
        kept: Kept,
        host: &impl Host,
    ) {
        let answers = self.0.get_or_init(|| answers(host.room(CAPACITY)));
        let answer = Entry::Answer(Arc::new(kept));
        if names.is_empty() {
            answers.insert(key, answer);
        } else {
            answers.insert(variant(&key, &names, headers), answer);
            answers.insert(key, Entry::Varies(names.into()));
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
