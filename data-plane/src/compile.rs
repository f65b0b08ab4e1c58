//! Turns a snapshot into the value that requests run by: no lookup by name and no parsing is left for
//! a request to do.

mod amend;
pub(crate) mod asking;
mod environment;
pub(crate) mod filters;
mod fitness;
mod ground;
mod layered;
pub mod references;
pub mod room;
mod services;
mod streams;
mod tls;
pub(crate) mod upstreams;
mod workspaces;

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use plugins::environment::Environment;
use plugins::exchange::{Matched, Workspace};
use plugins::registry::AnyFilter;
use serde::de::DeserializeOwned;
use shared::entity::{
    CaCertificate, Certificate, ClientKey, ConsumerGroup, DEFAULT_WORKSPACE, PathHandling, Plugin,
    Protocol, Revocation, Route, Service, SessionKey, Sni, Target, Upstream,
};
use shared::snapshot::{Difference, Key, Position, Snapshot};
use uuid::Uuid;

use self::amend::Amended;
use self::asking::Asking;
use self::environment::Looked;
use self::filters::{Assembly, Filters, Subsystem};
use self::fitness::Unfit;
use self::ground::Ground;
pub(crate) use self::layered::Layered;
use self::references::Resolved;
use self::room::Room;
pub(crate) use self::services::{CompiledService, Destination};
use self::tls::{Authorities, Identities};
use self::upstreams::{CompiledUpstream, Named};
use self::workspaces::Workspaces;
use crate::balancer::{Balancer, Balancers};
use crate::listening::certificates::ServerNames;
use crate::metrics::Labels;
use crate::router::{RouteFault, Router};
use crate::streams::routes::StreamRoutes;
use crate::upstream::tls::defaults::TlsDefaults;

/// One field of one record that cannot be compiled.
#[derive(Clone, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[error("{kind} {id}: {field}: {message}")]
pub struct CompileFault {
    /// The record's collection.
    pub kind: &'static str,
    /// The record's id.
    pub id: Uuid,
    /// The field, with dots between levels.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl CompileFault {
    /// The record's key.
    pub(crate) const fn key(&self) -> Key {
        Key {
            kind: self.kind,
            id: self.id,
        }
    }
}

/// A whole configuration, ready to run.
#[derive(Debug)]
pub struct CompiledSnapshot {
    /// Which clients are asked for their certificates.
    pub(crate) asking: Asking,
    position: RwLock<Position>,
    pub(crate) router: Router,
    /// In the order that the router names them by.
    pub(crate) routes: Layered<CompiledRoute>,
    /// The routes of byte streams.
    pub(crate) stream_routes: Arc<StreamRoutes>,
    /// That of the default workspace.
    pub(crate) environment: Arc<Environment>,
    /// Those of all workspaces; routes name them by their place.
    environments: Vec<Arc<Environment>>,
    pub(crate) revocations: Arc<Vec<Revocation>>,
    pub(crate) upstreams: Arc<Vec<Arc<CompiledUpstream>>>,
    /// Those of the node that runs it, in the order of the upstreams.
    balancers: Arc<OnceLock<Vec<Arc<Balancer>>>>,
    /// The certificates to show to clients.
    pub(crate) server_names: Arc<ServerNames>,
    /// Every filter; routes name them by their place.
    pub(crate) filters: Layered<Arc<AnyFilter>>,
    /// Those of requests that match no route: they see the answer only.
    pub(crate) unrouted: Arc<Filters>,
    /// The records that it does without.
    unfit: Unfit,
    /// What it was compiled from where that is not the configuration alone, but secrets of the outside, too.
    resolved: Option<Resolved>,
    /// What a change is compiled on.
    ground: Arc<Ground>,
    /// The routes that have changed since all was compiled.
    amended: Amended,
}

impl CompiledSnapshot {
    /// Where the configuration stands.
    pub fn position(&self) -> Position {
        *self.position.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The balancers of its upstreams, in their order, out of those of the node that runs it.
    pub(crate) fn balancers(&self, node: &Balancers) -> &[Arc<Balancer>] {
        self.balancers.get_or_init(|| node.attach(&self.upstreams))
    }

    /// Compiles `snapshot` on this, which was compiled from `old` and differs by `difference`; `None` if all has to be
    /// compiled anew. Both are as they were read, with secrets in the place of references.
    pub(crate) fn amended(
        &self,
        old: &Snapshot,
        snapshot: &Snapshot,
        difference: &Difference,
        room: &Room,
    ) -> Option<Result<Self, Vec<CompileFault>>> {
        amend::amend(self, old, snapshot, difference, room)
    }

    /// The routes that there are, and of those that have just gone some.
    pub(crate) fn route_ids(&self) -> impl Iterator<Item = Uuid> {
        let streams = self.stream_routes.ids();
        self.routes.iter().map(|route| route.id).chain(streams)
    }

    /// What the filters of `route` look things up in: what is in its workspace.
    pub(crate) fn environment_of(&self, route: &CompiledRoute) -> &Environment {
        let own = self.environments.get(route.environment);
        own.unwrap_or(&self.environment)
    }

    /// The records that it does without, each with what is wrong with it. Requests that need one are refused.
    pub(crate) const fn unfit(&self) -> &Unfit {
        &self.unfit
    }

    /// What it was compiled from, if secrets of the outside are part of it.
    pub(crate) const fn resolved(&self) -> Option<&Resolved> {
        self.resolved.as_ref()
    }

    /// The same, known to be compiled from `resolved`, if secrets of the outside are part of it.
    pub(crate) fn read_from(self, resolved: Option<Resolved>) -> Self {
        Self { resolved, ..self }
    }

    /// The same content now stands elsewhere. Requests never look, so the lock costs them nothing.
    pub(crate) fn move_to(&self, position: Position) {
        *self
            .position
            .write()
            .unwrap_or_else(PoisonError::into_inner) = position;
    }
}

/// A route with everything that its requests need.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that Kong defines"
)]
pub(crate) struct CompiledRoute {
    pub(crate) id: Uuid,
    pub(crate) service: Option<Arc<CompiledService>>,
    /// Whether there is a service whose protocol is none that we speak.
    pub(crate) protocol_unsupported: bool,
    /// Whether there is a service that is not fit to be used.
    pub(crate) service_unfit: bool,
    pub(crate) strip_path: bool,
    pub(crate) preserve_host: bool,
    /// Whether a request's body is held back until it is there.
    pub(crate) request_buffering: bool,
    pub(crate) path_handling: PathHandling,
    /// The status that answers a plain request, if the route is for HTTPS only.
    pub(crate) https_only: Option<u16>,
    /// Whether the route is for gRPC.
    pub(crate) grpc: bool,
    pub(crate) filters: Arc<Filters>,
    /// The place of what its filters look things up in.
    environment: usize,
    /// What its exchanges are logged and counted by.
    pub(crate) account: Arc<Account>,
}

/// What an exchange of a route is logged and counted by, once it is over.
#[derive(Debug)]
pub(crate) struct Account {
    /// What filters call the route.
    pub(crate) matched: Matched,
    /// What its figures are shown under.
    pub(crate) labels: Arc<Labels>,
    /// The service that its requests go to, if they go anywhere.
    pub(crate) service: Option<Uuid>,
}

/// The records of a snapshot by kind.
#[derive(Default)]
struct Records {
    routes: Vec<Route>,
    services: Vec<Service>,
    plugins: Vec<Plugin>,
    looked: Vec<(Key, Looked)>,
    groups: Vec<ConsumerGroup>,
    session_keys: Vec<SessionKey>,
    client_keys: Vec<ClientKey>,
    certificates: Vec<Certificate>,
    revocations: Vec<Revocation>,
    upstreams: Vec<Upstream>,
    targets: Vec<Target>,
    ca_certificates: Vec<CaCertificate>,
    snis: Vec<Sni>,
}

/// Compiles `snapshot`, or names every field that stands in the way.
pub fn compile(snapshot: &Snapshot) -> Result<CompiledSnapshot, Vec<CompileFault>> {
    let compiled = compile_without(snapshot, &[], &Arc::default(), &Room::default())?;
    if compiled.unfit.is_empty() {
        Ok(compiled)
    } else {
        Err(compiled.unfit.into_faults())
    }
}

/// The same without what the rest can safely do without, and without the records of `lost`, whose secrets cannot be read;
/// as long as there is room. Services that say nothing of TLS go by `tls`.
pub(crate) fn compile_without(
    snapshot: &Snapshot,
    lost: &[CompileFault],
    tls: &Arc<TlsDefaults>,
    room: &Room,
) -> Result<CompiledSnapshot, Vec<CompileFault>> {
    let mut faults = lost.to_vec();
    let mut records = read(snapshot, &mut faults);
    let identities = Identities::compile(&records.certificates, &mut faults);
    let server_names = identities.server_names(&records.snis);
    let workspaces = Workspaces::in_snapshot(snapshot);
    let authorities = Authorities::compile(&records.ca_certificates, &mut faults);
    let upstreams = upstreams::compile(
        std::mem::take(&mut records.upstreams),
        std::mem::take(&mut records.targets),
        &identities,
        &workspaces,
        &mut faults,
    );
    let named = Named::of(&upstreams);
    let client_keys =
        environment::client_keys(&records.client_keys, &records.certificates, &mut faults);
    let (environments, places) = environment::by_workspace(
        records.looked,
        &records.groups,
        &records.session_keys,
        client_keys,
        &workspaces,
        &mut faults,
    );
    let plugins = &records.plugins;
    let assembly = Assembly::new(Subsystem::Http, plugins, &workspaces, room, &mut faults);
    let mut ground = Ground::new(identities, authorities, upstreams, named, assembly, places)
        .speaking(Arc::clone(tls))
        .calling(workspaces.names.clone());
    for service in records.services {
        let workspace = workspaces.of_record::<Service>(service.id);
        ground.put_service(service, workspace, &mut faults);
    }
    let stream_routes = streams::compile(
        &records.routes,
        plugins,
        &ground.services,
        &workspaces,
        room,
        &mut faults,
    );
    let routes: Vec<&Route> = records
        .routes
        .iter()
        .filter(|route| ground.serves(route))
        .collect();
    let index = router(&routes, room, &mut faults);
    let mut logged = filters::LoggedRecords::default();
    let whole = routes.iter().map(|route| {
        let workspace = workspaces.of_record::<Route>(route.id);
        ground.route(route, workspace, &mut logged, &mut faults)
    });
    let whole: Vec<CompiledRoute> = whole.collect();
    let asking = Asking::of(routes.iter().copied().zip(&whole));
    let whole = Layered::whole(whole);
    let unfit = Unfit::of(in_order(faults), lost)?;
    ground.place(&routes, &records.routes);
    Ok(CompiledSnapshot {
        unfit,
        asking,
        filters: ground.filters(),
        unrouted: ground.unrouted(),
        position: RwLock::new(snapshot.position),
        router: index,
        routes: whole,
        stream_routes: Arc::new(stream_routes),
        environment: ground
            .environment(DEFAULT_WORKSPACE)
            .and_then(|place| environments.get(place).cloned())
            .unwrap_or_default(),
        environments,
        revocations: Arc::new(records.revocations),
        upstreams: Arc::clone(&ground.upstreams),
        balancers: Arc::default(),
        server_names: Arc::new(server_names),
        resolved: None,
        ground: Arc::new(ground),
        amended: Amended::default(),
    })
}

/// The router of `routes`.
fn router(routes: &[&Route], room: &Room, faults: &mut Vec<CompileFault>) -> Router {
    Router::compile(routes, room).unwrap_or_else(|found| {
        faults.extend(route_faults(found, routes));
        Router::default()
    })
}

fn route_faults<'a>(
    found: Vec<RouteFault>,
    routes: &'a [&Route],
) -> impl Iterator<Item = CompileFault> + 'a {
    found.into_iter().filter_map(|fault| {
        let route = routes.get(fault.route)?;
        Some(CompileFault {
            kind: "routes",
            id: route.id,
            field: fault.field.to_owned(),
            message: fault.message,
        })
    })
}

/// Each fault once, by record and field.
fn in_order(mut faults: Vec<CompileFault>) -> Vec<CompileFault> {
    faults.sort_by(|a, b| (a.kind, a.id, &a.field).cmp(&(b.kind, b.id, &b.field)));
    faults.dedup();
    faults
}

/// What the figures of `route` of `workspace` are shown under.
fn labels(route: &Route, service: Option<&Service>, workspace: &Workspace) -> Labels {
    Labels {
        workspace: Arc::clone(&workspace.name),
        service: service
            .map(|service| match &service.name {
                Some(name) => name.as_str().to_owned(),
                None => service.host.as_str().to_owned(),
            })
            .unwrap_or_default(),
        route: match &route.name {
            Some(name) => name.as_str().to_owned(),
            None => route.id.to_string(),
        },
    }
}

const fn is_http(protocol: Protocol) -> bool {
    matches!(
        protocol,
        Protocol::Http | Protocol::Https | Protocol::Grpc | Protocol::Grpcs
    )
}

fn read(snapshot: &Snapshot, faults: &mut Vec<CompileFault>) -> Records {
    let mut records = Records::default();
    for record in snapshot.records() {
        let (kind, id, json) = (record.key.kind, record.key.id, &*record.json);
        match kind {
            "routes" => records.routes.extend(parse(kind, id, json, faults)),
            "services" => records.services.extend(parse(kind, id, json, faults)),
            "plugins" => records.plugins.extend(parse(kind, id, json, faults)),
            "consumer_groups" => records.groups.extend(parse(kind, id, json, faults)),
            "session_keys" => records.session_keys.extend(parse(kind, id, json, faults)),
            "client_keys" => records.client_keys.extend(parse(kind, id, json, faults)),
            "certificates" => records.certificates.extend(parse(kind, id, json, faults)),
            "revocations" => records
                .revocations
                .extend(parse::<Revocation>(kind, id, json, faults)),
            "upstreams" => records.upstreams.extend(parse(kind, id, json, faults)),
            "targets" => records.targets.extend(parse(kind, id, json, faults)),
            "ca_certificates" => {
                records
                    .ca_certificates
                    .extend(parse::<CaCertificate>(kind, id, json, faults));
            }
            "snis" => records.snis.extend(parse(kind, id, json, faults)),
            // A newer control plane may know kinds that no request here could need.
            _ => {
                let looked = Looked::read(record.key, json, faults);
                records
                    .looked
                    .extend(looked.map(|looked| (record.key, looked)));
            }
        }
    }
    records
}

fn parse<T: DeserializeOwned>(
    kind: &'static str,
    id: Uuid,
    json: &[u8],
    faults: &mut Vec<CompileFault>,
) -> Option<T> {
    serde_json::from_slice(json)
        .map_err(|error| {
            // Only the place: the text of the error may quote a secret.
            let message = format!("not a record of this kind (column {})", error.column());
            faults.push(CompileFault {
                kind,
                id,
                field: "@entity".to_owned(),
                message,
            });
        })
        .ok()
}

fn compile_route(
    route: &Route,
    labels: Labels,
    compiled: Option<Arc<CompiledService>>,
    filters: Arc<Filters>,
    matched: Matched,
    environment: usize,
) -> CompiledRoute {
    let service_unfit = route.service.is_some() && compiled.is_none();
    let service = compiled.filter(|service| !service.raw);
    let account = Account {
        matched,
        labels: Arc::new(labels),
        service: service.as_ref().map(|service| service.id),
    };
    let plain = route
        .protocols
        .as_slice()
        .iter()
        .any(|protocol| matches!(protocol, Protocol::Http | Protocol::Grpc));
    CompiledRoute {
        id: route.id,
        protocol_unsupported: route.service.is_some() && service.is_none(),
        service_unfit,
        service,
        strip_path: route.strip_path,
        preserve_host: route.preserve_host,
        request_buffering: route.request_buffering,
        path_handling: route.path_handling.unwrap_or(PathHandling::V0),
        https_only: (!plain).then(|| route.https_redirect_status_code.status()),
        grpc: route
            .protocols
            .as_slice()
            .iter()
            .any(|protocol| matches!(protocol, Protocol::Grpc | Protocol::Grpcs)),
        filters,
        environment,
        account: Arc::new(account),
    }
}
