//! The configuration as it travels: proven by a root, vouched for by a signature, and packed once for
//! all nodes, when the first of them needs it.
//!
//! A [`Follower`] turns each configuration into a [`Published`] one by what changed since the last, so
//! that a change costs as much as itself, whatever the number of records. It remembers what it published
//! before, so that a node that runs any of that is sent only the difference.

mod beside;
mod frame;
mod held;
mod pack;
mod requirements;
mod ring;
mod vouched;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prost::bytes::Bytes;
use proto::v1::Chunk;
use shared::entity::{DEFAULT_WORKSPACE, Entity as _, Workspace, definition};
use shared::signature::Signer;
use shared::snapshot::{BucketSet, Hash, Inventory, Key, Position, Record, Revision};
use tokio::sync::OnceCell;

use crate::config::{Change, Config, Stored};
use beside::Beside;
pub(crate) use beside::tell_of;
pub(crate) use frame::{Frame, chunk_frame, frame, parts, size};
pub(crate) use held::is_rolled_out;
use pack::Packed;
pub(crate) use requirements::{Missing, Requirements};
use ring::Ring;
pub(crate) use vouched::Vouched;

/// Differences that are kept ready for one target: nodes that run the same share them.
const DIFFERENCES: usize = 64;

/// Who signs, exchanged when the certificate is renewed.
pub(crate) type SharedSigner = Arc<RwLock<Option<Signer>>>;

/// Records on their way to nodes.
#[derive(Debug)]
pub struct Encoded {
    /// Tells one update's chunks from another's; equal for every stream.
    pub update: u64,
    /// How many records are put.
    pub records: u32,
    /// Bytes of all chunks before packing.
    pub raw_bytes: u64,
    /// The records. A clone of a chunk shares its bytes.
    pub chunks: Vec<Chunk>,
}

/// What a node has of a target already, which decides what it is sent.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Base {
    Nothing,
    /// All that had this root.
    Root(Hash),
    /// Everything but what is in these buckets.
    Buckets(Vec<u8>),
}

/// A shared place for something that is made once.
type Once<T> = Arc<OnceCell<T>>;

/// A configuration that nodes are led to.
pub struct Published {
    /// Where it stands.
    pub position: Position,
    /// What a node must know to run it.
    pub requirements: Requirements,
    /// Vouches for it.
    vouched: Mutex<Vouched>,
    signer: SharedSigner,
    config: Config,
    inventory: Inventory,
    encoded: Mutex<HashMap<Base, Once<Option<Arc<Encoded>>>>>,
    /// What is told of it beside updates to nodes that run states before, by the roots of these.
    beside: Mutex<HashMap<Hash, Once<Arc<Beside>>>>,
    history: Arc<History>,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// What the targets of one control plane share.
#[derive(Debug, Default)]
struct History {
    ring: Ring,
    packed: Packed,
}

impl Published {
    /// How many records there are.
    pub fn records(&self) -> u32 {
        u32::try_from(self.inventory.len()).unwrap_or(u32::MAX)
    }

    /// What vouches for it: signed anew once the signer has another certificate, since the one before may have ended.
    pub fn vouched(&self) -> Vouched {
        let mut vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        if !vouched.is_by(&self.signer) {
            let records = self.inventory.len();
            *vouched = Vouched::new(&self.position, records, &self.requirements, &self.signer);
        }
        vouched.clone()
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The hash that proves what was configured: see [`Inventory::configuration`].
    pub const fn configuration(&self) -> Hash {
        self.inventory.configuration()
    }

    /// Whether the difference to what had this root can be told.
    pub fn knows(&self, root: &Hash) -> bool {
        self.before(root).is_some()
    }

    /// What had this root, as far as it is remembered.
    pub fn before(&self, root: &Hash) -> Option<Inventory> {
        self.history.ring.find(root)
    }

    /// Its records with the hashes of what they hold.
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Whether telling all of it costs little.
    pub fn is_small(&self) -> bool {
        self.inventory.len() <= pack::RECORDS_OF_A_GROUP
    }

    /// Whether it holds nothing but what is there before anybody has configured anything.
    pub fn is_bare(&self) -> bool {
        is_bare(&self.config)
    }

    /// All records.
    pub async fn everything(self: &Arc<Self>) -> Option<Arc<Encoded>> {
        self.encoded(Base::Nothing, |published| {
            let mut parts = Vec::new();
            published.history.packed.everything(
                &published.config,
                &published.inventory,
                &mut parts,
            );
            Some(published.finish(&Base::Nothing, published.records(), parts))
        })
        .await
    }

    /// What leads from what had `root` to this; `None` if that is not known any more, or would be no
    /// shorter than everything.
    pub async fn since(self: &Arc<Self>, root: Hash) -> Option<Arc<Encoded>> {
        let base = self.before(&root)?;
        self.encoded(Base::Root(root), move |published| {
            let difference = published.inventory.since(&base);
            let most = (published.inventory.len() / 2).max(pack::RECORDS_OF_A_GROUP);
            if difference.len() > most {
                return None;
            }
            let puts = published.records_of(difference.puts.iter().copied());
            let count = u32::try_from(puts.len()).unwrap_or(u32::MAX);
            let parts = pack::changes(puts, difference.removes);
            Some(published.finish(&Base::Root(root), count, parts))
        })
        .await
    }

    /// The buckets in which a node with `digests` differs from this, and all records of these.
    pub async fn repair(self: &Arc<Self>, digests: &[Hash]) -> Option<(BucketSet, Arc<Encoded>)> {
        let buckets = self.inventory.differing(digests);
        let base = Base::Buckets(buckets.as_bytes().to_vec());
        let set = buckets.clone();
        let encoded = self
            .encoded(base.clone(), move |published| {
                let keys = set.iter().flat_map(|at| published.inventory.bucket(at));
                let puts = published.records_of(keys);
                let count = u32::try_from(puts.len()).unwrap_or(u32::MAX);
                let parts = pack::changes(puts, Vec::new());
                Some(published.finish(&base, count, parts))
            })
            .await?;
        Some((buckets, encoded))
    }

    fn records_of(&self, keys: impl Iterator<Item = Key>) -> Vec<Record> {
        keys.filter_map(|key| Some(record(key, self.config.stored(key)?)))
            .collect()
    }

    fn finish(&self, base: &Base, records: u32, parts: Vec<pack::Part>) -> Arc<Encoded> {
        let mut hasher = blake3::Hasher::new();
        match base {
            Base::Nothing => hasher.update(&[0]),
            Base::Root(root) => hasher.update(&[1]).update(root),
            Base::Buckets(buckets) => hasher.update(&[2]).update(buckets),
        };
        let hash = hasher.update(&self.position.root).finalize();
        let update = hash.as_bytes().first_chunk().copied();
        let update = u64::from_be_bytes(update.unwrap_or_default());
        let raw_bytes = parts.iter().map(|part| u64::from(part.raw_size)).sum();
        let chunks = (0..)
            .zip(parts)
            .map(|(index, part)| part.chunk(update, index));
        Arc::new(Encoded {
            update,
            records,
            raw_bytes,
            chunks: chunks.collect(),
        })
    }

    /// What `make` makes for `base`: once, on a thread that may take its time.
    async fn encoded(
        self: &Arc<Self>,
        base: Base,
        make: impl FnOnce(&Self) -> Option<Arc<Encoded>> + Send + 'static,
    ) -> Option<Arc<Encoded>> {
        let once = {
            let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
            if encoded.len() >= DIFFERENCES && !encoded.contains_key(&base) {
                encoded.retain(|base, _| *base == Base::Nothing);
            }
            Arc::clone(encoded.entry(base).or_default())
        };
        let published = Arc::clone(self);
        once.get_or_init(|| async move {
            let encoded = tokio::task::spawn_blocking(move || make(&published)).await;
            encoded.unwrap_or_else(|error| {
                tracing::error!(%error, "encoding a snapshot failed");
                None
            })
        })
        .await
        .clone()
    }
}

fn record(key: Key, stored: &Stored) -> Record {
    Record {
        key,
        json: Bytes::copy_from_slice(stored.json()),
    }
}

fn content(stored: &Stored) -> Hash {
    *blake3::hash(stored.json()).as_bytes()
}

/// Whether `config` holds nothing for data planes but what is there before anybody has configured anything.
pub(crate) fn is_bare(config: &Config) -> bool {
    let configured =
        |key: &Key| is_distributed(key) && definition(key.kind).is_some_and(|entity| entity.public);
    !config.records().any(|(key, _)| configured(key))
}

/// Whether data planes are told of such a record at all. They know the default workspace, which is always there.
fn is_distributed(key: &Key) -> bool {
    let is_first = key.kind == Workspace::KIND && key.id == DEFAULT_WORKSPACE;
    !is_first && definition(key.kind).is_some_and(|entity| entity.distributed)
}

/// Publishes one configuration after the other. A clone knows what was published up to then, and remembers along.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    generation: u64,
    signer: SharedSigner,
    history: Arc<History>,
    newest: Arc<Published>,
}

impl Follower {
    /// Publishes `config` first.
    pub(crate) fn new(config: Config, generation: u64, signer: SharedSigner) -> Self {
        let history = Arc::new(History::default());
        let inventory = Inventory::new(
            config
                .records()
                .filter(|(key, _)| is_distributed(key))
                .map(|(key, stored)| (*key, content(stored))),
        );
        let requirements = Requirements::of(&config);
        let content = Content {
            config,
            inventory,
            requirements,
        };
        let newest = publish(content, generation, Revision::default(), &signer, &history);
        Self {
            generation,
            signer,
            history,
            newest,
        }
    }

    /// What was published last.
    pub(crate) const fn newest(&self) -> &Arc<Published> {
        &self.newest
    }

    /// What is published from now on is of `generation`.
    pub(crate) const fn reach(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Publishes `config`, by what changed since the last.
    pub(crate) fn publish(&mut self, config: Config) -> &Arc<Published> {
        if config.revision() == self.newest.position.revision {
            return &self.newest;
        }
        let change = config.since(&self.newest.config);
        let (content, count) = self.newest.followed_by(config, change);
        self.history.ring.push(self.newest.inventory.clone(), count);
        self.newest = self.published(content, Revision::default());
        &self.newest
    }

    fn published(&self, content: Content, urgent: Revision) -> Arc<Published> {
        publish(
            content,
            self.generation,
            urgent,
            &self.signer,
            &self.history,
        )
    }
}

/// What is published, before it stands anywhere.
struct Content {
    config: Config,
    inventory: Inventory,
    requirements: Requirements,
}

impl Published {
    /// What `config` is as content, given the `change` that leads there from this; and in how many records
    /// nodes see it differ.
    fn followed_by(&self, config: Config, change: Change) -> (Content, usize) {
        let Change {
            mut puts,
            mut removes,
        } = change;
        puts.retain(|(key, _)| is_distributed(key));
        removes.retain(is_distributed);
        let count = puts.len() + removes.len();
        let mut requirements = self.requirements.clone();
        requirements.change(&self.config, &puts, &removes);
        let changes = puts
            .iter()
            .map(|(key, stored)| (*key, Some(content(stored))))
            .chain(removes.iter().map(|key| (*key, None)));
        let content = Content {
            config,
            inventory: self.inventory.with(changes),
            requirements,
        };
        (content, count)
    }
}

fn publish(
    content: Content,
    generation: u64,
    urgent: Revision,
    signer: &SharedSigner,
    history: &Arc<History>,
) -> Arc<Published> {
    let Content {
        config,
        inventory,
        requirements,
    } = content;
    let position = Position {
        generation,
        revision: config.revision(),
        urgent,
        root: inventory.root(),
    };
    let vouched = Vouched::new(&position, inventory.len(), &requirements, signer);
    Arc::new(Published {
        position,
        requirements,
        vouched: Mutex::new(vouched),
        signer: Arc::clone(signer),
        config,
        inventory,
        encoded: Mutex::default(),
        beside: Mutex::default(),
        history: Arc::clone(history),
    })
}

#[cfg(test)]
pub(crate) mod tests;
