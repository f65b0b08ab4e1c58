//! The routes of byte streams, each with the filters of its plugins. Nobody is known by name on a stream, so which
//! configuration of a plugin runs is known beforehand.

use std::collections::HashMap;
use std::sync::Arc;

use plugins::filter::Filter as _;
use plugins::registry::AnyFilter;
use shared::entity::{Protocol, Route};
use uuid::Uuid;

use super::filters::{self, Assembly, Filters, Subsystem};
use super::workspaces::Workspaces;
use super::{CompileFault, CompiledService, Records, is_enabled, is_http, labels};
use crate::stream_routes::{StreamFilters, StreamRoute, StreamRoutes};

/// Compiles the routes of byte streams in `records`.
pub(super) fn compile(
    records: &Records,
    services: &HashMap<Uuid, Arc<CompiledService>>,
    workspaces: &Workspaces,
    faults: &mut Vec<CompileFault>,
) -> StreamRoutes {
    let assembly = Assembly::new(Subsystem::Streams, &records.plugins, workspaces, faults);
    let routes = records.routes.iter();
    let routes =
        routes.filter(|route| is_of_streams(route) && is_enabled(&records.services, route));
    let assembled: Vec<(&Route, Uuid, Arc<Filters>)> = routes
        .map(|route| {
            let workspace = workspaces.of_record::<Route>(route.id);
            (route, workspace, assembly.of_route(route, workspace))
        })
        .collect();
    let all: Vec<Arc<AnyFilter>> = Arc::into_inner(assembly.filters)
        .unwrap_or_default()
        .into_iter()
        .map(Arc::new)
        .collect();
    let mut logged = filters::LoggedRecords::default();
    let compiled = assembled.into_iter().filter_map(|(route, workspace, own)| {
        let id = route.service.map(|service| service.id);
        let owner = id.and_then(|id| records.services.get(&id));
        let places = own.slots.iter().filter_map(|slot| slot.choose(None, &[]));
        let filters: Vec<Arc<AnyFilter>> =
            places.filter_map(|place| all.get(place).cloned()).collect();
        let run = StreamFilters {
            counts: filters.iter().find_map(|filter| filter.counts()),
            matched: filters::matched(route, owner, &own, workspace, &mut logged),
            labels: Arc::new(labels(route, owner)),
            filters,
        };
        let service = id.and_then(|id| services.get(&id)).cloned();
        let compiled = StreamRoute::compile(route, service, run)?;
        Some((compiled, route.created_at))
    });
    StreamRoutes::new(compiled.collect())
}

/// Whether `route` is, also, one of byte streams.
pub(super) fn is_of_streams(route: &Route) -> bool {
    let mut protocols = route.protocols.as_slice().iter();
    protocols.any(|protocol: &Protocol| !is_http(*protocol))
}
