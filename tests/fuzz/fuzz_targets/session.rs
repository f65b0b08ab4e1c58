//! What a browser sends to a route that signs in: paths, queries, cookies, forms.

#![no_main]

use fuzz::host::OfflineHost;
use fuzz::request::{discovery, send};
use http::Method;
use libfuzzer_sys::fuzz_target;

// A line each for method, path with query, and cookies; the rest is the body.
fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(4, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let method = match next() {
        b"POST" => Method::POST,
        b"HEAD" => Method::HEAD,
        b"OPTIONS" => Method::OPTIONS,
        b"DELETE" => Method::DELETE,
        _ => Method::GET,
    };
    let Ok(uri) = std::str::from_utf8(next()) else {
        return;
    };
    let cookies = next();
    let body = next();
    let host = OfflineHost::new(|request| match request.uri().path() {
        "/.well-known/openid-configuration" => (
            200,
            "application/json",
            discovery().to_string().into_bytes(),
        ),
        "/keys" => (200, "application/json", b"{\"keys\":[]}".to_vec()),
        _ => (
            400,
            "application/json",
            b"{\"error\":\"invalid_grant\"}".to_vec(),
        ),
    });
    let headers: [(&str, &[u8]); 4] = [
        ("cookie", cookies),
        ("accept", b"text/html"),
        ("host", b"gateway.example"),
        ("content-type", b"application/x-www-form-urlencoded"),
    ];
    let answered = send(&host, method, uri, &headers, body);
    // Nobody is let through without having signed in, and nothing is our fault.
    if let Some(status) = answered {
        assert!(status != 500, "{status}");
    } else {
        assert!(
            uri.parse::<http::Uri>().is_err() || is_refused(&headers),
            "let through: {uri}"
        );
    }
});

/// Whether there is no such request.
fn is_refused(headers: &[(&str, &[u8])]) -> bool {
    headers
        .iter()
        .any(|(_, value)| http::HeaderValue::from_bytes(value).is_err())
}
