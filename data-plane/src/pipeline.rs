//! One exchange from its first to its last decision: route, filters, upstream, answer.

mod phases;
mod record;
mod request;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use http::request::Parts;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use plugins::exchange::{
    BodyError, BodySource, Exchange, Identity, Notes, Overrides, Seen, Source,
};
use plugins::filter::Filter as _;
use shared::clock::{UnixTime, monotonic};
use shared::version::KONG_PRODUCT;

use self::record::{Progress, Record, Recorded, Run, milliseconds};
use self::request::{authority, client, forwarded, is_replaced, is_replaced_if_trusted};
use crate::body::{RequestBody, RequestBodyError, ResponseBody};
use crate::compile::{CompiledRoute, CompiledService, CompiledSnapshot};
use crate::core::Core;
use crate::error::form::is_grpc;
use crate::error::{GatewayError, grpc_response, message_response};
use crate::forward::{self, Outgoing, fields, request_framing, upstream_host, wanted_upgrade};
use crate::http1::Framing;
use crate::router::normalize::{is_well_formed, normalize};
use crate::router::upstream_path::upstream_path;
use crate::router::{Asked, Found};

pub(crate) use self::request::{Added, Peer};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-kong-request-id");
const UPSTREAM_LATENCY: HeaderName = HeaderName::from_static("x-kong-upstream-latency");
const PROXY_LATENCY: HeaderName = HeaderName::from_static("x-kong-proxy-latency");
const UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-kong-upstream-status");
const DEBUG: HeaderName = HeaderName::from_static("kong-debug");
const RESPONSE_LATENCY: HeaderName = HeaderName::from_static("x-kong-response-latency");

/// Room for the fields that the gateway adds to a request.
const ADDED: usize = 10;

/// Answers one request.
pub(crate) async fn handle(
    core: Rc<Core>,
    peer: Rc<Peer>,
    request: Request<Incoming>,
) -> Response<Recorded> {
    let refusal = peer.gate.begin();
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let logged = core.node.access_log.is_on() && refusal.is_none();
    let mut record = Box::new(Record {
        gate: Arc::clone(&peer.gate),
        progress: Progress::begin(),
        started_at: UnixTime::now(),
        request_id: core.request_id(),
        asked: logged.then(|| (parts.method.clone(), parts.uri.clone())),
        client: peer.address(),
        host: String::new(),
        wish: parts
            .headers
            .get(header::ACCEPT)
            .or_else(|| parts.headers.get(header::CONTENT_TYPE))
            .cloned(),
        debug: wants_debug(&core, &parts.headers),
        route: None,
        consumer: None,
        status: record::CLIENT_LEFT,
        sent: 0,
        received: Rc::default(),
        run: Run::default(),
        core,
    });
    let answered = match refusal {
        Some(refusal) => Err(refusal.into()),
        None => answer(&peer, parts, body, &mut record).await,
    };
    let mut response = answered.unwrap_or_else(|error| refuse(&error, &record, version));
    if !record.run.response_headers.is_empty() {
        // What filters tell the client, such as a session that has just begun, it hears even if the
        // upstream fails.
        add(
            &mut response,
            std::mem::take(&mut record.run.response_headers),
        );
    }
    if record.run.phases.response {
        phases::respond(&mut response, &mut record).await;
    }
    sign(response.headers_mut(), &record);
    record.status = response.status();
    record.run.keep(response.headers());
    response.map(|body| Recorded::new(body, record))
}

async fn answer(
    peer: &Peer,
    mut parts: Parts,
    body: Incoming,
    record: &mut Record,
) -> Result<Response<ResponseBody>, GatewayError> {
    let core = Rc::clone(&record.core);
    let authority = authority(&parts)?;
    let snapshot = core.snapshot().ok_or(GatewayError::NotReady)?;
    if !is_well_formed(parts.uri.path()) {
        return Err(GatewayError::BadRequest("the path has a malformed triplet"));
    }
    let path = normalize(parts.uri.path()).into_owned();
    let trusted = core.node.trusted.contains(peer.address());
    let real = trusted
        .then(|| core.node.real_ip.client(&parts.headers, &core.node.trusted))
        .flatten();
    let client = client(&parts, peer, real, trusted, &authority);
    (record.client, record.host) = (client.address, authority.clone());
    let found = snapshot.router.find(&Asked {
        method: &parts.method,
        path: &path,
        authority: &authority,
        headers: &parts.headers,
        server_name: peer.server_name.as_deref(),
        https: peer.tls,
    });
    let Some((found, route)) =
        found.and_then(|found| Some((found, snapshot.routes.get(found.route)?)))
    else {
        record
            .run
            .unrouted(&snapshot, parts, client, &record.request_id);
        return Err(GatewayError::NoRoute);
    };
    record.route = Some((Rc::clone(&snapshot), found.route));
    if let Some(answer) = protocol_answer(route, &parts, &client, &record.request_id) {
        record.progress.source = Source::Exit;
        return answer;
    }
    let upgrade = wanted_upgrade(&parts);
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    // Before filters add fields: a client that names these in `Connection` must not make them vanish.
    let trailers = fields::strip_hop_by_hop(&mut parts.headers);
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    remove_identity(&mut parts.headers, route);
    let mut body = Body {
        rest: RequestBody::Incoming(body, Rc::clone(&record.received)),
        patience: core.node.limits.body,
        read: None,
    };
    let mut exchange = Exchange {
        request: parts,
        captures: snapshot.router.captures(found, &path),
        path,
        client,
        identity: Identity::default(),
        response_headers: Vec::new(),
        body: &mut body,
        environment: &snapshot.environment,
        matched: &route.matched,
        upstream: Overrides::default(),
        notes: Notes::default(),
        request_id: record.request_id.clone(),
    };
    let answered = phases::ask(&snapshot, route, &mut exchange, &core, &mut record.run).await;
    record.identify(&exchange.identity);
    let (path, overrides) = record.run.take(exchange, method, uri);
    if let Some(answer) = answered {
        record.progress.source = Source::Exit;
        return Ok(answer.map(ResponseBody::Full));
    }
    let inbound = Inbound {
        path,
        trusted,
        upgrade,
        on_upgrade,
        trailers,
        overrides,
    };
    match (&route.service, &mut record.run.seen) {
        (Some(service), Some(seen)) => {
            let body = body.whole();
            let progress = &mut record.progress;
            proxy(
                &core, peer, &snapshot, route, service, found, inbound, body, seen, progress,
            )
            .await
        }
        (None, _) if route.protocol_unsupported => Err(GatewayError::Protocol),
        _ => Err(GatewayError::NoService),
    }
}

/// What a request that its filters have let through is, beside what they have seen of it.
struct Inbound {
    path: String,
    trusted: bool,
    upgrade: Option<HeaderValue>,
    on_upgrade: Option<OnUpgrade>,
    /// Whether the client takes trailers.
    trailers: bool,
    overrides: Overrides,
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call that binds everything an exchange has gathered"
)]
async fn proxy(
    core: &Rc<Core>,
    peer: &Peer,
    snapshot: &CompiledSnapshot,
    route: &CompiledRoute,
    service: &CompiledService,
    found: Found,
    inbound: Inbound,
    body: RequestBody,
    seen: &mut Seen,
    progress: &mut Progress,
) -> Result<Response<ResponseBody>, GatewayError> {
    let Inbound {
        path,
        trusted,
        upgrade,
        on_upgrade,
        trailers,
        overrides,
    } = inbound;
    let (parts, client) = (&mut seen.request, &seen.client);
    let strip = if route.strip_path {
        found.matched
    } else {
        None
    };
    let mut target = overrides
        .path
        .unwrap_or_else(|| upstream_path(route.path_handling, &service.path, &path, strip));
    if let Some(query) = parts.uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let (framing, body) = if let Some(bytes) = overrides.body {
        replaced(bytes)
    } else {
        let framing =
            request_framing(parts, &body).map_err(|_| GatewayError::BadRequest("framing"))?;
        let limit = overrides.body_limit.filter(|_| framing == Framing::Chunked);
        (framing, body.limited(limit))
    };
    let version = parts.version;
    if version == Version::HTTP_2 {
        fields::join_cookies(&mut parts.headers);
    }
    let prefix = strip
        .and_then(|length| path.get(..length))
        .filter(|prefix| *prefix != "/");
    let mut added = Vec::with_capacity(ADDED);
    forwarded(
        &parts.headers,
        peer,
        trusted,
        client,
        seen.uri.path(),
        prefix,
        &mut added,
    );
    if core.node.told.request_id_upstream
        && let Ok(value) = HeaderValue::from_str(&seen.request_id)
    {
        added.push((REQUEST_ID, value));
    }
    added.push((header::VIA, fields::via(&parts.headers, version)));
    let preserved = route.preserve_host.then_some(client.authority.as_str());
    let host = overrides
        .host
        .unwrap_or_else(|| upstream_host(service, preserved));
    let outgoing = Outgoing {
        origin: &service.origin,
        method: &parts.method,
        target: &target,
        host: &host,
        headers: &parts.headers,
        is_replaced: if trusted {
            is_replaced_if_trusted
        } else {
            is_replaced
        },
        added: &added,
        upgrade: upgrade.as_ref().filter(|_| on_upgrade.is_some()),
        trailers,
        timeouts: service.timeouts,
        retries: service.retries,
    };
    progress.proxy_latency = Some(milliseconds(progress.start));
    let sent = monotonic();
    let answered = forward::send(core, &outgoing, framing, body).await;
    progress.upstream_latency = Some(milliseconds(sent));
    let answer = answered?;
    progress.source = Source::Service;
    progress.upstream_status = Some(answer.head.status);
    // What the server was asked for may be another method than what the client is waiting for.
    let mut response = forward::response(answer, &parts.method);
    if parts.method == Method::HEAD && seen.method != Method::HEAD {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let ResponseBody::Tunnel(_) = response.body()
        && let ResponseBody::Tunnel(connection) =
            std::mem::replace(response.body_mut(), ResponseBody::Empty)
        && let Some(client) = on_upgrade
    {
        peer.gate.switch();
        forward::tunnel(client, connection, service.timeouts.read);
    }
    remove_owned_cookies(response.headers_mut(), snapshot, route);
    Ok(response)
}

/// A body that a filter sends in place of the client's.
fn replaced(bytes: Bytes) -> (Framing, RequestBody) {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let body = if bytes.is_empty() {
        RequestBody::Empty
    } else {
        RequestBody::Read(bytes, Box::new(RequestBody::Empty))
    };
    (Framing::Length(length), body)
}

/// Writes what the gateway says of every answer, as far as operators want it told: who made it, how long
/// that took, and its name.
fn sign(headers: &mut HeaderMap, record: &Record) {
    let progress = &record.progress;
    let told = record.core.node.told;
    // A server that was asked in vain was asked all the same.
    let asked = progress.proxy_latency.zip(progress.upstream_latency);
    let answered = progress.source == Source::Service;
    if !answered && told.server && !headers.contains_key(header::SERVER) {
        headers.insert(header::SERVER, HeaderValue::from_static(KONG_PRODUCT));
    }
    if let Some((proxy, upstream)) = asked {
        if told.upstream_latency {
            headers.insert(UPSTREAM_LATENCY, upstream.into());
        }
        if told.proxy_latency {
            headers.insert(PROXY_LATENCY, proxy.into());
        }
        if told.via {
            let via = fields::via(headers, Version::HTTP_11);
            headers.insert(header::VIA, via);
        }
    } else if told.response_latency {
        headers.insert(RESPONSE_LATENCY, milliseconds(progress.start).into());
    }
    if told.upstream_status
        && let Some(status) = progress.upstream_status
    {
        headers.insert(UPSTREAM_STATUS, status.as_u16().into());
    }
    if told.request_id
        && let Ok(value) = HeaderValue::from_str(&record.request_id)
    {
        headers.insert(REQUEST_ID, value);
    }
    if record.debug
        && let Some((snapshot, place)) = &record.route
        && let Some(route) = snapshot.routes.get(*place)
    {
        add_debug(headers, route);
    }
}

/// Whether the client asks which route it has met, and may.
fn wants_debug(core: &Core, headers: &HeaderMap) -> bool {
    core.node.debug
        && headers
            .get(DEBUG)
            .is_some_and(|value| value.as_bytes() == b"1")
}

/// Tells which route and service a request has met (Kong 3.9, `Kong-Debug`).
fn add_debug(headers: &mut HeaderMap, route: &CompiledRoute) {
    let matched = &route.matched;
    let mut tell = |name: &'static str, value: &str| {
        // A name beyond what a field's value can hold is not told.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    tell("kong-route-id", &matched.route.id.to_string());
    if let Some(name) = &matched.route.name {
        tell("kong-route-name", name);
    }
    if let Some(service) = &matched.service {
        tell("kong-service-id", &service.id.to_string());
        if let Some(name) = &service.name {
            tell("kong-service-name", name);
        }
    }
}

/// What answers a request that its route's protocols do not fit (Kong 3.9, runloop before `access`).
fn protocol_answer(
    route: &CompiledRoute,
    parts: &Parts,
    client: &plugins::exchange::Client,
    request_id: &str,
) -> Option<Result<Response<ResponseBody>, GatewayError>> {
    if route.grpc {
        if parts.version != Version::HTTP_2 {
            return Some(Err(GatewayError::NotHttp2));
        }
        if !parts.headers.get(header::CONTENT_TYPE).is_some_and(is_grpc) {
            return Some(Err(GatewayError::NotGrpc));
        }
    }
    let status = route.https_only.filter(|_| !client.https)?;
    if route.grpc {
        let message = "gRPC request matched gRPCs route";
        return Some(Ok(grpc_response(StatusCode::OK, 1, message)));
    }
    Some(Ok(to_https(status, &client.authority, parts, request_id)))
}

/// The answer to a request that cannot be served.
fn refuse(error: &GatewayError, record: &Record, version: Version) -> Response<ResponseBody> {
    let request_id = record.request_id.as_str();
    if let GatewayError::Upstream(error) = error {
        tracing::warn!(
            request_id,
            error = chain(error),
            "the upstream gave no answer"
        );
    }
    let default = record.core.node.error_default_type;
    error.response(request_id, version, record.wish.as_ref(), default)
}

fn to_https(
    status: u16,
    authority: &str,
    parts: &Parts,
    request_id: &str,
) -> Response<ResponseBody> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UPGRADE_REQUIRED);
    let path = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let (host, _) = crate::router::split_port(authority);
    let location = HeaderValue::from_str(&format!("https://{host}{path}"));
    match location {
        Ok(location) if status != StatusCode::UPGRADE_REQUIRED => {
            let mut response = Response::new(ResponseBody::Empty);
            *response.status_mut() = status;
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        _ => {
            let mut response = message_response(
                StatusCode::UPGRADE_REQUIRED,
                "Please use HTTPS protocol",
                request_id,
            );
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            response.headers_mut().insert(
                header::UPGRADE,
                HeaderValue::from_static("TLS/1.2, HTTP/1.1"),
            );
            response
        }
    }
}

fn add(response: &mut Response<ResponseBody>, headers: Vec<(HeaderName, HeaderValue)>) {
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
}

/// Removes what only filters may say of a request.
fn remove_identity(headers: &mut HeaderMap, route: &CompiledRoute) {
    let owned = &route.filters.owned_headers;
    fields::remove_where(headers, |name| {
        fields::is_identity(name.as_str())
            || fields::is_disguised(name.as_str())
            || owned.iter().any(|owned| same_field(owned, name))
    });
}

/// Removes cookies that an upstream sets under names that belong to a filter.
fn remove_owned_cookies(
    headers: &mut HeaderMap,
    snapshot: &CompiledSnapshot,
    route: &CompiledRoute,
) {
    let owned = |value: &HeaderValue| {
        let name = value
            .as_bytes()
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default();
        str::from_utf8(name).is_ok_and(|name| {
            let mut all = route.filters.all.iter();
            all.any(|filter| {
                let filter = snapshot.filters.get(*filter);
                filter.is_some_and(|filter| filter.owns_cookie(name.trim()))
            })
        })
    };
    if !headers.get_all(header::SET_COOKIE).iter().any(owned) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| !owned(value))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// Equal but for `_` in place of `-`.
fn same_field(owned: &HeaderName, name: &HeaderName) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    owned
        .as_str()
        .bytes()
        .map(plain)
        .eq(name.as_str().bytes().map(plain))
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// The request's body, which a filter may read before it is forwarded.
struct Body {
    rest: RequestBody,
    /// Longest wait for the client's next bytes.
    patience: Duration,
    /// What a filter has read, and whether that is all.
    read: Option<(Bytes, bool)>,
}

impl Body {
    /// The body from its first byte.
    fn whole(self) -> RequestBody {
        match self.read {
            Some((bytes, _)) if !bytes.is_empty() => RequestBody::Read(bytes, Box::new(self.rest)),
            _ => self.rest,
        }
    }

    async fn read_all(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        if let Some((bytes, true)) = &self.read {
            return if bytes.len() > limit {
                Err(BodyError::TooLarge(limit))
            } else {
                Ok(bytes.clone())
            };
        }
        let mut held =
            bytes::BytesMut::from(self.read.take().map(|(bytes, _)| bytes).unwrap_or_default());
        let mut end = Ok(true);
        while held.len() <= limit {
            let next = std::future::poll_fn(|cx| self.rest.poll_frame(cx));
            let next = tokio::time::timeout(self.patience, next).await;
            match next.unwrap_or(Some(Err(RequestBodyError::Timeout))) {
                None => break,
                Some(Ok(frame)) => held.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) => {
                    end = Err(BodyError::Broken);
                    break;
                }
            }
        }
        let too_large = held.len() > limit;
        let bytes = held.freeze();
        self.read = Some((bytes.clone(), end.is_ok() && !too_large));
        if too_large {
            Err(BodyError::TooLarge(limit))
        } else {
            end.map(|_| bytes)
        }
    }
}

impl BodySource for Body {
    fn read(&mut self, limit: usize) -> LocalBoxFuture<'_, Result<Bytes, BodyError>> {
        self.read_all(limit).boxed_local()
    }
}
