//! Turns a snapshot into the value that requests run by: no lookup by name and no parsing is left for
//! a request to do.

mod environment;
pub(crate) mod filters;
pub mod references;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::HeaderValue;
use plugins::environment::Environment;
use plugins::exchange::Matched;
use plugins::registry::AnyFilter;
use rustls_pki_types::ServerName;
use serde::de::DeserializeOwned;
use shared::entity::{
    Acl, Certificate, ClientKey, Consumer, PathHandling, Plugin, Protocol, Revocation, Route,
    Service, SessionKey,
};
use shared::snapshot::{Position, Snapshot};
use uuid::Uuid;

use self::environment::Principals;
use self::filters::{Assembly, Filters};
use crate::metrics::Labels;
use crate::router::Router;
use crate::router::normalize::normalize;
use crate::upstream::exchange::Timeouts;
use crate::upstream::origin::{Origin, OriginKey, OriginTls};

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
    pub(crate) environment: Environment,
    pub(crate) revocations: Vec<Revocation>,
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
    pub(crate) service: Option<CompiledService>,
    /// Whether there is a service whose protocol is none that we speak.
    pub(crate) protocol_unsupported: bool,
    pub(crate) strip_path: bool,
    pub(crate) preserve_host: bool,
    pub(crate) path_handling: PathHandling,
    /// The status that answers a plain request, if the route is for HTTPS only.
    pub(crate) https_only: Option<u16>,
    /// Whether the route is for gRPC.
    pub(crate) grpc: bool,
    pub(crate) filters: Arc<Filters>,
    /// What filters call it.
    pub(crate) matched: Matched,
    /// What its figures are shown under.
    pub(crate) labels: Arc<Labels>,
}

/// A service with everything that its requests need.
#[derive(Clone, Debug)]
pub(crate) struct CompiledService {
    pub(crate) id: Uuid,
    pub(crate) origin: Arc<Origin>,
    /// The `Host` to send, unless the route preserves the client's.
    pub(crate) host: HeaderValue,
    pub(crate) path: String,
    pub(crate) timeouts: Timeouts,
    pub(crate) retries: u32,
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
}

/// Compiles `snapshot`, or names every field that stands in the way.
pub fn compile(snapshot: &Snapshot) -> Result<CompiledSnapshot, Vec<CompileFault>> {
    let mut faults = Vec::new();
    let records = read(snapshot, &mut faults);
    let mut services = HashMap::new();
    for service in records.services.values() {
        match compile_service(service) {
            Ok(Some(compiled)) => _ = services.insert(service.id, compiled),
            // Others must not wait for a configuration because of this one.
            Ok(None) => tracing::warn!(
                service = %service.id,
                protocol = ?service.protocol,
                "the protocol of a service is not supported: its routes answer 503"
            ),
            Err(fault) => faults.push(fault),
        }
    }
    // The routes of a disabled service do not exist, and those of byte streams are none of HTTP's.
    let routes: Vec<&Route> = records
        .routes
        .iter()
        .filter(|route| {
            route
                .protocols
                .as_slice()
                .iter()
                .any(|protocol| is_http(*protocol))
        })
        .filter(|route| {
            route.service.is_none_or(|service| {
                records
                    .services
                    .get(&service.id)
                    .is_none_or(|found| found.enabled)
            })
        })
        .collect();
    let index = Router::compile(&routes).unwrap_or_else(|found| {
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
    });
    let mut ready = Vec::with_capacity(routes.len());
    let mut assembly = Assembly::new(&records.plugins, &mut faults);
    let mut logged = filters::LoggedRecords::default();
    for route in routes {
        let service = route
            .service
            .and_then(|service| services.get(&service.id).cloned());
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
        let matched = filters::matched(route, owner, &filters, &mut logged);
        let labels = labels(route, owner);
        ready.push(compile_route(route, labels, service, filters, matched));
    }
    let mut environment = environment::compile(
        records.consumers,
        &records.acls,
        &records.session_keys,
        records.principals,
        &mut faults,
    );
    let client_keys =
        environment::client_keys(&records.client_keys, &records.certificates, &mut faults);
    environment.client_keys = Arc::new(client_keys);
    if !faults.is_empty() {
        faults.sort_by(|a, b| (a.kind, a.id, &a.field).cmp(&(b.kind, b.id, &b.field)));
        faults.dedup();
        return Err(faults);
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
        environment,
        revocations: records.revocations,
    })
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
    service: Option<CompiledService>,
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
        path_handling: route.path_handling.unwrap_or(PathHandling::V0),
        https_only: (!plain).then(|| route.https_redirect_status_code.status()),
        grpc: route
            .protocols
            .as_slice()
            .iter()
            .any(|protocol| matches!(protocol, Protocol::Grpc | Protocol::Grpcs)),
        filters,
        matched,
        labels: Arc::new(labels),
    }
}

/// Compiles `service`; `None` if its protocol is none that we speak.
fn compile_service(service: &Service) -> Result<Option<CompiledService>, CompileFault> {
    let fault = |field: &str, message: String| CompileFault {
        kind: "services",
        id: service.id,
        field: field.to_owned(),
        message,
    };
    let (tls, default_port) = match service.protocol {
        Protocol::Http => (false, 80),
        Protocol::Https => (true, 443),
        _ => return Ok(None),
    };
    let host = service.host.as_str().to_ascii_lowercase();
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let server_name = ServerName::try_from(bare.clone())
        .map_err(|_| fault("host", format!("not a DNS name or IP address: {host}")));
    let tls = if tls {
        Some(OriginTls {
            server_name: server_name?,
            verify: service.tls_verify.unwrap_or(false),
        })
    } else {
        None
    };
    let shown = if bare.contains(':') {
        format!("[{bare}]")
    } else {
        bare.clone()
    };
    let authority = if service.port == default_port {
        shown
    } else {
        format!("{shown}:{}", service.port)
    };
    let host_header = HeaderValue::from_str(&authority)
        .map_err(|_| fault("host", format!("not a host: {host}")))?;
    let milliseconds =
        |value: Option<u32>| Duration::from_millis(u64::from(value.unwrap_or(60_000)));
    let path = service.path.as_ref().map_or("/", |path| path.as_str());
    Ok(Some(CompiledService {
        id: service.id,
        origin: Origin::of(OriginKey {
            host: bare,
            port: service.port,
            tls,
        }),
        host: host_header,
        path: normalize(path).into_owned(),
        timeouts: Timeouts {
            connect: milliseconds(service.connect_timeout),
            write: milliseconds(service.write_timeout),
            read: milliseconds(service.read_timeout),
        },
        retries: service.retries.unwrap_or(5),
    }))
}
