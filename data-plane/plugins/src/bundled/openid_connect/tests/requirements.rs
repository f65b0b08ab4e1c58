//! What the requirements of a relying party's security add to Kong's behaviour, by their numbers.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};

use super::conformance::reason;
use super::gateway::{self, Browser, Gateway, compile};
use super::provider::{ISSUER, SigningKey};
use crate::bundled::openid_connect::config::AuthMethod;
use crate::bundled::openid_connect::cookie::Family;
use crate::bundled::openid_connect::session::{self, Session};
use crate::bundled::openid_connect::token_endpoint::Tokens;
use crate::host::Host;
use crate::sessions::seal::{self, Sizes};
use crate::testing::Request;

/// A request with headers and, by POST, a form.
fn request(uri: &str, headers: &[(&'static str, &str)], form: Option<&str>) -> Request {
    let mut request = gateway::request(uri, headers);
    if let Some(form) = form {
        request.method = Method::POST;
        request.body = Bytes::copy_from_slice(form.as_bytes());
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.push((header::CONTENT_TYPE, kind));
    }
    request
}

fn bearer_only(more: &Value) -> Gateway {
    let mut config = json!({ "auth_methods": ["bearer"] });
    let more = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(more);
    Gateway::new(config)
}

#[test]
fn rules_1_3_and_4_what_binds_a_sign_in_is_new_each_time_and_says_nothing() {
    let mut gateway = Gateway::new(json!({}));
    let starts: Vec<_> = (0..20)
        .map(|_| Browser::default().get(&mut gateway, "/secret-path"))
        .collect();
    for name in ["state", "nonce", "code_challenge"] {
        let mut values: Vec<_> = starts.iter().map(|start| start.argument(name)).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 20, "{name}");
    }
    for start in &starts {
        let method = start.argument("code_challenge_method");
        assert_eq!(method.as_deref(), Some("S256"));
        let (_, request) = start.location().split_once("state=").unwrap();
        assert!(!request.split('&').next().unwrap().contains("secret"));
        assert!(!start.set_cookies().concat().contains("secret"));
    }
}

#[test]
fn rule_8_the_token_request_repeats_the_redirect_uri_byte_for_byte() {
    for uri in [
        "https://app.example:8443/a%20b/c;d?x=1",
        "http://[::1]:80/callback",
        "https://app.example:443/",
    ] {
        let mut gateway = Gateway::new(json!({ "redirect_uri": [uri] }));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        assert_eq!(start.argument("redirect_uri").as_deref(), Some(uri));
        let query = gateway.provider.authorize(start.location());
        browser.get(&mut gateway, &format!("/api?{query}"));
        assert_eq!(gateway.provider.forms.borrow()[0].1["redirect_uri"], uri);
    }
}

#[test]
fn rule_14_the_redirect_is_kept_by_nobody_and_tells_nothing_of_where_it_came_from() {
    let mut gateway = Gateway::new(json!({}));
    let reply = Browser::default().post(&mut gateway, "/api", "a=1");
    assert_eq!(reply.status, 302);
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(reply.headers["referrer-policy"], "no-referrer");
}

#[test]
fn rule_16_a_look_ahead_begins_no_sign_in_nor_does_a_call_of_grpc() {
    for (name, value) in [
        ("sec-purpose", "prefetch"),
        ("sec-purpose", "prefetch;prerender"),
        ("purpose", "prefetch"),
        ("content-type", "application/grpc"),
        ("content-type", "Application/gRPC+proto"),
        ("content-type", "application/grpc-web-text"),
    ] {
        let mut gateway = Gateway::new(json!({}));
        let reply = Browser::default().get_with(&mut gateway, "/api", name, value);
        assert_eq!((reply.status, reply.set_cookies().len()), (401, 0));
    }
}

#[test]
fn rule_23_a_code_of_one_sign_in_serves_no_plugin_of_another_provider() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    let other = compile(&json!({ "issuer": "https://evil.example" }), 8);
    let ours = std::mem::replace(&mut gateway.filter, other);
    let calls = gateway.provider.calls.borrow().len();
    let reply = browser.clone().get(&mut gateway, &back);
    assert!(!reply.sets_session() && reply.upstream.is_none());
    assert!(
        gateway.provider.calls.borrow()[calls..]
            .iter()
            .all(|path| path != "/token")
    );
    gateway.filter = ours;
    assert_eq!(browser.get(&mut gateway, &back).status, 200);
}

#[test]
fn rule_24_a_provider_that_needs_its_user_is_asked_once_more_without_prompt_none() {
    let mut gateway = Gateway::new(json!({
        "authorization_query_args_names": ["prompt"], "authorization_query_args_values": ["none"],
        "preserve_query_args": true, "login_action": "redirect", "login_tokens": null,
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api?x=1");
    assert_eq!(start.argument("prompt").as_deref(), Some("none"));
    let state = start.argument("state").unwrap();
    let way_back = format!("/api?error=login_required&state={state}");
    let again = browser.get(&mut gateway, &way_back);
    assert_eq!((again.status, again.argument("prompt")), (302, None));
    assert_ne!(again.argument("state").unwrap(), state);
    // It is asked once more, not for ever.
    let state = again.argument("state").unwrap();
    let mut impatient = browser.clone();
    let way_back = format!("/api?error=login_required&state={state}");
    assert_eq!(impatient.get(&mut gateway, &way_back).status, 401);
    let query = gateway.provider.authorize(again.location());
    let reply = browser.get(&mut gateway, &format!("/api?{query}"));
    let target = "http://gateway.example/api?x=1";
    assert_eq!((reply.status, reply.location()), (302, target));
    // Another error is final.
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let state = start.argument("state").unwrap();
    let way_back = format!("/api?error=access_denied&state={state}");
    assert_eq!(browser.get(&mut gateway, &way_back).status, 401);
}

#[test]
fn rule_29_a_sign_in_that_fails_takes_its_cookie_along_and_no_other() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let starts: Vec<_> = (0..2).map(|_| browser.get(&mut gateway, "/api")).collect();
    assert_eq!(browser.cookies.len(), 3);
    let state = starts[0].argument("state").unwrap();
    let way_back = format!("/api?error=access_denied&state={state}");
    assert_eq!(browser.get(&mut gateway, &way_back).status, 401);
    assert_eq!(browser.cookies.len(), 2);
    let query = gateway.provider.authorize(starts[1].location());
    assert_eq!(
        browser.get(&mut gateway, &format!("/api?{query}")).status,
        200
    );
}

#[test]
fn rule_30_that_the_gateway_is_refused_as_a_client_is_no_fault_of_its_users() {
    let refused = (401, json!({ "error": "invalid_client" }));
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.provider.script.borrow_mut().token_answer = Some(refused.clone());
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!((reply.status, reply.sets_session()), (502, false));
    assert_eq!(reason(&gateway), "client_refused");
    assert_eq!(gateway.provider.called("/token"), 2, "by one method only");
    // A session goes on for its grace, and lives again once the client is put right.
    gateway.advance(350);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(300);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (502, false));
    gateway.provider.script.borrow_mut().token_answer = None;
    gateway.advance(31);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn rule_42_a_provider_that_is_busy_is_asked_again_to_revoke() {
    let config = json!({ "logout_uri_suffix": "/logout", "logout_revoke": true });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.provider.script.borrow_mut().down = true;
    let reply = browser.post(&mut gateway, "/logout", "");
    assert_eq!((reply.status, reply.ends_session()), (302, true));
    assert_eq!(gateway.provider.called("/revoke"), 1);
    gateway.provider.script.borrow_mut().down = false;
    let host = gateway.host.clone();
    host.run(host.sleep(Duration::from_mins(1)));
    let forms = gateway.provider.forms.borrow();
    let revoked = forms.iter().filter(|(path, _)| path == "/revoke");
    let hints: Vec<_> = revoked
        .map(|(_, form)| form["token_type_hint"].as_str())
        .collect();
    assert_eq!(hints, ["refresh_token", "access_token"]);
}

#[test]
fn rule_44_a_token_comes_in_one_place_only() {
    let mut gateway = bearer_only(&json!({}));
    let token = gateway.provider.access_token(&[]);
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str())];
    let form = format!("access_token={token}");
    let mut status = |uri: &str, headers: &[(&'static str, &str)], form: Option<&str>| {
        let reply = gateway.send(request(uri, headers, form));
        assert_eq!(reply.status == 400, reason(&gateway) == "duplicate_param");
        reply.status
    };
    let query = format!("/api?access_token={token}");
    assert_eq!(status(&query, &headers, None), 400);
    let twice = format!("{query}&a=1&access_token={token}");
    assert_eq!(status(&twice, &[], None), 400);
    let twice = format!("{form}&{form}");
    assert_eq!(status("/api", &[], Some(&twice)), 400);
    assert_eq!(status("/api", &headers, Some(&form)), 400);
    assert_eq!(status(&query, &[], Some(&form)), 400);
}

#[test]
fn rule_44_another_token_in_another_header_is_refused_and_the_same_is_not() {
    let mut gateway = bearer_only(&json!({}));
    let [one, two] = [1, 2].map(|n| gateway.provider.access_token(&[("n", json!(n))]));
    let authorization = format!("Bearer {one}");
    for (beside, expected) in [(one.as_str(), 200), (&two, 400), ("", 200), ("\u{fc}", 400)] {
        for name in ["access-token", "x-access-token"] {
            let headers = [("authorization", authorization.as_str()), (name, beside)];
            // Also where the token is known by now.
            for _ in 0..2 {
                let reply = gateway.send(request("/api", &headers, None));
                assert_eq!(reply.status, expected, "{name} {beside}");
                assert!(expected == 200 || reason(&gateway) == "duplicate_param");
                let alone = gateway.send(request("/api", &headers[..1], None));
                assert_eq!(alone.status, 200);
            }
        }
    }
    let headers = [("access-token", one.as_str()), ("access-token", &two)];
    assert_eq!(gateway.send(request("/api", &headers, None)).status, 400);
    let headers = [("x-access-token", two.as_str()), ("access-token", &one)];
    assert_eq!(gateway.send(request("/api", &headers, None)).status, 400);
    // What is in no header may not be somebody else's either.
    let places = json!(["query", "header", "body"]);
    let mut gateway = bearer_only(&json!({ "bearer_token_param_type": places }));
    let one = gateway.provider.access_token(&[]);
    let authorization = format!("Bearer {one}");
    let uri = format!("/api?access_token={one}");
    let headers = [("x-access-token", two.as_str())];
    assert_eq!(gateway.send(request(&uri, &headers, None)).status, 400);
    // Nothing is not two.
    let headers = [("authorization", authorization.as_str())];
    assert_eq!(
        gateway
            .send(request("/api?access_token=", &headers, None))
            .status,
        200
    );
    let form = Some("access_token=&a=1");
    assert_eq!(gateway.send(request("/api", &headers, form)).status, 200);
}

#[test]
fn rule_45_a_token_leaves_the_query_before_it_goes_upstream() {
    for hides in [true, false] {
        let mut gateway = bearer_only(&json!({ "hide_credentials": hides }));
        let token = gateway.provider.access_token(&[]);
        let uri = format!("/api?a=1&access_token={token}&b=%20");
        let reply = gateway.send(Request::get(&uri));
        assert_eq!(reply.upstream.unwrap().0, "/api?a=1&b=%20");
    }
}

#[test]
fn rule_46_what_is_no_token_is_refused_and_asks_nobody() {
    let config = json!({ "auth_methods": ["introspection", "userinfo", "authorization_code"] });
    let mut gateway = Gateway::new(config);
    for token in [
        "a%20b",
        "a%0Ab",
        "%C3%BC",
        "a%22",
        "%3D",
        &"x".repeat(16 * 1024 + 1),
    ] {
        let reply = gateway.send(Request::get(&format!("/api?access_token={token}")));
        assert_eq!(
            (reply.status, reason(&gateway).as_str()),
            (401, "at_typ"),
            "{token}"
        );
    }
    assert_eq!(gateway.provider.called("/introspect"), 0);
    assert_eq!(gateway.provider.called("/userinfo"), 0);
    let scheme = request("/api", &[("authorization", "bEARER opaque")], None);
    assert_eq!(gateway.send(scheme).status, 200);
}

#[test]
fn rule_46_tokens_that_are_refused_are_no_outage_of_the_provider() {
    let config = json!({ "auth_methods": ["introspection", "authorization_code"] });
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().introspection = Some((400, json!({})));
    for number in 0..10 {
        assert_eq!(gateway.call(&format!("bad{number}")).status, 401);
    }
    assert_eq!(gateway.provider.called("/introspect"), 10);
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
}

#[test]
fn rule_48_access_tokens_may_have_to_say_that_they_are_some() {
    let mut gateway = bearer_only(&json!({ "require_at_jwt": true }));
    let now = gateway.provider.now();
    let claims = json!({ "iss": ISSUER, "sub": "user-1", "exp": now + 300 });
    let key = gateway.provider.keys.borrow()[0].clone();
    for (typ, status) in [
        (Some("at+jwt"), 200),
        (Some("application/at+JWT"), 200),
        (Some("JWT"), 401),
        (None, 401),
    ] {
        let token = key.sign_as(typ, &claims);
        assert_eq!(gateway.call(&token).status, status, "{typ:?}");
    }
}

#[test]
fn rule_49_a_key_of_one_issuer_verifies_no_token_of_another() {
    let mut gateway = bearer_only(&json!({}));
    let foreign = SigningKey::es256("one");
    let now = gateway.provider.now();
    for issuer in [ISSUER, "https://other.example"] {
        let claims = json!({ "iss": issuer, "sub": "user-1", "exp": now + 300 });
        assert_eq!(gateway.call(&foreign.sign(&claims)).status, 401);
        let ours = gateway.provider.keys.borrow()[0].sign(&claims);
        let expected = if issuer == ISSUER { 200 } else { 401 };
        assert_eq!(gateway.call(&ours).status, expected, "{issuer}");
    }
}

#[test]
fn rule_50_each_refusal_says_what_it_is() {
    let check = |config: Value, headers: &[(&'static str, &str)], status: u16, challenge: &str| {
        let mut gateway = bearer_only(&config);
        let token = format!("Bearer {}", gateway.provider.access_token(&[]));
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, if *value == "ours" { &*token } else { *value }))
            .collect();
        let reply = gateway.send(request("/api", &headers, None));
        assert_eq!((reply.status, reply.challenge()), (status, challenge));
    };
    let realm = "Bearer realm=\"idp.example\"";
    let with = |error: &str| format!("{realm}, error=\"{error}\"");
    let ours = [("authorization", "ours")];
    check(json!({}), &[], 401, realm);
    let bad = [("authorization", "Bearer ey.x.y")];
    check(json!({}), &bad, 401, &with("invalid_token"));
    let two = [("authorization", "ours"), ("authorization", "ours")];
    check(json!({}), &two, 400, &with("invalid_request"));
    let scopes = json!({ "scopes_required": ["admin read"] });
    let scope = format!("{}, scope=\"admin read\"", with("insufficient_scope"));
    check(scopes, &ours, 403, &scope);
    let groups = json!({ "groups_required": ["admin"] });
    check(groups, &ours, 403, &with("insufficient_scope"));
    let silent = json!({ "scopes_required": ["admin"], "expose_error_code": false });
    check(silent, &ours, 403, realm);
}

#[test]
fn rule_63_a_sign_in_makes_a_session_of_its_own() {
    let config = json!({ "upstream_session_id_header": "x-session" });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    let first = browser.sign_in(&mut gateway, "/api");
    let kept = browser.cookies.clone();
    browser.cookies.clear();
    let start = browser.get(&mut gateway, "/api");
    browser.cookies.extend(kept);
    let query = gateway.provider.authorize(start.location());
    let second = browser.get(&mut gateway, &format!("/api?{query}"));
    assert_eq!(second.status, 200);
    assert_ne!(first.seen("x-session"), second.seen("x-session"));
}

#[test]
fn rule_89_who_may_not_pass_is_not_sent_round_in_circles() {
    for (claim, wanted) in [("groups_required", "admins"), ("consumer_claim", "sub")] {
        let config = json!({ claim: [wanted], "forbidden_destroy_session": false });
        let mut gateway = Gateway::new(config);
        let mut browser = Browser::default();
        // Who has signed in stays so, and finds the same at the next request.
        let reply = browser.sign_in(&mut gateway, "/api");
        assert_eq!((reply.status, reply.sets_session()), (403, true), "{claim}");
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.location()), (403, ""), "{claim}");
        let token = gateway.provider.access_token(&[]);
        let reply = gateway.call(&token);
        assert_eq!((reply.status, reply.location()), (403, ""), "{claim}");
    }
    // Where a refusal ends sessions, none begins by it.
    for config in [
        json!({ "groups_required": ["admins"] }),
        json!({
            "groups_required": ["admins"], "forbidden_destroy_session": false,
            "disable_session": ["authorization_code"],
        }),
    ] {
        let (mut gateway, mut browser) = (Gateway::new(config), Browser::default());
        let reply = browser.sign_in(&mut gateway, "/api");
        assert_eq!((reply.status, reply.sets_session()), (403, false));
        assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    }
}

#[test]
fn rule_109_what_a_provider_says_of_its_error_is_shown_to_nobody() {
    let mut gateway = Gateway::new(json!({ "display_errors": true }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let state = start.argument("state").unwrap();
    let way_back = format!(
        "/api?state={state}&error=%3Cscript%3E&error_description=canary&error_uri=https%3A%2F%2Fcanary"
    );
    let reply = browser.get_with(&mut gateway, &way_back, "accept", "text/html");
    assert_eq!(reply.status, 401);
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(
        !text.contains("script") && !text.contains("canary"),
        "{text}"
    );
}

#[test]
fn rule_62_what_unpacks_to_more_than_a_session_may_be_is_none() {
    let gateway = Gateway::new(json!({}));
    let rules = &gateway.filter.0;
    let tokens = Tokens {
        access_token: "token".to_owned(),
        id_token: None,
        refresh_token: None,
        expires_at: None,
        answer: serde_json::Map::new(),
        introspection: None,
        headers: Vec::new(),
    };
    let session = Session::begin(rules, &tokens, AuthMethod::Bearer, 0, &gateway.host);
    let session = serde_json::to_string(&session).unwrap();
    let ring = &gateway.environment.session_keys;
    let (name, now) = (rules.names.of(Family::Session), gateway.host.now());
    // Blanks before a session's JSON mean nothing to whoever reads it, and pack well.
    for (blanks, opens) in [
        (0, true),
        (60_000, true),
        (66_000, false),
        (8_000_000, false),
    ] {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        let text = format!("{}{session}", " ".repeat(blanks));
        encoder.write_all(text.as_bytes()).unwrap();
        let packed = encoder.finish().unwrap();
        let sizes = Sizes {
            chunk: 3_800,
            most: 9,
        };
        let sealed = seal::seal(
            ring,
            &rules.binding,
            name,
            &packed,
            sizes,
            now.as_secs(),
            [7; 12],
        );
        let opened = session::open(name, rules, ring, &sealed.unwrap(), now);
        assert_eq!(opened.is_some(), opens, "{blanks}");
    }
}
