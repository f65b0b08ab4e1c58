//! One exchange from its first to its last decision: route, filters, upstream, answer.

mod answers;
mod body;
mod kept;
mod lasting;
mod owned;
mod phases;
mod progress;
mod proxied;
mod record;
mod request;
mod returned;

use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use http::{HeaderValue, Version};
use plugins::exchange::{Captures, Client, Exchange, Identity, Notes, Overrides, Source, Told};
use plugins::glance::{Glance, Pass};
use shared::clock::monotonic;
use shared::types::patterns::readable;
use tokio::sync::oneshot;

pub(crate) use self::answers::Signature;
use self::answers::{protocol_answer, refuse, sign, wants_debug, without_content};
use self::body::{Body, announced};
use self::owned::{leave_out, make_room, remove_identity, remove_sealed_cookies, withhold_cookies};
use self::progress::Progress;
use self::proxied::{Inbound, Sent, Ways};
pub(crate) use self::record::milliseconds;
use self::record::{Record, Run};
use self::request::{authority, client, received_host};
use crate::apart::apart;
use crate::body::{RequestBody, ResponseBody};
use crate::compile::CompiledService;
use crate::core::{Core, Held};
use crate::error::{GatewayError, Wish};
use crate::forward::{fields, wanted_upgrade};
use crate::http1::head::MAX_HEAD;
use crate::http1::headers::{Headers, View};
use crate::http1::kind::Kind;
use crate::http1::request::{Refusal, RequestHead};
use crate::quota::Taken;
use crate::router::Asked;
use crate::router::normalize::normalize;
use crate::server::Switched;
use crate::upstream::UpstreamError;

pub(crate) use self::owned::Put;
pub(crate) use self::record::{CLIENT_LEFT, Recorded};
pub(crate) use self::request::{Added, AtHand, GivenUp, Peer};
pub(crate) use self::returned::Returned;

/// A request as it comes from a client's connection.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) head: Box<RequestHead>,
    pub(crate) body: RequestBody,
    /// Why it is not to be served, if that is known already.
    pub(crate) refusal: Option<Refusal>,
    /// Whether its first line could be read.
    pub(crate) legible: bool,
    /// What the connection becomes if both sides switch protocols, where the client asks for that.
    pub(crate) switch: Option<oneshot::Receiver<Switched>>,
}

/// Answers one request.
pub(crate) async fn handle(core: Rc<Core>, peer: Rc<Peer>, arrival: Arrival) -> Returned<Recorded> {
    let Arrival {
        head,
        body,
        refusal,
        legible,
        switch,
    } = arrival;
    let (version, head_length) = (head.version, head.length());
    // One of HTTP/1.1 is not read at all then.
    let is_too_large = head_length > MAX_HEAD;
    let refusal = refusal.or(is_too_large.then_some(Refusal::HeadTooLarge));
    core.metrics.begin();
    let permit = Taken::of(&core.requests);
    let overloaded = permit.is_none() || core.node.memory.is_critical();
    let logged = core.node.access_log.is_on() && legible;
    let mut record = Box::new(Record {
        peer: Rc::clone(&peer),
        permit,
        progress: Progress::begin(),
        request_id: core.request_id(),
        asked: logged.then(|| (head.method.clone(), head.uri.clone())),
        client: peer.client(),
        host: None,
        wish: Wish::of(head.headers.view()),
        debug: wants_debug(&core, head.headers.view()),
        route: None,
        consumer: None,
        status: CLIENT_LEFT,
        ended_by: None,
        sent_head: 0,
        sent: 0,
        head_length: u32::try_from(head_length).unwrap_or(u32::MAX),
        received: body.arrived(),
        run: Run::default(),
        lasting: None,
        core,
    });
    let mut answered = match refusal {
        Some(refusal) => {
            record.unread(head, &peer);
            Err(refusal.into())
        }
        None if overloaded => Err(GatewayError::Overloaded),
        None => answer(&peer, head, body, switch, &mut record).await,
    };
    if version == Version::HTTP_2
        && let Ok(returned) = &mut answered
        && let ResponseBody::Upstream(body) = &mut returned.body
        && let Err(error) = poll_fn(|cx| Poll::Ready(body.check(cx))).await
    {
        // To reset a stream takes back the head that goes before.
        record.progress.source = Source::Error;
        answered = Err(error.into());
    }
    if let Err(GatewayError::Upstream(UpstreamError::RequestBody(_))) = &answered {
        // Nobody but the client had a part in it.
        record.progress.proxy_latency = None;
    }
    let mut returned = answered.unwrap_or_else(|error| refuse(&error, &record, version).into());
    if version == Version::HTTP_2 {
        // As the library takes them: what is told as lines would have to be read again.
        returned.map();
    }
    if !record.run.response_headers.is_empty() {
        // What filters tell the client, such as a session that has just begun, it hears even if the
        // upstream fails.
        let told = std::mem::take(&mut record.run.response_headers);
        if let Some(seen) = &mut record.run.seen
            && record.run.phases.response
        {
            seen.notes.put(Told(told.clone()));
        }
        for (name, value) in told {
            returned.add(name, value);
        }
    }
    if record.run.phases.response {
        phases::respond(&mut returned, &mut record).await;
    }
    sign(&mut returned, &record);
    record.status = returned.status;
    if record.run.phases.log {
        record.run.headers = Some(Box::new(returned.map().clone()));
    }
    returned.with(|body| Recorded::new(body, record))
}

async fn answer(
    peer: &Peer,
    mut head: Box<RequestHead>,
    body: RequestBody,
    switch: Option<oneshot::Receiver<Switched>>,
    record: &mut Record,
) -> Result<Returned<ResponseBody>, GatewayError> {
    let core = Rc::clone(&record.core);
    let trusted = core.node.trusted.contains(peer.address());
    if trusted {
        peer.kept.borrow_mut().make_values(&mut head.headers);
    }
    let believed = match &head.headers {
        Headers::Map(headers) if trusted => Some(headers),
        _ => None,
    };
    let authority = match authority(&head, peer) {
        Ok(authority) => authority,
        Err(error) => {
            record.unread(head, peer);
            return Err(error);
        }
    };
    let snapshot = core.snapshot().ok_or(GatewayError::NotReady)?;
    let path = normalize(head.uri.path());
    let decoded = matches!(path, Cow::Owned(_)) && path.contains('%');
    let readable = decoded.then(|| readable(&path));
    let readable = readable.flatten();
    let path = match path {
        Cow::Owned(normal) => Some(normal),
        // The head has it.
        Cow::Borrowed(_) => None,
    };
    let normal_path = normal_path(path.as_deref(), &head);
    let real = believed.and_then(|headers| core.node.real_ip.client(headers, &core.node.trusted));
    let client = client(believed, peer, real, &authority);
    record.client = client.address;
    if record.asked.is_some() {
        record.host = Some(Rc::clone(&authority));
    }
    let found = snapshot.router.find(&Asked {
        method: &head.method,
        path: normal_path,
        readable: readable.as_deref(),
        authority: &authority,
        headers: head.headers.view(),
        server_name: peer.server_name(),
        https: peer.tls,
    });
    let Some((found, route)) =
        found.and_then(|found| Some((found, snapshot.routes.get(found.route)?)))
    else {
        record
            .run
            .unrouted(&snapshot, head, peer, client, record.request_id);
        return Err(GatewayError::NoRoute);
    };
    record.route = Some((Rc::clone(&snapshot), found.route));
    if let Some(answer) = protocol_answer(route, &head, (peer, &client), &record.request_id) {
        record.progress.source = Source::Exit;
        record
            .run
            .unrouted(&snapshot, head, peer, client, record.request_id);
        // What is counted of it is for the route's own to say.
        record.run.phases.count = false;
        return answer.map(Returned::from);
    }
    // Nearly all have none.
    let announced = if body.is_empty() {
        None
    } else {
        announced(head.headers.view())
    };
    let mut request = Request {
        host: route.preserve_host.then(|| received_host(&head)).flatten(),
        captures: snapshot
            .router
            .captures(found, normal_path, readable.as_deref()),
        body: Body::new(
            body,
            Rc::clone(&core),
            (client.address, route.account.service),
            announced,
        ),
        path,
        client,
        trusted,
        switch,
    };
    let ways = Ways {
        core: &core,
        peer,
        snapshot: &snapshot,
        route,
        found,
    };
    if route.filters.glance
        && let Some(service) = &route.service
        && !trusted
        && is_usual(&head.headers)
    {
        leave_out(&mut head.headers, route);
        if let Some(pass) = request.glance(ways, &head) {
            return request.pass(ways, service, head, pass, record).await;
        }
    }
    // Filters may have much to remember.
    let shown = &snapshot;
    apart(move || request.show(ways, shown, head, record)).await
}

/// A request whose route is known.
struct Request {
    /// The `Host` that it came with, if that goes upstream.
    host: Option<HeaderValue>,
    /// Its path in the form that it is routed by, if it came in another.
    path: Option<String>,
    captures: Captures,
    client: Client,
    /// Whether the client is believed about whom it speaks for.
    trusted: bool,
    body: Body,
    switch: Option<oneshot::Receiver<Switched>>,
}

/// The path that a request is routed by: its `own`, if it came in another form, else that of its head.
fn normal_path<'a>(own: Option<&'a str>, head: &'a RequestHead) -> &'a str {
    own.unwrap_or_else(|| head.uri.path())
}

impl Request {
    /// What the filters of its route say of it at a glance: that it goes on, if there are none.
    fn glance(&self, ways: Ways<'_>, head: &RequestHead) -> Option<Pass> {
        if ways.route.filters.slots.is_empty() {
            return Some(Pass::default());
        }
        let glance = Glance {
            method: &head.method,
            path: normal_path(self.path.as_deref(), head),
            query: head.uri.query(),
            client: &self.client,
            fields: &head.headers.view(),
            environment: ways.snapshot.environment_of(ways.route),
            matched: &ways.route.account.matched,
        };
        phases::glance(ways.snapshot, ways.route, &glance, ways.core)
    }

    /// Sends it on with its fields as they came, but for what `pass` puts in place of some.
    async fn pass(
        &mut self,
        ways: Ways<'_>,
        service: &CompiledService,
        mut head: Box<RequestHead>,
        mut pass: Pass,
        record: &mut Record,
    ) -> Result<Returned<ResponseBody>, GatewayError> {
        let environment = ways.snapshot.environment_of(ways.route);
        withhold_cookies(&mut pass, head.headers.view(), &environment.session_keys);
        make_room(&mut head.headers, &pass);
        record.run.response_headers = std::mem::take(&mut pass.response_headers);
        record.run.tenure = pass.tenure.take();
        record.run.known.clone_from(&pass.known);
        let nobody = Identity::default();
        let identity = pass.known.as_ref().map_or(&nobody, |known| &known.identity);
        record.identify(identity);
        // Nothing was waited for so far: it is still the moment in which the request came.
        let mut now = Some(record.progress.start);
        if ways.holds_body(service) && !self.body.is_empty() {
            self.body.hold(ways.core.node.limits.held_body).await?;
            now = None;
        }
        let sent = Sent {
            method: &head.method,
            asked: &head.method,
            path: head.uri.path(),
            normal_path: normal_path(self.path.as_deref(), &head),
            query: head.uri.query(),
            version: head.version,
            headers: head.headers.view(),
            put: Put::of(&pass),
            client: &self.client,
            identity,
            request_id: &record.request_id,
            tenure: None,
        };
        let mut inbound = Inbound {
            host: self.host.take(),
            now,
            ..Inbound::new(std::mem::take(&mut self.captures))
        };
        let (progress, cookies) = (&mut record.progress, &mut record.run.response_headers);
        let (inbound, body) = (&mut inbound, &mut self.body);
        ways.proxy(service, inbound, body, &sent, progress, cookies)
            .await
    }

    /// Shows it to the filters of its route, and sends on what they leave of it.
    async fn show(
        self,
        ways: Ways<'_>,
        snapshot: &Rc<Held>,
        head: Box<RequestHead>,
        record: &mut Record,
    ) -> Result<Returned<ResponseBody>, GatewayError> {
        let Self {
            host,
            path,
            captures,
            client,
            trusted,
            mut body,
            switch,
        } = self;
        let (core, route) = (ways.core, ways.route);
        let path = path.unwrap_or_else(|| head.uri.path().to_owned());
        let mut parts = ways.peer.kept.borrow_mut().parts(*head);
        let upgrade = wanted_upgrade(&parts);
        // Before filters add fields: a client that names these in `Connection` must not make them vanish.
        let trailers = fields::strip_hop_by_hop(&mut parts.headers);
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        remove_identity(&mut parts.headers, route, trusted);
        let mut exchange = Exchange {
            request: parts,
            captures: captures.clone(),
            path,
            client,
            identity: Identity::default(),
            response_headers: Vec::new(),
            body: &mut body,
            environment: snapshot.environment_of(route),
            matched: &route.account.matched,
            upstream: Overrides::default(),
            notes: Notes::default(),
            tenure: None,
            request_id: record.request_id,
            error_templates: &core.node.errors.templates,
        };
        let answered = phases::ask(snapshot, route, &mut exchange, core, &mut record.run).await;
        record.identify(&exchange.identity);
        record.progress.trail = record.run.phases.log.then(Box::default);
        let (path, overrides) = record.run.take(exchange, method, uri);
        body.is_seen();
        if let Some(fault) = body.fault() {
            return Err(fault);
        }
        if let Some((source, answer)) = answered {
            let progress = &mut record.progress;
            progress.source = source;
            if source == Source::Service {
                progress.proxy_latency = Some(milliseconds(progress.start, monotonic()));
                progress.upstream_latency = Some(0);
            }
            return Ok(without_content(answer).map(ResponseBody::Full).into());
        }
        let mut inbound = Inbound {
            host,
            trusted,
            upgrade,
            switch,
            trailers,
            overrides,
            ..Inbound::new(captures)
        };
        match (&route.service, &mut record.run.seen) {
            (Some(service), Some(seen)) => {
                if inbound.upgrade.is_none() && ways.holds_body(service) {
                    body.hold(core.node.limits.held_body).await?;
                }
                let environment = snapshot.environment_of(route);
                remove_sealed_cookies(&mut seen.request.headers, &environment.session_keys);
                let sent = Sent {
                    method: &seen.request.method,
                    asked: &seen.method,
                    path: seen.uri.path(),
                    normal_path: &path,
                    query: seen.request.uri.query(),
                    version: seen.request.version,
                    headers: View::Map(&seen.request.headers),
                    put: Put::default(),
                    client: &seen.client,
                    identity: &seen.identity,
                    request_id: &seen.request_id,
                    tenure: record.run.tenure.as_ref(),
                };
                let (progress, cookies) = (&mut record.progress, &mut record.run.response_headers);
                let (inbound, body) = (&mut inbound, &mut body);
                ways.proxy(service, inbound, body, &sent, progress, cookies)
                    .await
            }
            (None, _) if route.service_unfit => Err(GatewayError::Unfit),
            (None, _) if route.protocol_unsupported => Err(GatewayError::Protocol),
            _ => Err(GatewayError::NoService),
        }
    }
}

/// Whether a request that nobody trusted has sent with these fields can pass as it came: nothing in it has to be changed
/// but what is left out.
fn is_usual(headers: &Headers) -> bool {
    const CHANGED: Kind = Kind::FORWARDED_FOR
        .and(Kind::TE)
        .and(Kind::UPGRADE)
        .and(Kind::VIA);
    match headers {
        Headers::Raw(fields) => {
            fields.is_plain() && !fields.has(CHANGED) && !fields.connection().fields
        }
        // HTTP/2 has no connection to speak of.
        Headers::Map(map) => {
            let kinds = map.keys().map(Kind::of).fold(Kind::OTHER, Kind::and);
            !kinds.is_any_of(CHANGED.and(Kind::HOP_BY_HOP))
        }
    }
}
