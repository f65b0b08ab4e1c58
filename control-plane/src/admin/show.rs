//! Records as replies show them.

use plugins::registry;
use serde_json::Value;
use shared::clock::UnixTime;
use shared::entity::{Certificate, Entity as _, Plugin, definition};
use shared::snapshot::Key;

use crate::command;
use crate::config::{Config, Fields};

/// A record as a reply shows it: a certificate with its server names, a plugin with the names of earlier
/// versions that Kong shows, a record that expires with the seconds that it has left.
pub(super) fn show(config: &Config, key: Key, fields: &Fields) -> Value {
    let mut shown = fields.clone();
    if key.kind == Certificate::KIND {
        let names = command::certificate_names(config, key);
        shown.insert("snis".to_owned(), names.into());
    }
    if key.kind == Plugin::KIND
        && let Some(plugin) = fields.get("name").and_then(Value::as_str)
        && let Some(plugin) = registry::definition(plugin)
        && let Some(Value::Object(config)) = shown.get_mut("config")
    {
        plugin.show(config);
    }
    if definition(key.kind).is_some_and(|entity| entity.expires)
        && let Some(left) = command::seconds_left(fields, UnixTime::now())
    {
        shown.insert("ttl".to_owned(), left.into());
    }
    Value::Object(shown)
}
