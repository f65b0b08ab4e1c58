//! Records that expire some seconds after their creation: from then on nobody sees them, and their unique values are
//! free again.

use shared::clock::UnixTime;
use shared::entity::Definition;
use shared::snapshot::Key;

use crate::config::{Config, Fields};

/// How many whole seconds a record that expires is still there. Some of the first one has always passed, as in
/// Kong.
pub(crate) fn seconds_left(fields: &Fields, now: UnixTime) -> Option<u64> {
    let left = end(fields)?
        .saturating_mul(1000)
        .saturating_sub(now.as_millis());
    Some(left.saturating_sub(1) / 1000)
}

/// Whether a record is gone.
pub(crate) fn has_expired(entity: &Definition, fields: &Fields, now: UnixTime) -> bool {
    entity.expires && end(fields).is_some_and(|end| end <= now.as_secs())
}

/// When a record expires, in seconds since 1970.
fn end(fields: &Fields) -> Option<u64> {
    let ttl = fields.get("ttl")?.as_u64().filter(|ttl| *ttl > 0)?;
    Some(fields.get("created_at")?.as_u64()?.saturating_add(ttl))
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
