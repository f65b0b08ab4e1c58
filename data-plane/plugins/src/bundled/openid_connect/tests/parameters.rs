//! What parameters do, alone and beside each other, where a first reading may miss it.

use http::{HeaderName, HeaderValue};
use serde_json::json;

use super::gateway::{Browser, Gateway, Reply};
use crate::testing::{Request, consumer};

fn request(uri: &str, headers: &[(&'static str, &str)]) -> Request {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers.push((HeaderName::from_static(name), value));
    }
    request
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The cookie `name` that `reply` sets.
fn cookie(reply: &Reply, name: &str) -> Option<String> {
    let mut cookies = reply.set_cookies().into_iter();
    cookies
        .find(|cookie| cookie.starts_with(name))
        .map(str::to_owned)
}

#[test]
fn a_token_that_the_provider_vouches_for_must_belong_to_the_cookie_beside_it_too() {
    for (method, sid, cookie, status) in [
        ("introspection", json!("s-1"), "app=s-1", 200),
        ("introspection", json!("s-1"), "app=s-2", 401),
        ("introspection", json!("s-1"), "other=s-1", 401),
        ("introspection", json!(null), "app=s-1", 401),
        ("userinfo", json!(null), "app=s-1", 401),
    ] {
        let config = json!({ "auth_methods": [method], "jwt_session_cookie": "app" });
        let mut gateway = Gateway::new(config);
        gateway.provider.script.borrow_mut().access_claims = vec![("sid", sid)];
        let headers = [("authorization", "Bearer opaque"), ("cookie", cookie)];
        let reply = gateway.send(request("/api", &headers));
        assert_eq!(reply.status, status, "{method} {cookie}");
    }
}

#[test]
fn what_is_said_of_a_token_is_kept_no_longer_than_the_token_itself_says() {
    let config = json!({ "auth_methods": ["session", "introspection"] });
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().access_claims = vec![("exp", json!(null))];
    let end = gateway.provider.now() + 100;
    let token = gateway.provider.access_token(&[("exp", json!(end))]);
    let mut browser = Browser::default();
    let header = bearer(&token);
    let reply = browser.get_with(&mut gateway, "/api", "authorization", &header);
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    gateway.advance(99);
    assert_eq!(gateway.call(&token).status, 200);
    assert_eq!(gateway.provider.called("/introspect"), 1);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(1);
    // The provider's word counts, and it is asked for it.
    assert_eq!(gateway.call(&token).status, 200);
    assert_eq!(gateway.provider.called("/introspect"), 2);
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
}

#[test]
fn a_claim_is_forbidden_whether_the_token_has_it_or_the_provider_says_it() {
    for (claim, status) in [("tenant", 403), ("username", 403), ("neither", 200)] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["bearer"], "introspect_jwt_tokens": true, "claims_forbidden": [claim],
        }));
        let token = gateway.provider.access_token(&[]);
        assert_eq!(gateway.call(&token).status, status, "{claim}");
    }
}

#[test]
fn each_request_is_told_of_its_session_whatever_began_it() {
    let told = json!(["id", "subject"]);
    let config = json!({
        "auth_methods": ["session", "introspection"], "session_request_headers": told,
    });
    let mut gateway = Gateway::new(config);
    let reply = gateway.call("opaque");
    assert_eq!(reply.seen("session-subject"), Some("user-1"));
    let config = json!({
        "auth_methods": ["session", "bearer"], "session_request_headers": told,
        "upstream_session_id_header": "x-session",
    });
    let mut gateway = Gateway::new(config);
    let token = gateway.provider.access_token(&[]);
    for _ in 0..3 {
        let reply = gateway.call(&token);
        assert_eq!(reply.seen("session-subject"), Some("user-1"));
        assert!(reply.seen("session-id").is_some());
        assert_eq!(reply.seen("x-session"), reply.seen("session-id"));
    }
}

#[test]
fn the_session_of_a_token_is_for_the_connection_that_brought_it() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["session", "bearer"] }));
    let token = gateway.provider.access_token(&[]);
    for https in [false, true, true, false] {
        gateway.https = https;
        let reply = gateway.call(&token);
        let secure = cookie(&reply, "__Host-session=");
        assert_eq!(secure.is_some(), https, "{reply:?}");
        assert_eq!(cookie(&reply, "session=").is_some(), !https, "{reply:?}");
    }
    let config = json!({ "auth_methods": ["session", "bearer"], "session_bind": ["user-agent"] });
    let mut gateway = Gateway::new(config);
    let token = gateway.provider.access_token(&[]);
    for agent in ["one", "two", "two"] {
        let mut browser = Browser::default();
        let headers = [("authorization", &*bearer(&token)), ("user-agent", agent)];
        let reply = browser.send(&mut gateway, request("/api", &headers));
        assert_eq!((reply.status, reply.sets_session()), (200, true));
        let reply = browser.get_with(&mut gateway, "/api", "user-agent", agent);
        assert_eq!(reply.status, 200, "{agent}");
    }
}

#[test]
fn no_header_of_a_client_passes_for_the_gateways_where_anonymous_stands_in() {
    let mut gateway = Gateway::new(json!({
        "scopes_required": ["admin"], "anonymous": "guest",
        "upstream_access_token_header": "x_access_token",
    }));
    gateway.add_consumer(&consumer("guest", None));
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    let reply = browser.get_with(&mut gateway, "/api", "x-access-token", "forged");
    assert_eq!(reply.seen("x-anonymous-consumer"), Some("true"));
    assert_eq!(reply.seen("x-access-token"), None);
}
