//! The echo upstream: shows what reached it, as a page for browsers and as JSON for everybody else.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use crate::page::page;

/// The largest body that is echoed, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// What the page links to.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// The base URL of each data plane, such as `http://localhost:8000`.
    pub data_planes: Vec<String>,
    /// Where the sign-out button posts to. `None`: no button.
    pub sign_out: Option<String>,
}

/// Answers every request with what it looked like.
pub fn router(links: Links) -> Router {
    Router::new()
        .fallback(echo)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Arc::new(links))
}

async fn echo(
    State(links): State<Arc<Links>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let wants_page = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accepted| accepted.contains("text/html"));
    if wants_page {
        return page(
            StatusCode::OK,
            "It works",
            &signed_in_page(&links, &uri, &headers),
        );
    }
    Json(as_json(&method, &uri, &headers, &body)).into_response()
}

/// The request as JSON. A header that comes more than once becomes a list.
pub fn as_json(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Value {
    let mut fields = Map::new();
    for name in headers.keys() {
        let mut values: Vec<Value> = headers
            .get_all(name)
            .iter()
            .map(|value| json!(String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let value = if values.len() == 1 {
            values.remove(0)
        } else {
            Value::Array(values)
        };
        fields.insert(name.as_str().to_owned(), value);
    }
    json!({
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "headers": fields,
        "body": String::from_utf8_lossy(body),
    })
}

fn signed_in_page(links: &Links, uri: &Uri, headers: &HeaderMap) -> Markup {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let claims = text("authorization").and_then(claims_of);
    let claim = |name: &str| {
        claims
            .as_ref()
            .and_then(|claims| claims.get(name)?.as_str())
    };
    let name = claim("name")
        .or_else(|| claim("sub"))
        .or_else(|| text("x-consumer-username"));
    let here = format!(
        "{}:{}",
        text("x-forwarded-host").unwrap_or_default(),
        text("x-forwarded-port").unwrap_or_default()
    );
    html! {
        @match name {
            Some(name) => p { "You are signed in as " strong { (name) } ". The gateway checked that; this page only shows what it was told." },
            None => p { "You are not signed in. This route has no sign-in." },
        }
        nav aria-label="Where to go" {
            @for (index, data_plane) in links.data_planes.iter().enumerate() {
                @let current = data_plane.ends_with(&format!("://{here}"));
                a href=(format!("{data_plane}/")) aria-current=[current.then_some("true")] {
                    "Open on data plane " (index + 1) @if current { " (this one)" }
                }
            }
            @if let (Some(sign_out), Some(_)) = (&links.sign_out, name) {
                form method="post" action=(sign_out) { button type="submit" { "Sign out" } }
            }
        }
        h2 { "The request that reached the upstream" }
        p { code { (uri.path()) } }
        table {
            thead { tr { th scope="col" { "Header" } th scope="col" { "Value" } } }
            tbody {
                @for (name, value) in headers {
                    tr { td { (name.as_str()) } td { (shown(name.as_str(), value.as_bytes())) } }
                }
            }
        }
        @if let Some(claims) = &claims {
            h2 { "Claims of the access token" }
            table {
                thead { tr { th scope="col" { "Claim" } th scope="col" { "Value" } } }
                tbody {
                    @for (name, value) in claims {
                        tr { td { (name) } td { (value.to_string()) } }
                    }
                }
            }
        }
    }
}

/// A header's value, but no credential: somebody may show this page to others.
fn shown(name: &str, value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match name {
        "authorization" => match text.split_once(' ') {
            Some((scheme, _)) => format!("{scheme} …"),
            None => "…".to_owned(),
        },
        "cookie" => "…".to_owned(),
        _ => text.into_owned(),
    }
}

/// The claims of a bearer token, for show: the gateway has verified it.
fn claims_of(authorization: &str) -> Option<Map<String, Value>> {
    let (_, token) = authorization.split_once(' ')?;
    let payload = token.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_no_credential() {
        assert_eq!(shown("authorization", b"Bearer abc.def"), "Bearer …");
        assert_eq!(shown("authorization", b"abc"), "…");
        assert_eq!(shown("cookie", b"session=abc"), "…");
        assert_eq!(shown("x-request-id", b"abc"), "abc");
    }

    #[test]
    fn a_page_escapes_what_it_was_sent() {
        let mut headers = HeaderMap::new();
        headers.insert("x-note", "<script>".parse().unwrap());
        let markup = signed_in_page(&Links::default(), &Uri::from_static("/"), &headers);
        assert!(markup.into_string().contains("&lt;script&gt;"));
    }
}
