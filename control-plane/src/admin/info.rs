//! What the control plane tells of itself.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use plugins::registry;
use serde_json::{Map, Value, json};
use shared::entity::{definition, definitions};
use shared::machine::hostname;
use shared::version::KONG_VERSION;
use uuid::Uuid;

use super::{Admin, Headers};

/// This process.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Its id.
    pub(super) id: Uuid,
    /// Where the Admin API listens.
    pub(super) listeners: Vec<Listener>,
    /// What it tells of itself.
    pub(super) headers: Headers,
}

impl Node {
    pub(super) fn new(id: Uuid, listeners: Vec<Listener>) -> Self {
        Self {
            id,
            listeners,
            headers: Headers::default(),
        }
    }
}

/// An address that the Admin API is served on.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// The address.
    pub address: SocketAddr,
    /// Whether it takes TLS.
    pub encrypted: bool,
}

impl Listener {
    /// The address as Kong's settings name it.
    fn setting(self) -> String {
        let ending = if self.encrypted { " ssl http2" } else { "" };
        format!("{}{ending}", self.address)
    }

    /// What clients read of it. With TLS both versions of HTTP are spoken.
    fn shown(self) -> Value {
        json!({
            "ip": self.address.ip().to_string(),
            "port": self.address.port(),
            "listener": self.setting(),
            "ssl": self.encrypted,
            "http2": self.encrypted,
            "proxy_protocol": false,
            "deferred": false,
            "bind": false,
            "reuseport": false,
        })
    }
}

/// `/`: what decK, Kong Manager and the ingress controller read first.
pub(super) fn root(admin: &Admin) -> Value {
    let node = &admin.node;
    let available: Map<String, Value> = registry::definitions()
        .iter()
        .map(|entry| {
            let shown = json!({ "version": entry.version, "priority": entry.priority });
            (entry.name.to_owned(), shown)
        })
        .collect();
    let config = admin.publisher.config();
    let enabled: BTreeSet<String> = config
        .keys("plugins", Uuid::nil())
        .filter_map(|key| {
            let name = config.stored(key)?.pick(|field| field == "name");
            Some(name.get("name")?.as_str()?.to_owned())
        })
        .collect();
    let plugins = json!({ "available_on_server": available, "enabled_in_cluster": enabled });
    json!({
        "tagline": "Welcome to kong",
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
            "admin_listen": node.listeners.iter().map(|one| one.setting()).collect::<Vec<_>>(),
            "admin_listeners": node.listeners.iter().map(|one| one.shown()).collect::<Vec<_>>(),
            "admin_gui_listeners": [],
            "proxy_listeners": [],
            "headers": node.headers.names(),
            "rbac": if admin.access.is_enforced() { "on" } else { "off" },
            "portal": false,
        },
    })
}

/// `/endpoints`, from the registry.
pub(super) fn endpoints() -> Value {
    let mut paths: BTreeSet<String> = [
        "/",
        "/cache",
        "/cache/{key}",
        "/certificates/{certificates}/snis",
        "/clustering/data-planes",
        "/clustering/status",
        "/config",
        "/consumer_groups/{consumer_groups}/consumers",
        "/consumer_groups/{consumer_groups}/consumers/{consumers}",
        "/consumers/{consumers}/consumer_groups",
        "/consumers/{consumers}/consumer_groups/{consumer_groups}",
        "/debug/cluster/control-planes-nodes/log-level/{log_level}",
        "/debug/node/log-level",
        "/debug/node/log-level/{log_level}",
        "/endpoints",
        "/metrics",
        "/openid-connect/check",
        "/openid-connect/issuers",
        "/openid-connect/issuers/{issuers}",
        "/plugins/enabled",
        "/plugins/schema/{name}",
        "/proxy-cache",
        "/proxy-cache/{cache_key}",
        "/proxy-cache/{plugin_id}/caches/{cache_key}",
        "/schemas/plugins/validate",
        "/schemas/plugins/{name}",
        "/schemas/vaults/validate",
        "/schemas/vaults/{name}",
        "/schemas/{db_entity_name}/validate",
        "/schemas/{name}",
        "/status",
        "/status/dns",
        "/tags",
        "/tags/{tags}",
        "/timers",
        "/upstreams/{upstreams}/health",
        "/upstreams/{upstreams}/targets/all",
        "/upstreams/{upstreams}/targets/{targets}/healthy",
        "/upstreams/{upstreams}/targets/{targets}/unhealthy",
        "/upstreams/{upstreams}/targets/{targets}/{address}/healthy",
        "/upstreams/{upstreams}/targets/{targets}/{address}/unhealthy",
    ]
    .map(str::to_owned)
    .into();
    for entity in definitions().iter().filter(|entity| entity.public) {
        let (kind, path) = (entity.kind, entity.path);
        paths.extend([
            format!("/schemas/{kind}"),
            format!("/schemas/{kind}/validate"),
        ]);
        if entity.top_level {
            paths.extend([format!("/{path}"), format!("/{path}/{{{kind}}}")]);
        }
        for (field, to) in entity.foreign_keys() {
            let Some(parent) = definition(to) else {
                continue;
            };
            if entity.top_level {
                paths.insert(format!("/{path}/{{{kind}}}/{field}"));
            }
            for (_, name) in entity.nested.iter().filter(|(nested, _)| *nested == field) {
                paths.insert(format!("/{}/{{{to}}}/{name}", parent.path));
                paths.insert(format!("/{}/{{{to}}}/{name}/{{{kind}}}", parent.path));
            }
        }
    }
    // There is no way from a server name to its certificate.
    paths.remove("/snis/{snis}/certificate");
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
