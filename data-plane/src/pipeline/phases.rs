//! The phases of a route's filters around the upstream.

use std::rc::Rc;

use bytes::Bytes;
use http::{Response, header};
use plugins::answer::to_callers;
use plugins::environment::{Consumers, Membership};
use plugins::exchange::{BodyWish, Exchange, Parsing, Reply, Source, WholeBody};
use plugins::filter::{Filter as _, Flow, Phases};
use plugins::glance::{Glance, Pass};
use shared::telemetry::chain;
use uuid::Uuid;

use super::body::needed;
use super::record::{Record, Run};
use super::returned::Returned;
use crate::body::ResponseBody;
use crate::carry::as_u64;
use crate::compile::filters::Slot;
use crate::compile::{CompiledRoute, CompiledSnapshot};
use crate::core::{Core, Held};
use crate::error::GatewayError;
use crate::host::CoreHost;
use crate::memory;
use crate::upstream::UpstreamError;

/// The filter that runs for `slot`, by who the request is known to come from so far: a consumer, and groups that an
/// authentication asserts.
pub(super) fn choice(
    slot: &Slot,
    consumer: Option<Uuid>,
    asserted: &[Membership],
    consumers: &Consumers,
) -> Option<usize> {
    if !slot.depends_on_consumer() {
        return slot.choose(None, &[]);
    }
    let own = consumer.and_then(|consumer| consumers.memberships.get(&consumer));
    let own = own.map_or(&[][..], Vec::as_slice);
    if asserted.is_empty() {
        return slot.choose(consumer, own);
    }
    slot.choose(consumer, &[own, asserted].concat())
}

/// What the filters of `route` say of a request at a glance, all of which can.
pub(super) fn glance(
    snapshot: &CompiledSnapshot,
    route: &CompiledRoute,
    request: &Glance<'_>,
    core: &Rc<Core>,
) -> Option<Pass> {
    let host = CoreHost::new(Rc::clone(core));
    let mut pass = Pass::default();
    for slot in &route.filters.slots {
        let known = pass.known.as_ref();
        let consumer = known.and_then(|known| Some(known.identity.consumer.as_ref()?.id));
        if let Some(place) = choice(slot, consumer, &[], &request.environment.consumers) {
            let filter = snapshot.filters.get(place)?;
            filter.on_glance(request, &mut pass, &host)?;
        }
    }
    Some(pass)
}

/// Shows the request to the filters of `route`, until one of them answers, with whose answer it is. Each plugin's configuration
/// is chosen when it is its turn: by then the consumer may be known. The filters after an answer are
/// chosen too, for their later phases (Kong 3.9, plugins iterator).
pub(super) async fn ask(
    snapshot: &Rc<Held>,
    route: &CompiledRoute,
    exchange: &mut Exchange<'_>,
    core: &Rc<Core>,
    run: &mut Run,
) -> Option<(Source, Response<Bytes>)> {
    let filters = &route.filters;
    let later = filters.phases != Phases::NONE;
    if later {
        run.snapshot = Some(Rc::clone(snapshot));
        run.chosen.reserve_exact(filters.slots.len());
        run.phases = filters.phases;
    }
    let host = CoreHost::new(Rc::clone(core));
    let consumers = &exchange.environment.consumers;
    let mut answered = None;
    for slot in &filters.slots {
        let consumer = exchange.identity.consumer.as_ref().map(|found| found.id);
        let asserted = &exchange.identity.consumer_groups;
        let Some(place) = choice(slot, consumer, asserted, consumers) else {
            continue;
        };
        let Some(filter) = snapshot.filters.get(place) else {
            continue;
        };
        if later {
            run.chosen.push(place);
        }
        if answered.is_none() {
            answered = match filter.on_request(exchange, &host).await {
                Flow::Continue => None,
                Flow::Answer(mut answer) => {
                    to_callers(&mut answer, exchange);
                    Some((Source::Exit, answer))
                }
                Flow::Kept(answer) => Some((Source::Service, answer)),
            };
        }
        if answered.is_some() && !later {
            break;
        }
    }
    answered
}

/// Shows the response to the exchange's filters: its head, and its body to those that wish for it.
pub(super) async fn respond(returned: &mut Returned<ResponseBody>, record: &mut Record) {
    let Run {
        snapshot: Some(snapshot),
        chosen,
        seen: Some(seen),
        ..
    } = &mut record.run
    else {
        return;
    };
    let route = record
        .route
        .as_ref()
        .and_then(|(snapshot, route)| snapshot.routes.get(*route));
    let matched = route.map(|route| &route.account.matched);
    let host = CoreHost::new(Rc::clone(&record.core));
    let (mut wishes, mut maps) = (Vec::new(), Vec::new());
    let mut body = std::mem::replace(&mut returned.body, ResponseBody::Empty);
    let mut status = returned.status;
    let headers = returned.map();
    for place in chosen.iter() {
        let Some(filter) = snapshot.filters.get(*place) else {
            continue;
        };
        let mut reply = Reply {
            seen,
            matched,
            status: &mut status,
            headers,
            source: record.progress.source,
            wish: BodyWish::Nothing,
            maps: Vec::new(),
        };
        filter.on_response(&mut reply, &host);
        maps.append(&mut reply.maps);
        match reply.wish {
            BodyWish::Nothing => {}
            wish => wishes.push((filter, wish)),
        }
    }
    let tunnel = status == http::StatusCode::SWITCHING_PROTOCOLS;
    if wishes.iter().any(|(_, wish)| *wish == BodyWish::Discard) {
        body = ResponseBody::Full(Bytes::new());
    }
    // What came without a length goes on without one.
    let known = body.size().exact().is_some() || headers.contains_key(header::CONTENT_LENGTH);
    if !wishes.is_empty() && !tunnel {
        let keeps_length = keeps_length(&seen.method, status, &wishes);
        let service = route.and_then(|route| route.account.service);
        let held = record.core.hold(record.client, service);
        match read(body, &wishes, held, &record.core).await {
            Ok(Whole::All(mut bytes, mut held)) => {
                let (mut failed, size) = (None, held.bytes());
                for (filter, wish) in wishes {
                    let is_too_long = bytes.len() > limit(wish);
                    if let BodyWish::Need(_) = wish {
                        let parsed = size.saturating_add(needed(&bytes, Parsing::Json));
                        if is_too_long || !held.grows(parsed) {
                            failed = Some(why(&held, parsed, is_too_long));
                            continue;
                        }
                    } else if is_too_long {
                        continue;
                    }
                    let mut whole = WholeBody {
                        seen,
                        matched,
                        status,
                        headers,
                        body: bytes,
                    };
                    filter.on_body(&mut whole, &host);
                    bytes = whole.body;
                }
                if let Some(error) = failed {
                    return fail(returned, record, &error);
                }
                // Until the client has taken it.
                held.shrinks_to(size.max(bytes.len()));
                seen.notes.put(held);
                if !(keeps_length && bytes.is_empty()) {
                    headers.remove(header::CONTENT_LENGTH);
                }
                body = if known {
                    ResponseBody::Full(bytes)
                } else {
                    ResponseBody::Read(bytes, Box::new(ResponseBody::Empty))
                };
            }
            Ok(Whole::Begun(rest)) => body = rest,
            Err(error) => return fail(returned, record, &error),
        }
    }
    for map in maps.into_iter().filter(|_| !tunnel) {
        headers.remove(header::CONTENT_LENGTH);
        body = body.mapped(map);
    }
    if returned.status != status {
        (returned.status, returned.reason) = (status, None);
    }
    returned.body = body;
}

/// Whether the length that an answer tells stays where it has no content: it is that of the answer which it stands for
/// (RFC 9110 §8.6), as long as filters do no more than look at that.
fn keeps_length<F>(
    method: &http::Method,
    status: http::StatusCode,
    wishes: &[(F, BodyWish)],
) -> bool {
    let stands_for = *method == http::Method::HEAD || status == http::StatusCode::NOT_MODIFIED;
    let looks = |(_, wish): &(F, BodyWish)| matches!(wish, BodyWish::Look(_));
    stands_for && wishes.iter().all(looks)
}

/// Answers for an upstream whose body cannot be had as a filter needs it.
fn fail(returned: &mut Returned<ResponseBody>, record: &mut Record, error: &GatewayError) {
    tracing::warn!(
        request_id = &*record.request_id,
        error = %chain(error),
        "the upstream's body cannot be read"
    );
    record.progress.source = Source::Error;
    let response = error.response(
        &record.request_id,
        http::Version::HTTP_2,
        record.wish.as_ref(),
        &record.core.node.errors,
    );
    *returned = response.into();
}

const fn limit(wish: BodyWish) -> usize {
    match wish {
        BodyWish::Nothing => 0,
        BodyWish::Look(limit) | BodyWish::Need(limit) => limit,
        BodyWish::Discard => usize::MAX,
    }
}

/// What has been read of a body.
enum Whole {
    /// All of it, and the memory that it takes up.
    All(Bytes, memory::Held),
    /// It is longer than allowed, or than there is memory for, and may pass unseen: what was read comes first.
    Begun(ResponseBody),
}

/// Reads all of `body`, if it is no longer than the longest of `wishes` and there is memory for it, which is `held`: plenty,
/// unless one needs it.
///
/// # Errors
///
/// It broke, or one that needs it does not get it.
async fn read<F>(
    mut body: ResponseBody,
    wishes: &[(F, BodyWish)],
    mut held: memory::Held,
    core: &Core,
) -> Result<Whole, GatewayError> {
    if let ResponseBody::Full(bytes) = body {
        return Ok(Whole::All(bytes, held));
    }
    let is_needed = wishes
        .iter()
        .any(|(_, wish)| matches!(wish, BodyWish::Need(_)));
    let limits = wishes.iter().map(|(_, wish)| limit(*wish));
    let limit = limits.max().unwrap_or_default();
    if let ResponseBody::Upstream(_) = &body
        && body.size().exact() > Some(as_u64(limit))
    {
        return if is_needed {
            Err(UpstreamError::TooLarge.into())
        } else {
            Ok(Whole::Begun(body))
        };
    }
    let mut read = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        let data = frame?.into_data().unwrap_or_default();
        // The server has done its work for one that is needed.
        let has_room = held.adds(&mut read, &data, limit, !is_needed)
            && (is_needed || !core.node.memory.is_critical());
        let is_too_long = read.len() > limit;
        if is_needed && (is_too_long || !has_room) {
            return Err(why(&held, read.len(), is_too_long));
        }
        if is_too_long || !has_room {
            let begun = ResponseBody::begun(read.into(), body, held);
            return Ok(Whole::Begun(begun));
        }
    }
    Ok(Whole::All(read.into(), held))
}

/// Why a body that takes up `bytes` is not to be had.
fn why(held: &memory::Held, bytes: usize, is_too_long: bool) -> GatewayError {
    if is_too_long || !held.may_have(bytes) {
        UpstreamError::TooLarge.into()
    } else {
        GatewayError::Overloaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Pressure;
    use crate::pipeline::body::tests::on_core;

    const PAGE: usize = 4096;
    const LIMIT: usize = 64 * PAGE;

    /// What becomes of an answer of so many bytes.
    async fn read_of(length: usize, wish: BodyWish, core: &Core) -> Result<Whole, GatewayError> {
        let rest = Box::new(ResponseBody::Empty);
        let body = ResponseBody::Read(vec![b'x'; length].into(), rest);
        let held = core.hold([192, 0, 2, 1].into(), None);
        read(body, &[((), wish)], held, core).await
    }

    #[test]
    fn what_the_server_has_done_is_told_the_client_as_long_as_there_is_room() {
        const NEED: BodyWish = BodyWish::Need(LIMIT);
        const LOOK: BodyWish = BodyWish::Look(LIMIT);
        on_core(64 * PAGE, async |core| {
            core.node.memory.note(Pressure::Critical);
            let needed = read_of(20 * PAGE, NEED, core).await;
            let Ok(Whole::All(bytes, held)) = &needed else {
                panic!("there is room for it");
            };
            assert_eq!((bytes.len(), held.bytes()), (20 * PAGE, 20 * PAGE));
            let passed = read_of(PAGE, LOOK, core).await;
            assert!(matches!(passed, Ok(Whole::Begun(_))));
            drop(passed);
            core.node.memory.note(Pressure::None);
            let seen = read_of(PAGE, LOOK, core).await;
            assert!(matches!(seen, Ok(Whole::All(..))));
            drop(seen);
            // There is not plenty, and no room for both.
            let passed = read_of(20 * PAGE, LOOK, core).await;
            assert!(matches!(passed, Ok(Whole::Begun(_))));
            let refused = read_of(30 * PAGE, NEED, core).await;
            assert!(matches!(refused, Err(GatewayError::Overloaded)));
            for length in [60 * PAGE, LIMIT + 1] {
                let never = read_of(length, NEED, core).await;
                let Err(GatewayError::Upstream(UpstreamError::TooLarge)) = never else {
                    panic!("there is never room for it");
                };
            }
            drop((needed, passed));
            assert_eq!(core.held.used(), 0);
        });
    }

    #[test]
    fn what_passes_on_takes_up_memory_until_the_last_of_it_has_gone() {
        on_core(64 * PAGE, async |core| {
            let mut held = core.hold([192, 0, 2, 1].into(), None);
            assert!(held.grows(40 * PAGE));
            let read = vec![b'x'; 40 * PAGE].into();
            let mut body = ResponseBody::begun(read, ResponseBody::Empty, held);
            let mut sent = 0;
            while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
                sent += frame.unwrap().into_data().unwrap().len();
                assert_eq!(core.held.used() > 0, sent < 40 * PAGE, "{sent}");
            }
            assert_eq!(sent, 40 * PAGE);
        });
    }
}
