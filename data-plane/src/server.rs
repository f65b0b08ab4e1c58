//! One client's connection: requests in, answers out, one after the other (RFC 9112 §9.3).
//!
//! ```text
//!  Client (bytes) ─► request: found, judged, read ─► pipeline ─► answer: head and body
//!     ▲    └────────────── its body, as the pipeline asks for it ──────────┘      │
//!     └───────────────────────── and the next request ────────────────────────────┘
//! ```
//!
//! All of it is one task that shares nothing with others. A connection that begins as one of HTTP/2 goes to
//! the library that speaks it.

mod answer;
mod client;
mod date;
mod head;
pub(crate) mod http2;
mod lingering;
mod taking;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use tokio::sync::{oneshot, watch};
use tokio::time::Sleep;

use self::answer::Answer;
pub(crate) use self::client::ClientBody;
use self::client::{Client, Next};
pub(crate) use self::date::Date;
use self::head::Incoming;
pub(crate) use self::lingering::Upload;
use crate::apart::apart;
use crate::body::RequestBody;
use crate::core::Core;
use crate::http1::headers::Headers;
use crate::http1::request::Refusal;
use crate::orders::{Orders, changed};
use crate::pipeline::{Arrival, Peer, Recorded, Returned, handle};
use crate::stream::Stream;

/// How long a stopping node waits at most for a request on a connection that has none: the client may be about to
/// ask, and has not been told that the connection ends.
const NEXT_REQUEST: Duration = Duration::from_secs(2);

/// What a connection becomes once both sides have switched protocols.
#[derive(Debug)]
pub(crate) struct Switched {
    /// The client's bytes.
    pub(crate) stream: Stream,
    /// Those that came right behind its request.
    pub(crate) early: BytesMut,
    /// What the connection was until now: it is over when what follows is.
    pub(crate) exchange: Box<Recorded>,
    /// The connection counts, and the node waits for it when it stops, until this is dropped.
    pub(crate) open: oneshot::Sender<Infallible>,
}

/// What comes after an exchange.
enum After {
    /// The next one.
    Next,
    /// The end: with nothing of the client's unread, as far as we know.
    Close,
    /// The end: the client may still be sending, and is to read its answer first.
    Linger,
    /// The end, at once: the client has left, or takes nothing.
    Gone,
    /// A tunnel, as which the exchange goes on.
    Switch(oneshot::Sender<Switched>, Box<Recorded>),
}

/// Serves the client at the other end of `stream`, from which `early` has come, until one of both, or `orders`, ends
/// that.
pub(crate) async fn serve(
    core: Rc<Core>,
    stream: Stream,
    early: BytesMut,
    peer: Rc<Peer>,
    orders: watch::Receiver<Orders>,
) {
    let limits = core.node.limits;
    let is_http2 = stream.agreed().map(|protocol| protocol == b"h2");
    let metrics = Arc::clone(&core.metrics);
    let held = core.hold(peer.client(), None);
    let client = Client::new((stream, early), core.timers.timer(), limits, metrics, held);
    let client = Rc::new(RefCell::new(client));
    let mut stopping = Stopping::new(&orders);
    let shed = orders.borrow().shed;
    let mut asked = pin!(changed(orders.clone(), shed));
    let mut listening = false;
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    loop {
        let next = poll_fn(|cx| {
            let next = client.borrow_mut().poll_next(cx);
            if next.is_pending() {
                // The task is woken by what it has listened to once.
                while !stopping.now
                    && (!listening || stopping.is_told())
                    && let Poll::Ready(order) = asked.as_mut().poll(cx)
                {
                    if order.stopping {
                        stopping.now = true;
                    } else if core.node.memory.is_critical() || client.borrow().is_expendable() {
                        return Poll::Ready(Next::End);
                    } else {
                        asked.set(changed(orders.clone(), order.shed));
                    }
                }
                listening = true;
                if stopping.check() && client.borrow().is_idle() {
                    let wait = || tokio::time::sleep(NEXT_REQUEST.min(core.node.drain / 2));
                    let patience = patience.get_or_insert_with(|| Box::pin(wait()));
                    return patience.as_mut().poll(cx).map(|()| Next::End);
                }
            }
            next
        })
        .await;
        // What was agreed on binds both (RFC 7301, section 3.2).
        let fits = match next {
            Next::End => true,
            Next::Http2 => is_http2 != Some(false),
            Next::Request(_) | Next::Refused(_) => is_http2 != Some(true),
        };
        if !fits {
            return close(&client, After::Close).await;
        }
        let incoming = match next {
            Next::Request(incoming) if peer.bare => Incoming {
                refusal: Some(Refusal::Bare),
                ..incoming
            },
            Next::Request(incoming) => incoming,
            Next::Refused(refusal) => Incoming::stand_in(refusal, client.borrow().refused()),
            Next::Http2 if peer.bare => return,
            Next::Http2 => {
                if let Ok(client) = Rc::try_unwrap(client) {
                    let (stream, early) = client.into_inner().into_parts();
                    apart(move || http2::serve(core, stream, early, peer, orders)).await;
                }
                return;
            }
            Next::End => return close(&client, After::Close).await,
        };
        match exchange(&core, &client, &peer, incoming, &mut stopping).await {
            After::Next => {}
            After::Switch(sender, exchange) => {
                if let Ok(client) = Rc::try_unwrap(client) {
                    let (stream, early) = client.into_inner().into_parts();
                    let (open, end) = oneshot::channel();
                    let switched = Switched {
                        stream,
                        early,
                        exchange,
                        open,
                    };
                    // Nobody waits for it any more if the server has left meanwhile.
                    if sender.send(switched).is_ok() {
                        let _ = end.await;
                    }
                }
                return;
            }
            end => return close(&client, end).await,
        }
    }
}

/// One request and its answer.
async fn exchange(
    core: &Rc<Core>,
    client: &Rc<RefCell<Client>>,
    peer: &Rc<Peer>,
    incoming: Incoming,
    stopping: &mut Stopping<'_>,
) -> After {
    let Incoming {
        head,
        framing,
        keep_alive,
        expects,
        refusal,
        legible,
        trailers,
        upgrades,
    } = incoming;
    let (version, method) = (head.version, head.method.clone());
    let (switched, switch) = if upgrades {
        let (sender, receiver) = oneshot::channel();
        (Some(sender), Some(receiver))
    } else {
        (None, None)
    };
    let body = if client.borrow_mut().begin(framing, expects) {
        RequestBody::client(ClientBody::new(client))
    } else {
        RequestBody::Empty
    };
    let arrival = Arrival {
        head,
        body,
        refusal,
        legible,
        switch,
    };
    // Where it stays until it has been sent: it is too large to be handed on.
    let mut answered = None;
    {
        let mut handling = pin!(handle(Rc::clone(core), Rc::clone(peer), arrival));
        poll_fn(|cx| {
            if let Poll::Ready(returned) = handling.as_mut().poll(cx) {
                answered = Some(returned);
            }
            let mut client = client.borrow_mut();
            let waits = !peer.interim.is_empty() || !client.is_flushed();
            let told = !waits || client.tell(cx, &peer.interim).is_ok();
            if answered.is_some() || !told || (refusal.is_none() && client.poll_left(cx)) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
    let Some(returned) = &mut answered else {
        return After::Gone;
    };
    let switching = returned.status == StatusCode::SWITCHING_PROTOCOLS;
    let refused = refusal.is_some();
    let reusable = keep_alive && !refused && !stopping.check();
    // What whoever holds it still reads of the request's body is not to be lost, and its end is not waited for.
    let held = Rc::strong_count(client) > 1;
    let whole = client.borrow().is_read() || (!held && client.borrow_mut().drain());
    let reusable = reusable && whole;
    let answer = Answer {
        version,
        method: &method,
        reusable,
    };
    let Some(Sent { closes, at }) = send(core, client, answer, returned, trailers).await else {
        return After::Gone;
    };
    client.borrow_mut().is_answered(at);
    if switching
        && let Some(sender) = switched
        && let Some(returned) = answered
    {
        return After::Switch(sender, Box::new(returned.body));
    }
    // It is over: now it is logged and counted. Its body may hold the rest of the request's.
    drop(answered);
    if !client.borrow_mut().drain() || refused {
        After::Linger
    } else if closes {
        After::Close
    } else {
        After::Next
    }
}

/// How an answer was sent.
struct Sent {
    /// Whether the connection ends with it.
    closes: bool,
    /// When, if that was at once.
    at: Option<Instant>,
}

/// Sends a whole answer, with its trailers if the client takes such; nothing is said of it if the connection has ended
/// before.
async fn send(
    core: &Core,
    client: &RefCell<Client>,
    answer: Answer<'_>,
    returned: &mut Returned<Recorded>,
    takes_trailers: bool,
) -> Option<Sent> {
    let framed = {
        let client = &mut *client.borrow_mut();
        let date = core.date(returned.body.answered_at());
        let output = client.answer();
        let before = output.len();
        let framed = answer.write(output, returned, &date);
        returned.body.begins_with(output.len() - before);
        framed
    };
    // A tunnel begins behind its head.
    let last = framed.closes && returned.status != StatusCode::SWITCHING_PROTOCOLS;
    let (body, headers) = (&mut returned.body, &mut returned.headers);
    let mut done = !framed.body;
    let mut broken = false;
    let mut trailers = None;
    let mut go_on = |cx: &mut Context<'_>| {
        loop {
            let mut waits = false;
            while !done && client.borrow().has_room() {
                // Not while the client is borrowed: the body may read from it.
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => client.borrow_mut().write(framed.framing, data),
                        Err(last) => {
                            trailers = last.into_trailers().ok().filter(|_| takes_trailers);
                        }
                    },
                    Poll::Ready(None) => {
                        done = true;
                        let mut client = client.borrow_mut();
                        client.finish(framed.framing, trailers.as_ref());
                    }
                    Poll::Ready(Some(Err(error))) => {
                        tracing::debug!(%error, "a response broke off");
                        // What there was of it is the client's, who sees that the rest is missing.
                        (done, broken) = (true, true);
                    }
                }
            }
            let mut client = client.borrow_mut();
            if done && !broken && last {
                client.ends();
            }
            let flushed = client.poll_flush(cx);
            if flushed.is_pending() && client.stands_still() {
                body.rest();
                client.settle();
                // The head has gone, or waits in bytes of its own.
                *headers = Headers::Map(HeaderMap::new());
            }
            if let Err(error) = ready!(flushed) {
                tracing::debug!(%error, "a client does not read its response");
                return Poll::Ready(None);
            }
            if done {
                return Poll::Ready((!broken).then_some(framed.closes));
            }
            if waits {
                let left = client.poll_left(cx);
                return if left {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                };
            }
        }
    };
    let mut waited = false;
    let closes = poll_fn(|cx| {
        let gone = go_on(cx);
        waited |= gone.is_pending();
        gone
    });
    let closes = closes.await?;
    // A tunnel is not over with its head.
    let over = !waited && returned.status != StatusCode::SWITCHING_PROTOCOLS;
    let at = over.then(|| returned.body.went_at_once());
    Some(Sent { closes, at })
}

async fn close(client: &RefCell<Client>, after: After) {
    if matches!(after, After::Gone) {
        return;
    }
    let lingers = matches!(after, After::Linger);
    poll_fn(|cx| client.borrow_mut().poll_close(cx, lingers)).await;
}

/// Whether the node is to stop. To ask is one read of a counter.
struct Stopping<'a> {
    now: bool,
    orders: &'a watch::Receiver<Orders>,
}

impl<'a> Stopping<'a> {
    fn new(orders: &'a watch::Receiver<Orders>) -> Self {
        Self {
            now: orders.borrow().stopping,
            orders,
        }
    }

    /// Whether there has been any order since the connection began.
    fn is_told(&self) -> bool {
        !matches!(self.orders.has_changed(), Ok(false))
    }

    fn check(&mut self) -> bool {
        self.now |= match self.orders.has_changed() {
            Ok(false) => false,
            Ok(true) => self.orders.borrow().stopping,
            // A sender that is gone means the same.
            Err(_) => true,
        };
        self.now
    }
}
