//! Responses of the gateway itself, and the headers that it adds to every response.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version, header};
use plugins::exchange::Source;
use shared::clock::monotonic;
use shared::error_form::is_grpc;
use shared::telemetry::chain;
use shared::told::Told;
use shared::version::KONG_PRODUCT;

use super::Peer;
use super::record::{Record, milliseconds};
use super::returned::{Returned, ToldField};
use crate::body::ResponseBody;
use crate::compile::CompiledRoute;
use crate::core::Core;
use crate::error::{GatewayError, grpc_response, message_response};
use crate::forward::fields;
use crate::http1::head::is_bodiless;
use crate::http1::headers::{Headers, View};
use crate::http1::kind::Kind;
use crate::http1::request::RequestHead;

static UPSTREAM_LATENCY: ToldField = ToldField::of("x-kong-upstream-latency: ");
static PROXY_LATENCY: ToldField = ToldField::of("x-kong-proxy-latency: ");
static RESPONSE_LATENCY: ToldField = ToldField::of("x-kong-response-latency: ");
static UPSTREAM_STATUS: ToldField = ToldField::of("x-kong-upstream-status: ");
static REQUEST_ID: ToldField = ToldField::of_once("x-kong-request-id: ");
static SERVER: ToldField = ToldField::of("server: ");
static VIA: ToldField = ToldField::of("via: ");
const DEBUG: HeaderName = HeaderName::from_static("kong-debug");

/// Writes what the gateway says of every answer, as far as operators want it told: who made it, how long
/// that took, and its name.
pub(super) fn sign(returned: &mut Returned<ResponseBody>, record: &Record) {
    let progress = &record.progress;
    let told = record.core.node.told;
    // A server that was asked in vain was asked all the same.
    let asked = progress.proxy_latency.zip(progress.upstream_latency);
    let version = progress.upstream_version;
    let answered = progress.source == Source::Service;
    if !answered && told.server && !returned.map().contains_key(header::SERVER) {
        returned.tell(&SERVER, KONG_PRODUCT.as_bytes());
    }
    if let Some(latencies) = asked {
        match &returned.headers {
            Headers::Raw(_) => {
                let mut signature = record.core.signature.borrow_mut();
                returned.lines(signature.lines(told, version, latencies));
            }
            Headers::Map(headers) => {
                let via = told.via.then(|| fields::via(headers, version));
                tell_latencies(told, latencies, |field, value| returned.tell(field, value));
                if let Some(via) = via {
                    returned.map().insert(header::VIA, via);
                }
            }
        }
    } else if told.response_latency {
        let latency = milliseconds(progress.start, monotonic());
        let mut digits = itoa::Buffer::new();
        returned.tell(&RESPONSE_LATENCY, digits.format(latency).as_bytes());
    }
    if told.upstream_status
        && let Some(status) = progress.upstream_status
    {
        returned.tell(&UPSTREAM_STATUS, status.as_str().as_bytes());
    }
    if told.request_id {
        returned.tell(&REQUEST_ID, record.request_id.as_bytes());
    }
    if record.debug
        && let Some((snapshot, place)) = &record.route
        && let Some(route) = snapshot.routes.get(*place)
    {
        add_debug(returned.map(), route);
    }
}

/// The lines that a core has told of its last answer that came from a server, which it nearly always tells of the next.
#[derive(Debug, Default)]
pub(crate) struct Signature {
    /// The version of HTTP that the server has answered by, and milliseconds in the gateway and until then.
    of: Option<(Version, (u64, u64))>,
    lines: Vec<u8>,
}

impl Signature {
    /// The lines for an answer by `version` with `latencies`. What is `told` must be the same each time.
    fn lines(&mut self, told: Told, version: Version, latencies: (u64, u64)) -> &[u8] {
        if self.of != Some((version, latencies)) {
            self.of = Some((version, latencies));
            self.lines.clear();
            let lines = &mut self.lines;
            tell_latencies(told, latencies, |field, value| field.write(lines, value));
            if told.via {
                VIA.write(lines, fields::own_via(version).as_bytes());
            }
        }
        &self.lines
    }
}

/// Tells how long an answer has taken.
fn tell_latencies(
    told: Told,
    (proxy, upstream): (u64, u64),
    mut tell: impl FnMut(&'static ToldField, &[u8]),
) {
    let mut digits = itoa::Buffer::new();
    if told.upstream_latency {
        tell(&UPSTREAM_LATENCY, digits.format(upstream).as_bytes());
    }
    if told.proxy_latency {
        tell(&PROXY_LATENCY, digits.format(proxy).as_bytes());
    }
}

/// Whether the client asks which route it has met, and may.
pub(super) fn wants_debug(core: &Core, headers: View<'_>) -> bool {
    let name = DEBUG;
    core.node.debug && headers.values(Kind::OTHER, &name).next() == Some(b"1")
}

/// Tells which route and service a request has met (Kong 3.9, `Kong-Debug`).
fn add_debug(headers: &mut HeaderMap, route: &CompiledRoute) {
    let matched = &route.account.matched;
    let mut tell = |name: &'static str, value: &str| {
        // A name beyond what a field's value can hold is not told.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    tell("kong-route-id", &matched.route.id.to_string());
    if let Some(name) = &matched.route.name {
        tell("kong-route-name", name);
    }
    if let Some(service) = &matched.service {
        tell("kong-service-id", &service.id.to_string());
        if let Some(name) = &service.name {
            tell("kong-service-name", name);
        }
    }
}

/// What answers a request that its route's protocols do not fit (Kong 3.9, runloop before `access`), or its connection.
pub(super) fn protocol_answer(
    route: &CompiledRoute,
    head: &RequestHead,
    (peer, client): (&Peer, &plugins::exchange::Client),
    request_id: &str,
) -> Option<Result<Response<ResponseBody>, GatewayError>> {
    if route.grpc {
        if head.version != Version::HTTP_2 {
            return Some(Err(GatewayError::NotHttp2));
        }
        let headers = head.headers.view();
        let mut types = headers.values(Kind::CONTENT_TYPE, &header::CONTENT_TYPE);
        if !types.next().is_some_and(is_grpc) {
            return Some(Err(GatewayError::NotGrpc));
        }
    }
    if route.filters.wants_certificates && peer.was_not_asked() {
        return Some(Err(GatewayError::Misdirected));
    }
    let status = route.https_only.filter(|_| !client.https)?;
    if route.grpc {
        let message = "gRPC request matched gRPCs route";
        return Some(Ok(grpc_response(StatusCode::OK, 1, message)));
    }
    Some(Ok(to_https(
        status,
        &client.authority,
        &head.uri,
        request_id,
    )))
}

/// What a filter has answered, without a message where the status has none (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
pub(super) fn without_content(mut answer: Response<Bytes>) -> Response<Bytes> {
    let status = answer.status();
    let bare = is_bodiless(status) || status == StatusCode::RESET_CONTENT;
    if bare && !answer.body().is_empty() {
        answer.body_mut().clear();
        answer.headers_mut().remove(header::CONTENT_TYPE);
    }
    answer
}

/// The answer to a request that cannot be served.
pub(super) fn refuse(
    error: &GatewayError,
    record: &Record,
    version: Version,
) -> Response<ResponseBody> {
    let request_id = &*record.request_id;
    if let GatewayError::Upstream(error) = error {
        tracing::warn!(
            request_id,
            error = %chain(error),
            "the upstream gave no answer"
        );
    }
    let style = &record.core.node.errors;
    error.response(request_id, version, record.wish.as_ref(), style)
}

fn to_https(status: u16, authority: &str, uri: &Uri, request_id: &str) -> Response<ResponseBody> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UPGRADE_REQUIRED);
    let path = uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let (host, _) = shared::authority::split_port(authority);
    let location = HeaderValue::from_str(&format!("https://{host}{path}"));
    match location {
        Ok(location) if status != StatusCode::UPGRADE_REQUIRED => {
            let mut response = Response::new(ResponseBody::Empty);
            *response.status_mut() = status;
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        _ => {
            let mut response = message_response(
                StatusCode::UPGRADE_REQUIRED,
                "Please use HTTPS protocol",
                request_id,
            );
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            response.headers_mut().insert(
                header::UPGRADE,
                HeaderValue::from_static("TLS/1.2, HTTP/1.1"),
            );
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_the_answer_that_it_is_asked_for() {
        let told = |headers: &[&str]| {
            let names: Vec<_> = headers.iter().map(|name| (*name).to_owned()).collect();
            Told::parse(&names, &[]).unwrap()
        };
        let via = |version| format!("via: {version} {KONG_PRODUCT}\r\n");
        let both = |proxy, upstream| {
            format!("x-kong-upstream-latency: {upstream}\r\nx-kong-proxy-latency: {proxy}\r\n")
        };
        let mut signature = Signature::default();
        for (version, proxy, upstream) in [
            ("1.1", 0, 0),
            ("1.1", 0, 7),
            ("1.1", 0, 7),
            ("1.1", 7, 0),
            ("1.0", 7, 0),
            ("1.1", 12, 345),
        ] {
            let by = if version == "1.0" {
                Version::HTTP_10
            } else {
                Version::HTTP_11
            };
            let lines = signature.lines(told(&["latency_tokens", "via"]), by, (proxy, upstream));
            let expected = both(proxy, upstream) + &via(version);
            assert_eq!(str::from_utf8(lines).unwrap(), expected);
        }
        let lines = |headers: &[&str]| {
            let mut signature = Signature::default();
            String::from_utf8(
                signature
                    .lines(told(headers), Version::HTTP_11, (1, 2))
                    .to_vec(),
            )
            .unwrap()
        };
        assert_eq!(lines(&["off"]), "");
        assert_eq!(lines(&["server_tokens"]), via("1.1"));
        assert_eq!(
            lines(&["x-kong-proxy-latency"]),
            "x-kong-proxy-latency: 1\r\n"
        );
    }
}
