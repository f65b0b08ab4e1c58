//! Turns a snapshot into the value that requests run by: no lookup by name and no parsing is left for
//! a request to do.

mod environment;
pub(crate) mod filters;
pub mod references;
mod services;
mod tls;
pub(crate) mod upstreams;
mod workspaces;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use plugins::environment::Environment;
use plugins::exchange::Matched;
use plugins::registry::AnyFilter;
use serde::de::DeserializeOwned;
use shared::entity::{
    Acl, CaCertificate, Certificate, ClientKey, Consumer, DEFAULT_WORKSPACE, PathHandling, Plugin,
    Protocol, Revocation, Route, Service, SessionKey, Sni, Target, Upstream,
};
use shared::snapshot::{Position, Snapshot};
use uuid::Uuid;

use self::environment::Principals;
use self::filters::{Assembly, Filters};
pub(crate) use self::services::{CompiledService, Destination};
use self::tls::Identities;
use self::upstreams::CompiledUpstream;
use self::workspaces::Workspaces;
use crate::balancer::{Balancer, Balancers};
use crate::certificates::ServerNames;
use crate::metrics::Labels;
use crate::router::Router;
use crate::stream_routes::{StreamRoute, StreamRoutes};

/// One field of one record that cannot be compiled.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
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

/// A whole configuration, ready to run.
#[derive(Debug)]
pub struct CompiledSnapshot {
    /// Whether clients are asked for their certificates.
    pub(crate) asks_for_certificates: bool,
    position: RwLock<Position>,
    pub(crate) router: Router,
    /// In the order that the router names them by.
    pub(crate) routes: Vec<CompiledRoute>,
    /// The routes of byte streams.
    pub(crate) stream_routes: StreamRoutes,
    /// That of the default workspace.
    pub(crate) environment: Arc<Environment>,
    pub(crate) revocations: Vec<Revocation>,
    pub(crate) upstreams: Vec<Arc<CompiledUpstream>>,
    /// Those of the node that runs it, in the order of the upstreams.
    balancers: OnceLock<Vec<Arc<Balancer>>>,
    /// The certificates to show to clients.
    pub(crate) server_names: ServerNames,
    /// Every filter; routes name them by their place.
    pub(crate) filters: Vec<AnyFilter>,
    /// Those of requests that match no route: they see the answer only.
    pub(crate) unrouted: Arc<Filters>,
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

    /// The same content now stands elsewhere. Requests never look, so the lock costs them nothing.
    pub(crate) fn move_to(&self, position: Position) {
        *self
            .position
            .write()
            .unwrap_or_else(PoisonError::into_inner) = position;
    }
}

/// A route with everything that its requests need.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that Kong defines"
)]
pub(crate) struct CompiledRoute {
    pub(crate) id: Uuid,
    pub(crate) service: Option<Arc<CompiledService>>,
    /// Whether there is a service whose protocol is none that we speak.
    pub(crate) protocol_unsupported: bool,
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
    /// What its filters look things up in: what is in its workspace.
    pub(crate) environment: Arc<Environment>,
    /// What filters call it.
    pub(crate) matched: Matched,
    /// What its figures are shown under.
    pub(crate) labels: Arc<Labels>,
}

/// The records of a snapshot by kind.
#[derive(Default)]
struct Records {
    routes: Vec<Route>,
    services: HashMap<Uuid, Service>,
    plugins: Vec<Plugin>,
    consumers: Vec<Consumer>,
    acls: Vec<Acl>,
    principals: Principals,
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
    let mut faults = Vec::new();
    let mut records = read(snapshot, &mut faults);
    let identities = Identities::compile(&records.certificates, &mut faults);
    let server_names = identities.server_names(&records.snis);
    let authorities = tls::authorities(&records.ca_certificates, &mut faults);
    let upstreams = upstreams::compile(
        std::mem::take(&mut records.upstreams),
        std::mem::take(&mut records.targets),
        &identities,
        &mut faults,
    );
    let workspaces = Workspaces::of(snapshot);
    let surroundings =
        services::Surroundings::new(&identities, &authorities, &upstreams, &workspaces);
    let mut services = HashMap::new();
    for service in records.services.values() {
        match services::compile(service, &surroundings) {
            Ok(compiled) => _ = services.insert(service.id, Arc::new(compiled)),
            Err(fault) => faults.push(fault),
        }
    }
    let routes = served(&records);
    let index = router(&routes, &mut faults);
    let mut ready = Vec::with_capacity(routes.len());
    let mut assembly = Assembly::new(&records.plugins, &workspaces, &mut faults);
    let mut logged = filters::LoggedRecords::default();
    for route in routes {
        let service = route
            .service
            .and_then(|service| services.get(&service.id).cloned())
            .filter(|service| !service.raw);
        if let Some(reference) = route.service
            && !records.services.contains_key(&reference.id)
        {
            faults.push(CompileFault {
                kind: "routes",
                id: route.id,
                field: "service".to_owned(),
                message: format!("the service {} does not exist", reference.id),
            });
        }
        let filters = assembly.of_route(route);
        let owner = route
            .service
            .and_then(|reference| records.services.get(&reference.id));
        let workspace = workspaces.of_record(route.id);
        let matched = filters::matched(route, owner, &filters, workspace, &mut logged);
        let labels = labels(route, owner);
        ready.push(compile_route(route, labels, service, filters, matched));
    }
    let stream_routes = stream_routes(&records, &services);
    let client_keys =
        environment::client_keys(&records.client_keys, &records.certificates, &mut faults);
    let environments = environment::by_workspace(
        (records.consumers, records.acls, records.principals),
        &records.session_keys,
        &Arc::new(client_keys),
        &workspaces,
        &mut faults,
    );
    let environment_of = |workspace| environments.get(&workspace).cloned().unwrap_or_default();
    for route in &mut ready {
        route.environment = environment_of(workspaces.of_record(route.id));
    }
    if !faults.is_empty() {
        return Err(in_order(faults));
    }
    let unrouted = assembly.of_none();
    let asks_for_certificates = assembly
        .filters
        .iter()
        .any(plugins::filter::Filter::wants_certificates);
    Ok(CompiledSnapshot {
        asks_for_certificates,
        filters: assembly.filters,
        unrouted,
        position: RwLock::new(snapshot.position),
        router: index,
        routes: ready,
        stream_routes,
        environment: environment_of(DEFAULT_WORKSPACE),
        revocations: records.revocations,
        upstreams,
        balancers: OnceLock::new(),
        server_names,
    })
}

/// The router of `routes`.
fn router(routes: &[&Route], faults: &mut Vec<CompileFault>) -> Router {
    Router::compile(routes).unwrap_or_else(|found| {
        faults.extend(found.into_iter().filter_map(|fault| {
            let route = routes.get(fault.route)?;
            Some(CompileFault {
                kind: "routes",
                id: route.id,
                field: fault.field.to_owned(),
                message: fault.message,
            })
        }));
        Router::default()
    })
}

/// Each fault once, by record and field.
fn in_order(mut faults: Vec<CompileFault>) -> Vec<CompileFault> {
    faults.sort_by(|a, b| (a.kind, a.id, &a.field).cmp(&(b.kind, b.id, &b.field)));
    faults.dedup();
    faults
}

/// The routes that exist for requests: those of a disabled service do not, and those of byte streams are none
/// of HTTP's.
fn served(records: &Records) -> Vec<&Route> {
    let is_http = |route: &&Route| {
        let mut protocols = route.protocols.as_slice().iter();
        protocols.any(|protocol| is_http(*protocol))
    };
    let routes = records.routes.iter();
    let enabled = routes.filter(|route| is_enabled(records, route));
    enabled.filter(is_http).collect()
}

/// Whether the service of `route`, if there is one, is enabled.
fn is_enabled(records: &Records, route: &Route) -> bool {
    route.service.is_none_or(|service| {
        let service = records.services.get(&service.id);
        service.is_none_or(|found| found.enabled)
    })
}

/// The routes of byte streams.
fn stream_routes(
    records: &Records,
    services: &HashMap<Uuid, Arc<CompiledService>>,
) -> StreamRoutes {
    let enabled = records
        .routes
        .iter()
        .filter(|route| is_enabled(records, route));
    let compiled = enabled.filter_map(|route| {
        let service = route.service.and_then(|service| services.get(&service.id));
        let compiled = StreamRoute::compile(route, service.cloned())?;
        Some((compiled, route.created_at))
    });
    StreamRoutes::new(compiled.collect())
}

/// What the figures of `route` are shown under.
fn labels(route: &Route, service: Option<&Service>) -> Labels {
    Labels {
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
    for record in &snapshot.records {
        let (kind, id, json) = (record.key.kind, record.key.id, &*record.json);
        match kind {
            "routes" => records.routes.extend(parse(kind, id, json, faults)),
            "services" => {
                records.services.extend(
                    parse::<Service>(kind, id, json, faults).map(|service| (service.id, service)),
                );
            }
            "plugins" => records.plugins.extend(parse(kind, id, json, faults)),
            "consumers" => records.consumers.extend(parse(kind, id, json, faults)),
            "consumer_groups" => {
                let groups = &mut records.principals.groups;
                groups.extend(parse(kind, id, json, faults));
            }
            "consumer_group_consumers" => {
                let members = &mut records.principals.members;
                members.extend(parse(kind, id, json, faults));
            }
            "keyauth_credentials" => {
                let keys = &mut records.principals.keys;
                keys.extend(parse(kind, id, json, faults));
            }
            "basicauth_credentials" => {
                let passwords = &mut records.principals.passwords;
                passwords.extend(parse(kind, id, json, faults));
            }
            "hmacauth_credentials" => {
                let signers = &mut records.principals.signers;
                signers.extend(parse(kind, id, json, faults));
            }
            "jwt_secrets" => {
                let jwts = &mut records.principals.jwts;
                jwts.extend(parse(kind, id, json, faults));
            }
            "acls" => records.acls.extend(parse(kind, id, json, faults)),
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
            _ => {}
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
    service: Option<Arc<CompiledService>>,
    filters: Arc<Filters>,
    matched: Matched,
) -> CompiledRoute {
    let plain = route
        .protocols
        .as_slice()
        .iter()
        .any(|protocol| matches!(protocol, Protocol::Http | Protocol::Grpc));
    CompiledRoute {
        id: route.id,
        protocol_unsupported: route.service.is_some() && service.is_none(),
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
        environment: Arc::default(),
        matched,
        labels: Arc::new(labels),
    }
}
