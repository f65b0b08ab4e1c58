//! The filters of routes: each plugin at most once per request, by its most specific configuration,
//! in order of priority.
//!
//! A plugin record becomes one filter, however many routes it is attached to; routes name filters by
//! their place. Which configuration is the most specific may depend on the consumer, who is known
//! only once an authentication has run: a [`Slot`] decides when it is its turn.

mod placed;
mod rank;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderName;
use plugins::credentials::secret_names::SecretNames;
use plugins::environment::Membership;
use plugins::exchange::{Matched, Named, Records, Workspace};
use plugins::filter::{Filter as _, Phases};
use plugins::glance::Looks;
use plugins::listed_host::ListedHost;
use plugins::registry::AnyFilter;
use serde_json::Value;
use shared::entity::{DEFAULT_WORKSPACE, Entity as _, Plugin, Route, Service};
use shared::types::Name;
use uuid::Uuid;

pub(super) use self::placed::no_room;
use self::placed::{Placed, compile};
use super::room::Room;
use super::workspaces::Workspaces;
use super::{CompileFault, Layered, is_http};
use crate::http1::kind::Kind;

/// A route's filters, the one that runs first in front.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    pub(crate) slots: Vec<Slot>,
    /// Every filter that a slot may choose.
    pub(crate) all: Vec<usize>,
    /// Whether any of them may set request fields that no client may.
    pub(crate) owns_headers: bool,
    /// Which, but for those that say who a request comes from: no client may set them anywhere.
    pub(crate) owned_headers: Vec<HeaderName>,
    /// Response fields that only these filters may set.
    pub(crate) owned_response_headers: Vec<HeaderName>,
    /// What no log tells of requests that they see, and of the answers.
    pub(crate) secrets: Arc<SecretNames>,
    /// The later phases that any of them has a part in.
    pub(crate) phases: Phases,
    /// Whether any of them looks at the certificates of clients.
    pub(crate) wants_certificates: bool,
    /// Whether a glance may be enough for all of them together.
    pub(crate) glance: bool,
}

/// One plugin of a route, in its configurations for whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// For those who have no configuration of their own.
    base: Option<Choice>,
    /// With the route or the service, by consumer and by consumer group.
    own: Variants,
    /// The same for the consumer or the group alone: shared by all routes.
    anywhere: Arc<Variants>,
}

/// A filter and how specific it is.
#[derive(Clone, Copy, Debug)]
struct Choice {
    rank: u8,
    filter: usize,
}

#[derive(Debug, Default)]
struct Variants {
    consumers: HashMap<Uuid, Choice>,
    groups: HashMap<Uuid, Choice>,
    /// For consumers while they are in a group.
    members: HashMap<Uuid, Vec<(Uuid, Choice)>>,
}

impl Variants {
    fn is_empty(&self) -> bool {
        self.consumers.is_empty() && self.groups.is_empty() && self.members.is_empty()
    }
}

impl Slot {
    /// The filter for the consumer with these memberships, or for somebody in these groups, if any.
    pub(crate) fn choose(&self, consumer: Option<Uuid>, groups: &[Membership]) -> Option<usize> {
        if !self.depends_on_consumer() || (consumer.is_none() && groups.is_empty()) {
            return self.base.map(|choice| choice.filter);
        }
        let mut best = self.base;
        let mut offer = |choice: Option<&Choice>| {
            if let Some(choice) = choice
                && best.is_none_or(|best| best.rank < choice.rank)
            {
                best = Some(*choice);
            }
        };
        for variants in [&self.own, &*self.anywhere] {
            offer(consumer.and_then(|consumer| variants.consumers.get(&consumer)));
            for membership in groups {
                offer(variants.groups.get(&membership.group));
            }
            let members = consumer.and_then(|consumer| variants.members.get(&consumer));
            for (group, choice) in members.into_iter().flatten() {
                let is_member = groups.iter().any(|one| one.group == *group);
                offer(Some(choice).filter(|_| is_member));
            }
        }
        best.map(|choice| choice.filter)
    }

    /// Whether consumers have configurations of their own.
    pub(crate) fn depends_on_consumer(&self) -> bool {
        !self.own.is_empty() || !self.anywhere.is_empty()
    }

    /// Every filter that it may choose.
    fn all(&self) -> impl Iterator<Item = usize> {
        let variants = [&self.own, &*self.anywhere].into_iter();
        let variants = variants.flat_map(|variants| {
            let members = variants.members.values().flatten();
            let own = variants.consumers.values().chain(variants.groups.values());
            own.chain(members.map(|(_, choice)| choice))
        });
        self.base.iter().chain(variants).map(|choice| choice.filter)
    }
}

/// What filters call `route` and its service.
pub(super) fn matched(
    route: &Route,
    service: Option<&Service>,
    filters: &Filters,
    workspace: Workspace,
    logged: &mut LoggedRecords,
) -> Matched {
    let named = |id, name: Option<&Name>| Named {
        id,
        name: name.map(|name| name.as_str().to_owned()),
    };
    Matched {
        route: named(route.id, route.name.as_ref()),
        hosts: match &route.hosts {
            Some(hosts) if !filters.all.is_empty() => hosts.iter().map(ListedHost::from).collect(),
            _ => Box::default(),
        },
        service: service.map(|service| named(service.id, service.name.as_ref())),
        records: filters.phases.log.then(|| Records {
            route: Arc::new(json(route)),
            workspace,
            service: service.map_or_else(Arc::default, |service| {
                let known = logged.0.entry(service.id);
                Arc::clone(known.or_insert_with(|| Arc::new(json(service))))
            }),
        }),
    }
}

/// The services that are logged, each once.
#[derive(Debug, Default)]
pub(super) struct LoggedRecords(HashMap<Uuid, Arc<Value>>);

fn json(record: &impl serde::Serialize) -> Value {
    serde_json::to_value(record).unwrap_or_default()
}

/// The two kinds of traffic that plugins see, each in an assembly of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Subsystem {
    /// Requests.
    Http,
    /// Byte streams and datagrams.
    Streams,
}

impl Subsystem {
    /// Whether `plugin` runs here: a protocol of the kind is enough (Kong 3.9, plugins iterator).
    pub(super) fn runs(self, plugin: &Plugin) -> bool {
        let mut protocols = plugin.protocols.as_slice().iter();
        protocols.any(|protocol| is_http(*protocol) == (self == Self::Http))
    }
}

/// All filters of a snapshot, and what puts them together for a route.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pub(super) filters: Layered<Arc<AnyFilter>>,
    by_route: imbl::HashMap<Uuid, Vec<Placed>>,
    /// Of a service, without a route.
    by_service: imbl::HashMap<Uuid, Vec<Placed>>,
    /// Of neither, by workspace.
    anywhere: Arc<HashMap<Uuid, Vec<Placed>>>,
    /// Those among them that are for consumers and groups, by workspace and plugin.
    consumers: Arc<HashMap<(Uuid, &'static str), Arc<Variants>>>,
    /// What routes without plugins of their own share, by their service.
    shared: Mutex<Shared>,
}

/// Filters by workspace and service.
type Shared = HashMap<(Uuid, Option<Uuid>), Arc<Filters>>;

impl Clone for Assembly {
    /// What routes share is put together anew, since plugins of their service may change.
    fn clone(&self) -> Self {
        Self {
            filters: self.filters.clone(),
            by_route: self.by_route.clone(),
            by_service: self.by_service.clone(),
            anywhere: Arc::clone(&self.anywhere),
            consumers: Arc::clone(&self.consumers),
            shared: Mutex::default(),
        }
    }
}

impl Assembly {
    /// Compiles the filter of each enabled plugin that runs in `subsystem`.
    pub(super) fn new(
        subsystem: Subsystem,
        plugins: &[Plugin],
        workspaces: &Workspaces,
        room: &Room,
        faults: &mut Vec<CompileFault>,
    ) -> Self {
        let mut assembly = Self::default();
        let mut filters = Vec::new();
        let mut anywhere: HashMap<Uuid, Vec<Placed>> = HashMap::new();
        let mut consumers: HashMap<(Uuid, &str), Variants> = HashMap::new();
        // Ids are unique among the records of one kind only.
        let of_plugins = faults.iter().filter(|fault| fault.kind == Plugin::KIND);
        let unfit: HashSet<Uuid> = of_plugins.map(|fault| fault.id).collect();
        let runs = |plugin: &&Plugin| plugin.enabled && subsystem.runs(plugin);
        for plugin in plugins.iter().filter(runs) {
            if let Err(message) = room.check() {
                faults.push(no_room(plugin.id, message));
                break;
            }
            let is_faulty = unfit.contains(&plugin.id);
            let Some((placed, filter)) = compile(plugin, filters.len(), is_faulty, faults) else {
                continue;
            };
            filters.push(Arc::new(filter));
            if let Some(list) = assembly.own(&placed) {
                list.push(placed);
                continue;
            }
            let workspace = workspaces.of_record::<Plugin>(plugin.id);
            anywhere.entry(workspace).or_default().push(placed);
            placed.put(consumers.entry((workspace, placed.name)).or_default());
        }
        let consumers = consumers
            .into_iter()
            .filter(|(_, variants)| !variants.is_empty())
            .map(|(name, variants)| (name, Arc::new(variants)));
        assembly.consumers = Arc::new(consumers.collect());
        assembly.anywhere = Arc::new(anywhere);
        assembly.filters = Layered::whole(filters);
        assembly
    }

    /// The list that `placed` belongs to, if it is one of a route or a service.
    fn own(&mut self, placed: &Placed) -> Option<&mut Vec<Placed>> {
        match (placed.route, placed.service) {
            (Some(route), _) => Some(self.by_route.entry(route).or_default()),
            (None, Some(service)) => Some(self.by_service.entry(service).or_default()),
            (None, None) => None,
        }
    }

    /// Adds `plugin` of `workspace`, if it sees requests.
    pub(super) fn attach(
        &mut self,
        plugin: &Plugin,
        workspace: Uuid,
        faults: &mut Vec<CompileFault>,
    ) {
        if !plugin.enabled {
            return;
        }
        let Some((placed, filter)) = compile(plugin, self.filters.len(), false, faults) else {
            return;
        };
        if !Subsystem::Http.runs(plugin) {
            return;
        }
        self.filters.push(Arc::new(filter));
        let list = match self.own(&placed) {
            Some(list) => list,
            None => Arc::make_mut(&mut self.anywhere)
                .entry(workspace)
                .or_default(),
        };
        let place = list.partition_point(|other| other.id < placed.id);
        list.insert(place, placed);
        self.share(placed, workspace);
    }

    /// Takes `plugin` of `workspace` away, as it was attached; `None` if more depends on it.
    pub(super) fn detach(&mut self, plugin: &Plugin, workspace: Uuid) -> Option<()> {
        let list = match (plugin.route, plugin.service) {
            (Some(route), _) => self.by_route.get_mut(&route.id),
            (None, Some(service)) => self.by_service.get_mut(&service.id),
            (None, None) => Arc::make_mut(&mut self.anywhere).get_mut(&workspace),
        };
        let gone = list.and_then(|list| {
            let place = list.iter().position(|placed| placed.id == plugin.id);
            place.map(|place| list.remove(place))
        });
        let Some(placed) = gone else {
            return Some(());
        };
        self.share(placed, workspace);
        let gone = self.filters.get(placed.filter);
        // Whether clients are asked for certificates, and what is counted, depends on all of them.
        let is_seen =
            |filter: &Arc<AnyFilter>| filter.wants_certificates() || filter.counts().is_some();
        (!gone.is_some_and(is_seen)).then_some(())
    }

    /// Puts together anew what all routes of `workspace` share of the plugin of `placed`, which has come or gone.
    fn share(&mut self, placed: Placed, workspace: Uuid) {
        if placed.route.is_some() || placed.service.is_some() {
            return;
        }
        let mut variants = Variants::default();
        let all = self.anywhere.get(&workspace).into_iter().flatten();
        for other in all.filter(|other| other.name == placed.name) {
            other.put(&mut variants);
        }
        let (name, shared) = ((workspace, placed.name), Arc::make_mut(&mut self.consumers));
        if variants.is_empty() {
            shared.remove(&name);
        } else {
            shared.insert(name, Arc::new(variants));
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The filters of `route`, which is in `workspace`.
    pub(super) fn of_route(&self, route: &Route, workspace: Uuid) -> Arc<Filters> {
        let service = route.service.map(|service| service.id);
        self.of(route.id, service, workspace)
    }

    /// The filters of the route `id` of `service`, which is in `workspace`.
    pub(super) fn of(&self, id: Uuid, service: Option<Uuid>, workspace: Uuid) -> Arc<Filters> {
        if has(&self.by_route, id) {
            return Arc::new(self.assemble(workspace, Some(id), service));
        }
        let service = service.filter(|service| has(&self.by_service, *service));
        self.of_service(workspace, service)
    }

    /// What routes of `service` share that have no plugins of their own.
    fn of_service(&self, workspace: Uuid, service: Option<Uuid>) -> Arc<Filters> {
        let key = (workspace, service);
        let known = self.shared().get(&key).cloned();
        known.unwrap_or_else(|| {
            let made = Arc::new(self.assemble(workspace, None, service));
            self.shared().insert(key, Arc::clone(&made));
            made
        })
    }

    /// The filters of requests that match no route.
    pub(super) fn of_none(&self) -> Arc<Filters> {
        self.of_service(DEFAULT_WORKSPACE, None)
    }

    fn assemble(&self, workspace: Uuid, route: Option<Uuid>, service: Option<Uuid>) -> Filters {
        let of = |map: &imbl::HashMap<Uuid, Vec<Placed>>, id: Option<Uuid>| {
            id.and_then(|id| map.get(&id).cloned()).unwrap_or_default()
        };
        let own = of(&self.by_route, route)
            .into_iter()
            .filter(|placed| {
                placed
                    .service
                    .is_none_or(|reference| Some(reference) == service)
            })
            .chain(of(&self.by_service, service));
        let mut slots: BTreeMap<&str, (u32, Slot)> = BTreeMap::new();
        let anywhere = self.anywhere.get(&workspace).map_or(&[][..], Vec::as_slice);
        for placed in own.chain(anywhere.iter().copied()) {
            let (priority, slot) = slots.entry(placed.name).or_default();
            *priority = placed.priority;
            let alone = placed.route.is_none() && placed.service.is_none();
            if placed.is_for_everybody() {
                let choice = placed.choice();
                if slot.base.is_none_or(|base| base.rank < choice.rank) {
                    slot.base = Some(choice);
                }
            } else if !alone {
                placed.put(&mut slot.own);
            }
            if let Some(shared) = self.consumers.get(&(workspace, placed.name)) {
                slot.anywhere = Arc::clone(shared);
            }
        }
        let mut ordered: Vec<(u32, Slot)> = slots.into_values().collect();
        ordered.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        let slots: Vec<Slot> = ordered.into_iter().map(|(_, slot)| slot).collect();
        let mut owned_headers = Vec::new();
        let mut owned_response_headers = Vec::new();
        let mut secrets = SecretNames::default();
        let mut phases = Phases::NONE;
        let mut wants_certificates = false;
        let all: Vec<usize> = slots.iter().flat_map(Slot::all).collect();
        for filter in all.iter().filter_map(|filter| self.filters.get(*filter)) {
            add_new(&mut owned_headers, filter.owned_headers());
            add_new(&mut owned_response_headers, filter.owned_response_headers());
            secrets.extend(filter.secret_names());
            phases = phases.and(filter.phases());
            wants_certificates |= filter.wants_certificates();
        }
        let looks = slots.iter().filter_map(|slot| {
            let any = slot.all().filter_map(|place| self.filters.get(place));
            any.map(|filter| filter.looks()).min()
        });
        let glance = !phases.response && !phases.log && Looks::are_enough(looks);
        let owns_headers = !owned_headers.is_empty();
        owned_headers.retain(|name| Kind::of(name) != Kind::IDENTITY);
        Filters {
            slots,
            all,
            owns_headers,
            owned_headers,
            owned_response_headers,
            secrets: Arc::new(secrets),
            phases,
            wants_certificates,
            glance,
        }
    }
}

/// Adds those of `names` that are not there.
fn add_new(all: &mut Vec<HeaderName>, names: &[HeaderName]) {
    for name in names {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
}

/// Whether `id` has plugins of its own.
fn has(map: &imbl::HashMap<Uuid, Vec<Placed>>, id: Uuid) -> bool {
    map.get(&id).is_some_and(|list| !list.is_empty())
}

#[cfg(test)]
mod tests;
