//! What is kept of an exchange until its last byte has been sent: only then is it logged and counted.

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use plugins::exchange::{Client, Exchange, Identity, Latencies, Log, Notes, Overrides, Seen};
use plugins::filter::{Counts, Filter as _, Over, Phases};
use plugins::glance::Known;
use plugins::registry::AnyFilter;
use plugins::request_id::RequestId;
use plugins::sessions::tenure::Tenure;
use shared::clock::{UnixTime, monotonic};
use uuid::Uuid;

use super::Peer;
use super::lasting::Lasting;
use super::phases::choice;
use super::progress::Progress;
use super::request::client;
use crate::access_log::{EndedBy, Line, REDACTED};
use crate::body::{Arrived, ResponseBody};
use crate::carry::as_u64;
use crate::core::{Core, Held};
use crate::ending::Ending;
use crate::error::Wish;
use crate::host::CoreHost;
use crate::http1::request::RequestHead;
use crate::metrics::Observation;
use crate::quota::Taken;
use crate::upstream::UpstreamError;

/// One exchange, as operators will see it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) core: Rc<Core>,
    pub(crate) peer: Rc<Peer>,
    /// What counts it among the requests under way; none if there were too many.
    #[expect(dead_code, reason = "it counts until it is dropped")]
    pub(crate) permit: Option<Taken>,
    pub(crate) progress: Progress,
    pub(crate) request_id: RequestId,
    /// Method and URI, if there is a log to write them to, and the request could be read.
    pub(crate) asked: Option<(Method, Uri)>,
    pub(crate) client: IpAddr,
    pub(crate) host: Option<Rc<str>>,
    /// What the client has said of the form that it takes answers in.
    pub(crate) wish: Option<Wish>,
    /// Whether the client is told which route it has met.
    pub(crate) debug: bool,
    /// The snapshot that the exchange runs by, and the place of its route.
    pub(crate) route: Option<(Rc<Held>, usize)>,
    pub(crate) consumer: Option<Uuid>,
    pub(crate) status: StatusCode,
    /// What has broken the answer off, if anything has that is known here.
    pub(crate) ended_by: Option<EndedBy>,
    /// How many bytes the request's head came in.
    pub(crate) head_length: u32,
    /// What counts the bytes of the request's body, if it has one.
    pub(crate) received: Option<Rc<Arrived>>,
    /// How many bytes the answer's head went in, once it has.
    pub(crate) sent_head: u32,
    /// Bytes of the answer's body that have been taken.
    pub(crate) sent: u64,
    /// What its filters keep and wait for.
    pub(crate) run: Run,
    /// What it is logged and counted by once it has let go of its snapshot.
    pub(super) lasting: Option<Box<Lasting>>,
}

/// The filters of an exchange, and what they need for their later phases.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// The snapshot that they belong to, and their places there. Empty if no later phase is waited for.
    pub(crate) snapshot: Option<Rc<Held>>,
    pub(crate) chosen: Vec<usize>,
    /// The later phases that they have a part in.
    pub(crate) phases: Phases,
    pub(crate) seen: Option<Box<Seen>>,
    /// Who it comes from, if it has passed at a glance.
    pub(crate) known: Option<Rc<Known>>,
    /// What the exchange was let through by, if that may end before its answer does.
    pub(crate) tenure: Option<Rc<Tenure>>,
    /// Header fields for the response, whoever answers.
    pub(crate) response_headers: Vec<(HeaderName, HeaderValue)>,
    /// Those that the client was sent, if anybody will ask for them.
    pub(crate) headers: Option<Box<HeaderMap>>,
}

impl Run {
    /// Begins the run of a request that matches no route, comes by another protocol than its route's or could not be read: it
    /// is answered already, and the filters that see every request see that.
    pub(crate) fn unrouted(
        &mut self,
        snapshot: &Rc<Held>,
        head: Box<RequestHead>,
        peer: &Peer,
        client: Client,
        request_id: RequestId,
    ) {
        let filters = &snapshot.unrouted;
        if filters.phases == Phases::NONE {
            return;
        }
        self.phases = filters.phases;
        self.chosen = filters
            .slots
            .iter()
            .filter_map(|slot| slot.choose(None, &[]))
            .collect();
        self.snapshot = Some(Rc::clone(snapshot));
        let request = peer.kept.borrow_mut().parts(*head);
        self.seen = Some(Box::new(Seen {
            method: request.method.clone(),
            uri: request.uri.clone(),
            request,
            client,
            identity: Identity::default(),
            notes: Notes::default(),
            request_id,
        }));
    }

    /// What of the exchange is counted by what its filters say; nothing of one that was refused before they ran.
    fn counts(&self) -> Option<Counts> {
        let mut filters = self.filters().filter(|_| self.phases.count);
        filters.find_map(|filter| filter.counts())
    }

    /// Its filters, as long as it has not let go of their snapshot.
    pub(super) fn filters(&self) -> impl Iterator<Item = &Arc<AnyFilter>> {
        let snapshot = self.snapshot.as_ref();
        let filters = snapshot.map(|snapshot| &snapshot.filters);
        let chosen = self.chosen.iter();
        chosen.filter_map(move |place| filters?.get(*place))
    }

    /// The name that the consumer's figures are shown under.
    fn consumer(&self) -> Option<&str> {
        let seen = self.seen.as_ref().map(|seen| &seen.identity);
        let known = || self.known.as_ref().map(|known| &known.identity);
        let identity = seen.or_else(known)?;
        let consumer = identity.consumer.as_deref()?;
        let name = consumer.username.as_deref();
        name.or(consumer.custom_id.as_deref())
    }

    /// Takes over what stays of a request that its filters have seen; the rest goes upstream.
    pub(crate) fn take(
        &mut self,
        exchange: Exchange<'_>,
        method: Method,
        uri: Uri,
    ) -> (String, Overrides) {
        self.response_headers = exchange.response_headers;
        self.tenure = exchange.tenure;
        self.seen = Some(Box::new(Seen {
            request: exchange.request,
            method,
            uri,
            client: exchange.client,
            identity: exchange.identity,
            notes: exchange.notes,
            request_id: exchange.request_id,
        }));
        (exchange.path, exchange.upstream)
    }
}

/// A client that gives a request up sooner than after so many milliseconds has not waited for an answer.
const HASTE: u64 = 5;

/// What is logged and counted of an exchange whose client leaves before the answer (nginx's 499).
pub(crate) const CLIENT_LEFT: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

impl Record {
    /// Bytes of the request's body that have been read.
    fn received(&self) -> u64 {
        self.received.as_ref().map_or(0, |body| body.bytes())
    }

    /// Begins the run of a request that is refused as it is: the filters that see every request see that, too.
    pub(crate) fn unread(&mut self, head: Box<RequestHead>, peer: &Peer) {
        if let Some(snapshot) = self.core.snapshot() {
            let client = client(None, peer, None, &"".into());
            self.run
                .unrouted(&snapshot, head, peer, client, self.request_id);
        }
    }

    /// Notes who has asked.
    pub(crate) fn identify(&mut self, identity: &Identity) {
        self.consumer = identity.consumer.as_ref().map(|consumer| consumer.id);
    }

    /// What of the exchange is counted: what its filters say, or those of its route, else all but by consumer.
    pub(super) fn counts(&self) -> Counts {
        if let Some(lasting) = &self.lasting {
            return lasting.counts;
        }
        let of_route = || {
            let (snapshot, route) = self.route.as_ref()?;
            let route = snapshot.routes.get(*route)?;
            let filters = &route.filters;
            let consumers = &snapshot.environment_of(route).consumers;
            let slots = filters.slots.iter().filter(|_| filters.phases.count);
            let places = slots.filter_map(|slot| choice(slot, self.consumer, &[], consumers));
            let mut chosen = places.filter_map(|place| snapshot.filters.get(place));
            chosen.find_map(|filter| filter.counts())
        };
        let counts = self.run.counts().or_else(of_route);
        counts.unwrap_or(Counts::DEFAULT)
    }

    /// When it ended, which is now. If its answer has gone in the moment in which the upstream gave it, no clock is asked.
    fn ended_at(&self) -> Instant {
        let at_once = self.progress.at_once && !self.run.phases.response;
        let answered_at = self.progress.answered_at.filter(|_| at_once);
        answered_at.unwrap_or_else(monotonic)
    }

    /// Logs and counts the exchange.
    fn close(&self) {
        let progress = &self.progress;
        let total = milliseconds(progress.start, self.ended_at());
        if self.status == CLIENT_LEFT {
            self.peer.gives_up(total < HASTE);
        }
        let account = self.account();
        self.core.metrics.observe(&Observation {
            route: account.map(|account| (account.matched.route.id, &account.labels)),
            counts: self.counts(),
            consumer: self.run.consumer(),
            status: self.status,
            source: progress.source,
            received: u64::from(self.head_length) + self.received(),
            sent: u64::from(self.sent_head) + self.sent,
            proxy_latency: progress.proxy_latency.unwrap_or(total),
            upstream_latency: progress.upstream_latency,
            total_latency: total,
            lacks: self.received.as_ref().is_some_and(|body| body.lacks()),
        });
        if self.run.phases.log {
            self.tell_filters(total);
        }
        if !self.core.node.access_log.is_on() {
            return;
        }
        let (asked, known) = (self.asked.as_ref(), self.core.snapshot());
        let unrouted = || known.as_ref().map(|snapshot| &snapshot.unrouted.secrets);
        let nothing = Arc::default();
        let secrets = self.secrets().or_else(unrouted).unwrap_or(&nothing);
        self.core.node.access_log.write(&Line {
            started_at: UnixTime::at(progress.start).as_millis(),
            request_id: &self.request_id,
            client_ip: self.client,
            method: asked.map_or("", |(method, _)| method.as_str()),
            host: self.host.as_deref().unwrap_or_default(),
            path: asked.map_or("", |(_, uri)| uri.path()),
            query: asked
                .and_then(|(_, uri)| uri.query())
                .map(|query| secrets.redact(query, REDACTED)),
            status: self.status.as_u16(),
            latency_ms: total,
            upstream_latency_ms: self.progress.upstream_latency,
            bytes_received: self.received(),
            bytes_sent: self.sent,
            route: account.map(|account| account.matched.route.id),
            service: account.and_then(|account| account.service),
            consumer: self.consumer,
            ended_by: self.ended_by.map(EndedBy::name),
        });
    }

    /// Tells the exchange's filters that it is over.
    fn tell_filters(&self, total: u64) {
        let (Some(seen), Some(secrets)) = (&self.run.seen, self.secrets()) else {
            return;
        };
        let progress = &self.progress;
        let before = progress.proxy_latency.unwrap_or(total);
        let (trail, none) = (progress.trail.as_deref(), HeaderMap::new());
        let log = Log {
            seen,
            matched: self.account().map(|account| &account.matched),
            secrets,
            status: self.status,
            headers: self.run.headers.as_deref().unwrap_or(&none),
            source: progress.source,
            upstream_status: progress.upstream_status,
            upstream_uri: trail.map_or("", |trail| &trail.upstream_uri),
            received: u64::from(self.head_length) + self.received(),
            sent: u64::from(self.sent_head) + self.sent,
            started_at: UnixTime::at(progress.start),
            latencies: Latencies {
                request: total,
                kong: before,
                proxy: progress.upstream_latency,
                receive: total
                    .saturating_sub(before)
                    .saturating_sub(progress.upstream_latency.unwrap_or_default()),
            },
            tries: trail.map_or(&[], |trail| &trail.tries),
            tls: self.peer.handshake.as_ref().and_then(|known| known.session),
        };
        let host = CoreHost::new(Rc::clone(&self.core));
        let lasting = self.lasting.iter().flat_map(|lasting| &lasting.filters);
        for filter in self.run.filters().chain(lasting) {
            filter.on_log(Over::Exchange(&log), &host);
        }
    }
}

/// An answer's body with the [`Record`] that is closed when it ends, or is given up.
#[derive(Debug)]
pub(crate) struct Recorded {
    body: ResponseBody,
    record: Box<Record>,
    /// Looks whether the body may go on, once it has for a while.
    ending: Option<Ending>,
    /// Whether it has let go of the request's head.
    outlasts: bool,
}

impl Recorded {
    /// The body of the exchange that `record` is about.
    pub(crate) const fn new(body: ResponseBody, record: Box<Record>) -> Self {
        Self {
            body,
            record,
            ending: None,
            outlasts: false,
        }
    }

    /// Notes that the answer's head takes `length` bytes.
    pub(crate) fn begins_with(&mut self, length: usize) {
        self.record.sent_head = u32::try_from(length).unwrap_or(u32::MAX);
    }

    /// Notes that so many bytes were carried from and to the client behind the answer's head.
    pub(crate) fn carried(&mut self, received: u64, sent: u64) {
        let received = self.record.received() + received;
        self.record.received = Some(Rc::new(Arrived::of(received)));
        self.record.sent += sent;
    }

    /// Goes on without the snapshot that it began with.
    pub(crate) fn let_go(&mut self) {
        self.record.let_go();
    }

    /// It lasts: goes on without the request's head, too, which most are over too soon to copy anything of.
    pub(crate) fn outlast(&mut self) {
        if !std::mem::replace(&mut self.outlasts, true) {
            self.record.outlast();
        }
    }

    /// The client takes nothing for now.
    pub(crate) fn rest(&mut self) {
        self.body.rest();
    }

    /// Leaves the body out.
    pub(crate) fn leave_out(&mut self) {
        self.body = ResponseBody::Empty;
    }

    /// When the upstream answered, if it has.
    pub(crate) const fn answered_at(&self) -> Option<Instant> {
        self.record.progress.answered_at
    }

    /// Notes that all of the answer was sent as soon as it was there, and says when.
    pub(crate) fn went_at_once(&mut self) -> Instant {
        self.record.progress.at_once = true;
        self.record.ended_at()
    }

    /// Whether what the exchange was let through by is over.
    fn has_ended(&mut self, cx: &Context<'_>) -> bool {
        let Some(tenure) = &self.record.run.tenure else {
            return false;
        };
        let core = &self.record.core;
        let ending = self.ending.get_or_insert_with(|| Ending::new(core, tenure));
        if ending.poll(cx).is_pending() {
            return false;
        }
        tracing::debug!(
            request_id = &*self.record.request_id,
            "an answer ends with what its request was let through by"
        );
        self.body = ResponseBody::Empty;
        true
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.core.is_cut_off() {
            self.ended_by = Some(EndedBy::DrainTimeout);
            if self.status == CLIENT_LEFT {
                self.status = StatusCode::SERVICE_UNAVAILABLE;
            }
        }
        self.close();
        if let Some(seen) = self.run.seen.take() {
            self.peer.kept.borrow_mut().reuse(seen.request.headers);
        }
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        let frame = this.body.poll_frame(cx);
        // Most are over after one part.
        let lasts = match &frame {
            Poll::Ready(None) => false,
            Poll::Ready(Some(_)) => this.record.sent > 0 || this.ending.is_some(),
            Poll::Pending => true,
        };
        if lasts {
            this.outlast();
            if this.has_ended(cx) {
                this.record.ended_by = Some(EndedBy::Session);
                return Poll::Ready(Some(Err(UpstreamError::Ended)));
            }
        }
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                this.record.sent += frame.data_ref().map_or(0, |data| as_u64(data.len()));
            }
            Poll::Ready(Some(Err(_))) => this.record.ended_by = Some(EndedBy::Upstream),
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size()
    }
}

/// Whole milliseconds from one time to another.
pub(crate) fn milliseconds(from: Instant, to: Instant) -> u64 {
    let passed = to.saturating_duration_since(from);
    let whole = passed.as_secs().saturating_mul(1000);
    whole.saturating_add(passed.subsec_millis().into())
}

#[cfg(test)]
mod tests {
    use super::Record;

    #[test]
    fn a_record_has_a_size_that_is_allocated_at_once() {
        // The allocator has blocks of 512 bytes at hand. Of some larger sizes it has not, and looks for a larger one.
        assert!(size_of::<Record>() <= 512, "{}", size_of::<Record>());
    }
}
