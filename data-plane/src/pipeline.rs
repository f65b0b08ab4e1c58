//! One exchange from its first to its last decision: route, filters, upstream, answer.

mod answers;
mod body;
mod owned;
mod phases;
mod record;
mod request;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version, header};
use plugins::exchange::{Captures, Exchange, Identity, Notes, Overrides, Seen, Source};
use shared::clock::{UnixTime, monotonic};
use tokio::sync::oneshot;

use self::answers::{protocol_answer, refuse, sign, wants_debug};
use self::body::Body;
use self::owned::{remove_identity, remove_owned_cookies};
use self::record::{Progress, Record, Run, milliseconds};
use self::request::{authority, client, forwarded, is_replaced, is_replaced_if_trusted};
use crate::balancer::hash::{self, Hashable};
use crate::body::{RequestBody, ResponseBody};
use crate::compile::{CompiledRoute, CompiledService, CompiledSnapshot, Destination};
use crate::core::Core;
use crate::error::{GatewayError, Wish};
use crate::forward::{self, Hold, Outgoing, Way, fields, request_framing, wanted_upgrade};
use crate::http1::Framing;
use crate::http1::request::Refusal;
use crate::quota::Taken;
use crate::router::normalize::{is_well_formed, normalize};
use crate::router::upstream_path::upstream_path;
use crate::router::{Asked, Found};
use crate::server::Switched;
use crate::upstream::UpstreamError;
use crate::upstream::exchange::Answer;
use crate::upstream::origin::Origin;

pub(crate) use self::record::Recorded;
pub(crate) use self::request::{Added, Peer};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-kong-request-id");

/// Room for the fields that the gateway adds to a request.
const ADDED: usize = 10;

/// A request as it comes from a client's connection.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) parts: Parts,
    pub(crate) body: RequestBody,
    /// Why it is not to be served, if that is known already.
    pub(crate) refusal: Option<Refusal>,
    /// What the connection becomes if both sides switch protocols, where the client asks for that.
    pub(crate) switch: Option<oneshot::Receiver<Switched>>,
}

/// Answers one request.
pub(crate) async fn handle(core: Rc<Core>, peer: Rc<Peer>, arrival: Arrival) -> Response<Recorded> {
    let Arrival {
        parts,
        body,
        refusal,
        switch,
    } = arrival;
    let version = parts.version;
    let permit = Taken::of(&core.requests);
    let overloaded = permit.is_none() || core.node.memory.is_critical();
    let logged = core.node.access_log.is_on() && refusal.is_none();
    let mut record = Box::new(Record {
        peer: Rc::clone(&peer),
        permit,
        progress: Progress::begin(),
        started_at: UnixTime::now(),
        request_id: core.request_id(),
        asked: logged.then(|| (parts.method.clone(), parts.uri.clone())),
        client: peer.address(),
        host: String::new(),
        wish: Wish::of(&parts.headers),
        debug: wants_debug(&core, &parts.headers),
        route: None,
        consumer: None,
        status: record::CLIENT_LEFT,
        sent: 0,
        received: body.counter(),
        run: Run::default(),
        core,
    });
    let answered = match refusal {
        Some(refusal) => Err(refusal.into()),
        None if overloaded => Err(GatewayError::Overloaded),
        None => answer(&peer, parts, body, switch, &mut record).await,
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
    body: RequestBody,
    switch: Option<oneshot::Receiver<Switched>>,
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
    record.client = client.address;
    if record.asked.is_some() {
        record.host = authority.clone().into_owned();
    }
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
            .unrouted(&snapshot, parts, client, record.request_id);
        return Err(GatewayError::NoRoute);
    };
    record.route = Some((Rc::clone(&snapshot), found.route));
    if let Some(answer) = protocol_answer(route, &parts, &client, &record.request_id) {
        record.progress.source = Source::Exit;
        return answer;
    }
    let upgrade = wanted_upgrade(&parts);
    // Before filters add fields: a client that names these in `Connection` must not make them vanish.
    let trailers = fields::strip_hop_by_hop(&mut parts.headers);
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    remove_identity(&mut parts.headers, route);
    let mut body = Body::new(body, core.node.limits.body);
    let captures = snapshot.router.captures(found, &path);
    let mut exchange = Exchange {
        request: parts,
        captures: captures.clone(),
        path,
        client,
        identity: Identity::default(),
        response_headers: Vec::new(),
        body: &mut body,
        environment: &route.environment,
        matched: &route.matched,
        upstream: Overrides::default(),
        notes: Notes::default(),
        request_id: record.request_id,
        error_templates: &core.node.errors.templates,
    };
    let answered = phases::ask(&snapshot, route, &mut exchange, &core, &mut record.run).await;
    record.identify(&exchange.identity);
    record.progress.tries = record.run.phases.log.then(Vec::new);
    let (path, overrides) = record.run.take(exchange, method, uri);
    if let Some(answer) = answered {
        record.progress.source = Source::Exit;
        return Ok(answer.map(ResponseBody::Full));
    }
    let inbound = Inbound {
        path,
        captures,
        trusted,
        upgrade,
        switch,
        trailers,
        overrides,
    };
    match (&route.service, &mut record.run.seen) {
        (Some(service), Some(seen)) => {
            if route.request_buffering && inbound.upgrade.is_none() && !service.transport.http2 {
                body.hold(core.node.limits.held_body).await?;
            }
            let progress = &mut record.progress;
            let cookies = &mut record.run.response_headers;
            proxy(
                &core, peer, &snapshot, route, service, found, inbound, body, seen, progress,
                cookies,
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
    captures: Captures,
    trusted: bool,
    upgrade: Option<HeaderValue>,
    switch: Option<oneshot::Receiver<Switched>>,
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
    body: Body,
    seen: &mut Seen,
    progress: &mut Progress,
    cookies: &mut Vec<(HeaderName, HeaderValue)>,
) -> Result<Response<ResponseBody>, GatewayError> {
    let Inbound {
        path,
        captures,
        trusted,
        upgrade,
        switch,
        trailers,
        overrides,
    } = inbound;
    let (parts, client) = (&mut seen.request, &seen.client);
    let strip = if route.strip_path {
        found.matched
    } else {
        None
    };
    let upstream_path = overrides
        .path
        .unwrap_or_else(|| upstream_path(route.path_handling, &service.path, &path, strip));
    let target = with_query(upstream_path, parts.uri.query());
    let (framing, body) = match overrides.body {
        Some(bytes) => replaced(bytes),
        None => framed(parts, body, overrides.body_limit)?,
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
    if core.node.told.request_id_upstream {
        let request_id = seen.request_id.as_bytes();
        added.push(("x-kong-request-id", Cow::Borrowed(request_id)));
    }
    added.push(via(&parts.headers, version));
    let preserved = route
        .preserve_host
        .then(|| HeaderValue::from_str(&client.authority).ok())
        .flatten();
    let own_host = overrides.host.or(preserved);
    let mut renamed = None;
    let request = Hashable {
        identity: &seen.identity,
        client: client.address,
        headers: &parts.headers,
        path: &path,
        query: parts.uri.query(),
        captures: &captures,
    };
    let (way, host) = way(
        core,
        snapshot,
        service,
        own_host.as_ref(),
        &request,
        &mut renamed,
        cookies,
    )
    .await?;
    let outgoing = Outgoing {
        way,
        method: &parts.method,
        target: &target,
        host,
        headers: &parts.headers,
        is_replaced: replaced_fields(trusted),
        added: &added,
        upgrade: upgrade.as_ref().filter(|_| switch.is_some()),
        trailers,
        timeouts: service.timeouts,
        retries: service.retries,
    };
    let now = monotonic();
    progress.proxy_latency = Some(milliseconds(progress.start, now));
    let answered = forward::send(core, &outgoing, framing, body, progress.tries.as_mut()).await;
    progress.upstream_latency = Some(milliseconds(now, monotonic()));
    let (answer, hold) = answered.inspect_err(|error| {
        if matches!(error, UpstreamError::NoPeer) {
            // Nobody was asked.
            progress.upstream_latency = None;
        }
    })?;
    let mut response = settle(answer, hold, seen, switch, service, trailers, progress);
    remove_owned_cookies(response.headers_mut(), snapshot, route);
    Ok(response)
}

/// The client's response out of the upstream's answer. `hold` is kept until the last byte has gone.
fn settle(
    answer: Answer,
    hold: Hold,
    seen: &Seen,
    switch: Option<oneshot::Receiver<Switched>>,
    service: &CompiledService,
    takes_trailers: bool,
    progress: &mut Progress,
) -> Response<ResponseBody> {
    progress.source = Source::Service;
    progress.upstream_status = Some(answer.head.status);
    // What the server was asked for may be another method than what the client is waiting for.
    let asked = &seen.request.method;
    let mut response = forward::response(answer, asked, takes_trailers);
    if *asked == Method::HEAD && seen.method != Method::HEAD {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let ResponseBody::Tunnel(_) = response.body()
        && let ResponseBody::Tunnel(connection) =
            std::mem::replace(response.body_mut(), ResponseBody::Empty)
        && let Some(client) = switch
    {
        forward::tunnel(client, connection, hold, service.timeouts.read);
    } else {
        progress.hold = Some(hold);
    }
    response
}

/// Where a request goes, and the `Host` that it is sent with, if that is not the target's. A cookie that
/// binds the client to its target is added to `cookies`.
async fn way<'a>(
    core: &Core,
    snapshot: &'a CompiledSnapshot,
    service: &'a CompiledService,
    own_host: Option<&'a HeaderValue>,
    request: &Hashable<'_>,
    renamed: &'a mut Option<Arc<Origin>>,
    cookies: &mut Vec<(HeaderName, HeaderValue)>,
) -> Result<(Way<'a>, Option<&'a HeaderValue>), GatewayError> {
    let transport = &service.transport;
    let place = match &service.destination {
        Destination::Upstream(place) => *place,
        Destination::Origin { origin, host } => {
            let Some(own) = own_host else {
                return Ok((Way::To(origin), Some(host)));
            };
            let origin = renamed.insert(core.origins.renamed(origin, transport, own));
            return Ok((Way::To(origin), Some(own)));
        }
    };
    let balancers = snapshot.balancers(&core.node.balancers);
    let balancer = balancers
        .get(place)
        .ok_or(GatewayError::Upstream(UpstreamError::NoPeer))?;
    if balancer.has_names() {
        Box::pin(balancer.ready(&core.resolver)).await;
    }
    let config = &balancer.config;
    let hashed = hash::hash(
        &config.hash_on,
        &config.hash_fallback,
        &config.hash_on_cookie_path,
        request,
        || uuid::Uuid::new_v4().to_string(),
    );
    cookies.extend(hashed.cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    let way = Way::Balanced {
        balancer,
        transport,
        hash: hashed.hash,
    };
    Ok((way, own_host))
}

/// Which of the client's fields do not go upstream as they are.
fn replaced_fields(trusted: bool) -> fn(&HeaderName) -> bool {
    if trusted {
        is_replaced_if_trusted
    } else {
        is_replaced
    }
}

/// The `Via` of a request.
fn via(headers: &HeaderMap, version: Version) -> Added<'static> {
    let value = if headers.contains_key(header::VIA) {
        Cow::Owned(fields::via(headers, version).as_bytes().to_vec())
    } else {
        Cow::Borrowed(fields::own_via(version).as_bytes())
    };
    ("via", value)
}

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// The client's body in the framing that it goes upstream in. One of unknown length may be no longer than
/// `limit`.
fn framed(
    parts: &Parts,
    body: Body,
    limit: Option<u64>,
) -> Result<(Framing, RequestBody), GatewayError> {
    let announced = parts.headers.contains_key(header::CONTENT_LENGTH);
    let known = body.length().filter(|_| !announced);
    let body = body.whole();
    let framing = match known {
        Some(length) => Framing::Length(length),
        None => request_framing(parts, &body).map_err(|_| GatewayError::BadRequest("framing"))?,
    };
    let limit = limit.filter(|_| known.is_some() || framing == Framing::Chunked);
    Ok((framing, body.limited(limit)))
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

fn add(response: &mut Response<ResponseBody>, headers: Vec<(HeaderName, HeaderValue)>) {
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
}
