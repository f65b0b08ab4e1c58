//! Exchanges beyond the request: their responses and their logs.

use bytes::Bytes;
use http::HeaderValue;
use shared::clock::UnixTime;

use super::{FakeHost, Request};
use crate::exchange::{Exchange, Seen, Told};
use crate::filter::Over;
use crate::host::Host as _;

/// What the client gets of a response.
pub(crate) struct Replied {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

/// Lets `filter` see `request`, and the upstream's answer to it.
pub(crate) fn reply_of(
    filter: &impl crate::filter::Filter,
    host: &FakeHost,
    request: &Request,
    headers: &[(&'static str, &'static str)],
    body: &'static str,
) -> Replied {
    use crate::exchange::{BodyWish, Reply as Response, Source, WholeBody};

    let mut seen = seen(filter, host, request);
    let mut status = http::StatusCode::OK;
    let mut map = http::HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    for (name, value) in &request.told {
        map.append(name, value.clone());
    }
    seen.notes.put(Told(request.told.clone()));
    let mut reply = Response {
        seen: &mut seen,
        matched: Some(&request.matched),
        status: &mut status,
        headers: &mut map,
        source: Source::Service,
        wish: BodyWish::Nothing,
        maps: Vec::new(),
    };
    filter.on_response(&mut reply, host);
    let (wish, maps) = (reply.wish, std::mem::take(&mut reply.maps));
    let sent = status;
    let mut whole = WholeBody {
        seen: &mut seen,
        matched: Some(&request.matched),
        status,
        headers: &mut map,
        body: Bytes::from_static(body.as_bytes()),
    };
    let shown = match wish {
        BodyWish::Nothing => false,
        BodyWish::Look(longest) => body.len() <= longest,
        BodyWish::Need(_) | BodyWish::Discard => true,
    };
    if shown {
        filter.on_body(&mut whole, host);
    }
    let mut body = match wish {
        BodyWish::Discard => Bytes::new(),
        _ => whole.body,
    };
    for mut map in maps {
        body = [map.data(body), map.end(None)].concat().into();
    }
    let log = log(&seen, request, sent, &map, host.now());
    filter.on_log(Over::Exchange(&log), host);
    Replied {
        status: sent.as_u16(),
        headers: map,
        body,
    }
}

/// Lets `filter` see `request`, and the exchange when it is over.
pub(crate) fn log_of(filter: &impl crate::filter::Filter, host: &FakeHost, request: &Request) {
    logged(filter, host, request, |seen| {
        let secret = HeaderValue::from_static("Bearer secret");
        seen.request.headers.insert("authorization", secret);
    });
}

/// The same, once other filters have done `change`.
pub(crate) fn logged(
    filter: &impl crate::filter::Filter,
    host: &FakeHost,
    request: &Request,
    change: impl FnOnce(&mut Seen),
) {
    let mut seen = seen(filter, host, request);
    change(&mut seen);
    let mut headers = http::HeaderMap::new();
    headers.insert("x-answer", HeaderValue::from_static("42"));
    let log = log(&seen, request, http::StatusCode::OK, &headers, host.now());
    filter.on_log(Over::Exchange(&log), host);
}

/// What is known of `request` once `filter` has let it pass.
fn seen(filter: &impl crate::filter::Filter, host: &FakeHost, request: &Request) -> Seen {
    request.with_exchange(|exchange| {
        let flow = host.run(filter.on_request(exchange, host));
        assert!(matches!(flow, crate::filter::Flow::Continue), "{flow:?}");
        left(exchange)
    })
}

/// What stays of an exchange.
pub(crate) fn left(exchange: &mut Exchange<'_>) -> Seen {
    Seen {
        method: exchange.request.method.clone(),
        uri: exchange.request.uri.clone(),
        request: exchange.request.clone(),
        client: exchange.client.clone(),
        identity: exchange.identity.clone(),
        notes: std::mem::take(&mut exchange.notes),
        request_id: exchange.request_id,
    }
}

/// Lets `filter` see that `request` has met no route, and gives back the header fields that it adds to the answer.
pub(crate) fn unrouted(
    filter: &impl crate::filter::Filter,
    host: &FakeHost,
    request: &Request,
) -> http::HeaderMap {
    use crate::exchange::{BodyWish, Latencies, Log, Reply as Response, Source};

    let mut seen = request.with_exchange(left);
    let mut status = http::StatusCode::NOT_FOUND;
    let mut headers = http::HeaderMap::new();
    let mut reply = Response {
        seen: &mut seen,
        matched: None,
        status: &mut status,
        headers: &mut headers,
        source: Source::Error,
        wish: BodyWish::Nothing,
        maps: Vec::new(),
    };
    filter.on_response(&mut reply, host);
    let log = Log {
        matched: None,
        source: Source::Error,
        upstream_status: None,
        upstream_uri: "",
        latencies: Latencies {
            request: 10,
            kong: 10,
            ..Latencies::default()
        },
        tries: &[],
        ..log(&seen, request, status, &headers, host.now())
    };
    filter.on_log(Over::Exchange(&log), host);
    headers
}

/// An exchange that is over.
fn log<'a>(
    seen: &'a Seen,
    request: &'a Request,
    status: http::StatusCode,
    headers: &'a http::HeaderMap,
    started_at: UnixTime,
) -> crate::exchange::Log<'a> {
    use crate::exchange::{Latencies, Log, Source};

    Log {
        seen,
        matched: Some(&request.matched),
        secrets: &request.secrets,
        status,
        headers,
        source: Source::Service,
        upstream_status: Some(http::StatusCode::OK),
        upstream_uri: "/up?code=secret&x=1",
        received: 100,
        sent: 200,
        started_at,
        latencies: Latencies {
            request: 10,
            kong: 2,
            proxy: Some(3),
            receive: 5,
        },
        tries: &request.tries,
        tls: None,
    }
}
