//! A route that wants a sign-in, one who has signed in there, and traffic with that session among it.

use harness::{Browser, CLIENT, Demo, SECRET};
use http::Method;
use serde_json::{Value, json};

use crate::load::Target;

/// The host at which browsers find the gateway.
pub(crate) const GATEWAY: &str = "gateway.test";

/// A provider that sends browsers back to [`GATEWAY`], and an upstream.
pub(crate) async fn demo() -> Demo {
    Demo::start(&[format!("http://{GATEWAY}")]).await
}

async fn create(admin: &str, path: &str, body: Value) -> Value {
    let headers = [("content-type", "application/json")];
    let url = format!("{admin}{path}");
    let reply = Browser::new()
        .send(Method::POST, &url, &headers, body.to_string())
        .await;
    assert_eq!(reply.status, 201, "{path}: {}", reply.text());
    reply.json()
}

/// Has the control plane whose Admin API is at `admin` lead `/open` to the upstream, and `/` only with a sign-in.
pub(crate) async fn configure(admin: &str, demo: &Demo) {
    let service = json!({ "name": "echo", "url": demo.upstream() });
    let service = create(admin, "/services", service).await;
    for path in ["/open", "/"] {
        let route =
            json!({ "paths": [path], "service": { "id": service["id"] }, "strip_path": false });
        let route = create(admin, "/routes", route).await;
        if path == "/open" {
            continue;
        }
        let plugin = json!({ "name": "openid-connect", "route": { "id": route["id"] }, "config": {
            "issuer": demo.issuer(), "client_id": [CLIENT], "client_secret": [SECRET],
            "redirect_uri": [format!("http://{GATEWAY}/signed-in")], "scopes": ["openid"],
        } });
        create(admin, "/plugins", plugin).await;
    }
}

/// The cookies of one who has signed in at the node whose address is `node`.
pub(crate) async fn sign_in(node: &str) -> String {
    let mut browser = Browser::new();
    browser.resolve(GATEWAY, node);
    let signed_in = browser
        .sign_in(&format!("http://{GATEWAY}/"), "alice")
        .await;
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
    let names = browser.cookie_names(GATEWAY).into_iter();
    let cookies = names.map(|name| format!("{name}={}", browser.cookie(GATEWAY, &name).unwrap()));
    let cookies = cookies.collect::<Vec<_>>().join("; ");
    assert!(
        !cookies.is_empty(),
        "the way back led elsewhere: {}",
        signed_in.text()
    );
    cookies
}

/// What traffic is sent to: each of these nodes, one of five requests with a session.
pub(crate) fn targets<'a>(nodes: impl IntoIterator<Item = &'a str>, cookie: &str) -> Vec<Target> {
    let mut targets = Vec::new();
    for node in nodes {
        let open = Target::of(node, "/open");
        targets.extend(std::iter::repeat_n(open.clone(), 4));
        targets.push(Target {
            host: GATEWAY.to_owned(),
            path: "/".to_owned(),
            cookie: Some(cookie.to_owned()),
            ..open
        });
    }
    targets
}
