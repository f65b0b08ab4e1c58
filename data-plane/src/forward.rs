//! Request out, response back, both streamed; further attempts where they are safe.

pub(crate) mod fields;
mod frames;
mod upgrade;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use plugins::exchange::Try;
use shared::clock::{UnixTime, monotonic};

pub(crate) use self::upgrade::{Switching, tunnel};
use crate::balancer::{Balancer, Lease, NoPeer, Peer};
use crate::body::{RequestBody, ResponseBody};
use crate::core::Core;
use crate::http1::fields::Fields;
use crate::http1::headers::{Headers, View};
use crate::http1::kind::Kind;
use crate::http1::writer::field;
use crate::http1::{Framing, FramingError, content_length, has_token};
use crate::pipeline::{Added, Returned};
use crate::quota::Taken;
use crate::router::split_port;
use crate::upstream::exchange::{Answer, Pump, Timeouts, exchange};
use crate::upstream::http2::{self, Seen};
use crate::upstream::origin::Origin;
use crate::upstream::origins::Transport;
use crate::upstream::pool::Pool;
use crate::upstream::{Connection, UpstreamError};

/// A request as it goes to one origin.
pub(crate) struct Outgoing<'a> {
    pub(crate) way: Way<'a>,
    pub(crate) method: &'a Method,
    /// Path and query.
    pub(crate) target: &'a str,
    /// The `Host`, if it is not that of the target.
    pub(crate) host: Option<&'a HeaderValue>,
    /// The client's, without what belongs to one connection. Some are replaced by those below.
    pub(crate) headers: View<'a>,
    /// Which of them.
    pub(crate) replaced: Kind,
    /// What the gateway tells.
    pub(crate) added: &'a [Added<'a>],
    /// The same as lines that are written already.
    pub(crate) lines: &'a [u8],
    /// The protocol to switch to, if the client asks for one.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    /// Whether the client takes trailers.
    pub(crate) trailers: bool,
    pub(crate) timeouts: Timeouts,
    pub(crate) retries: u32,
    /// Whether the gateway asks for itself. Then a kept connection that closed without a word counts as one that was
    /// closed before, whatever the method: no answer would be a failure just the same.
    pub(crate) own: bool,
    /// When the attempt under way began.
    pub(crate) now: Instant,
}

shared::unsaid!(Outgoing<'a>);

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'a> {
    /// To one server.
    To(&'a Arc<Origin>),
    /// To one of an upstream's targets, chosen anew for each attempt.
    Balanced {
        balancer: &'a Arc<Balancer>,
        transport: &'a Transport,
        hash: Option<u32>,
    },
}

/// What a request holds while it is under way to its server, body included.
#[derive(Debug)]
#[expect(dead_code, reason = "each counts until it is dropped")]
pub(crate) struct Hold {
    permit: Taken,
    lease: Option<Lease>,
}

/// One attempt: which server, and under which name.
struct Attempt {
    origin: Arc<Origin>,
    host: HeaderValue,
    lease: Option<Lease>,
}

/// How the request's body is framed on its way upstream.
pub(crate) fn request_framing(
    headers: View<'_>,
    body: &RequestBody,
) -> Result<Framing, FramingError> {
    if body.is_empty() && !headers.may_have(Kind::CONTENT_LENGTH) {
        return Ok(Framing::None);
    }
    let mut lengths = headers.values(Kind::CONTENT_LENGTH, &header::CONTENT_LENGTH);
    match lengths.next() {
        Some(length) => Ok(Framing::Length(content_length(length)?)),
        None if body.is_empty() => Ok(Framing::None),
        None => Ok(Framing::Chunked),
    }
}

/// The protocol that the client wants to switch to, if it is one that is passed on: WebSocket, as
/// RFC 6455 §4.1 asks for it. Any other wish ends here, as fields of one connection do.
pub(crate) fn wanted_upgrade(parts: &Parts) -> Option<HeaderValue> {
    let mut wishes = parts.headers.get_all(header::UPGRADE).iter();
    let wish = wishes.next()?;
    let websocket = parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && wishes.next().is_none()
        && wish.as_bytes().eq_ignore_ascii_case(b"websocket")
        && has_token(&parts.headers, &header::CONNECTION, "upgrade");
    websocket.then(|| wish.clone())
}

/// Sends `outgoing` and waits for the answer's head. Every server that is asked is noted in `tries`, if
/// anybody will look there.
///
/// A new attempt is made after a failure to connect, and after a later failure only for a method that
/// may be repeated (RFC 9110 §9.2.2) and a body that is still at hand; it goes to another target, if
/// there is one. A pooled connection that turns out to be dead costs no attempt.
pub(crate) async fn send(
    core: &Core,
    outgoing: &mut Outgoing<'_>,
    framing: Framing,
    mut body: RequestBody,
    mut tries: Option<&mut Vec<Try>>,
) -> Result<(Answer, Hold), UpstreamError> {
    let repeatable = !matches!(*outgoing.method, Method::POST | Method::PATCH)
        && outgoing.method.as_str() != "LOCK";
    let mut failing: Vec<Arc<Peer>> = Vec::new();
    let mut attempts_left = outgoing.retries;
    let mut kept: Option<Attempt> = None;
    loop {
        let attempt = if let Some(attempt) = kept.take() {
            attempt
        } else {
            let began = tries.is_some().then(monotonic);
            let attempt = choose(core, outgoing, &failing)?;
            if let (Some(tries), Some(began)) = (&mut tries, began) {
                tries.push(attempt.told(began));
            }
            if let Some(lease) = &attempt.lease {
                lease.start_over(&mut failing);
            }
            attempt
        };
        let pool = core.pools.of(&attempt.origin);
        let permit = pool.enter().ok_or(UpstreamError::Busy)?;
        let told = tries.as_mut().and_then(|tries| tries.last_mut());
        let failed = match once(core, &pool, &attempt, outgoing, (framing, body), told).await {
            Ok(answer) => {
                if let Some(lease) = &attempt.lease {
                    lease.answered(answer.head.status);
                }
                let lease = attempt.lease;
                return Ok((answer, Hold { permit, lease }));
            }
            Err(failed) => failed,
        };
        outgoing.now = monotonic();
        attempt.report(&failed);
        if !matches!(failed.stage, Stage::Stale | Stage::Unseen)
            && let Some(told) = tries.as_mut().and_then(|tries| tries.last_mut())
        {
            told.failed = Some(failed.error.code());
        }
        let Some(again) = failed.body else {
            return Err(failed.error);
        };
        body = again;
        if matches!(failed.stage, Stage::Stale | Stage::Unseen) {
            if failed.stage == Stage::Stale && !(repeatable || outgoing.own) {
                return Err(failed.error);
            }
            tracing::debug!(error = %failed.error, "a kept connection was dead, trying again");
            kept = Some(attempt);
            continue;
        }
        let may = match failed.stage {
            Stage::Connecting => true,
            Stage::Exchanging | Stage::Stale | Stage::Unseen => repeatable && pool.may_retry(),
            Stage::Hopeless => false,
        };
        if attempts_left == 0 || !may {
            return Err(failed.error);
        }
        attempts_left -= 1;
        tracing::debug!(error = %failed.error, "trying again");
        if let Some(lease) = &attempt.lease {
            failing.push(Arc::clone(&lease.peer));
        }
    }
}

/// Which server is asked next, and what it is called.
fn choose(
    core: &Core,
    outgoing: &Outgoing<'_>,
    tried: &[Arc<Peer>],
) -> Result<Attempt, UpstreamError> {
    match outgoing.way {
        Way::To(origin) => Ok(Attempt {
            origin: Arc::clone(origin),
            host: outgoing
                .host
                .cloned()
                .unwrap_or_else(|| HeaderValue::from_static("")),
            lease: None,
        }),
        Way::Balanced {
            balancer,
            transport,
            hash,
        } => {
            let lease = balancer
                .pick(hash, tried)
                .map_err(|NoPeer| UpstreamError::NoPeer)?;
            let key = &lease.peer.key;
            let host = if let Some(host) = outgoing.host {
                host.clone()
            } else {
                let host = match &balancer.config.host_header {
                    Some(host) if split_port(host).1.is_some() => host.clone(),
                    Some(host) => transport.authority(host, key.port),
                    None => transport.authority(&key.host, key.port),
                };
                HeaderValue::from_str(&host).map_err(|_| UpstreamError::Authority)?
            };
            Ok(Attempt {
                origin: core.origins.of_peer(&lease.peer, transport, &host),
                host,
                lease: Some(lease),
            })
        }
    }
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// The server has seen nothing of the request.
    Connecting,
    /// It may have.
    Exchanging,
    /// Most likely it has not: the connection was kept from an earlier exchange, and closed.
    Stale,
    /// It has not: the connection was kept from an earlier exchange, and closed.
    Unseen,
    /// No other attempt could go better.
    Hopeless,
}

/// Why an attempt failed.
struct Failed {
    error: UpstreamError,
    stage: Stage,
    /// The request's body, if all of it is still at hand.
    body: Option<RequestBody>,
}

impl Attempt {
    /// Tells the balancer how it went.
    fn report(&self, failed: &Failed) {
        let Some(lease) = &self.lease else { return };
        match (&failed.error, failed.stage) {
            (_, Stage::Stale | Stage::Unseen) | (UpstreamError::RequestBody(_), _) => {}
            (error, _) if error.is_timeout() => lease.timed_out(),
            _ => lease.failed(),
        }
    }

    /// What is logged of it, which was begun to be looked for at `began`.
    fn told(&self, began: Instant) -> Try {
        let key = self.origin.key();
        let chosen_within = monotonic().saturating_duration_since(began).as_nanos();
        Try {
            host: key.host.clone(),
            port: key.port,
            started_at: UnixTime::now().as_millis(),
            chosen_within: u64::try_from(chosen_within).unwrap_or(u64::MAX),
            failed: None,
        }
    }
}

async fn once(
    core: &Core,
    pool: &Rc<Pool>,
    attempt: &Attempt,
    outgoing: &Outgoing<'_>,
    (framing, body): (Framing, RequestBody),
    told: Option<&mut Try>,
) -> Result<Answer, Failed> {
    let connect = outgoing.timeouts.connect;
    let connecting = |error, body| {
        let hopeless = matches!(
            error,
            UpstreamError::Resolve { .. }
                | UpstreamError::Forbidden { .. }
                | UpstreamError::Authority
        );
        Failed {
            error,
            stage: if hopeless {
                Stage::Hopeless
            } else {
                Stage::Connecting
            },
            body: Some(body),
        }
    };
    if attempt.origin.key().http2 {
        let seat = match Box::pin(http2::connect(pool, connect)).await {
            Ok(seat) => seat,
            Err(error) => return Err(connecting(error, body)),
        };
        let spare = body.try_clone();
        let host = &attempt.host;
        return Box::pin(http2::exchange(pool, seat, outgoing, host, framing, body))
            .await
            .map_err(|http2::Failure { error, seen }| {
                let (stage, body) = match seen {
                    Seen::Nothing(body) => (Stage::Connecting, Some(body)),
                    Seen::Closed(body) => (Stage::Unseen, Some(body)),
                    Seen::Something if matches!(error, UpstreamError::RequestBody(_)) => {
                        (Stage::Hopeless, spare)
                    }
                    Seen::Something => (Stage::Exchanging, spare),
                };
                Failed { error, stage, body }
            });
    }
    let spare = body.try_clone();
    let (mut connection, pooled) = match pool.take(outgoing.now) {
        Some(connection) => (connection, true),
        None => match Box::pin(pool.connect(connect)).await {
            Ok(connected) => connected,
            Err(error) => return Err(connecting(error, body)),
        },
    };
    if let Some(told) = told
        && let Some(server) = connection.stream.peer()
    {
        (told.host, told.port) = (server.ip().to_string(), server.port());
    }
    write_head(&mut connection, outgoing, &attempt.host, framing);
    let pump = Pump::new(body, framing, core.node.limits.body);
    let failure = match exchange(
        connection,
        Rc::clone(pool),
        pump,
        outgoing.method,
        outgoing.upgrade.is_some(),
        outgoing.timeouts,
    )
    .await
    {
        Ok(answer) => return Ok(answer),
        Err(failure) => failure,
    };
    let stage = match failure.error {
        UpstreamError::Closed | UpstreamError::Send(_) | UpstreamError::Receive(_)
            if pooled && !failure.begun =>
        {
            Stage::Stale
        }
        UpstreamError::RequestBody(_)
        | UpstreamError::Framing(_)
        | UpstreamError::Informational => Stage::Hopeless,
        _ => Stage::Exchanging,
    };
    Err(Failed {
        error: failure.error,
        stage,
        body: failure.pump.untouched().or(spare),
    })
}

/// Writes the request's head to where the connection writes from.
fn write_head(
    connection: &mut Connection,
    outgoing: &Outgoing<'_>,
    host: &HeaderValue,
    framing: Framing,
) {
    let head = connection.output.head();
    put(
        head,
        &[
            outgoing.method.as_str().as_bytes(),
            b" ",
            outgoing.target.as_bytes(),
            b" HTTP/1.1\r\n",
        ],
    );
    field(head, header::HOST.as_str(), host.as_bytes());
    match outgoing.headers {
        View::Raw(fields) => fields.copy_without(outgoing.replaced, head),
        View::Map(headers) => {
            for (name, value) in headers {
                if !Kind::of(name).is_any_of(outgoing.replaced) {
                    field(head, name.as_str(), value.as_bytes());
                }
            }
        }
    }
    for (name, value) in outgoing.added {
        field(head, name, value);
    }
    head.extend_from_slice(outgoing.lines);
    match framing {
        Framing::Length(length) => {
            put(head, &[b"content-length: "]);
            crate::http1::writer::decimal(head, length);
            put(head, &[b"\r\n"]);
        }
        Framing::Chunked => put(head, &[b"transfer-encoding: chunked\r\n"]),
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(protocol) = outgoing.upgrade {
        put(head, &[b"connection: keep-alive, Upgrade\r\n"]);
        field(head, header::UPGRADE.as_str(), protocol.as_bytes());
    } else if outgoing.trailers {
        put(head, &[b"connection: keep-alive, te\r\nte: trailers\r\n"]);
    } else {
        put(head, &[b"connection: keep-alive\r\n"]);
    }
    put(head, &[b"\r\n"]);
}

fn put(head: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        head.extend_from_slice(part);
    }
}

/// What the client is returned of the upstream's answer: nothing that belongs to the upstream's connection. Which
/// trailers are to come is told only to clients that take them.
pub(crate) fn response(
    answer: Answer,
    method: &Method,
    takes_trailers: bool,
) -> Returned<ResponseBody> {
    let status = answer.head.status;
    // An answer without content has no length (RFC 9110 §8.6).
    let keeps_length = (*method == Method::HEAD && status != StatusCode::NO_CONTENT)
        || status == StatusCode::NOT_MODIFIED;
    let headers = match answer.head.headers {
        Headers::Raw(mut fields)
            if !keeps_length && !takes_trailers && is_usual(&fields, status) =>
        {
            fields.leave_out(NOT_RETURNED);
            Headers::Raw(fields)
        }
        headers => {
            let map = headers.into_map();
            Headers::Map(returned_fields(map, status, keeps_length, takes_trailers))
        }
    };
    Returned {
        reason: answer.head.reason,
        ..Returned::new(status, headers, answer.body)
    }
}

/// What is left out of an answer. The server side frames the body anew; a length that is known is set again
/// from the body.
const NOT_RETURNED: Kind = Kind::HOP_BY_HOP
    .and(Kind::TRAILER)
    .and(Kind::CONTENT_LENGTH);

/// Whether an answer with these fields can be passed on as it came but for [`NOT_RETURNED`]: its `Connection`
/// names no other field, and there is none that the gateway would change.
fn is_usual(fields: &Fields, status: StatusCode) -> bool {
    const CHANGED: Kind = Kind::TE
        .and(Kind::UPGRADE)
        .and(Kind::VIA)
        .and(Kind::TOLD)
        .and(Kind::REQUEST_ID);
    fields.is_plain()
        && !fields.has(CHANGED)
        && !status.is_informational()
        && !fields.connection().fields
}

/// The same of any answer.
fn returned_fields(
    mut headers: HeaderMap,
    status: StatusCode,
    keeps_length: bool,
    takes_trailers: bool,
) -> HeaderMap {
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = if switched {
        headers.get(header::UPGRADE).cloned()
    } else {
        None
    };
    fields::strip_hop_by_hop(&mut headers);
    if !takes_trailers {
        headers.remove(header::TRAILER);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    } else if !keeps_length {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers
}
