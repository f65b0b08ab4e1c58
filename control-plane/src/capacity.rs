//! How large a configuration may become. The limit is lower than that of a node, so that no node ever has to refuse a
//! configuration for its size.

use shared::entity::{Entity, Revocation, SessionKey};
use shared::snapshot::{Key, MOST_BYTES, MOST_RECORDS};

use crate::config::{Change, Config};

/// The share of what a node takes that operators may fill, in per cent. The rest is for keys and revocations, which
/// are never refused for it, and for what an encoding of a later version may need.
const SHARE: u64 = 80;

/// Bytes that a record takes on the wire beside its JSON, at most: its kind, its id and their frames.
const FRAME: u64 = 64;

/// Says why `config` must not take `change`, if it must not.
pub(crate) fn check(config: &Config, change: &Change) -> Result<(), String> {
    let most = Size {
        records: u64::from(MOST_RECORDS) * SHARE / 100,
        bytes: MOST_BYTES * SHARE / 100,
    };
    check_within(most, config, change)
}

fn check_within(most: Size, config: &Config, change: &Change) -> Result<(), String> {
    if change.puts.iter().all(|(key, _)| is_spared(key)) {
        return Ok(());
    }
    let before = Size::of(config);
    let after = before.after(config, change);
    // What makes it smaller is the way out.
    if after.records > most.records && after.records > before.records {
        return Err(format!(
            "the configuration would have {} records, and {} is the most; delete some, or split it over two clusters",
            after.records, most.records
        ));
    }
    if after.bytes > most.bytes && after.bytes > before.bytes {
        return Err(format!(
            "the configuration would have {} bytes, and {} is the most; delete something, or split it over two clusters",
            after.bytes, most.bytes
        ));
    }
    Ok(())
}

/// Whether a record is one of those that the rest is for.
fn is_spared(key: &Key) -> bool {
    [SessionKey::KIND, Revocation::KIND].contains(&key.kind)
}

/// How large a configuration is, as it travels.
#[derive(Clone, Copy)]
struct Size {
    records: u64,
    bytes: u64,
}

impl Size {
    fn of(config: &Config) -> Self {
        let records = u64::try_from(config.len()).unwrap_or(u64::MAX);
        Self {
            records,
            bytes: config.bytes().saturating_add(records.saturating_mul(FRAME)),
        }
    }

    fn after(self, config: &Config, change: &Change) -> Self {
        let config = config.everywhere();
        let Self {
            mut records,
            mut bytes,
        } = self;
        let replaced = change.puts.iter().map(|(key, _)| key);
        for old in replaced
            .chain(&change.removes)
            .filter_map(|key| config.stored(*key))
        {
            records = records.saturating_sub(1);
            bytes = bytes.saturating_sub(old.bytes().saturating_add(FRAME));
        }
        for (_, record) in &change.puts {
            records = records.saturating_add(1);
            bytes = bytes.saturating_add(record.bytes()).saturating_add(FRAME);
        }
        Self { records, bytes }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::snapshot::Revision;
    use uuid::Uuid;

    use super::*;
    use crate::config::{Fields, Stored};

    fn put(kind: &'static str, ids: std::ops::Range<u128>, length: usize) -> Change {
        let mut fields = Fields::new();
        fields.insert("text".to_owned(), json!("x".repeat(length)));
        let record = Stored::of(&fields);
        let key = |id| Key {
            kind,
            id: Uuid::from_u128(id),
        };
        Change {
            puts: ids.map(|id| (key(id), record.clone())).collect(),
            removes: Vec::new(),
        }
    }

    #[test]
    fn what_no_node_would_take_is_not_committed_and_keys_always_are() {
        let most = Size {
            records: 100,
            bytes: 100_000,
        };
        let check = |config: &Config, change: &Change| check_within(most, config, change);
        let full = Config::default().evolve(&put("routes", 0..40, 2_000), Revision(1));
        check(&full, &put("routes", 40..48, 2_000)).unwrap();
        let refused = check(&full, &put("routes", 40..50, 2_000)).unwrap_err();
        assert!(
            refused.contains("bytes, and 100000 is the most"),
            "{refused}"
        );
        check(&full, &put(SessionKey::KIND, 0..20, 2_000)).unwrap();
        // What replaces something counts in its place, and whatever makes it smaller may be.
        check(&full, &put("routes", 0..20, 2_000)).unwrap();
        let over = full.evolve(&put("routes", 40..60, 2_000), Revision(2));
        check(&over, &put("routes", 0..1, 1_999)).unwrap();
        check(&over, &put("routes", 0..1, 2_001)).unwrap_err();
        let fewer = Change {
            puts: put("services", 0..1, 1).puts,
            removes: over.records().map(|(key, _)| *key).take(2).collect(),
        };
        check(&over, &fewer).unwrap();
        let many = check(&Config::default(), &put("routes", 0..101, 1)).unwrap_err();
        assert!(many.contains("101 records, and 100 is the most"), "{many}");
    }

    #[test]
    fn a_configuration_knows_its_size() {
        let change = put("routes", 0..10, 100);
        let mut config = Config::default().evolve(&change, Revision(1));
        let measured =
            |config: &Config| -> u64 { config.records().map(|(_, record)| record.bytes()).sum() };
        assert_eq!(config.bytes(), measured(&config));
        config.apply(&put("routes", 5..15, 7), Revision(2));
        config.apply(
            &Change {
                removes: config.records().map(|(key, _)| *key).take(3).collect(),
                ..Change::default()
            },
            Revision(3),
        );
        assert!(config.bytes() > 0);
        assert_eq!(config.bytes(), measured(&config));
    }
}
