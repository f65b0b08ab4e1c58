//! Upstreams and the health of their targets (Kong 3.9, `/upstreams/{upstream}/health`).

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::json_response;
use crate::balancer::{Balancer, show};
use crate::core::Node;

/// Most targets on one page; where no size is asked for, a tenth of them.
const MAX_PAGE: usize = 1000;

/// What is below `/upstreams`, or below `/WORKSPACE/upstreams`; nothing if there is no such thing.
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
    let bare = path.strip_suffix('/').unwrap_or(path);
    let (workspace, below) = if let Some(below) = bare.strip_prefix("/upstreams/") {
        (None, below)
    } else {
        let (workspace, below) = bare.strip_prefix('/')?.split_once("/upstreams/")?;
        (Some(decoded(workspace)), below)
    };
    let mut parts = below.split('/').map(decoded);
    let name = parts.next()?;
    let rest: Vec<String> = parts.collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let live = node.live.load();
    let snapshot = live.as_ref()?;
    let balancer = show::find(
        snapshot.balancers(&node.balancers),
        workspace.as_deref(),
        &name,
    )?;
    let query = request.uri().query().unwrap_or_default();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let shown = match (&*rest, reads) {
        (["health"], true) => {
            if query.split('&').any(|pair| pair == "balancer_health=1") {
                show::balancer_health(balancer, &node.id)
            } else {
                show::targets_with_health(balancer, &node.id)
            }
        }
        (["targets"], true) => return Some(page(bare, query, show::targets(balancer, false))),
        (["targets", "all"], true) => {
            return Some(page(bare, query, show::targets(balancer, true)));
        }
        (["targets", target], true) => show::target(balancer, target)?,
        (["targets", target, word @ ("healthy" | "unhealthy")], _) => {
            return mark(request, balancer, target, None, word);
        }
        (["targets", target, address, word @ ("healthy" | "unhealthy")], _) => {
            return mark(request, balancer, target, Some(address), word);
        }
        (["health" | "targets"] | ["targets", _], false) => {
            let message = json!({ "message": "Method not allowed" });
            return Some(json_response(StatusCode::METHOD_NOT_ALLOWED, &message));
        }
        _ => return None,
    };
    Some(json_response(StatusCode::OK, &shown))
}

/// Sets the health of a target, or of one of its addresses, by hand; nothing if there is no such target, or another
/// method than Kong 3.9's is used.
fn mark(
    request: &Request<Incoming>,
    balancer: &Balancer,
    target: &str,
    address: Option<&str>,
    word: &str,
) -> Option<Response<Full<Bytes>>> {
    let marks = *request.method() == Method::PUT;
    (marks && show::set_health(balancer, target, address, word == "healthy")).then(no_content)
}

/// The part of `all` that the arguments `size` and `offset` of `query` ask for. Where a page is full, another one
/// may follow.
fn page(path: &str, query: &str, all: Vec<Value>) -> Response<Full<Bytes>> {
    let argument = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
    };
    let refused = |code: u8, name: &str, message: &str| {
        let body = json!({ "code": code, "name": name, "message": message });
        json_response(StatusCode::BAD_REQUEST, &body)
    };
    let size = match argument("size").map_or(Ok(MAX_PAGE / 10), str::parse::<usize>) {
        Ok(size @ 1..=MAX_PAGE) => size,
        Ok(_) => {
            let message = format!("size must be an integer between 1 and {MAX_PAGE}");
            return refused(9, "invalid size", &message);
        }
        Err(_) => return refused(9, "invalid size", "size must be a number"),
    };
    let Ok(offset) = argument("offset").map_or(Ok(0), str::parse::<usize>) else {
        return refused(
            7,
            "invalid offset",
            "offset must be one that a page has told",
        );
    };
    let data: Vec<Value> = all.into_iter().skip(offset).take(size).collect();
    let shown = if data.len() == size {
        let offset = offset.saturating_add(size).to_string();
        let next = format!("{path}?offset={offset}");
        json!({ "data": data, "next": next, "offset": offset })
    } else {
        json!({ "data": data, "next": null })
    };
    json_response(StatusCode::OK, &shown)
}

pub(super) fn no_content() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
