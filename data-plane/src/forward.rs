//! Request out, response back, both streamed; further attempts where they are safe.

pub(crate) mod fields;
mod upgrade;

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use shared::clock::monotonic;

pub(crate) use self::upgrade::tunnel;
use crate::body::{RequestBody, ResponseBody};
use crate::compile::CompiledService;
use crate::core::Core;
use crate::http1::writer::field;
use crate::http1::{Framing, FramingError, content_length, has_token};
use crate::pipeline::Added;
use crate::upstream::exchange::{Answer, Pump, Timeouts, exchange};
use crate::upstream::origin::Origin;
use crate::upstream::{Connection, UpstreamError};

/// A request as it goes to one origin.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) origin: &'a Arc<Origin>,
    pub(crate) method: &'a Method,
    /// Path and query.
    pub(crate) target: &'a str,
    pub(crate) host: &'a HeaderValue,
    /// The client's, without what belongs to one connection. Some are replaced by those below.
    pub(crate) headers: &'a http::HeaderMap,
    /// Which of them.
    pub(crate) is_replaced: fn(&HeaderName) -> bool,
    /// What the gateway tells.
    pub(crate) added: &'a [Added],
    /// The protocol to switch to, if the client asks for one.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    /// Whether the client takes trailers.
    pub(crate) trailers: bool,
    pub(crate) timeouts: Timeouts,
    pub(crate) retries: u32,
}

/// How the request's body is framed on its way upstream.
pub(crate) fn request_framing(parts: &Parts, body: &RequestBody) -> Result<Framing, FramingError> {
    match parts.headers.get(header::CONTENT_LENGTH) {
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

/// Sends `outgoing` and waits for the answer's head.
///
/// A new attempt is made after a failure to connect, and after a later failure only for a method that
/// may be repeated (RFC 9110 §9.2.2) and a body that is still at hand. A pooled connection that turns
/// out to be dead costs no attempt.
pub(crate) async fn send(
    core: &Core,
    outgoing: &Outgoing<'_>,
    framing: Framing,
    body: RequestBody,
) -> Result<Answer, UpstreamError> {
    let repeatable = !matches!(*outgoing.method, Method::POST | Method::PATCH)
        && outgoing.method.as_str() != "LOCK";
    let pool = core.pools.of(outgoing.origin);
    let mut body = body;
    let mut attempts_left = outgoing.retries;
    loop {
        let spare = body.try_clone();
        let (mut connection, pooled) = match pool.take(monotonic()) {
            Some(connection) => (connection, true),
            None => match pool.connect(outgoing.timeouts.connect).await {
                Ok(connection) => (connection, false),
                Err(error)
                    if attempts_left > 0 && !matches!(error, UpstreamError::Resolve { .. }) =>
                {
                    attempts_left -= 1;
                    tracing::debug!(%error, "trying again");
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        write_head(&mut connection, outgoing, framing);
        let pump = Pump::new(body, framing, core.node.limits.body);
        let upgrades = outgoing.upgrade.is_some();
        let failure = match exchange(
            connection,
            Rc::clone(&pool),
            pump,
            outgoing.method,
            upgrades,
            outgoing.timeouts,
        )
        .await
        {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let stale = pooled
            && matches!(
                failure.error,
                UpstreamError::Closed | UpstreamError::Send(_) | UpstreamError::Receive(_)
            );
        let hopeless = matches!(
            failure.error,
            UpstreamError::RequestBody(_)
                | UpstreamError::Framing(_)
                | UpstreamError::Informational
        );
        let Some(again) = failure.pump.untouched().or(spare) else {
            return Err(failure.error);
        };
        if !repeatable || hopeless || (!stale && attempts_left == 0) {
            return Err(failure.error);
        }
        if !stale {
            attempts_left -= 1;
        }
        tracing::debug!(error = %failure.error, stale, "trying again");
        body = again;
    }
}

/// Writes the request's head to where the connection writes from.
fn write_head(connection: &mut Connection, outgoing: &Outgoing<'_>, framing: Framing) {
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
    field(head, &header::HOST, outgoing.host.as_bytes());
    for (name, value) in outgoing.headers {
        if !(outgoing.is_replaced)(name) {
            field(head, name, value.as_bytes());
        }
    }
    for (name, value) in outgoing.added {
        field(head, name, value.as_bytes());
    }
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
        field(head, &header::UPGRADE, protocol.as_bytes());
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

/// The client's response, without what belongs to the upstream's connection.
pub(crate) fn response(answer: Answer, method: &Method) -> Response<ResponseBody> {
    let mut headers = answer.head.headers;
    let switched = answer.head.status == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = if switched {
        headers.get(header::UPGRADE).cloned()
    } else {
        None
    };
    fields::strip_hop_by_hop(&mut headers);
    headers.remove(header::TRAILER);
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    } else if *method != Method::HEAD && answer.head.status != StatusCode::NOT_MODIFIED {
        // The server side frames the body anew; a length that is known is set again from the body.
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut response = Response::new(answer.body);
    *response.status_mut() = answer.head.status;
    *response.headers_mut() = headers;
    response
}

/// The `Host` for the upstream.
pub(crate) fn upstream_host(service: &CompiledService, preserved: Option<&str>) -> HeaderValue {
    preserved
        .and_then(|authority| HeaderValue::from_str(authority).ok())
        .unwrap_or_else(|| service.host.clone())
}
