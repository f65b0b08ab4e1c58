//! What the control plane tells of itself.

use std::collections::BTreeSet;

use plugins::registry;
use serde_json::{Map, Value, json};
use shared::entity::definitions;
use shared::machine::hostname;
use shared::version::KONG_VERSION;
use uuid::Uuid;

use crate::config::Config;
use crate::publisher::Publisher;

/// This process.
#[derive(Debug)]
pub(super) struct Node {
    /// Its id.
    pub(super) id: Uuid,
    /// Where the Admin API listens.
    pub(super) listen: String,
}

/// `/`: what decK, Kong Manager and the ingress controller read first.
pub(super) fn root(publisher: &Publisher, node: &Node, enforced: bool) -> Value {
    let available: Map<String, Value> = registry::definitions()
        .iter()
        .map(|entry| {
            let shown = json!({ "version": entry.version, "priority": entry.priority });
            (entry.name.to_owned(), shown)
        })
        .collect();
    let config = publisher.config();
    let enabled: BTreeSet<String> = config
        .keys("plugins", Uuid::nil())
        .filter_map(|key| {
            let name = config.stored(key)?.pick(|field| field == "name");
            Some(name.get("name")?.as_str()?.to_owned())
        })
        .collect();
    let plugins = json!({ "available_on_server": available, "enabled_in_cluster": enabled });
    json!({
        "tagline": "Welcome to wardgate",
        "version": KONG_VERSION,
        "edition": "community",
        "hostname": hostname(),
        "node_id": node.id,
        "lua_version": "none",
        "plugins": plugins,
        "timers": { "running": 0, "pending": 0 },
        "pids": { "master": std::process::id(), "workers": [] },
        "configuration": {
            "database": "postgres",
            "role": "control_plane",
            "router_flavor": "traditional_compatible",
            "admin_listen": [node.listen],
            "admin_gui_listeners": [],
            "proxy_listeners": [],
            "rbac": if enforced { "on" } else { "off" },
            "portal": false,
        },
    })
}

/// `/status`: whether the store answers. It is read from memory, so it always does.
pub(super) fn status(config: &Config) -> Value {
    json!({
        "database": { "reachable": true },
        "configuration_revision": config.revision(),
        "memory": { "workers_lua_vms": [], "lua_shared_dicts": {} },
    })
}

/// `/endpoints`, from the registry.
pub(super) fn endpoints() -> Value {
    let mut paths: BTreeSet<String> = [
        "/",
        "/clustering/data-planes",
        "/clustering/status",
        "/config",
        "/endpoints",
        "/plugins/enabled",
        "/schemas/plugins/{name}",
        "/status",
        "/tags",
        "/tags/{tags}",
    ]
    .map(str::to_owned)
    .into();
    for entity in definitions().iter().filter(|entity| entity.public) {
        let kind = entity.kind;
        paths.extend([
            format!("/{kind}"),
            format!("/{kind}/{{{kind}}}"),
            format!("/schemas/{kind}"),
            format!("/schemas/{kind}/validate"),
        ]);
        for (field, to) in entity.foreign_keys() {
            paths.insert(format!("/{kind}/{{{kind}}}/{field}"));
            for (_, name) in entity.nested.iter().filter(|(nested, _)| *nested == field) {
                paths.insert(format!("/{to}/{{{to}}}/{name}"));
                paths.insert(format!("/{to}/{{{to}}}/{name}/{{{kind}}}"));
            }
        }
    }
    json!({ "data": paths })
}

/// `/plugins/enabled`
pub(super) fn enabled_plugins() -> Value {
    let names: Vec<&str> = registry::definitions()
        .iter()
        .map(|entry| entry.name)
        .collect();
    json!({ "enabled_plugins": names })
}
