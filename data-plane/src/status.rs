//! What operators and orchestrators ask: `/status`, `/status/ready`, `/metrics`,
//! `/openid-connect/explain/{request_id}`.

mod readiness;
mod upstreams;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use plugins::bundled::openid_connect::explain::Explanations;
use plugins::filter::{Counts, Filter as _, Trouble};
use plugins::registry::AnyFilter;
use serde_json::{Value, json};
use shared::amounts::Format;
use shared::clock::{UnixTime, monotonic};
use shared::machine::resident_bytes;
use shared::shares::Shares;
use shared::snapshot::{Position, short_hash};
use shared::telemetry::chain;
use shared::version::KONG_VERSION;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::balancer::show;
use crate::core::Node;
use crate::listening::tls::Tls;
use crate::metrics::{Sum, escape, family};
use crate::stream::{Corked, Stream};

/// Where balancers ask whether to send traffic here, and operators say whether they are to.
const READY: &str = "/status/ready";

/// Where the refusal of a request is explained, by its id.
const EXPLAIN: &str = "/openid-connect/explain/";

/// Connections at once, and those of one address; others wait, or are closed. They are on the same descriptors as clients'
/// connections.
const CONNECTIONS: usize = 64;
const OF_AN_ADDRESS: usize = 32;

/// How long a connection may be without a request.
const IDLE: Duration = Duration::from_secs(10);

/// Answers until the runtime ends, over `tls` if there is any.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, tls: Option<Tls>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let shares = Shares::new(OF_AN_ADDRESS);
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Ok((stream, address)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(share) = shares.take(address.ip()) else {
            tracing::debug!(%address, "a status connection is closed: its address has too many");
            continue;
        };
        let (node, tls) = (Arc::clone(&node), tls.clone());
        tokio::spawn(async move {
            let stream = match secured(stream, tls).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%address, %error, "TLS handshake with a status client");
                    return;
                }
            };
            let service = service_fn(move |request| {
                let node = Arc::clone(&node);
                async move { Ok::<_, Infallible>(answer(&node, request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                // It covers the time between two requests, too.
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(error = %chain(&error), "a status connection broke");
            }
            drop((place, share));
        });
    }
}

/// The connection after its handshake, if it has one.
async fn secured(stream: TcpStream, tls: Option<Tls>) -> io::Result<Stream> {
    let Some(tls) = tls else {
        return Ok(Stream::Plain(stream));
    };
    let socket = Corked::to_client(stream, BytesMut::new());
    let (stream, _) = tokio::time::timeout(IDLE, tls.accept(socket)).await??;
    Ok(stream)
}

async fn answer(node: &Node, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    // As in Kong.
    let path = path.strip_suffix('/').unwrap_or(path);
    if path == READY && request.method() == Method::POST {
        return readiness::set(node, request).await;
    }
    if let Some(answer) = upstreams::answer(node, &request, path) {
        return answer;
    }
    let page = page(node, path, request.uri().query());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads || page.status() == StatusCode::NOT_FOUND {
        return page;
    }
    let message = json!({ "message": "Method not allowed" });
    let mut refused = json_response(StatusCode::METHOD_NOT_ALLOWED, &message);
    let allowed = HeaderValue::from_static(if path == READY {
        "GET, HEAD, POST"
    } else {
        "GET, HEAD"
    });
    refused.headers_mut().insert(header::ALLOW, allowed);
    refused
}

/// What is at `path`, but for upstreams, as `query` asks for it.
fn page(node: &Node, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
    let position = node
        .live
        .load()
        .as_ref()
        .map(|snapshot| snapshot.position());
    match path {
        "/status" => match Format::parse(query) {
            Ok(format) => json_response(StatusCode::OK, &status(node, position, format)),
            Err(message) => json_response(StatusCode::BAD_REQUEST, &json!({ "message": message })),
        },
        READY => match unready(node, position) {
            Some(reason) => json_response(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({ "message": reason }),
            ),
            None => json_response(StatusCode::OK, &json!({ "message": "ready" })),
        },
        "/status/dns" => json_response(
            StatusCode::NOT_IMPLEMENTED,
            &json!({ "message": "not implemented with the legacy DNS client" }),
        ),
        "/metrics" => response(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            Sum::of(&node.metrics).render(&node.id, asked(node))
                + &identity(node)
                + &memory(node)
                + &health(node)
                + &configuration(node, position)
                + &openid_connect(node)
                + &node.expiring.metrics(&node.live)
                + &node.states.of::<Explanations>().metrics(),
        ),
        path if path.starts_with(EXPLAIN) => {
            let request_id = path.trim_start_matches(EXPLAIN);
            let explanations = node.states.of::<Explanations>();
            match explanations.find(request_id, UnixTime::now()) {
                Some(explanation) => json_response(StatusCode::OK, &explanation),
                None => json_response(
                    StatusCode::NOT_FOUND,
                    &json!({ "message": "no refusal of this request is known here" }),
                ),
            }
        }
        _ => json_response(StatusCode::NOT_FOUND, &json!({ "message": "Not found" })),
    }
}

/// What the node, which runs the configuration at `position`, holds and does; amounts of memory as `format` has them.
fn status(node: &Node, position: Option<Position>, format: Format) -> Value {
    let sum = Sum::of(&node.metrics);
    json!({
        "memory": format.memory(),
        "server": {
            "connections_accepted": sum.accepted,
            "connections_active": sum.open,
            "connections_handled": sum.accepted.saturating_sub(sum.refused),
            "connections_reading": sum.reading,
            "connections_waiting": sum.waiting(),
            "connections_writing": sum.writing,
            "total_requests": sum.requests,
        },
        // As the fleet view of the control plane shows it, and zeros without one: what Kong's clients wait for.
        "configuration_hash": short_hash(&position.unwrap_or_default().root),
        "configuration_revision": position.map(|position| position.revision.0),
        "control_plane": {
            "connected": node.contact.is_connected(),
            "silent_seconds": node.contact.silence(monotonic()).as_secs(),
            "revision": node.contact.target(),
        },
        "configuration_persisted": node.contact.is_persisted(position),
        "configuration_unfit": unfit(node),
        // `ssl_verify=false`.
        "openid_connect_unverified": unverified(node),
        // What they said before serves on.
        "openid_connect_failing": failing(node).into_iter().map(|trouble| json!({
            "issuer": trouble.issuer,
            "since": trouble.since.as_secs(),
            "reason": trouble.reason,
            "serves_from": trouble.serves_from.map(UnixTime::as_secs),
        })).collect::<Vec<_>>(),
        "ready": unready(node, position).is_none(),
    })
}

/// The records that the configuration does without, each with what is wrong with it.
fn unfit(node: &Node) -> Vec<Value> {
    let live = node.live.load();
    let faults = live.as_ref().map_or(&[][..], |live| live.unfit().faults());
    let shown = faults.iter().map(|fault| {
        json!({
            "entity_type": fault.kind,
            "entity_id": fault.id,
            "field": fault.field,
            "message": fault.message,
        })
    });
    shown.collect()
}

/// Why no new traffic is to come here, if so, to a node that runs the configuration at `position`.
fn unready(node: &Node, position: Option<Position>) -> Option<&'static str> {
    if position.is_none() {
        Some("no configuration has been received yet")
    } else if node.draining.load(Ordering::Acquire) {
        Some("the node is stopping")
    } else if node.withdrawn.load(Ordering::Relaxed) {
        Some("the node is draining: it was told to")
    } else if is_stale(node) {
        Some("no control plane has been heard for longer than max_staleness")
    } else if !node.contact.is_settled() {
        Some("the control plane is asked what has changed since the last run")
    } else {
        None
    }
}

/// Whether the operator wants no new traffic here, since no control plane has been heard for long.
fn is_stale(node: &Node) -> bool {
    let longest = node.max_staleness;
    longest.is_some_and(|longest| node.contact.silence(monotonic()) > longest)
}

/// Who the node is, and whether the control plane, its datastore, can be reached, under Kong's names.
fn identity(node: &Node) -> String {
    let id = escape(&node.id);
    let connected = u8::from(node.contact.is_connected());
    format!(
        "# HELP kong_datastore_reachable Datastore reachable from Kong, 0 is unreachable\n\
         # TYPE kong_datastore_reachable gauge\n\
         kong_datastore_reachable {connected}\n\
         # HELP kong_control_plane_connected Kong connected to control plane, 0 is unconnected\n\
         # TYPE kong_control_plane_connected gauge\n\
         kong_control_plane_connected {connected}\n\
         # HELP kong_node_info Kong Node metadata information\n\
         # TYPE kong_node_info gauge\n\
         kong_node_info{{node_id=\"{id}\",version=\"{KONG_VERSION}\"}} 1\n"
    )
}

/// What memory this process has in use, under the name of what Kong tells of each worker: there is one, without a Lua VM.
fn memory(node: &Node) -> String {
    let name = "kong_memory_workers_lua_vms_bytes";
    let (id, process) = (escape(&node.id), std::process::id());
    let bytes = resident_bytes();
    let help = "Resident memory of the process in bytes";
    let line =
        format!("{name}{{node_id=\"{id}\",pid=\"{process}\",kong_subsystem=\"http\"}} {bytes}\n");
    let mut text = String::new();
    family(&mut text, name, "gauge", help, &line);
    text
}

/// What the `prometheus` plugins that there are have told of routes: each of them shows what any of them asks for.
fn asked(node: &Node) -> Counts {
    let live = node.live.load();
    live.as_ref().map_or_else(Counts::default, |snapshot| {
        let filters = snapshot.filters.iter();
        let all = filters.filter_map(|filter| filter.counts());
        let all = all.chain(snapshot.stream_routes.counts());
        all.fold(Counts::default(), Counts::or)
    })
}

/// The health of targets as metrics, where a `prometheus` plugin asks for it; under the name of byte streams, too, where
/// one that sees these does.
fn health(node: &Node) -> String {
    let live = node.live.load();
    let Some(snapshot) = live.as_ref() else {
        return String::new();
    };
    let asks = |counts: Counts| counts.health;
    let mut subsystems = Vec::new();
    let filters = snapshot.filters.iter();
    if filters.filter_map(|filter| filter.counts()).any(asks) {
        subsystems.push("http");
    }
    if snapshot.stream_routes.counts().any(asks) {
        subsystems.push("stream");
    }
    if subsystems.is_empty() {
        return String::new();
    }
    show::metrics(snapshot.balancers(&node.balancers), &subsystems)
}

/// How many plugins sign users in by a provider whose certificate nobody looks at.
fn unverified(node: &Node) -> usize {
    let live = node.live.load();
    let unverified = |filter: &&Arc<AnyFilter>| filter.trusts_any_server();
    live.as_ref()
        .map_or(0, |live| live.filters.iter().filter(unverified).count())
}

/// The providers whose discovery fails, each once.
fn failing(node: &Node) -> BTreeSet<Trouble> {
    let live = node.live.load();
    let filters = live.iter().flat_map(|live| live.filters.iter());
    let now = UnixTime::now();
    let troubles = filters.filter_map(|filter| filter.trouble(&node.states, now));
    troubles.collect()
}

/// The same as metrics.
fn openid_connect(node: &Node) -> String {
    let mut text = String::new();
    for (name, help, value) in [
        (
            "wardgate_openid_connect_unverified",
            "Plugins that take any certificate of their OpenID provider (ssl_verify=false)",
            unverified(node),
        ),
        (
            "wardgate_openid_connect_failing",
            "OpenID providers that say nothing usable of themselves now: what they said before serves on",
            failing(node).len(),
        ),
    ] {
        family(&mut text, name, "gauge", help, &format!("{name} {value}\n"));
    }
    text
}

/// How far this node follows its control plane, as metrics.
fn configuration(node: &Node, position: Option<Position>) -> String {
    let contact = &node.contact;
    let revision = position.map_or(0, |position| position.revision.0);
    let lag = contact.target().saturating_sub(revision);
    let silence = contact.silence(monotonic()).as_secs();
    let live = node.live.load();
    let unfit = live.as_ref().map_or(0, |live| live.unfit().records());
    let unfit = u64::try_from(unfit).unwrap_or(u64::MAX);
    [
        (
            "revision",
            "Revision of the configuration that runs",
            revision,
        ),
        (
            "lag_revisions",
            "Revisions that the control plane is ahead",
            lag,
        ),
        (
            "persisted",
            "Whether what runs is also on disk",
            contact.is_persisted(position).into(),
        ),
        (
            "contact_age_seconds",
            "Time since a control plane was heard",
            silence,
        ),
        (
            "unfit_records",
            "Records that cannot be run: what needs them is refused",
            unfit,
        ),
        (
            "crash_restarts",
            "Starts that followed a crash",
            contact.crash_restarts(),
        ),
    ]
    .iter()
    .fold(String::new(), |text, (name, help, value)| {
        let name = format!("wardgate_config_{name}");
        format!("{text}# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
    })
}

fn json_response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    response(status, "application/json; charset=utf-8", body.to_string())
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
