//! `/upstreams/{u}/health`: an upstream's targets and how they are, as far as a control plane knows.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use shared::entity::{Entity, Target};
use shared::snapshot::Key;
use uuid::Uuid;

use super::show;
use crate::config::{Config, Fields};

/// The targets of an upstream, the newest first. Data planes check them; those that one of them sends no
/// request to are in `ill`.
pub(super) fn health(
    config: &Config,
    upstream: Key,
    node: Uuid,
    query: Option<&str>,
    ill: &HashSet<Uuid>,
) -> Value {
    let state = match config.record(upstream) {
        Some(fields) if checked(&fields) => "HEALTHY",
        _ => "HEALTHCHECKS_OFF",
    };
    let mut targets: Vec<(f64, Value)> = config
        .children(upstream, Target::KIND, Uuid::nil())
        .filter_map(|key| {
            let fields = config.record(key)?;
            let weight = fields
                .get("weight")?
                .as_u64()
                .filter(|weight| *weight > 0)?;
            let created = fields.get("created_at")?.as_f64()?;
            let Value::Object(mut shown) = show(config, key, &fields) else {
                return None;
            };
            let state = if ill.contains(&key.id) {
                "UNHEALTHY"
            } else {
                state
            };
            shown.insert("health".to_owned(), state.into());
            shown.insert("data".to_owned(), addresses(&fields, state, weight));
            Some((created, Value::Object(shown)))
        })
        .collect();
    targets.sort_by(|one, other| other.0.total_cmp(&one.0));
    let data: Vec<Value> = targets.into_iter().map(|(_, target)| target).collect();
    let whole = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(name, value)| name == "balancer_health" && value == "1");
    if whole {
        let name = config
            .record(upstream)
            .and_then(|fields| fields.get("name").cloned());
        let of = |state: &str| data.iter().any(|target| target["health"] == state);
        let health = if of("UNHEALTHY") && !of(state) {
            "UNHEALTHY"
        } else {
            state
        };
        return json!({
            "data": { "health": health, "id": upstream.id, "name": name },
            "next": null,
            "node_id": node,
        });
    }
    json!({ "data": data, "next": null, "node_id": node })
}

/// What a target stands for. Only data planes resolve names.
fn addresses(fields: &Fields, state: &str, weight: u64) -> Value {
    let target = fields
        .get("target")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (host, port) = target.rsplit_once(':').unwrap_or((target, ""));
    let port = port.parse::<u16>().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = match bare.parse::<std::net::IpAddr>() {
        Ok(_) => json!([{ "ip": host, "port": port, "health": state, "weight": weight }]),
        Err(_) => json!([]),
    };
    let lost = if state == "UNHEALTHY" { weight } else { 0 };
    json!({
        "host": host,
        "port": port,
        "addresses": addresses,
        "weight": { "total": weight, "available": weight - lost, "unavailable": lost },
        "nodeWeight": weight,
    })
}

/// Whether any check of the upstream is on: one that may find a target unhealthy.
fn checked(upstream: &Fields) -> bool {
    let checks = |kind: &str| upstream.get("healthchecks")?.get(kind)?.as_object();
    let positive = |part: Option<&Value>, names: &[&str]| {
        let part = part.and_then(Value::as_object);
        names.iter().any(|name| {
            part.and_then(|part: &Map<String, Value>| part.get(*name)?.as_f64())
                .is_some_and(|value| value > 0.0)
        })
    };
    let failures = ["tcp_failures", "timeouts", "http_failures"];
    let active = checks("active").is_some_and(|active| {
        positive(active.get("healthy"), &["interval"])
            || positive(active.get("unhealthy"), &["interval"])
    });
    let passive =
        checks("passive").is_some_and(|passive| positive(passive.get("unhealthy"), &failures));
    active || passive
}
