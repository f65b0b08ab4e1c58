//! Records that are gone some seconds after their creation: nobody sees them any more, and whoever wants
//! their unique values takes them over.

use shared::clock::UnixTime;
use shared::entity::Definition;
use shared::snapshot::Key;

use crate::config::{Config, Fields};

/// How long a record that expires is still there; zero when it is gone.
pub(crate) fn seconds_left(fields: &Fields, now: UnixTime) -> Option<u64> {
    let ttl = fields.get("ttl")?.as_u64().filter(|ttl| *ttl > 0)?;
    let end = fields.get("created_at")?.as_u64()?.saturating_add(ttl);
    Some(end.saturating_sub(now.as_secs()))
}

/// Whether a record is gone.
pub(crate) fn has_expired(entity: &Definition, fields: &Fields, now: UnixTime) -> bool {
    entity.expires && seconds_left(fields, now) == Some(0)
}

/// The record that holds the unique values of `set` in `fields`, if it is gone.
pub(super) fn expired_holder(
    config: &Config,
    entity: &'static Definition,
    set: &[&str],
    fields: &Fields,
    now: UnixTime,
) -> Option<Key> {
    let [field] = set else { return None };
    let value = fields.get(*field)?.as_str()?;
    let id = config.find(entity.kind, field, value)?;
    let key = Key {
        kind: entity.kind,
        id,
    };
    let held = config.record(key)?;
    has_expired(entity, &held, now).then_some(key)
}
