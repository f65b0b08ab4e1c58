//! Taking a node out of its balancer, and back, by hand (Kong 3.9, `kong drain`).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::upstreams::no_content;
use super::{IDLE, json_response};
use crate::core::Node;

/// Bytes of the largest body.
const LIMIT: usize = 4096;

/// Does what the body of `request` says: `status` is `draining`, so that balancers send no new traffic, or `ready`.
pub(super) async fn set(node: &Node, request: Request<Incoming>) -> Response<Full<Bytes>> {
    // A page of another site must not have a browser on this machine do so.
    if request.headers().contains_key(header::ORIGIN) {
        return refused(StatusCode::FORBIDDEN, "not from a page of a browser");
    }
    let body = timeout(IDLE, Limited::new(request.into_body(), LIMIT).collect()).await;
    let Ok(Ok(body)) = body else {
        return refused(StatusCode::BAD_REQUEST, "the body cannot be read");
    };
    let withdrawn = match wanted(&body.to_bytes()).as_deref() {
        Some("draining") => true,
        Some("ready") => false,
        _ => {
            let expected = "status: expected one of: draining, ready";
            return refused(StatusCode::BAD_REQUEST, expected);
        }
    };
    tracing::info!(
        withdrawn,
        "an operator has said whether balancers are to send traffic here"
    );
    node.withdrawn.store(withdrawn, Ordering::Relaxed);
    no_content()
}

/// The member `status` of JSON, or of a form.
fn wanted(body: &[u8]) -> Option<String> {
    if let Ok(Value::Object(members)) = serde_json::from_slice(body) {
        return Some(members.get("status")?.as_str()?.to_owned());
    }
    let mut pairs = url::form_urlencoded::parse(body);
    let (_, status) = pairs.find(|(name, _)| name == "status")?;
    Some(status.into_owned())
}

fn refused(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    json_response(status, &json!({ "message": message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_said_in_json_or_in_a_form() {
        for (body, expected) in [
            (r#"{"status":"draining"}"#, Some("draining")),
            ("status=ready", Some("ready")),
            ("a=b&status=x", Some("x")),
            (r#"{"status":1}"#, None),
            ("", None),
            ("{", None),
        ] {
            assert_eq!(wanted(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }
}
