//! A logout token is heard once, however many bring it at once (OpenID Connect Back-Channel Logout 1.0 §2.6).

use std::rc::Rc;

use bytes::Bytes;
use futures::future::join;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use serde_json::json;

use super::super::explain::Explanations;
use super::gateway::{Browser, Gateway};
use super::logout::{back_channel, logout_claims, post_token};
use crate::filter::{Filter as _, Flow};
use crate::host::{Claim, Host as _};
use crate::testing::Request;

fn token(gateway: &Gateway, id: &str) -> String {
    let claims = logout_claims(gateway, &json!({ "jti": id }));
    gateway.provider.keys.borrow()[0].sign(&claims)
}

fn post(gateway: &Gateway, token: &str) -> Request {
    let mut request = Request::get("/backchannel");
    request.method = Method::POST;
    request.environment = gateway.environment.clone();
    request.body = Bytes::from(format!("logout_token={token}"));
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.push((CONTENT_TYPE, form));
    request
}

/// The statuses of two requests with `token` that are under way together.
fn at_once(gateway: &Gateway, token: &str) -> [u16; 2] {
    let (filter, host) = (&gateway.filter, &gateway.host);
    let status = |flow| match flow {
        Flow::Answer(answer) => answer.status().as_u16(),
        _ => 0,
    };
    post(gateway, token).with_exchange(|first| {
        post(gateway, token).with_exchange(|second| {
            let both = join(
                filter.on_request(first, host),
                filter.on_request(second, host),
            );
            let (first, second) = host.run(both);
            [status(first), status(second)]
        })
    })
}

#[test]
fn why_a_logout_of_the_provider_is_refused_is_explained() {
    let (mut gateway, mut browser) = back_channel();
    let mut posted = |kind: &'static str, changes: &serde_json::Value| {
        let claims = logout_claims(&gateway, changes);
        let mut request = post(&gateway, &gateway.provider.keys.borrow()[0].sign(&claims));
        request.headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
        let status = gateway.send(request).status;
        (status, explained(&gateway))
    };
    let form = "application/x-www-form-urlencoded";
    for (kind, changes, status, compared) in [
        (form, json!({ "iss": "https://evil.example" }), 400, "iss"),
        (form, json!({ "aud": "another" }), 400, "aud"),
        (form, json!({ "iat": 5 }), 400, "iat"),
        (form, json!({ "nonce": "n" }), 400, ""),
        ("application/json", json!({}), 415, ""),
    ] {
        let (answered, told) = posted(kind, &changes);
        assert_eq!(answered, status, "{changes}");
        assert_eq!(told["status"], status, "{told}");
        assert_eq!(told["reason"], "logout_token", "{told}");
        assert_eq!(told["step"], "back-channel logout", "{told}");
        let found = told["compared"].get(compared);
        assert_eq!(found.is_some(), !compared.is_empty(), "{told}");
    }
    for uri in ["/backchannel", "/frontchannel"] {
        let mut request = Request::get(uri);
        request.method = Method::PUT;
        assert_eq!(browser.send(&mut gateway, request).status, 405);
        let told = explained(&gateway);
        assert_eq!(
            (&told["reason"], &told["status"]),
            (&json!("method"), &json!(405))
        );
    }
}

/// What is told of the last request that was refused.
fn explained(gateway: &Gateway) -> serde_json::Value {
    let explanations = gateway.host.node_state::<Explanations>();
    let id = "0123456789abcdef0123456789abcdef";
    explanations
        .find(id, gateway.host.now())
        .unwrap_or_default()
}

#[test]
fn rule_102_a_token_that_says_that_it_is_something_else_ends_nothing() {
    for (kind, status) in [
        (None, 200),
        (Some("JWT"), 200),
        (Some("logout+jwt"), 200),
        (Some("application/Logout+JWT"), 200),
        (Some("at+jwt"), 400),
        (Some("dpop+jwt"), 400),
        (Some("secevent+jwt"), 400),
        (Some("token-introspection+jwt"), 400),
        (Some(""), 400),
    ] {
        let (mut gateway, mut browser) = back_channel();
        let claims = logout_claims(&gateway, &json!({}));
        let token = gateway.provider.keys.borrow()[0].sign_as(kind, &claims);
        assert_eq!(post_token(&mut gateway, &token).status, status, "{kind:?}");
        let ended = browser.get(&mut gateway, "/api").status == 302;
        assert_eq!(ended, status == 200, "{kind:?}");
    }
}

#[test]
fn rule_102_no_more_than_16_kib_are_read_of_a_logout() {
    let (mut gateway, mut browser) = back_channel();
    let one = token(&gateway, "one");
    let whole = |length: usize| {
        let padding = length - "&logout_token=".len() - "a=".len() - one.len();
        format!("a={}&logout_token={one}", "x".repeat(padding))
    };
    let mut status = |body: &str| {
        let reply = Browser::default().post(&mut gateway, "/backchannel", body);
        reply.status
    };
    assert_eq!(status(&whole(16 * 1024 + 1)), 400);
    assert_eq!(status(&whole(16 * 1024)), 200);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn rule_102_of_requests_that_bring_one_token_at_once_one_is_heard() {
    let (mut gateway, mut browser) = back_channel();
    let one = token(&gateway, "one");
    gateway.host.store(false);
    // Both are to come again.
    assert_eq!(at_once(&gateway, &one), [503, 503]);
    gateway.host.store(true);
    assert_eq!(at_once(&gateway, &one), [200, 400]);
    assert_eq!(post_token(&mut gateway, &one).status, 400);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    let two = token(&gateway, "two");
    assert_eq!(post_token(&mut gateway, &two).status, 200);
}

#[test]
fn rule_102_a_token_that_comes_to_two_nodes_is_heard_by_one() {
    let config = json!({ "backchannel_logout_uri_suffix": "/backchannel" });
    for is_alone in [false, true] {
        let [mut one, mut two] = Gateway::joined(&config, &Rc::default());
        let token = token(&one, "one");
        if is_alone {
            // Of what it does by itself, others hear as well.
            two.host.claims(Claim::Alone);
        }
        one.host.store(false);
        assert_eq!(post_token(&mut one, &token).status, 503);
        assert_eq!(post_token(&mut two, &token).status, 200);
        one.host.store(true);
        assert_eq!(post_token(&mut one, &token).status, 400);
    }
}

#[test]
fn rule_102_a_token_that_cannot_be_noted_as_used_is_to_come_again() {
    let (mut gateway, mut browser) = back_channel();
    let one = token(&gateway, "one");
    gateway.host.has_room(1);
    assert_eq!(post_token(&mut gateway, &one).status, 503);
    // What it ends is over.
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    gateway.host.has_room(None);
    assert_eq!(post_token(&mut gateway, &one).status, 200);
    assert_eq!(post_token(&mut gateway, &one).status, 400);
    // One that is noted here, and nowhere else yet, is used.
    let two = token(&gateway, "two");
    gateway.host.store(false);
    assert_eq!(post_token(&mut gateway, &two).status, 503);
    gateway.host.store(true);
    assert_eq!(post_token(&mut gateway, &two).status, 200);
    assert_eq!(post_token(&mut gateway, &two).status, 400);
}

#[test]
fn a_logout_token_may_be_signed_with_the_secret_of_the_client_that_it_is_for() {
    let mut gateway = Gateway::new(json!({
        "backchannel_logout_uri_suffix": "/backchannel", "enable_hs_signatures": true,
        "client_id": ["one", "two", "one"], "client_secret": ["s-1", "s-2", "s-3"],
    }));
    for (id, audience, secret, status) in [
        ("a", json!("two"), "s-2", 200),
        ("b", json!(["api", "two"]), "s-2", 200),
        ("c", json!("one"), "s-1", 200),
        ("d", json!("two"), "s-1", 400),
        ("e", json!("three"), "s-1", 400),
        ("f", json!(["one", "two"]), "s-2", 200),
        ("g", json!(["two", "one"]), "s-1", 200),
        // One of its secrets takes the place of the other.
        ("h", json!("one"), "s-3", 200),
        ("i", json!(["one", "three"]), "s-2", 400),
        ("j", json!([]), "s-1", 400),
        ("k", json!(["", 1, null]), "s-1", 400),
    ] {
        let claims = logout_claims(&gateway, &json!({ "jti": id, "aud": audience }));
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        assert_eq!(post_token(&mut gateway, &token).status, status, "{id}");
    }
}
