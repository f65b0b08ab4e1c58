//! The console: a page that draws its forms from `/schemas`, and the Admin API below `/api` of the same origin.
//!
//! The page has no markup of its own making, no framework and no build step; its policy lets it run and fetch
//! only what comes from here.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderName, HeaderValue, StatusCode, header};

/// Each file: where it is found, its type and its text.
const FILES: [(&str, &str, &str); 6] = [
    ("/", HTML, include_str!("../ui/index.html")),
    (
        "/console.css",
        "text/css; charset=utf-8",
        include_str!("../ui/console.css"),
    ),
    ("/console.js", SCRIPT, include_str!("../ui/console.js")),
    ("/api.js", SCRIPT, include_str!("../ui/api.js")),
    ("/elements.js", SCRIPT, include_str!("../ui/elements.js")),
    ("/form.js", SCRIPT, include_str!("../ui/form.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the page may do: run scripts and styles of its own, and call its own origin.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The console in front of `admin`, the Admin API.
pub(crate) fn router(admin: Router) -> Router {
    let pages = FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            let answer = move || async move { ([(header::CONTENT_TYPE, kind)], text) };
            router.route(path, get(answer))
        });
    let pages = pages
        .fallback(|| async { StatusCode::NOT_FOUND.into_response() })
        .layer(from_fn(protect));
    Router::new().nest_service("/api", admin).merge(pages)
}

/// Adds what every page tells the browser.
async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str) -> (StatusCode, http::HeaderMap, String) {
        let admin =
            Router::new().fallback(|request: Request| async move { request.uri().to_string() });
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(admin).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (
            parts.status,
            parts.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn every_file_that_the_console_names_is_served_under_its_policy() {
        let (status, headers, page) = ask("/").await;
        assert_eq!(status, StatusCode::OK);
        assert!(page.contains("console.js"), "{page}");
        assert_eq!(headers["content-security-policy"], POLICY);
        for (path, kind, text) in FILES {
            let (status, headers, body) = ask(path).await;
            assert_eq!(
                (status, &headers["content-type"]),
                (StatusCode::OK, &HeaderValue::from_static(kind)),
                "{path}"
            );
            assert_eq!(body, text);
            // What a module takes from another is there.
            for line in text
                .lines()
                .filter_map(|line| line.split(" from \"./").nth(1))
            {
                let other = line.split('"').next().unwrap();
                assert_eq!(
                    ask(&format!("/{other}")).await.0,
                    StatusCode::OK,
                    "{path}: {other}"
                );
            }
        }
        let (status, headers, _) = ask("/none").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(headers.contains_key("content-security-policy"));
    }

    #[tokio::test]
    async fn the_admin_api_is_below_api() {
        for (path, expected) in [
            ("/api/services?size=1", "/services?size=1"),
            ("/api/", "/"),
            ("/api", "/"),
        ] {
            let (_, _, body) = ask(path).await;
            assert_eq!(body, expected);
        }
    }
}
