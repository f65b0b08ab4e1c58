//! What routes are compiled on: everything that they refer to. A value: changing it shares what stayed, so that a
//! change costs as much as what it touches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use plugins::filter::Filter as _;
use plugins::registry::AnyFilter;
use rustls_pki_types::CertificateDer;
use shared::entity::{DEFAULT_WORKSPACE, Entity as _, Plugin, Route, Service};
use uuid::Uuid;

use super::filters::{self, Assembly, Filters, LoggedRecords};
use super::services::{self, CompiledService, Surroundings};
use super::streams::is_of_streams;
use super::tls::Identities;
use super::upstreams::{self, CompiledUpstream, Named};
use super::{CompileFault, CompiledRoute, Layered, compile_route, is_http, labels};

/// The services of a snapshot, as records and ready to run.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    records: imbl::HashMap<Uuid, Arc<Service>>,
    compiled: imbl::HashMap<Uuid, Arc<CompiledService>>,
    /// The hosts of them all by workspace, and of some that are gone.
    hosts: imbl::HashSet<(Uuid, String)>,
}

impl Services {
    /// Whether the service of `route`, if there is one, is enabled.
    pub(super) fn is_enabled_for(&self, route: &Route) -> bool {
        route.service.is_none_or(|service| {
            let service = self.records.get(&service.id);
            service.is_none_or(|found| found.enabled)
        })
    }

    /// The service of `route`, if it has one that exists.
    pub(super) fn owner_of(&self, route: &Route) -> Option<&Service> {
        let service = route
            .service
            .and_then(|service| self.records.get(&service.id));
        service.map(|service| &**service)
    }

    /// What the service of `route` is compiled to, if that could be.
    pub(super) fn of(&self, route: &Route) -> Option<&Arc<CompiledService>> {
        route
            .service
            .and_then(|service| self.compiled.get(&service.id))
    }
}

/// Where the routes are that were compiled together.
#[derive(Debug, Default)]
struct Whole {
    /// The place of each.
    places: HashMap<Uuid, usize>,
    /// Those that are for byte streams.
    streams: HashSet<Uuid>,
    /// Those of each service.
    of_service: HashMap<Uuid, Vec<Uuid>>,
}

/// What routes are compiled on.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) services: Services,
    pub(super) assembly: Assembly,
    pub(super) upstreams: Arc<Vec<Arc<CompiledUpstream>>>,
    named: Named,
    identities: Arc<Identities>,
    authorities: Arc<HashMap<Uuid, CertificateDer<'static>>>,
    /// The place of each workspace's environment.
    environments: Arc<HashMap<Uuid, usize>>,
    whole: Arc<Whole>,
}

impl Ground {
    pub(super) fn new(
        identities: Identities,
        authorities: HashMap<Uuid, CertificateDer<'static>>,
        upstreams: Vec<Arc<CompiledUpstream>>,
        named: Named,
        assembly: Assembly,
        environments: HashMap<Uuid, usize>,
    ) -> Self {
        Self {
            services: Services::default(),
            assembly,
            upstreams: Arc::new(upstreams),
            named,
            identities: Arc::new(identities),
            authorities: Arc::new(authorities),
            environments: Arc::new(environments),
            whole: Arc::default(),
        }
    }

    /// Remembers where `served` are among what is compiled together, and what is special of `all`.
    pub(super) fn place(&mut self, served: &[&Route], all: &[Route]) {
        let places = served.iter().enumerate();
        let streams = all.iter().filter(|route| is_of_streams(route));
        let mut of_service: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
        for route in all {
            if let Some(service) = route.service {
                of_service.entry(service.id).or_default().push(route.id);
            }
        }
        self.whole = Arc::new(Whole {
            places: places.map(|(place, route)| (route.id, place)).collect(),
            streams: streams.map(|route| route.id).collect(),
            of_service,
        });
    }

    /// The place of the route `id` among those that were compiled together.
    pub(super) fn place_of(&self, id: Uuid) -> Option<usize> {
        self.whole.places.get(&id).copied()
    }

    /// Whether the route `id` was for byte streams.
    pub(super) fn was_of_streams(&self, id: Uuid) -> bool {
        self.whole.streams.contains(&id)
    }

    /// The routes that `service` had when all were compiled together.
    pub(super) fn routes_of(&self, service: Uuid) -> &[Uuid] {
        let routes = self.whole.of_service.get(&service);
        routes.map_or(&[], Vec::as_slice)
    }

    /// Whether `route` exists for requests: those of a disabled service do not, and those of byte streams are
    /// none of HTTP's.
    pub(super) fn serves(&self, route: &Route) -> bool {
        let mut protocols = route.protocols.as_slice().iter();
        protocols.any(|protocol| is_http(*protocol)) && self.services.is_enabled_for(route)
    }

    pub(super) fn unrouted(&self) -> Arc<Filters> {
        self.assembly.of_none()
    }

    pub(super) fn filters(&self) -> Layered<AnyFilter> {
        self.assembly.filters.clone()
    }

    /// Whether any filter is to see the certificates of clients.
    pub(super) fn wants_certificates(&self) -> bool {
        self.assembly
            .filters
            .iter()
            .any(AnyFilter::wants_certificates)
    }

    /// The same of those alone that came after all was compiled together.
    pub(super) fn newer_want_certificates(&self) -> bool {
        let mut newer = self.assembly.filters.newer();
        newer.any(AnyFilter::wants_certificates)
    }

    /// The place of the environment of `workspace`; none if it had no record when all was compiled together.
    pub(super) fn environment(&self, workspace: Uuid) -> Option<usize> {
        self.environments.get(&workspace).copied()
    }

    /// Puts `service` in the place of what it was before, or names what stands in the way.
    pub(super) fn put_service(
        &mut self,
        service: Service,
        workspace: Uuid,
        faults: &mut Vec<CompileFault>,
    ) {
        let surroundings = Surroundings {
            identities: &self.identities,
            authorities: &self.authorities,
            upstreams: &self.upstreams,
            named: &self.named,
        };
        let all = &mut self.services;
        match services::compile(&service, workspace, &surroundings) {
            Ok(compiled) => _ = all.compiled.insert(service.id, Arc::new(compiled)),
            Err(fault) => {
                all.compiled.remove(&service.id);
                faults.push(fault);
            }
        }
        all.hosts.insert((workspace, services::bare_host(&service)));
        all.records.insert(service.id, Arc::new(service));
    }

    pub(super) fn remove_service(&mut self, id: Uuid) {
        self.services.records.remove(&id);
        self.services.compiled.remove(&id);
    }

    /// Puts `plugin` in the place of what it was `before`; `None` if that is more than routes of its own need.
    pub(super) fn put_plugin(
        &mut self,
        before: Option<&Plugin>,
        after: Option<&Plugin>,
        faults: &mut Vec<CompileFault>,
    ) -> Option<()> {
        if let Some(before) = before {
            self.assembly.detach(before)?;
        }
        if let Some(after) = after {
            self.assembly.attach(after, faults)?;
        }
        Some(())
    }

    /// Puts `change` in the place of what the upstream was before; `None` if others have to be compiled with it.
    pub(super) fn put_upstream(
        &mut self,
        change: &upstreams::Change,
        faults: &mut Vec<CompileFault>,
    ) -> Option<()> {
        let place = self.named.places.get(&change.id).copied();
        let before = place.and_then(|place| self.upstreams.get(place));
        let after = match change.on(before, &self.identities)? {
            Ok(after) => after,
            Err(fault) => {
                faults.push(fault);
                return Some(());
            }
        };
        if let (Some(place), Some(before)) = (place, before) {
            // Services go by these.
            let name = (change.workspace, after.name.clone());
            let is_named = self.named.names.get(&name) == Some(&place);
            if before.name != after.name || before.identity != after.identity || !is_named {
                return None;
            }
            *Arc::make_mut(&mut self.upstreams).get_mut(place)? = Arc::new(after);
        } else {
            let name = (change.workspace, after.name.clone());
            if self.services.hosts.contains(&name) || self.named.names.contains_key(&name) {
                return None;
            }
            let place = self.upstreams.len();
            self.named.places.insert(change.id, place);
            self.named.names.insert(name, place);
            Arc::make_mut(&mut self.upstreams).push(Arc::new(after));
        }
        Some(())
    }

    /// `route` with everything that its requests need.
    pub(super) fn route(
        &self,
        route: &Route,
        workspace: Uuid,
        logged: &mut LoggedRecords,
        faults: &mut Vec<CompileFault>,
    ) -> CompiledRoute {
        let compiled = self.services.of(route).cloned();
        let owner = self.services.owner_of(route);
        if let Some(service) = route.service
            && owner.is_none()
        {
            let id = service.id;
            faults.push(CompileFault {
                kind: Route::KIND,
                id: route.id,
                field: "service".to_owned(),
                message: format!("the service {id} does not exist"),
            });
        }
        let filters = self.assembly.of_route(route, workspace);
        let matched = filters::matched(route, owner, &filters, workspace, logged);
        let environment = self.environment(workspace);
        let environment = environment.or_else(|| self.environment(DEFAULT_WORKSPACE));
        compile_route(
            route,
            labels(route, owner),
            compiled.filter(|service| !service.raw),
            filters,
            matched,
            environment.unwrap_or_default(),
        )
    }
}
