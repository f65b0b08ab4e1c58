//! Upstreams as the status API shows them (Kong 3.9, `/upstreams/{upstream}/health` and its neighbours).

use std::sync::Arc;

use serde_json::{Map, Value, json};
use shared::entity::DEFAULT_WORKSPACE;
use uuid::Uuid;

use super::table::{Entry, Table};
use super::{Balancer, Peer};
use crate::compile::upstreams::CompiledTarget;
use crate::metrics::{escape, family};

/// The balancer that `name` names, by id or by name, in the workspace that is called so, or is that id; where none is
/// asked for, rather in the default one.
pub(crate) fn find<'a>(
    balancers: &'a [Arc<Balancer>],
    workspace: Option<&str>,
    name: &str,
) -> Option<&'a Arc<Balancer>> {
    let id = Uuid::try_parse(name).ok();
    let name = name.to_ascii_lowercase();
    let wanted = workspace.map(|workspace| (workspace, Uuid::try_parse(workspace).ok()));
    let found = balancers.iter().filter(|balancer| {
        let own = &balancer.config.workspace;
        let there = wanted.is_none_or(|(name, id)| *own.name == *name || Some(own.id) == id);
        there && (Some(balancer.config.id) == id || balancer.config.name == name)
    });
    found.min_by_key(|balancer| balancer.config.workspace.id != DEFAULT_WORKSPACE)
}

/// One word for the health of the peer of `entry`.
fn health(balancer: &Balancer, peer: &Peer) -> &'static str {
    match (balancer.config.checked, peer.is_healthy()) {
        (false, true) => "HEALTHCHECKS_OFF",
        (_, true) => "HEALTHY",
        (_, false) => "UNHEALTHY",
    }
}

/// Every target with its health.
pub(crate) fn targets_with_health(balancer: &Balancer, node: &str) -> Value {
    let table = balancer.table();
    let shown = (0..).zip(&balancer.config.targets).map(|(place, target)| {
        let state = |peer: &Peer| ("health", health(balancer, peer).into());
        let status = target_status(&table, place, target, state);
        let mut record = record(target);
        let addresses = status.get("addresses").and_then(Value::as_array);
        let word = |wanted: &str| {
            addresses.is_some_and(|all| {
                all.iter()
                    .any(|one| one.get("health") == Some(&json!(wanted)))
            })
        };
        let health = if target.weight == 0 {
            "HEALTHCHECKS_OFF"
        } else if table.failed.contains(&place) || addresses.is_none_or(Vec::is_empty) {
            "DNS_ERROR"
        } else if word("HEALTHY") {
            "HEALTHY"
        } else if word("UNHEALTHY") {
            "UNHEALTHY"
        } else {
            "HEALTHCHECKS_OFF"
        };
        record.insert("health".to_owned(), health.into());
        record.insert("data".to_owned(), status);
        Value::Object(record)
    });
    json!({ "data": shown.collect::<Vec<_>>(), "next": null, "node_id": node })
}

/// The health of the upstream as a whole (`?balancer_health=1`).
pub(crate) fn balancer_health(balancer: &Balancer, node: &str) -> Value {
    let table = balancer.table();
    let config = &balancer.config;
    let found = if table.healthy {
        "HEALTHY"
    } else {
        "UNHEALTHY"
    };
    let state = |peer: &Peer| ("healthy", peer.is_healthy().into());
    let hosts = (0..)
        .zip(&config.targets)
        .map(|(place, target)| target_status(&table, place, target, state));
    let data = json!({
        "health": if config.checked { found } else { "HEALTHCHECKS_OFF" },
        "balancer_health": found,
        "id": config.id,
        "details": {
            "healthy": table.healthy,
            "weight": weight(&table.entries.iter().collect::<Vec<_>>()),
            "hosts": hosts.collect::<Vec<_>>(),
        },
    });
    json!({ "data": data, "next": null, "node_id": node })
}

/// The health of every target for each of the `subsystems`, as metrics (Kong 3.9, `kong_upstream_target_health`).
pub(crate) fn metrics(balancers: &[Arc<Balancer>], subsystems: &[&str]) -> String {
    use std::fmt::Write as _;
    const NAME: &str = "kong_upstream_target_health";
    let mut lines = String::new();
    for balancer in balancers {
        let table = balancer.table();
        // Those of one name in several workspaces are told apart.
        let workspace = match &balancer.config.workspace {
            own if own.id == DEFAULT_WORKSPACE => String::new(),
            own => format!(",workspace=\"{}\"", escape(&own.name)),
        };
        for (place, target) in balancer.config.targets.iter().enumerate() {
            let own = table.entries.iter().filter(|entry| entry.target == place);
            let mut addresses: Vec<(String, &str)> = own
                .map(|entry| {
                    let key = &entry.peer.key;
                    let address = format!("{}:{}", key.address, key.port);
                    (address, health(balancer, &entry.peer))
                })
                .collect();
            if addresses.is_empty() {
                // Those of weight 0 are in no table.
                let state = if target.weight == 0 {
                    "HEALTHCHECKS_OFF"
                } else {
                    "DNS_ERROR"
                };
                addresses.push((String::new(), state));
            }
            let (upstream, target) = (escape(&balancer.config.name), escape(&target.record.target));
            for (address, state) in addresses {
                for shown in ["HEALTHCHECKS_OFF", "HEALTHY", "UNHEALTHY", "DNS_ERROR"] {
                    let (value, shown) = (u8::from(shown == state), shown.to_ascii_lowercase());
                    for subsystem in subsystems {
                        // Writing to a string cannot fail.
                        let _ = writeln!(
                            lines,
                            "{NAME}{{upstream=\"{upstream}\",target=\"{target}\",address=\"{address}\",state=\"{shown}\",subsystem=\"{subsystem}\"{workspace}}} {value}"
                        );
                    }
                }
            }
        }
    }
    let mut text = String::new();
    family(
        &mut text,
        NAME,
        "gauge",
        "Health status of targets of upstream. States = healthchecks_off|healthy|unhealthy|dns_error, value is 1 when state is populated.",
        &lines,
    );
    text
}

/// The targets, without those of weight 0 unless `all` of them are asked for. The newest comes first.
pub(crate) fn targets(balancer: &Balancer, all: bool) -> Vec<Value> {
    balancer
        .config
        .targets
        .iter()
        .rev()
        .filter(|target| all || target.weight > 0)
        .map(|target| Value::Object(record(target)))
        .collect()
}

/// The target that `name` names, by id or as it is written.
pub(crate) fn target(balancer: &Balancer, name: &str) -> Option<Value> {
    let id = Uuid::try_parse(name).ok();
    let mut targets = balancer.config.targets.iter();
    let found = targets.find(|one| Some(one.record.id) == id || one.record.target == name);
    found.map(|target| Value::Object(record(target)))
}

/// Sets the health of a target's peers, or of one of them, by hand. Says whether there is any.
pub(crate) fn set_health(
    balancer: &Balancer,
    target: &str,
    address: Option<&str>,
    healthy: bool,
) -> bool {
    let id = Uuid::try_parse(target).ok();
    let table = balancer.table();
    let mut found = false;
    for entry in &table.entries {
        let Some(record) = balancer.config.targets.get(entry.target) else {
            continue;
        };
        if Some(record.record.id) != id && record.record.target != target {
            continue;
        }
        let key = &entry.peer.key;
        let shown = format!("{}:{}", key.address, key.port);
        if address.is_none_or(|wanted| wanted == shown || wanted == key.address.to_string()) {
            balancer.set_health(&entry.peer, healthy);
            found = true;
        }
    }
    found
}

fn record(target: &CompiledTarget) -> Map<String, Value> {
    match serde_json::to_value(&target.record) {
        Ok(Value::Object(record)) => record,
        _ => Map::new(),
    }
}

fn weight(entries: &[&Entry]) -> Value {
    let sum = |healthy: bool| -> u64 {
        entries
            .iter()
            .filter(|entry| entry.peer.is_healthy() == healthy)
            .map(|entry| u64::from(entry.weight))
            .sum()
    };
    let (available, unavailable) = (sum(true), sum(false));
    json!({ "total": available + unavailable, "available": available, "unavailable": unavailable })
}

/// Where a target leads. How each address is `state` says, and under which name.
fn target_status(
    table: &Table,
    place: usize,
    target: &CompiledTarget,
    state: impl Fn(&Peer) -> (&'static str, Value),
) -> Value {
    let own: Vec<&Entry> = table
        .entries
        .iter()
        .filter(|entry| entry.target == place)
        .collect();
    let addresses: Vec<Value> = own
        .iter()
        .map(|entry| {
            let key = &entry.peer.key;
            let (name, state) = state(&entry.peer);
            json!({
                "ip": key.address,
                "port": key.port,
                "weight": entry.weight,
                name: state,
            })
        })
        .collect();
    let dns = match own.first().map(|entry| entry.peer.key.address) {
        _ if target.address.is_some() => "A",
        Some(address) if address.is_ipv6() => "AAAA",
        Some(_) => "A",
        None => "dns server error: 3 name error",
    };
    json!({
        "host": target.host,
        "port": target.port,
        "dns": dns,
        "nodeWeight": target.weight,
        "weight": weight(&own),
        "addresses": addresses,
    })
}
