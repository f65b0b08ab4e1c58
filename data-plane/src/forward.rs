//! Request out, response back, both streamed; further attempts where they are safe.

mod attempt;
pub(crate) mod fields;
mod frames;
pub(crate) mod interim;
mod returned;
mod upgrade;

use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version, header};
use plugins::exchange::Try;
use shared::clock::monotonic;

use self::attempt::{Attempt, Stage, choose, once};
use self::interim::Interim;
pub(crate) use self::returned::response;
pub(crate) use self::upgrade::{Switching, tunnel};
use crate::balancer::{Balancer, Lease, Peer};
use crate::body::RequestBody;
use crate::core::Core;
use crate::http1::headers::View;
use crate::http1::kind::Kind;
use crate::http1::{Framing, FramingError, content_length, has_token};
use crate::pipeline::{Added, AtHand};
use crate::quota::fair::Place;
use crate::upstream::UpstreamError;
use crate::upstream::exchange::{Answer, Timeouts};
use crate::upstream::origin::Origin;
use crate::upstream::origins::Transport;
use crate::upstream::pool::Pool;

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
    /// What the gateway tells, as far as it is at hand.
    pub(crate) at_hand: [Option<AtHand<'a>>; 3],
    /// What else it tells.
    pub(crate) added: &'a [Added<'a>],
    /// The same as lines that are written already.
    pub(crate) lines: [&'a [u8]; 2],
    /// The protocol to switch to, if the client asks for one.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    /// Whether the client takes trailers.
    pub(crate) trailers: bool,
    /// Where answers go that come before the last one, if the client takes such.
    pub(crate) interim: Option<&'a Interim>,
    /// For whom it is, if not for the gateway itself.
    pub(crate) client: Option<IpAddr>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retries: u32,
    /// Whether a kept connection that closed without a word counts as one that was closed before, whatever the method: the
    /// gateway asks for itself, and may do so twice.
    pub(crate) again: bool,
    /// Whether no kept connection is good enough: it may reach the server once only.
    pub(crate) fresh: bool,
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
    permit: Place,
    lease: Option<Lease>,
}

/// Most targets without room that a request passes over: to look at all of thousands would cost more than to answer.
const MOST_PASSED_OVER: usize = 10;

/// Has the next attempt go past the target of `lease`, which has no room for it.
///
/// # Errors
///
/// None of those that may be asked has, or there is but one server.
pub(crate) fn pass_over(
    lease: Option<&Lease>,
    full: &mut Vec<Arc<Peer>>,
    tried: &mut Vec<Arc<Peer>>,
) -> Result<(), UpstreamError> {
    let peer = &lease.ok_or(UpstreamError::Busy)?.peer;
    if full.len() == MOST_PASSED_OVER || full.iter().any(|known| Arc::ptr_eq(known, peer)) {
        return Err(UpstreamError::Busy);
    }
    full.push(Arc::clone(peer));
    tried.push(Arc::clone(peer));
    Ok(())
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
/// there is one. A pooled connection that turns out to be dead costs no attempt, nor does a target that has no room, which is
/// passed over. Attempts after a later failure are bounded for each server that fails or is asked next, but for those at targets,
/// or addresses of a name, that had neither failed the request nor been passed over, if it is answered in the end. So a server
/// that is well is asked for all that others fail, and if none is, no request is tried at all of them.
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
    let mut kept: Option<(Attempt<'_>, Rc<Pool>, Place)> = None;
    // Which had no room.
    let mut full: Vec<Arc<Peer>> = Vec::new();
    let mut fresh = outgoing.fresh;
    // Why a request failed that was sent, and whose allowance the next attempt costs: that of the server that failed it, or of
    // the one that is asked next.
    let mut sent: Option<(UpstreamError, Server)> = None;
    let mut payer = None;
    // Whose allowance the attempts at servers that had not failed before have cost.
    let mut paid = Vec::new();
    // Where it has failed.
    let mut failed_at: Vec<SocketAddr> = Vec::new();
    // Whether all have failed: what comes then is asked of those.
    let mut all_failed = false;
    loop {
        let (attempt, pool, permit) = if let Some(kept) = kept.take() {
            kept
        } else {
            let began = tries.is_some().then(monotonic);
            let attempt = choose(core, outgoing, &failing)?;
            let pool = core.pools.of(&attempt.origin);
            let Some(permit) = pool.enter(|| core.node.counted(outgoing.client?)) else {
                pass_over(attempt.lease.as_ref(), &mut full, &mut failing)
                    .map_err(|busy| sent.take().map_or(busy, |(failed, _)| failed))?;
                continue;
            };
            let next = || Server::next(Rc::clone(&pool), &failed_at);
            payer = sent.take().map(|failed| pays(failed, next())).transpose()?;
            if !all_failed && attempt.is_elsewhere(&failing) {
                paid.extend(payer.take());
            }
            if let (Some(tries), Some(began)) = (&mut tries, began) {
                tries.push(attempt.told(began));
            }
            if let Some(lease) = &attempt.lease {
                all_failed |= lease.start_over(&mut failing);
            }
            (attempt, pool, permit)
        };
        let told = tries.as_mut().and_then(|tries| tries.last_mut());
        let outcome = once(
            core,
            &pool,
            &attempt,
            outgoing,
            (fresh, &failed_at),
            (framing, body),
            told,
        )
        .await;
        // Of a name it is known only now which server was asked.
        let address = attempt.address.get();
        let is_fresh = |address: SocketAddr| !failed_at.contains(&address);
        if attempt.lease.is_none() && address.is_some_and(is_fresh) {
            paid.extend(payer.take());
        }
        let failed = match outcome {
            Ok(answer) => {
                let status = answer.head.status;
                give_back(&paid, status);
                if let Some(lease) = &attempt.lease {
                    lease.answered(status);
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
            if failed.stage == Stage::Stale && !(repeatable || outgoing.again) {
                return Err(failed.error);
            }
            tracing::debug!(error = %failed.error, "a kept connection was dead, trying again");
            kept = Some((attempt, pool, permit));
            // The others may be as dead.
            fresh = true;
            continue;
        }
        let is_sent = failed.stage != Stage::Connecting;
        if attempts_left == 0 || (is_sent && (!repeatable || failed.stage == Stage::Hopeless)) {
            return Err(failed.error);
        }
        attempts_left -= 1;
        tracing::debug!(error = %failed.error, "trying again");
        let server = address.filter(|_| is_sent);
        sent = server.map(|address| (failed.error, Server { pool, address }));
        failed_at.extend(address);
        if let Some(lease) = &attempt.lease {
            failing.push(Arc::clone(&lease.peer));
        }
    }
}

/// A server, as further attempts are counted.
struct Server {
    pool: Rc<Pool>,
    address: SocketAddr,
}

impl Server {
    /// The one of `pool` that is asked next for a request that those in `failed` have failed.
    fn next(pool: Rc<Pool>, failed: &[SocketAddr]) -> Option<Self> {
        let address = pool.next(failed)?;
        Some(Self { pool, address })
    }
}

/// Who pays for another attempt, at `next`: the server that failed the last one, and where that has nothing left, `next`. Of many
/// that are ill one may cause more than it has; one that is well has all of its own left.
///
/// # Errors
///
/// How the last attempt failed, if neither can pay.
fn pays(failed: (UpstreamError, Server), next: Option<Server>) -> Result<Server, UpstreamError> {
    let (error, failed) = failed;
    let mut both = iter::once(failed).chain(next);
    both.find(|server| server.pool.retries.take(server.address))
        .ok_or_else(|| {
            tracing::debug!("these servers have had too many further attempts");
            error
        })
}

/// Gives back what attempts have `paid` that led to an answer with `status`. A server that has too much to do says so at once.
fn give_back(paid: &[Server], status: StatusCode) {
    if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
        for server in paid {
            server.pool.retries.give_back(server.address);
        }
    }
}
