//! Upstreams and the health of their targets (Kong 3.9, `/upstreams/{upstream}/health`).

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;

use super::json_response;
use crate::balancer::show;
use crate::core::Node;

/// What is below `/upstreams`; nothing if there is no such thing.
pub(super) fn answer(
    node: &Node,
    request: &Request<Incoming>,
    path: &str,
) -> Option<Response<Full<Bytes>>> {
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    let mut parts = path.strip_prefix("/upstreams/")?.split('/').map(decoded);
    let name = parts.next()?;
    let rest: Vec<String> = parts.collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let live = node.live.load();
    let snapshot = live.as_ref()?;
    let balancer = show::find(snapshot.balancers(&node.balancers), &name)?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let writes = matches!(*request.method(), Method::PUT | Method::POST);
    let shown = match (&*rest, reads, writes) {
        (["health"], true, _) => {
            let whole = request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|pair| pair == "balancer_health=1"));
            if whole {
                show::balancer_health(balancer, &node.id)
            } else {
                show::targets_with_health(balancer, &node.id)
            }
        }
        (["targets"], true, _) => show::targets(balancer, false),
        (["targets", "all"], true, _) => show::targets(balancer, true),
        (["targets", target, word @ ("healthy" | "unhealthy")], _, true) => {
            let healthy = *word == "healthy";
            return show::set_health(balancer, target, None, healthy).then(no_content);
        }
        (["targets", target, address, word @ ("healthy" | "unhealthy")], _, true) => {
            let healthy = *word == "healthy";
            return show::set_health(balancer, target, Some(address), healthy).then(no_content);
        }
        (["health" | "targets", ..], _, _) => {
            let message = json!({ "message": "Method not allowed" });
            return Some(json_response(StatusCode::METHOD_NOT_ALLOWED, &message));
        }
        _ => return None,
    };
    Some(json_response(StatusCode::OK, &shown))
}

fn no_content() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
