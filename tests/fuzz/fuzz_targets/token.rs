//! Access tokens: as they come, and with a signature that is good, so that what is behind it is read.

#![no_main]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fuzz::host::OfflineHost;
use fuzz::request::{SECRET, discovery, send};
use http::Method;
use libfuzzer_sys::fuzz_target;

// A first byte that tells whether the rest is a token, or a line with its header and then its claims.
fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let token = if *choice == b'=' {
        rest.to_vec()
    } else {
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len());
        let (header, claims) = rest.split_at(end);
        let claims = claims.strip_prefix(b"\n").unwrap_or(claims);
        signed(header, claims)
    };
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
            b"{\"error\":\"invalid_request\"}".to_vec(),
        ),
    });
    let authorization = [b"Bearer ", token.as_slice()].concat();
    let headers: [(&str, &[u8]); 2] = [
        ("authorization", &authorization),
        ("host", b"gateway.example"),
    ];
    let status = send(&host, Method::GET, "/", &headers, b"");
    assert_ne!(status, Some(500));
    // A logout token is read by the same rules.
    let form = [b"logout_token=", token.as_slice()].concat();
    let headers: [(&str, &[u8]); 2] = [
        ("content-type", b"application/x-www-form-urlencoded"),
        ("host", b"gateway.example"),
    ];
    let status = send(&host, Method::POST, "/backchannel", &headers, &form);
    assert_ne!(status, Some(500));
});

/// A token of these parts with the client's signature.
fn signed(header: &[u8], claims: &[u8]) -> Vec<u8> {
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", encode(signature.as_ref())).into_bytes()
}
