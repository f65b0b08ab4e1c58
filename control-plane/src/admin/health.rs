//! `/upstreams/{u}/health`: an upstream's targets and how they are, as far as a control plane knows.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};
use shared::authority::bare;
use shared::entity::{Entity, Target};
use shared::snapshot::Key;
use uuid::Uuid;

use super::show::show;
use crate::config::{Config, Fields};
use crate::fleet::{Address, Fleet, Targets};

/// What the nodes of `fleet` tell of the targets of an upstream.
pub(super) fn told(config: &Config, upstream: Key, fleet: &Fleet) -> Targets {
    let targets = config.children(upstream, Target::KIND, Uuid::nil());
    fleet.targets(&targets.map(|key| key.id).collect())
}

/// The targets of an upstream, the newest first. Data planes check them, and look their names up, and have `told` of it;
/// what an operator has `said` of a target, by its id and its address, counts until they have told.
pub(super) fn health(
    config: &Config,
    upstream: Key,
    node: Uuid,
    query: Option<&str>,
    told: &Targets,
    said: impl Fn(Uuid, Option<(IpAddr, u16)>) -> Option<bool>,
) -> Value {
    let record = config.record(upstream).unwrap_or_default();
    let checked = checked(&record);
    let mut targets: Vec<(f64, Value)> = config
        .children(upstream, Target::KIND, Uuid::nil())
        .filter_map(|key| {
            let fields = config.record(key)?;
            let weight = fields.get("weight")?.as_u64()?;
            let created = fields.get("created_at")?.as_f64()?;
            let Value::Object(mut shown) = show(config, key, &fields) else {
                return None;
            };
            let mut marked = said(key.id, address(&fields));
            let mut leads = Vec::new();
            for &(_, at, address) in told.leads(key.id).iter().filter(|_| weight > 0) {
                let own = said(key.id, Some((at.ip(), at.port())));
                let healthy = own.unwrap_or(address.healthy);
                marked = marked.or(own);
                leads.push((at, Address { healthy, ..address }));
            }
            if marked.is_some() && !leads.is_empty() {
                // A name is as well as the best of its addresses.
                marked = Some(leads.iter().any(|(_, address)| address.healthy));
            }
            // One that takes no requests is not checked, nor is its name looked up.
            let state = if weight == 0 {
                "HEALTHCHECKS_OFF"
            } else if told.unresolved.contains(&key.id) {
                "DNS_ERROR"
            } else if !marked.unwrap_or(!told.unhealthy.contains(&key.id)) {
                // Without checks, by an operator's word.
                "UNHEALTHY"
            } else if checked {
                "HEALTHY"
            } else {
                "HEALTHCHECKS_OFF"
            };
            shown.insert("health".to_owned(), state.into());
            let data = addresses(&fields, state, weight, checked, &leads);
            shown.insert("data".to_owned(), data);
            Some((created, Value::Object(shown)))
        })
        .collect();
    targets.sort_by(|one, other| other.0.total_cmp(&one.0));
    let data: Vec<Value> = targets.into_iter().map(|(_, target)| target).collect();
    let whole = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(name, value)| name == "balancer_health" && value == "1");
    if whole {
        let threshold = record.get("healthchecks");
        let threshold = threshold.and_then(|checks| checks.get("threshold")?.as_f64());
        let (healthy, details) = details(&data, threshold.unwrap_or_default());
        let found = if healthy { "HEALTHY" } else { "UNHEALTHY" };
        let shown = json!({
            "health": if checked { found } else { "HEALTHCHECKS_OFF" },
            "balancer_health": found,
            "id": upstream.id,
            "name": record.get("name"),
            "details": details,
        });
        return json!({ "data": shown, "next": null, "node_id": node });
    }
    json!({ "data": data, "next": null, "node_id": node })
}

/// The details of an upstream with these `targets`, and whether it is healthy: while more than `threshold` per cent of their weight
/// is available. Addresses say by `healthy` how they are, and not in words (Kong 3.9, `getStatus`).
fn details(targets: &[Value], threshold: f64) -> (bool, Value) {
    let mut hosts: Vec<Value> = targets
        .iter()
        .filter_map(|target| target.get("data").cloned())
        .collect();
    let addresses = hosts
        .iter_mut()
        .filter_map(|host| host.get_mut("addresses")?.as_array_mut());
    for address in addresses.flatten().filter_map(Value::as_object_mut) {
        let health = address.shift_remove("health");
        let healthy = health.is_none_or(|health| health != "UNHEALTHY");
        address.insert("healthy".to_owned(), healthy.into());
    }
    let sum = |part: &str| -> u32 {
        let weights = hosts
            .iter()
            .filter_map(|host| host.get("weight")?.get(part)?.as_u64());
        // A thousand targets of the greatest weight come to 65,535,000.
        weights
            .filter_map(|weight| u32::try_from(weight).ok())
            .sum()
    };
    let [total, available, unavailable] = ["total", "available", "unavailable"].map(sum);
    let healthy = f64::from(available) * 100.0 > threshold * f64::from(total);
    let details = json!({
        "healthy": healthy,
        "weight": { "total": total, "available": available, "unavailable": unavailable },
        "hosts": hosts,
    });
    (healthy, details)
}

/// The address of a target that is no name.
fn address(fields: &Fields) -> Option<(IpAddr, u16)> {
    let target: SocketAddr = fields.get("target")?.as_str()?.parse().ok()?;
    Some((target.ip(), target.port()))
}

/// What a target stands for: itself, or where data planes say that its name leads.
fn addresses(
    fields: &Fields,
    state: &str,
    weight: u64,
    checked: bool,
    told: &[(SocketAddr, Address)],
) -> Value {
    let target = fields
        .get("target")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (host, port) = target.rsplit_once(':').unwrap_or((target, ""));
    let port = port.parse::<u16>().unwrap_or_default();
    let address = bare(host);
    let mut shown = Vec::new();
    let (mut available, mut unavailable) = (0, 0);
    if address.parse::<IpAddr>().is_ok() {
        shown.push(json!({ "ip": host, "port": port, "health": state, "weight": weight }));
    } else {
        for (at, address) in told {
            let state = match (address.healthy, checked) {
                (true, true) => "HEALTHY",
                (true, false) => "HEALTHCHECKS_OFF",
                (false, _) => "UNHEALTHY",
            };
            let share = if address.healthy {
                &mut available
            } else {
                &mut unavailable
            };
            *share += u64::from(address.weight);
            let (ip, port, weight) = (at.ip(), at.port(), address.weight);
            shown.push(json!({ "ip": ip, "port": port, "health": state, "weight": weight }));
        }
    }
    if available + unavailable == 0 {
        match state {
            "UNHEALTHY" => unavailable = weight,
            // A name without addresses weighs nothing.
            "DNS_ERROR" => {}
            _ => available = weight,
        }
    }
    json!({
        "host": host,
        "port": port,
        "addresses": shown,
        "weight": {
            "total": available + unavailable,
            "available": available,
            "unavailable": unavailable,
        },
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

#[cfg(test)]
mod tests {
    use shared::entity::Upstream;
    use shared::snapshot::Revision;

    use super::*;
    use crate::config::Change;
    use crate::config::tests::with_id as record;

    #[test]
    fn an_upstream_is_healthy_while_more_than_its_threshold_is_available() {
        let shown = |threshold: u8, failures: u8, ill: &[u128]| {
            let checks = json!({ "threshold": threshold,
                "passive": { "unhealthy": { "http_failures": failures } } });
            let upstream = record(
                Upstream::KIND,
                1,
                json!({ "name": "u", "healthchecks": checks }),
            );
            let target = |id: u128, weight: u32| {
                let target = format!("10.0.0.{id}:80");
                let upstream = json!({ "id": Uuid::from_u128(1) });
                let fields = json!({ "target": target, "weight": weight, "upstream": upstream,
                    "created_at": 1.5 });
                record(Target::KIND, id, fields)
            };
            let key = upstream.0;
            let puts = vec![
                upstream,
                target(2, 60),
                target(3, 40),
                target(4, 0),
                target(5, 10),
            ];
            let change = Change {
                puts,
                removes: Vec::new(),
            };
            let config = Config::default().founded().evolve(&change, Revision(1));
            let ill = Targets {
                unhealthy: ill.iter().map(|id| Uuid::from_u128(*id)).collect(),
                unresolved: [Uuid::from_u128(5)].into(),
                ..Targets::default()
            };
            let query = Some("balancer_health=1");
            let silent = |_, _| None;
            let whole = health(&config, key, Uuid::nil(), query, &ill, silent)["data"].clone();
            let each = health(&config, key, Uuid::nil(), None, &ill, silent)["data"].clone();
            (whole, each)
        };
        for (threshold, ill, expected) in [
            (0, &[][..], "HEALTHY"),
            (0, &[2], "HEALTHY"),
            (0, &[2, 3], "UNHEALTHY"),
            (39, &[2], "HEALTHY"),
            (40, &[2], "UNHEALTHY"),
            (40, &[3], "HEALTHY"),
        ] {
            let (whole, _) = shown(threshold, 1, ill);
            assert_eq!(whole["health"], expected, "{threshold} {ill:?}");
        }
        let (whole, each) = shown(0, 1, &[2, 4]);
        let weight = json!({ "total": 100, "available": 40, "unavailable": 60 });
        assert_eq!(whole["details"]["weight"], weight);
        assert_eq!(whole["details"]["hosts"].as_array().unwrap().len(), 4);
        let ill = json!({ "ip": "10.0.0.2", "port": 80, "weight": 60, "healthy": false });
        let addresses: Vec<_> = whole["details"]["hosts"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|host| host["addresses"].as_array().unwrap().clone())
            .collect();
        assert!(addresses.contains(&ill), "{addresses:?}");
        let well = addresses.iter().filter(|one| one["healthy"] == true);
        assert_eq!((well.count(), addresses.len()), (3, 4));
        let of = |each: &Value, id: u8| {
            let target = format!("10.0.0.{id}:80");
            let mut each = each.as_array().unwrap().iter();
            each.find(|one| one["target"] == target).unwrap()["health"].clone()
        };
        let states = [2, 3, 4, 5].map(|id| of(&each, id));
        assert_eq!(
            states,
            ["UNHEALTHY", "HEALTHY", "HEALTHCHECKS_OFF", "DNS_ERROR"]
        );
        // Nobody checks: what is out all the same is so by an operator's word.
        let (whole, each) = shown(50, 0, &[3]);
        let states = [2, 3, 5].map(|id| of(&each, id));
        assert_eq!(states, ["HEALTHCHECKS_OFF", "UNHEALTHY", "DNS_ERROR"]);
        assert_eq!(whole["health"], "HEALTHCHECKS_OFF");
        assert_eq!(whole["balancer_health"], "HEALTHY");
        assert_eq!(whole["details"]["weight"]["unavailable"], 40);
    }

    #[test]
    fn a_name_shows_where_it_leads_by_what_nodes_tell() {
        let shown = |failures: u8, well: [bool; 3], said: Option<bool>| {
            let checks = json!({ "passive": { "unhealthy": { "http_failures": failures } } });
            let upstream = record(
                Upstream::KIND,
                1,
                json!({ "name": "u", "healthchecks": checks }),
            );
            let key = upstream.0;
            let target = json!({ "target": "two.test:80", "weight": 10, "created_at": 1.5,
                "upstream": { "id": Uuid::from_u128(1) } });
            let change = Change {
                puts: vec![upstream, record(Target::KIND, 2, target)],
                removes: Vec::new(),
            };
            let config = Config::default().founded().evolve(&change, Revision(1));
            let target = Uuid::from_u128(2);
            let addresses = (1..).zip(well).map(|(last, healthy)| {
                let at = SocketAddr::from(([10, 0, 0, last], 80));
                let weight = 10;
                (target, at, Address { weight, healthy })
            });
            let is_ill = !well.contains(&true);
            let told = Targets {
                addresses: addresses.collect(),
                unhealthy: is_ill.then_some(target).into_iter().collect(),
                ..Targets::default()
            };
            let third = IpAddr::from([10, 0, 0, 3]);
            let said = |_, at: Option<(IpAddr, u16)>| said.filter(|_| at == Some((third, 80)));
            health(&config, key, Uuid::nil(), None, &told, said)["data"][0].clone()
        };
        let states = |shown: &Value| {
            let addresses = shown["data"]["addresses"].as_array().unwrap();
            let states = addresses.iter().map(|one| one["health"].clone());
            states.collect::<Vec<_>>()
        };
        let one_ill = [true, false, true];
        let found = shown(1, one_ill, None);
        assert_eq!(found["health"], "HEALTHY");
        assert_eq!(states(&found), ["HEALTHY", "UNHEALTHY", "HEALTHY"]);
        let first = json!({ "ip": "10.0.0.1", "port": 80, "health": "HEALTHY", "weight": 10 });
        assert_eq!(found["data"]["addresses"][0], first);
        let weight = json!({ "total": 30, "available": 20, "unavailable": 10 });
        assert_eq!(found["data"]["weight"], weight);
        // What an operator has said since counts at once.
        let found = shown(1, one_ill, Some(false));
        assert_eq!(states(&found), ["HEALTHY", "UNHEALTHY", "UNHEALTHY"]);
        assert_eq!(found["health"], "HEALTHY");
        for (well, said, expected) in [
            ([false; 3], None, "UNHEALTHY"),
            ([false; 3], Some(true), "HEALTHY"),
            ([false, false, true], None, "HEALTHY"),
            ([false, false, true], Some(false), "UNHEALTHY"),
        ] {
            let found = shown(1, well, said);
            assert_eq!(found["health"], expected, "{well:?} {said:?}");
        }
        let unchecked = states(&shown(0, one_ill, None));
        assert_eq!(
            unchecked,
            ["HEALTHCHECKS_OFF", "UNHEALTHY", "HEALTHCHECKS_OFF"]
        );
    }
}
