//! What is kept of an exchange until its last byte has gone: only then is it logged and counted.

use std::cell::Cell;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use plugins::exchange::Identity;
use shared::clock::{UnixTime, monotonic};
use uuid::Uuid;

use crate::access_log::{Line, redact};
use crate::body::ResponseBody;
use crate::core::{Core, Held};
use crate::guard::Gate;
use crate::metrics::{Observation, Source};
use crate::upstream::UpstreamError;

/// One exchange, as operators will see it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) core: Rc<Core>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) start: Instant,
    pub(crate) started_at: UnixTime,
    pub(crate) request_id: String,
    /// Method and URI, if there is a log to write them to, and the request could be read.
    pub(crate) asked: Option<(Method, Uri)>,
    pub(crate) client: IpAddr,
    pub(crate) host: String,
    /// The snapshot that the exchange runs by, and the place of its route.
    pub(crate) route: Option<(Rc<Held>, usize)>,
    pub(crate) consumer: Option<Uuid>,
    pub(crate) status: StatusCode,
    pub(crate) source: Source,
    /// Milliseconds in the gateway before the upstream was asked, and until it answered.
    pub(crate) proxy_latency: Option<u64>,
    pub(crate) upstream_latency: Option<u64>,
    /// Bytes of the request's body that have been read.
    pub(crate) received: Rc<Cell<u64>>,
    /// Bytes of the answer's body that have been taken.
    pub(crate) sent: u64,
}

/// What is logged and counted of an exchange whose client leaves before the answer (nginx's 499).
pub(crate) const CLIENT_LEFT: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

impl Record {
    /// Notes who has asked.
    pub(crate) fn identify(&mut self, identity: &Identity) {
        self.consumer = identity.consumer.as_ref().map(|consumer| consumer.id);
    }

    /// Logs and counts the exchange.
    fn close(&self) {
        if self.status == CLIENT_LEFT {
            self.gate.give_up();
        }
        self.gate.end();
        let total = milliseconds(self.start);
        let route = self
            .route
            .as_ref()
            .and_then(|(snapshot, route)| snapshot.routes.get(*route));
        self.core.metrics.observe(&Observation {
            route: route.map(|route| (route.id, &route.labels)),
            status: self.status,
            source: self.source,
            received: self.received.get(),
            sent: self.sent,
            proxy_latency: self.proxy_latency.unwrap_or(total),
            upstream_latency: self.upstream_latency,
            total_latency: total,
        });
        if !self.core.node.access_log.is_on() {
            return;
        }
        let asked = self.asked.as_ref();
        self.core.node.access_log.write(&Line {
            started_at: self.started_at.as_millis(),
            request_id: &self.request_id,
            client_ip: self.client,
            method: asked.map_or("", |(method, _)| method.as_str()),
            host: &self.host,
            path: asked.map_or("", |(_, uri)| uri.path()),
            query: asked.and_then(|(_, uri)| uri.query()).map(redact),
            status: self.status.as_u16(),
            latency_ms: total,
            upstream_latency_ms: self.upstream_latency,
            bytes_received: self.received.get(),
            bytes_sent: self.sent,
            route: route.map(|route| route.id),
            service: route.and_then(|route| route.service.as_ref().map(|service| service.id)),
            consumer: self.consumer,
        });
    }
}

/// An answer's body with the [`Record`] that is closed when it ends, or is given up.
#[derive(Debug)]
pub(crate) struct Recorded {
    body: ResponseBody,
    record: Box<Record>,
}

impl Recorded {
    /// The body of the exchange that `record` is about.
    pub(crate) const fn new(body: ResponseBody, record: Box<Record>) -> Self {
        Self { body, record }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.close();
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
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.record.sent += u64::try_from(data.len()).unwrap_or(u64::MAX);
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

/// Whole milliseconds since then.
pub(crate) fn milliseconds(since: Instant) -> u64 {
    u64::try_from(monotonic().saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
}
