//! The Admin API: paths, queries and bodies of every kind. Nothing is answered with a 500.

#![no_main]

use std::sync::LazyLock;

use axum::body::Body;
use control_plane::admin::Admin;
use fuzz::control::{config, publisher};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;
use uuid::Uuid;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
});

const METHODS: [Method; 6] = [
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::GET,
    Method::OPTIONS,
];

const KINDS: [&str; 5] = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "text/yaml",
    "",
];

// One byte for the method and the media type, a line for path and query, and the body.
fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let end = rest
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(rest.len());
    let (line, body) = rest.split_at(end);
    let method = METHODS[usize::from(choice % 8) % METHODS.len()].clone();
    let kind = KINDS[usize::from(choice / 8) % KINDS.len()];
    let mut request = Request::builder().method(&method).uri(line);
    if !kind.is_empty() {
        request = request.header("content-type", kind);
    }
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    let Ok(request) = request.body(Body::from(body.to_vec())) else {
        return;
    };
    let admin = Admin::new(publisher(config()), Uuid::nil(), Vec::new());
    let (status, text) = RUNTIME.block_on(async {
        let answered = admin.router().oneshot(request).await;
        let answer = answered.expect("the router answers everything");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body ends");
        (status, body.to_bytes())
    });
    assert!(
        status.as_u16() < 500 || status == StatusCode::NOT_IMPLEMENTED,
        "{status}"
    );
    let silent = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let json = || serde_json::from_slice::<Value>(&text).is_ok_and(|body| body.is_object());
    assert!(silent || json(), "{status} without a JSON object");
});
