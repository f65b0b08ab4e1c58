//! Sends a request upstream and takes the response.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Version, header};
use plugins::exchange::{Captures, Client, Identity, Overrides, Source};
use plugins::request_id::RequestId;
use plugins::sessions::tenure::Tenure;
use shared::clock::monotonic;
use tokio::sync::oneshot;

use super::body::Body;
use super::owned::{Put, remove_owned};
use super::progress::Progress;
use super::record::milliseconds;
use super::request::{Added, AtHand, Peer, forwarded, forwarded_path, replaced, usual_lines, via};
use super::returned::Returned;
use crate::apart::apart;
use crate::balancer::hash::{self, Hashable};
use crate::body::{Bound, RequestBody, RequestBodyError, ResponseBody};
use crate::compile::{CompiledRoute, CompiledService, CompiledSnapshot, Destination};
use crate::core::Core;
use crate::error::GatewayError;
use crate::forward::{self, Hold, Outgoing, Switching, Way, request_framing};
use crate::http1::Framing;
use crate::http1::headers::View;
use crate::http1::kind::Kind;
use crate::router::Found;
use crate::router::upstream_path::upstream_path;
use crate::server::Switched;
use crate::upstream::UpstreamError;
use crate::upstream::exchange::Answer;
use crate::upstream::origin::Origin;

/// The target of `OPTIONS` for a server as a whole.
const SERVER: &str = "*";

/// What a request that its filters have let through is, beside what they have seen of it.
#[derive(Debug)]
pub(super) struct Inbound {
    /// The `Host` that it came with, if that goes upstream.
    pub(super) host: Option<HeaderValue>,
    pub(super) captures: Captures,
    pub(super) trusted: bool,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) switch: Option<oneshot::Receiver<Switched>>,
    /// Whether the client takes trailers.
    pub(super) trailers: bool,
    pub(super) overrides: Overrides,
    /// When it goes on, if that needs no look at the clock.
    pub(super) now: Option<Instant>,
}

impl Inbound {
    /// A request of which nothing else is special.
    pub(super) fn new(captures: Captures) -> Self {
        Self {
            host: None,
            captures,
            trusted: false,
            upgrade: None,
            switch: None,
            trailers: false,
            overrides: Overrides::default(),
            now: None,
        }
    }
}

/// A request as it is about to go upstream.
pub(super) struct Sent<'a> {
    pub(super) method: &'a Method,
    /// The method that the client has sent.
    pub(super) asked: &'a Method,
    /// The path that the client has sent.
    pub(super) path: &'a str,
    /// The one that it is routed by.
    pub(super) normal_path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) version: Version,
    pub(super) headers: View<'a>,
    /// What filters have put in place of some of them.
    pub(super) put: Put<'a>,
    pub(super) client: &'a Client,
    pub(super) identity: &'a Identity,
    pub(super) request_id: &'a RequestId,
    /// What it was let through by, if that may end.
    pub(super) tenure: Option<&'a Rc<Tenure>>,
}

shared::unsaid!(Sent<'a>);

/// What leads a request upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways<'a> {
    pub(super) core: &'a Rc<Core>,
    pub(super) peer: &'a Peer,
    pub(super) snapshot: &'a CompiledSnapshot,
    pub(super) route: &'a CompiledRoute,
    pub(super) found: Found,
}

impl Ways<'_> {
    /// Whether the request's body is held back until all of it is there.
    pub(super) fn holds_body(&self, service: &CompiledService) -> bool {
        self.route.request_buffering && !service.transport.http2
    }

    /// Sends a request to `service`. A cookie that binds the client to its target is added to `cookies`.
    ///
    /// What it takes out of `inbound` and `body` it is not given whole: that would be copied twice on its way here.
    pub(super) async fn proxy(
        self,
        service: &CompiledService,
        inbound: &mut Inbound,
        body: &mut Body,
        sent: &Sent<'_>,
        progress: &mut Progress,
        cookies: &mut Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Returned<ResponseBody>, GatewayError> {
        let Self {
            core,
            peer,
            snapshot,
            route,
            found,
        } = self;
        let Inbound {
            host: preserved,
            captures,
            trusted,
            upgrade,
            switch,
            trailers,
            overrides,
            now,
        } = inbound;
        let (path, trusted, trailers) = (sent.normal_path, *trusted, *trailers);
        let (headers, client) = (sent.headers, sent.client);
        let strip = found.matched.filter(|_| route.strip_path);
        let upstream_path = overrides.path.take().unwrap_or_else(|| match sent.path {
            // The server as a whole, wherever in it the service is (RFC 9110 §9.3.7).
            SERVER if *sent.method == Method::OPTIONS => SERVER.to_owned(),
            _ => upstream_path(route.path_handling, &service.path, path, strip),
        });
        let target = with_query(upstream_path, sent.query);
        if let Some(trail) = &mut progress.trail {
            trail.upstream_uri.clone_from(&target);
        }
        let (framing, body) = match overrides.body.take() {
            Some(bytes) => in_place(bytes, body),
            None => framed(headers, body, overrides.body_limit)?,
        };
        let (body, replaced) = with_trailers(route, trusted, framing, body);
        let prefix = strip
            .and_then(|length| path.get(..length))
            .filter(|prefix| *prefix != "/");
        let told = told(core, peer, sent, prefix, trusted);
        let own_host = overrides.host.take().or_else(|| preserved.take());
        let mut renamed = None;
        let request = Hashable {
            identity: sent.identity,
            client: client.address,
            headers,
            put: sent.put,
            path,
            query: sent.query,
            captures,
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
        // To choose among an upstream's targets may have taken a while.
        let now = now.filter(|_| matches!(way, Way::To(_)));
        let now = now.unwrap_or_else(monotonic);
        let mut outgoing = Outgoing {
            way,
            method: sent.method,
            target: &target,
            host,
            headers,
            replaced,
            at_hand: told.at_hand,
            added: &told.others,
            lines: [sent.put.lines(), told.lines.as_deref().unwrap_or_default()],
            upgrade: upgrade.as_ref().filter(|_| switch.is_some()),
            trailers,
            interim: (sent.version == Version::HTTP_11).then_some(&peer.interim),
            client: Some(sent.client.address),
            timeouts: service.timeouts,
            retries: service.retries,
            again: false,
            fresh: false,
            now,
        };
        progress.proxy_latency = Some(milliseconds(progress.start, now));
        let tries = progress.trail.as_mut().map(|trail| &mut trail.tries);
        let answered = forward::send(core, &mut outgoing, framing, body, tries).await;
        let answered_at = match &answered {
            Ok((answer, _)) => answer.answered_at,
            Err(_) => monotonic(),
        };
        progress.upstream_latency = Some(milliseconds(now, answered_at));
        progress.answered_at = Some(answered_at);
        let (answer, hold) = answered.inspect_err(|error| {
            if matches!(error, UpstreamError::NoPeer) {
                // Nobody was asked.
                progress.upstream_latency = None;
            }
        })?;
        let switch = Switching::of(core, switch.take(), sent.tenure);
        let mut returned = settle(answer, hold, sent, switch, service, trailers, progress);
        remove_owned(&mut returned.headers, snapshot, route);
        Ok(returned)
    }
}

/// What the upstream is told of a request beside what the client has sent.
struct Additions<'a> {
    at_hand: [Option<AtHand<'a>>; 3],
    /// What had to be made.
    others: Vec<Added<'a>>,
    /// What is written already.
    lines: Option<Rc<[u8]>>,
}

fn told<'a>(
    core: &Core,
    peer: &'a Peer,
    sent: &Sent<'a>,
    prefix: Option<&'a str>,
    trusted: bool,
) -> Additions<'a> {
    let (headers, client) = (sent.headers, sent.client);
    let [path, prefix] = forwarded_path(headers, trusted, sent.path, prefix);
    let request_id = ("x-kong-request-id", sent.request_id.as_bytes());
    let request_id = core.node.told.request_id_upstream.then_some(request_id);
    // Nearly always none.
    let mut others: Vec<_> = sent.put.others().collect();
    let lines = usual_lines(headers, sent.version, peer, trusted, client);
    if lines.is_none() {
        forwarded(headers, peer, trusted, client, &mut others);
        others.push(via(headers, sent.version));
    }
    Additions {
        at_hand: [path, prefix, request_id],
        others,
        lines,
    }
}

/// What the client is returned of the upstream's answer. `hold` is kept until the last byte has gone.
fn settle(
    answer: Answer,
    hold: Hold,
    sent: &Sent<'_>,
    switch: Option<Switching>,
    service: &CompiledService,
    takes_trailers: bool,
    progress: &mut Progress,
) -> Returned<ResponseBody> {
    progress.source = Source::Service;
    progress.upstream_status = Some(answer.head.status);
    progress.upstream_version = answer.head.version;
    // What the server was asked for may be another method than what the client is waiting for.
    let mut returned = forward::response(answer, sent.method, takes_trailers);
    if *sent.method == Method::HEAD && *sent.asked != Method::HEAD {
        returned.map().remove(header::CONTENT_LENGTH);
    }
    if let ResponseBody::Tunnel(_) = &returned.body
        && let ResponseBody::Tunnel(connection) =
            std::mem::replace(&mut returned.body, ResponseBody::Empty)
        && let Some(switching) = switch
    {
        forward::tunnel(switching, connection, hold, service.timeouts.read);
    } else {
        progress.hold = Some(hold);
    }
    returned
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
        apart(|| balancer.ready(&core.resolver)).await;
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
    headers: View<'_>,
    body: &mut Body,
    limit: Option<u64>,
) -> Result<(Framing, RequestBody), GatewayError> {
    let announced = headers.has(Kind::CONTENT_LENGTH, &header::CONTENT_LENGTH);
    let known = body.length().filter(|_| !announced);
    let body = body.whole();
    let framing = match known {
        Some(length) => Framing::Length(length),
        None => request_framing(headers, &body).map_err(|_| GatewayError::BadRequest("framing"))?,
    };
    let limit = limit.filter(|_| known.is_some() || framing == Framing::Chunked);
    let bound = limit.map(|left| Bound {
        left,
        asked: headers.has(Kind::EXPECT, &header::EXPECT),
    });
    // Nobody has to be asked for one that is here already.
    if let (Some(length), Some(bound)) = (known, bound)
        && length > bound.left
    {
        let error = RequestBodyError::TooLarge(bound);
        return Err(UpstreamError::RequestBody(error).into());
    }
    Ok((framing, body.limited(bound)))
}

/// The body with its trailers, unless filters own fields that no trailer may stand in for, and which of the request's
/// fields do not go upstream as they are: trailers that do not come are not announced.
fn with_trailers(
    route: &CompiledRoute,
    trusted: bool,
    framing: Framing,
    body: RequestBody,
) -> (RequestBody, Kind) {
    let owned = route.filters.owns_headers;
    let replaced = if owned || framing != Framing::Chunked {
        replaced(trusted).and(Kind::TRAILER)
    } else {
        replaced(trusted)
    };
    let body = if owned && !body.is_empty() {
        body.without_trailers()
    } else {
        body
    };
    (body, replaced)
}

/// A body that a filter sends in place of the `client`'s.
fn in_place(bytes: Bytes, client: &mut Body) -> (Framing, RequestBody) {
    client.gives_way(bytes.len());
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let body = if bytes.is_empty() {
        RequestBody::Empty
    } else {
        RequestBody::Read(bytes, Box::new(RequestBody::Empty))
    };
    (Framing::Length(length), body)
}
