//! The routes of byte streams, each with the filters of its plugins. Nobody is known by name on a stream, so which
//! configuration of a plugin runs is known beforehand.

use std::sync::Arc;

use plugins::filter::Filter as _;
use plugins::registry::AnyFilter;
use shared::entity::{Plugin, Protocol, Route};
use uuid::Uuid;

use super::filters::{self, Assembly, Filters, Subsystem};
use super::ground::Services;
use super::room::Room;
use super::workspaces::Workspaces;
use super::{CompileFault, is_http, labels};
use crate::streams::routes::{StreamFilters, StreamRoute, StreamRoutes};

/// Compiles those of `routes` that are of byte streams.
pub(super) fn compile(
    routes: &[Route],
    plugins: &[Plugin],
    services: &Services,
    workspaces: &Workspaces,
    room: &Room,
    faults: &mut Vec<CompileFault>,
) -> StreamRoutes {
    let assembly = Assembly::new(Subsystem::Streams, plugins, workspaces, room, faults);
    let routes = routes
        .iter()
        .filter(|route| is_of_streams(route) && services.is_enabled_for(route));
    let assembled: Vec<(&Route, Uuid, Arc<Filters>)> = routes
        .map(|route| {
            let workspace = workspaces.of_record::<Route>(route.id);
            (route, workspace, assembly.of_route(route, workspace))
        })
        .collect();
    let all = assembly.filters.into_whole();
    let mut logged = filters::LoggedRecords::default();
    let compiled = assembled.into_iter().filter_map(|(route, workspace, own)| {
        let owner = services.owner_of(route);
        let workspace = workspaces.names.of(workspace);
        let labels = labels(route, owner, &workspace);
        let places = own.slots.iter().filter_map(|slot| slot.choose(None, &[]));
        let filters: Vec<Arc<AnyFilter>> =
            places.filter_map(|place| all.get(place).cloned()).collect();
        let run = StreamFilters {
            counts: filters.iter().find_map(|filter| filter.counts()),
            matched: filters::matched(route, owner, &own, workspace, &mut logged),
            labels: Arc::new(labels),
            filters,
        };
        let service = services.of(route).cloned();
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
