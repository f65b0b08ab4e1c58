//! A change of routes alone, compiled on what was compiled before: it costs as much as the change, however many
//! records there are.
//!
//! The routes that have changed since all was compiled stand beside the whole, which is searched without them.
//! Once they are many, or anything else has changed, all is compiled anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock};

use plugins::environment::Environment;
use plugins::filter::Filter as _;
use plugins::registry::AnyFilter;
use shared::entity::{Entity, Route, Service};
use shared::snapshot::{Difference, Snapshot};
use uuid::Uuid;

use super::filters::{self, Assembly, Filters, LoggedRecords};
use super::streams::is_of_streams;
use super::workspaces::Workspaces;
use super::{
    CompileFault, CompiledRoute, CompiledService, CompiledSnapshot, Routes, compile_route,
    in_order, is_enabled, is_http, labels, parse, references,
};

/// Routes that may have changed before all is compiled anew. A search looks at them one by one at worst.
const MOST: usize = 256;

/// Routes that have changed since all was compiled, each with its workspace; none: it is gone.
pub(super) type Amended = BTreeMap<Uuid, Option<(Arc<Route>, Uuid)>>;

/// What routes are compiled on.
#[derive(Debug)]
pub(super) struct Ground {
    services: HashMap<Uuid, Service>,
    compiled: HashMap<Uuid, Arc<CompiledService>>,
    assembly: Assembly,
    environments: HashMap<Uuid, Arc<Environment>>,
    /// Where each route is among those of the whole.
    places: HashMap<Uuid, usize>,
    /// The routes that are for byte streams.
    streams: HashSet<Uuid>,
}

impl Ground {
    pub(super) fn new(
        services: HashMap<Uuid, Service>,
        compiled: HashMap<Uuid, Arc<CompiledService>>,
        assembly: Assembly,
        environments: HashMap<Uuid, Arc<Environment>>,
    ) -> Self {
        Self {
            services,
            compiled,
            assembly,
            environments,
            places: HashMap::new(),
            streams: HashSet::new(),
        }
    }

    /// Remembers where `served` are, and which of `all` are for byte streams.
    pub(super) fn place(&mut self, served: &[&Route], all: &[Route]) {
        let places = served.iter().enumerate();
        self.places = places.map(|(place, route)| (route.id, place)).collect();
        let streams = all.iter().filter(|route| is_of_streams(route));
        self.streams = streams.map(|route| route.id).collect();
    }

    /// Whether `route` exists for requests: those of a disabled service do not, and those of byte streams are
    /// none of HTTP's.
    pub(super) fn serves(&self, route: &Route) -> bool {
        let mut protocols = route.protocols.as_slice().iter();
        protocols.any(|protocol| is_http(*protocol)) && is_enabled(&self.services, route)
    }

    pub(super) fn filters(&self) -> Arc<Vec<AnyFilter>> {
        Arc::clone(&self.assembly.filters)
    }

    pub(super) fn unrouted(&self) -> Arc<Filters> {
        self.assembly.of_none()
    }

    pub(super) fn wants_certificates(&self) -> bool {
        let mut filters = self.assembly.filters.iter();
        filters.any(AnyFilter::wants_certificates)
    }

    pub(super) fn environment(&self, workspace: Uuid) -> Arc<Environment> {
        self.environments
            .get(&workspace)
            .cloned()
            .unwrap_or_default()
    }

    /// `route` with everything that its requests need.
    pub(super) fn route(
        &self,
        route: &Route,
        workspace: Uuid,
        logged: &mut LoggedRecords,
        faults: &mut Vec<CompileFault>,
    ) -> CompiledRoute {
        let reference = route.service.map(|reference| reference.id);
        let service = reference.and_then(|id| self.compiled.get(&id).cloned());
        let owner = reference.and_then(|id| self.services.get(&id));
        if let Some(id) = reference
            && owner.is_none()
        {
            faults.push(CompileFault {
                kind: Route::KIND,
                id: route.id,
                field: "service".to_owned(),
                message: format!("the service {id} does not exist"),
            });
        }
        let filters = self.assembly.of_route(route, workspace);
        let matched = filters::matched(route, owner, &filters, workspace, logged);
        compile_route(
            route,
            labels(route, owner),
            service.filter(|service| !service.raw),
            filters,
            matched,
            self.environment(workspace),
        )
    }
}

/// Compiles `snapshot`, which differs from what `before` was compiled from by `difference`; `None` if there is
/// more to it than a few routes.
pub(super) fn amend(
    before: &CompiledSnapshot,
    snapshot: &Snapshot,
    difference: &Difference,
) -> Option<Result<CompiledSnapshot, Vec<CompileFault>>> {
    let ground = &before.ground;
    let mut amended = before.amended.clone();
    let mut faults = Vec::new();
    if difference.len() > MOST {
        return None;
    }
    for key in difference.puts.iter().chain(&difference.removes) {
        if key.kind != Route::KIND || ground.streams.contains(&key.id) {
            return None;
        }
        amended.insert(key.id, None);
    }
    for key in &difference.puts {
        let record = snapshot.record(key)?;
        if references::is_concerned(&record) {
            return None;
        }
        let Some(route) = parse::<Route>(key.kind, key.id, &record.json, &mut faults) else {
            continue;
        };
        if is_of_streams(&route) {
            return None;
        }
        let workspace = Workspaces::of_one(&record);
        amended.insert(key.id, Some((Arc::new(route), workspace)));
    }
    if amended.len() > MOST {
        return None;
    }
    let newer: Vec<&(Arc<Route>, Uuid)> = amended
        .values()
        .flatten()
        .filter(|(route, _)| ground.serves(route))
        .collect();
    let mut logged = LoggedRecords::default();
    let compiled = newer
        .iter()
        .map(|(route, workspace)| ground.route(route, *workspace, &mut logged, &mut faults));
    let compiled: Vec<CompiledRoute> = compiled.collect();
    let gone = amended
        .keys()
        .filter_map(|id| ground.places.get(id).copied());
    let routes: Vec<&Route> = newer.iter().map(|(route, _)| &**route).collect();
    let index = before.router.amended(gone, &routes);
    let index = index.unwrap_or_else(|found| {
        faults.extend(super::route_faults(found, &routes));
        super::Router::default()
    });
    if !faults.is_empty() {
        return Some(Err(in_order(faults)));
    }
    Some(Ok(CompiledSnapshot {
        asks_for_certificates: before.asks_for_certificates,
        position: RwLock::new(snapshot.position),
        router: index,
        routes: Routes {
            whole: Arc::clone(&before.routes.whole),
            newer: compiled,
        },
        stream_routes: Arc::clone(&before.stream_routes),
        environment: Arc::clone(&before.environment),
        revocations: Arc::clone(&before.revocations),
        upstreams: Arc::clone(&before.upstreams),
        balancers: Arc::clone(&before.balancers),
        server_names: Arc::clone(&before.server_names),
        filters: Arc::clone(&before.filters),
        unrouted: Arc::clone(&before.unrouted),
        holds_secrets: false,
        ground: Arc::clone(ground),
        amended,
    }))
}

#[cfg(test)]
mod tests;
