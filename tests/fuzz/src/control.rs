//! A configuration with some records, and a journal that keeps nothing.

use std::sync::OnceLock;

use control_plane::command::{Action, Body, Command};
use control_plane::config::Config;
use control_plane::history::Entry;
use control_plane::publisher::{Journal, JournalFault, Publisher};
use serde_json::{Value, json};
use shared::clock::UnixTime;

/// When everything happens.
pub const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

struct Nowhere;

impl Journal for Nowhere {
    fn commit(&mut self, _: &Entry) -> Result<(), JournalFault> {
        Ok(())
    }
}

/// The writer of `config`.
pub fn publisher(config: Config) -> Publisher {
    Publisher::new(config, 1, Box::new(Nowhere))
}

/// A configuration with one record of many kinds.
pub fn config() -> Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(make).clone()
}

fn make() -> Config {
    let publisher = publisher(Config::default());
    let records = [
        ("workspaces", json!({ "name": "team" })),
        ("services", json!({ "name": "s", "host": "h" })),
        (
            "routes",
            json!({ "name": "r", "paths": ["/"], "service": { "name": "s" } }),
        ),
        ("consumers", json!({ "username": "c", "custom_id": "1" })),
        ("consumer_groups", json!({ "name": "g" })),
        ("upstreams", json!({ "name": "u" })),
        (
            "plugins",
            json!({ "name": "acl", "config": { "allow": ["a"] }, "route": { "name": "r" } }),
        ),
        (
            "acls",
            json!({ "group": "a", "consumer": { "username": "c" } }),
        ),
        (
            "keyauth_credentials",
            json!({ "key": "k", "consumer": { "username": "c" } }),
        ),
        ("vaults", json!({ "name": "env", "prefix": "mine" })),
        ("key_sets", json!({ "name": "k" })),
    ];
    for (entity, record) in records {
        let Value::Object(fields) = record else {
            continue;
        };
        let command = Command {
            entity,
            action: Action::Create(Body::Json(fields)),
            parents: Vec::new(),
        };
        publisher.execute(&command, NOW).expect("the record can be");
    }
    publisher.config()
}
