//! What a provider says: its discovery document and its keys, a token that is to be verified with them, and
//! what it answers to the question what an opaque token is.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fuzz::host::OfflineHost;
use fuzz::request::{ISSUER, discovery, send};
use http::Method;
use libfuzzer_sys::fuzz_target;
use plugins::bundled::openid_connect::check;
use serde_json::json;

// A line with a discovery document (an empty one stands for a good one), one with a key set, and an answer.
fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default().to_vec();
    let (mut document, keys, answer) = (next(), next(), next());
    if document.is_empty() {
        document = discovery().to_string().into_bytes();
    }
    let host = OfflineHost::new(move |request| {
        let path = request.uri().path();
        let body = if path.ends_with("openid-configuration") {
            document.clone()
        } else if path.ends_with("keys") {
            keys.clone()
        } else {
            answer.clone()
        };
        (200, "application/json", body)
    });
    let config = json!({ "issuer": ISSUER, "client_id": ["client"], "client_secret": ["secret"] });
    // What is wrong with a provider is told; nothing else can be.
    let _ = host.run(check::discover(&config, &host));
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"RS256","kid":"k","typ":"at+jwt"}"#);
    let claims =
        URL_SAFE_NO_PAD.encode(br#"{"iss":"https://idp.example","sub":"s","exp":1900000000}"#);
    let token = format!("Bearer {header}.{claims}.{}", "A".repeat(342));
    for authorization in [token.as_str(), "Bearer opaque"] {
        let headers: [(&str, &[u8]); 2] = [
            ("authorization", authorization.as_bytes()),
            ("host", b"gateway.example"),
        ];
        let status = send(&host, Method::GET, "/", &headers, b"");
        assert_ne!(status, Some(500), "{authorization}");
        assert!(
            status.is_some() || authorization != token,
            "a forged token was let through"
        );
    }
});
