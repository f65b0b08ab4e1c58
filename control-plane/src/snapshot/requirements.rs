//! What a node must know to run a configuration: the kinds of its records and its plugins. A node that
//! lacks something is not sent it, and the record that is in the way is named.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::snapshot::Key;
use uuid::Uuid;

use super::is_distributed;
use crate::config::{Config, Stored};

/// What is required, and by how many records.
#[derive(Clone, Debug, Default)]
pub struct Requirements(BTreeMap<String, usize>);

/// Something that a node does not know.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Missing {
    /// What it would have to know, such as `plugin/acl`.
    pub feature: String,
    /// A record that needs it.
    #[serde(with = "record")]
    pub record: Option<Key>,
}

/// A record that needs something, as control planes tell each other of it.
mod record {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use shared::entity::definition;
    use shared::snapshot::Key;
    use uuid::Uuid;

    #[expect(clippy::ref_option, reason = "serde hands over what it has")]
    pub(super) fn serialize<S: Serializer>(key: &Option<Key>, to: S) -> Result<S::Ok, S::Error> {
        key.map(|key| (key.kind, key.id)).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Key>, D::Error> {
        let told = Option::<(String, Uuid)>::deserialize(from)?;
        // One of a later version may name a kind that is not known here.
        Ok(told.and_then(|(kind, id)| {
            let kind = definition(&kind)?.kind;
            Some(Key { kind, id })
        }))
    }
}

impl Requirements {
    /// What `config` requires.
    pub fn of(config: &Config) -> Self {
        let mut requirements = Self::default();
        for (key, record) in config.records().filter(|(key, _)| is_distributed(key)) {
            requirements.add(key, record);
        }
        requirements
    }

    /// Follows a change of `before`.
    pub fn change(&mut self, before: &Config, puts: &[(Key, Stored)], removes: &[Key]) {
        for key in puts.iter().map(|(key, _)| key).chain(removes) {
            let Some(record) = before.stored(*key) else {
                continue;
            };
            for feature in features(key, record) {
                if let Some(count) = self.0.get_mut(&feature) {
                    *count -= 1;
                    if *count == 0 {
                        self.0.remove(&feature);
                    }
                }
            }
        }
        for (key, record) in puts {
            self.add(key, record);
        }
    }

    fn add(&mut self, key: &Key, record: &Stored) {
        for feature in features(key, record) {
            *self.0.entry(feature).or_default() += 1;
        }
    }

    /// Everything that is required.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What a node lacks that knows `known`. One that tells nothing of itself judges for itself.
    pub fn missing(&self, known: &BTreeSet<String>, config: &Config) -> Vec<Missing> {
        if known.is_empty() {
            return Vec::new();
        }
        let missing = self.0.keys().filter(|feature| !known.contains(*feature));
        missing
            .map(|feature| Missing {
                feature: feature.clone(),
                record: needing(feature, config),
            })
            .collect()
    }
}

/// What one record requires.
fn features(key: &Key, record: &Stored) -> impl Iterator<Item = String> {
    let plugin = (key.kind == "plugins").then(|| record.pick(|name| name == "name"));
    let plugin = plugin.and_then(|fields| {
        let name = fields.get("name")?.as_str()?;
        Some(proto::features::plugin(name))
    });
    std::iter::once(proto::features::kind(key.kind)).chain(plugin)
}

/// A record that needs `feature`.
fn needing(feature: &str, config: &Config) -> Option<Key> {
    let kind = match feature.split_once('/')? {
        ("kind", kind) => shared::entity::definition(kind)?.kind,
        _ => "plugins",
    };
    config.keys(kind, Uuid::nil()).find(|key| {
        let record = config.stored(*key);
        record.is_some_and(|record| features(key, record).any(|needed| needed == feature))
    })
}
