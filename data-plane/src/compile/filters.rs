//! The filters of one route: each plugin at most once, by its most specific configuration, in order
//! of priority.

use std::collections::BTreeMap;

use http::HeaderName;
use plugins::filter::{Filter as _, Instance};
use plugins::registry::{self, AnyFilter};
use serde_json::Value;
use shared::entity::{Plugin, Route};

use super::CompileFault;

/// A route's filters, the one that runs first in front.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    pub(crate) all: Vec<AnyFilter>,
    /// Request fields that only these filters may set.
    pub(crate) owned_headers: Vec<HeaderName>,
}

/// Compiles the filters of `route`.
pub(super) fn of_route(
    route: &Route,
    plugins: &[Plugin],
    faults: &mut Vec<CompileFault>,
) -> Filters {
    let mut chosen: BTreeMap<&str, (u8, &Plugin)> = BTreeMap::new();
    for plugin in plugins.iter().filter(|plugin| plugin.enabled) {
        let Some(rank) = rank(plugin, route) else {
            continue;
        };
        let best = chosen.entry(&plugin.name).or_insert((rank, plugin));
        if best.0 < rank {
            *best = (rank, plugin);
        }
    }
    let mut compiled = Vec::new();
    for (_, plugin) in chosen.into_values() {
        let config = Value::Object(plugin.config.clone());
        match registry::compile(&plugin.name, config, &Instance { id: plugin.id }) {
            Ok(filter) => {
                let priority =
                    registry::definition(&plugin.name).map_or(0, |definition| definition.priority);
                compiled.push((priority, filter));
            }
            Err(errors) => faults.extend(errors.0.iter().map(|(field, message)| {
                CompileFault {
                    kind: "plugins",
                    id: plugin.id,
                    field: format!("config.{field}"),
                    message: message
                        .as_str()
                        .map_or_else(|| message.to_string(), str::to_owned),
                }
            })),
        }
    }
    compiled.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    let all: Vec<AnyFilter> = compiled.into_iter().map(|(_, filter)| filter).collect();
    let owned_headers = all
        .iter()
        .flat_map(|filter| filter.owned_headers().iter().cloned())
        .collect();
    Filters { all, owned_headers }
}

/// How specific `plugin` is for `route`; `None` if it is for others. Its `protocols` tell HTTP from byte
/// streams, as in Kong, and all that a plugin can name are HTTP: an authentication for `https` alone
/// does not leave plain requests to the same route open. Consumer scopes, which need to
/// know the consumer first, are forbidden to every bundled plugin.
fn rank(plugin: &Plugin, route: &Route) -> Option<u8> {
    if plugin.consumer.is_some() {
        return None;
    }
    let of_route = plugin.route.map(|reference| reference.id == route.id);
    let of_service = plugin.service.map(|reference| {
        route
            .service
            .is_some_and(|service| service.id == reference.id)
    });
    match (of_route, of_service) {
        (Some(false), _) | (_, Some(false)) => None,
        (Some(true), Some(true)) => Some(3),
        (Some(true), None) => Some(2),
        (None, Some(true)) => Some(1),
        (None, None) => Some(0),
    }
}
