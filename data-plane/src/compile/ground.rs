//! What routes are compiled on: everything that they refer to. A value: changing it shares what stayed, so that a
//! change costs as much as what it touches.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use plugins::filter::Filter as _;
use plugins::registry::AnyFilter;
use shared::entity::{DEFAULT_WORKSPACE, Entity as _, Plugin, Route, Service};
use uuid::Uuid;

use super::filters::{self, Assembly, Filters, LoggedRecords, Subsystem};
use super::services::{self, CompiledService, Destination, Surroundings};
use super::streams::is_of_streams;
use super::tls::{Authorities, Identities};
use super::upstreams::{self, CompiledUpstream, Named};
use super::workspaces::Names;
use super::{CompileFault, CompiledRoute, Layered, compile_route, is_http, labels};
use crate::upstream::tls::defaults::TlsDefaults;

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

    /// Those whose record is as `wanted`.
    pub(super) fn which(&self, wanted: impl Fn(&Service) -> bool) -> impl Iterator<Item = Uuid> {
        let found = self
            .records
            .iter()
            .filter(move |(_, record)| wanted(record));
        found.map(|(id, _)| *id)
    }

    /// Those that go to the upstream at `place`.
    fn at(&self, place: usize) -> impl Iterator<Item = Uuid> {
        let goes = move |service: &CompiledService| matches!(service.destination, Destination::Upstream(at) if at == place);
        let found = self
            .compiled
            .iter()
            .filter(move |(_, service)| goes(service));
        found.map(|(id, _)| *id)
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
    pub(super) identities: Identities,
    pub(super) authorities: Authorities,
    /// What holds where neither service nor upstream says how TLS is spoken.
    tls: Arc<TlsDefaults>,
    /// The place of each workspace's environment.
    environments: Arc<HashMap<Uuid, usize>>,
    /// What the workspaces are called.
    pub(super) names: Names,
    whole: Arc<Whole>,
}

impl Ground {
    pub(super) fn new(
        identities: Identities,
        authorities: Authorities,
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
            identities,
            authorities,
            tls: Arc::default(),
            environments: Arc::new(environments),
            names: Names::default(),
            whole: Arc::default(),
        }
    }

    /// The same for services that speak TLS as `tls` has it, where they say nothing of that.
    pub(super) fn speaking(self, tls: Arc<TlsDefaults>) -> Self {
        Self { tls, ..self }
    }

    /// The same for workspaces that are called `names`.
    pub(super) fn calling(self, names: Names) -> Self {
        Self { names, ..self }
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

    pub(super) fn filters(&self) -> Layered<Arc<AnyFilter>> {
        self.assembly.filters.clone()
    }

    /// Whether any filter is to see the certificates of clients, of those that came after all was compiled together.
    pub(super) fn newer_want_certificates(&self) -> bool {
        let mut newer = self.assembly.filters.newer();
        newer.any(|filter| filter.wants_certificates())
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
            tls: &self.tls,
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

    /// Puts `plugin` of `workspace` in the place of what it was `before`; `None` if more depends on it than requests.
    pub(super) fn put_plugin(
        &mut self,
        before: Option<(&Plugin, Uuid)>,
        after: Option<(&Plugin, Uuid)>,
        faults: &mut Vec<CompileFault>,
    ) -> Option<()> {
        let sees_streams = |(plugin, _): &(&Plugin, Uuid)| Subsystem::Streams.runs(plugin);
        if !self.whole.streams.is_empty() && before.iter().chain(&after).any(sees_streams) {
            return None;
        }
        if let Some((plugin, workspace)) = before {
            self.assembly.detach(plugin, workspace)?;
        }
        if let Some((plugin, workspace)) = after {
            self.assembly.attach(plugin, workspace, faults);
        }
        Some(())
    }

    /// Puts `change` in the place of what the upstream was before; `None` if there is none to change. Adds the services
    /// that go by it to `touched`.
    pub(super) fn put_upstream(
        &mut self,
        change: &upstreams::Change,
        touched: &mut BTreeSet<Uuid>,
        faults: &mut Vec<CompileFault>,
    ) -> Option<()> {
        let place = self.named.places.get(&change.id).copied();
        let before = place.and_then(|place| self.upstreams.get(place)).cloned();
        let after = match change.on(before.as_ref(), &self.identities)? {
            Ok(after) => Arc::new(after),
            Err(fault) => {
                faults.push(fault);
                return Some(());
            }
        };
        let upstreams = Arc::make_mut(&mut self.upstreams);
        let place = place.unwrap_or(upstreams.len());
        match upstreams.get_mut(place) {
            Some(upstream) => *upstream = Arc::clone(&after),
            None => upstreams.push(Arc::clone(&after)),
        }
        let leads = |upstream: &CompiledUpstream| {
            let name = (upstream.workspace.id, upstream.name.clone());
            (name, upstream.identity.clone())
        };
        if before.as_deref().map(leads) != Some(leads(&after)) {
            touched.extend(self.services.at(place));
            self.touch_named(&after, touched);
            if let Some(before) = before {
                self.named.forget(&before, place);
            }
            self.named.put(&after, place);
        }
        Some(())
    }

    /// Takes the upstream `id` away. The last one takes its place. Adds the services that go by either to `touched`.
    pub(super) fn remove_upstream(&mut self, id: Uuid, touched: &mut BTreeSet<Uuid>) {
        let Some(place) = self.named.places.get(&id).copied() else {
            return;
        };
        let upstreams = Arc::make_mut(&mut self.upstreams);
        let last = upstreams.len() - 1;
        let gone = upstreams.swap_remove(place);
        self.named.forget(&gone, place);
        touched.extend(self.services.at(place));
        if let Some(moved) = upstreams.get(place) {
            touched.extend(self.services.at(last));
            self.named.forget(moved, last);
            self.named.put(moved, place);
        }
    }

    /// Adds the services to `touched` that may be meant for `upstream` by its name.
    fn touch_named(&self, upstream: &CompiledUpstream, touched: &mut BTreeSet<Uuid>) {
        let name = (upstream.workspace.id, upstream.name.clone());
        if self.services.hosts.contains(&name) {
            let which = |service: &Service| services::bare_host(service) == upstream.name;
            touched.extend(self.services.which(which));
        }
    }

    /// The workspace of each environment, by its place.
    pub(super) fn workspaces(&self) -> Vec<Uuid> {
        let mut places: Vec<_> = self.environments.iter().collect();
        places.sort_by_key(|(_, place)| **place);
        places
            .into_iter()
            .map(|(workspace, _)| *workspace)
            .collect()
    }

    /// `before` with the filters that it has now, which is in `workspace`; none if more of it has to change.
    pub(super) fn filtered(
        &self,
        before: &CompiledRoute,
        workspace: Uuid,
    ) -> Option<CompiledRoute> {
        let service = before
            .account
            .matched
            .service
            .as_ref()
            .map(|service| service.id);
        let filters = self.assembly.of(before.id, service, workspace);
        // Records are only made for those that log them.
        let is_enough = before.filters.phases.log || !filters.phases.log;
        is_enough.then(|| CompiledRoute {
            filters,
            ..before.clone()
        })
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
        let environment = self.environment(workspace);
        let workspace = self.names.of(workspace);
        let labels = labels(route, owner, &workspace);
        let matched = filters::matched(route, owner, &filters, workspace, logged);
        let environment = environment.or_else(|| self.environment(DEFAULT_WORKSPACE));
        compile_route(
            route,
            labels,
            compiled,
            filters,
            matched,
            environment.unwrap_or_default(),
        )
    }
}
