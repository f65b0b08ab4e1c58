//! Compiles a change on top of what was compiled before: it costs as much as what it touches, however many records
//! there are.
//!
//! The routes that have changed since all was compiled stand beside the whole, which is searched without them; so do
//! those whose service or plugins have changed. A plugin of all routes gives each another list of filters, and leaves
//! the rest of it. Once what has changed is much, all is compiled anew.

mod certificates;
mod keys;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, RwLock};

use plugins::environment::Environment;
use serde::de::DeserializeOwned;
use shared::entity::{
    ConsumerGroup, Entity, Plugin, Revocation, Route, Service, Target, Upstream, Workspace,
};
use shared::snapshot::{Difference, Key, Record, Snapshot};
use uuid::Uuid;

use super::environment::Looked;
use super::filters::{LoggedRecords, no_room};
use super::fitness::Unfit;
use super::ground::Ground;
use super::room::Room;
use super::streams::is_of_streams;
use super::workspaces::Workspaces;
use super::{CompileFault, CompiledRoute, CompiledSnapshot, in_order, parse, upstreams};
use crate::listening::certificates::ServerNames;

/// Records that may have changed, and routes beside the whole, before all is compiled anew. A search looks at these one
/// by one at worst.
const MOST: usize = 256;

/// Routes that have changed since all was compiled, each with its workspace; none: it is gone.
pub(super) type Amended = BTreeMap<Uuid, Option<(Arc<Route>, Uuid)>>;

/// Compiles `snapshot`, which differs by `difference` from `old`, what `before` was compiled from; `None` if more is
/// touched than a few routes.
pub(super) fn amend(
    before: &CompiledSnapshot,
    old: &Snapshot,
    snapshot: &Snapshot,
    difference: &Difference,
    room: &Room,
) -> Option<Result<CompiledSnapshot, Vec<CompileFault>>> {
    // What is unfit may be mended by what others say: all is looked at anew.
    if difference.len() > MOST || !before.unfit.is_empty() {
        return None;
    }
    let mut amendment = Amendment::new(before, old, snapshot, difference)?;
    amendment.change_certificates();
    amendment.change_upstreams()?;
    amendment.change_services()?;
    amendment.change_plugins(room)?;
    amendment.change_routes()?;
    amendment.change_keys();
    amendment.change_groups();
    amendment.change_environments()?;
    amendment.finish(room)
}

/// One record before and after.
struct Changed {
    key: Key,
    /// That of the record as it is, if it is there.
    workspace: Uuid,
    before: Option<Record>,
    after: Option<Record>,
}

impl Changed {
    /// The record as it was. It could be compiled, so it can be read.
    fn was<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.before.as_ref()?.json).ok()
    }

    /// The record as it is, if it is there and can be read.
    fn is<T: DeserializeOwned>(&self, faults: &mut Vec<CompileFault>) -> Option<T> {
        let record = self.after.as_ref()?;
        parse(self.key.kind, self.key.id, &record.json, faults)
    }
}

/// What is under way from one compiled snapshot to the next.
struct Amendment<'a> {
    before: &'a CompiledSnapshot,
    old: &'a Snapshot,
    snapshot: &'a Snapshot,
    changes: BTreeMap<&'static str, Vec<Changed>>,
    ground: Ground,
    amended: Amended,
    /// Routes, services and upstreams that are not changed, but what they are compiled on is.
    touched: BTreeSet<Uuid>,
    services: BTreeSet<Uuid>,
    upstreams: BTreeSet<Uuid>,
    /// Whether a plugin of all routes has changed.
    everywhere: bool,
    server_names: Arc<ServerNames>,
    environments: Vec<Arc<Environment>>,
    revocations: Vec<Revocation>,
    faults: Vec<CompileFault>,
}

impl<'a> Amendment<'a> {
    fn new(
        before: &'a CompiledSnapshot,
        old: &'a Snapshot,
        snapshot: &'a Snapshot,
        difference: &Difference,
    ) -> Option<Self> {
        let ground = Ground::clone(&before.ground);
        let mut changes: BTreeMap<&'static str, Vec<Changed>> = BTreeMap::new();
        for key in difference.puts.iter().chain(&difference.removes) {
            let (was, is) = (old.record(key), snapshot.record(key));
            let workspace = Workspaces::of_one(is.as_ref().or(was.as_ref())?);
            // The first record of a workspace brings an environment with it, and its name may be told after it.
            ground.environment(workspace)?;
            let tells = key.kind == Workspace::KIND && ground.environment(key.id).is_some();
            (!tells).then_some(())?;
            changes.entry(key.kind).or_default().push(Changed {
                key: *key,
                workspace,
                before: was,
                after: is,
            });
        }
        let mut amendment = Self {
            before,
            old,
            snapshot,
            changes,
            ground,
            amended: before.amended.clone(),
            touched: BTreeSet::new(),
            services: BTreeSet::new(),
            upstreams: BTreeSet::new(),
            everywhere: false,
            server_names: Arc::clone(&before.server_names),
            environments: before.environments.clone(),
            revocations: Vec::new(),
            faults: Vec::new(),
        };
        for change in amendment.take(Revocation::KIND) {
            amendment
                .revocations
                .extend(change.is::<Revocation>(&mut amendment.faults));
        }
        Some(amendment)
    }

    fn take(&mut self, kind: &'static str) -> Vec<Changed> {
        self.changes.remove(kind).unwrap_or_default()
    }

    /// Every record of the kind `T`.
    fn all<T: Entity + DeserializeOwned>(&mut self) -> Vec<T> {
        let records = self.snapshot.of_kind(T::KIND);
        records
            .filter_map(|record| parse(T::KIND, record.key.id, &record.json, &mut self.faults))
            .collect()
    }

    /// The record `id` of the kind `T` as it is, with its workspace, if it is there and can be read.
    fn one<T: Entity + DeserializeOwned>(&mut self, id: Uuid) -> Option<(T, Uuid)> {
        let record = self.snapshot.record(&Key { kind: T::KIND, id })?;
        let found = parse(T::KIND, id, &record.json, &mut self.faults)?;
        Some((found, Workspaces::of_one(&record)))
    }

    fn change_upstreams(&mut self) -> Option<()> {
        let mut upstreams: HashMap<Uuid, upstreams::Change> = HashMap::new();
        let mut gone: Vec<Uuid> = Vec::new();
        let touched = std::mem::take(&mut self.upstreams).into_iter();
        let mut ids: BTreeSet<Uuid> = touched.collect();
        for change in self.take(Upstream::KIND) {
            match change.after {
                Some(_) => _ = ids.insert(change.key.id),
                None => gone.push(change.key.id),
            }
        }
        for id in ids {
            if let Some((upstream, workspace)) = self.one::<Upstream>(id) {
                let mut change = upstreams::Change::of(id);
                change.workspace = self.ground.names.of(workspace);
                change.upstream = Some(upstream);
                upstreams.insert(id, change);
            }
        }
        for change in self.take(Target::KIND) {
            let (was, is) = (
                change.was::<Target>(),
                change.is::<Target>(&mut self.faults),
            );
            for target in was.iter().chain(&is) {
                let id = target.upstream.id;
                let known = upstreams.entry(id);
                let known = known.or_insert_with(|| upstreams::Change::of(id));
                known.gone.insert(change.key.id);
            }
            if let Some(target) = is {
                let known = upstreams.get_mut(&target.upstream.id);
                if let Some(known) = known {
                    known.targets.push(target);
                }
            }
        }
        for id in gone {
            upstreams.remove(&id);
            self.ground.remove_upstream(id, &mut self.services);
        }
        for change in upstreams.values() {
            let (services, faults) = (&mut self.services, &mut self.faults);
            self.ground.put_upstream(change, services, faults)?;
        }
        Some(())
    }

    fn change_services(&mut self) -> Option<()> {
        let mut ids = std::mem::take(&mut self.services);
        if ids.len() > MOST {
            return None;
        }
        ids.extend(self.take(Service::KIND).iter().map(|change| change.key.id));
        for id in ids {
            self.touch_routes_of(id);
            match self.one::<Service>(id) {
                Some((service, workspace)) => {
                    let faults = &mut self.faults;
                    self.ground.put_service(service, workspace, faults);
                }
                None => self.ground.remove_service(id),
            }
        }
        Some(())
    }

    fn change_plugins(&mut self, room: &Room) -> Option<()> {
        for change in self.take(Plugin::KIND) {
            if let Err(message) = room.check() {
                self.faults.push(no_room(change.key.id, message));
                break;
            }
            let before = change.was::<Plugin>();
            let after = change.is::<Plugin>(&mut self.faults);
            for plugin in before.iter().chain(&after) {
                match (plugin.route, plugin.service) {
                    (Some(route), _) => _ = self.touched.insert(route.id),
                    (None, Some(service)) => self.touch_routes_of(service.id),
                    (None, None) => self.everywhere = true,
                }
            }
            let was_in = change.before.as_ref().map(Workspaces::of_one);
            self.ground.put_plugin(
                before.as_ref().zip(was_in),
                after.as_ref().map(|plugin| (plugin, change.workspace)),
                &mut self.faults,
            )?;
        }
        (self.ground.assembly.filters.newer().len() <= MOST).then_some(())
    }

    fn touch_routes_of(&mut self, service: Uuid) {
        self.touched.extend(self.ground.routes_of(service));
        let newer = self.amended.iter().filter(|(_, route)| {
            let route = route.as_ref().map(|(route, _)| route);
            route.is_some_and(|route| route.service.is_some_and(|owner| owner.id == service))
        });
        self.touched.extend(newer.map(|(id, _)| *id));
    }

    fn change_routes(&mut self) -> Option<()> {
        let changed = self
            .take(Route::KIND)
            .into_iter()
            .map(|change| change.key.id);
        let ids: BTreeSet<Uuid> = changed.chain(std::mem::take(&mut self.touched)).collect();
        if ids.len() > MOST {
            return None;
        }
        for id in ids {
            if self.ground.was_of_streams(id) {
                return None;
            }
            let key = Key {
                kind: Route::KIND,
                id,
            };
            let route = match self.snapshot.record(&key) {
                None => None,
                Some(record) => {
                    let route = parse::<Route>(key.kind, id, &record.json, &mut self.faults);
                    let Some(route) = route else { continue };
                    if is_of_streams(&route) {
                        return None;
                    }
                    Some((Arc::new(route), Workspaces::of_one(&record)))
                }
            };
            self.amended.insert(id, route);
        }
        (self.amended.len() <= MOST).then_some(())
    }

    fn change_environments(&mut self) -> Option<()> {
        let changes: Vec<Changed> = std::mem::take(&mut self.changes)
            .into_values()
            .flatten()
            .filter(|change| Looked::is_kind(change.key.kind))
            .collect();
        // What goes makes room first: a name may pass from one to another.
        for change in &changes {
            if let Some(record) = &change.before {
                let was = Looked::read(change.key, &record.json, &mut self.faults)?;
                was.remove(self.environment(Workspaces::of_one(record))?);
            }
        }
        let snapshot = self.snapshot;
        let groups = |id: Uuid| {
            let kind = ConsumerGroup::KIND;
            let record = snapshot.record(&Key { kind, id })?;
            let group: ConsumerGroup = serde_json::from_slice(&record.json).ok()?;
            Some(group.name)
        };
        for change in &changes {
            let Some(record) = &change.after else {
                continue;
            };
            let Some(is) = Looked::read(change.key, &record.json, &mut self.faults) else {
                continue;
            };
            is.add(self.environment(change.workspace)?, &groups);
        }
        Some(())
    }

    fn environment(&mut self, workspace: Uuid) -> Option<&mut Environment> {
        let place = self.ground.environment(workspace)?;
        Some(Arc::make_mut(self.environments.get_mut(place)?))
    }

    fn finish(mut self, room: &Room) -> Option<Result<CompiledSnapshot, Vec<CompileFault>>> {
        let newer: Vec<&(Arc<Route>, Uuid)> = self
            .amended
            .values()
            .flatten()
            .filter(|(route, _)| self.ground.serves(route))
            .collect();
        let mut logged = LoggedRecords::default();
        let mut compiled: Vec<CompiledRoute> = Vec::new();
        for (route, workspace) in &newer {
            let faults = &mut self.faults;
            compiled.push(self.ground.route(route, *workspace, &mut logged, faults));
        }
        let mut whole = self.before.routes.clone();
        if self.everywhere {
            // Under which names all routes are met, their records say.
            (!self.ground.newer_want_certificates()).then_some(())?;
            let (workspaces, ground) = (self.ground.workspaces(), &self.ground);
            whole = whole.remade(|route| {
                let workspace = workspaces.get(route.environment)?;
                ground.filtered(route, *workspace)
            })?;
        }
        let gone = self
            .amended
            .keys()
            .filter_map(|id| self.ground.place_of(*id));
        let routes: Vec<&Route> = newer.iter().map(|(route, _)| &**route).collect();
        let index = self.before.router.amended(gone, &routes, room);
        let index = index.unwrap_or_else(|found| {
            self.faults.extend(super::route_faults(found, &routes));
            super::Router::default()
        });
        if !self.faults.is_empty() {
            return Some(Err(in_order(self.faults)));
        }
        let before = self.before;
        let gone = self.amended.keys().filter_map(|id| {
            // What has changed before is no part of the whole any more.
            let place = self.ground.place_of(*id)?;
            (!before.amended.contains_key(id)).then_some(())?;
            let kind = Route::KIND;
            let record = self.old.record(&Key { kind, id: *id })?;
            let route: Route = serde_json::from_slice(&record.json).ok()?;
            Some((route, before.routes.get(place)?))
        });
        let newer = routes.iter().copied().zip(&compiled);
        let asking = before.asking.amended(gone, newer)?;
        let same_upstreams = Arc::ptr_eq(&self.ground.upstreams, &before.upstreams);
        let environment = self.ground.environment(shared::entity::DEFAULT_WORKSPACE)?;
        Some(Ok(CompiledSnapshot {
            asking,
            unfit: Unfit::default(),
            position: RwLock::new(self.snapshot.position),
            router: index,
            routes: whole.beside(compiled),
            stream_routes: Arc::clone(&before.stream_routes),
            environment: Arc::clone(self.environments.get(environment)?),
            environments: self.environments,
            revocations: Arc::new(self.revocations),
            upstreams: Arc::clone(&self.ground.upstreams),
            balancers: if same_upstreams {
                Arc::clone(&before.balancers)
            } else {
                Arc::new(OnceLock::new())
            },
            server_names: self.server_names,
            filters: self.ground.filters(),
            unrouted: self.ground.unrouted(),
            resolved: None,
            ground: Arc::new(self.ground),
            amended: self.amended,
        }))
    }
}

#[cfg(test)]
mod tests;
