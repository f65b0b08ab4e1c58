//! Programs that bring a password, or a client's own secret.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, Reply};
use super::provider::{SigningKey, basic};
use super::session::send_at_once;
use crate::filter::Filter;
use crate::testing::{Request, consumer};

fn password() -> Gateway {
    Gateway::new(json!({ "auth_methods": ["password"] }))
}

fn call(gateway: &mut Gateway, pair: &str) -> Reply {
    let mut request = Request::get("/api");
    let value = basic(pair).parse().unwrap();
    request.headers.push((AUTHORIZATION, value));
    gateway.send(request)
}

fn form(gateway: &Gateway, name: &str) -> Option<String> {
    let forms = gateway.provider.forms.borrow();
    forms.last().unwrap().1.get(name).cloned()
}

#[test]
fn case_30_a_password_is_traded_once_for_a_token() {
    let mut gateway = password();
    for _ in 0..3 {
        let reply = call(&mut gateway, "john:p:ss");
        assert_eq!(reply.status, 200);
        assert!(
            reply
                .seen("authorization")
                .unwrap()
                .starts_with("Bearer ey")
        );
        assert!(!reply.sets_session(), "session is not among the methods");
    }
    assert_eq!(gateway.provider.called("/token"), 1);
    assert_eq!(form(&gateway, "scope").as_deref(), Some("openid"));
    let wrong = call(&mut gateway, "john:wrong");
    assert_eq!((wrong.status, wrong.upstream.is_none()), (401, true));
    assert!(wrong.challenge().contains("invalid_token"));
    assert_eq!(call(&mut gateway, "john:wrong").status, 401);
    // Refusals are not remembered, and neither do they replace what was granted.
    assert_eq!(gateway.provider.called("/token"), 3);
    assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
    assert_eq!(gateway.provider.called("/token"), 3);
}

#[test]
fn rule_55_an_address_tries_only_so_many_credentials_that_are_refused() {
    for (methods, calls) in [
        (json!(["password"]), 3),
        (json!(["password", "client_credentials"]), 6),
    ] {
        let mut gateway = Gateway::new(json!({ "auth_methods": methods, "login_rate_limit": 3 }));
        assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
        let before = gateway.provider.called("/token");
        for number in 0..5 {
            let reply = call(&mut gateway, &format!("john:{number}"));
            let expected = if number < 3 { 401 } else { 429 };
            assert_eq!(reply.status, expected, "{methods} {number}");
            assert_eq!(reply.headers.contains_key("retry-after"), expected == 429);
        }
        let asked = gateway.provider.called("/token") - before;
        assert_eq!(asked, calls, "{methods}");
        // What was granted before is served; a minute later all is as it was.
        assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
        gateway.advance(60);
        assert_eq!(call(&mut gateway, "john:other").status, 401);
    }
}

#[test]
fn rule_55_who_tries_credentials_at_once_tries_no_more_of_them() {
    for cache in [true, false] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["password"], "login_rate_limit": 3, "cache_tokens": cache,
        }));
        assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
        let at_once = |gateway: &Gateway, pairs: &[&str]| {
            let send = |pair: &&str| {
                let head = http::Request::get("/api").header(AUTHORIZATION, basic(pair));
                send_at_once(gateway, head.body(()).unwrap().into_parts().0)
            };
            let all = futures::future::join_all(pairs.iter().map(send));
            let passed = gateway.host.run(all);
            passed.into_iter().filter(|passed| *passed).count()
        };
        // Good ones are none that count, one after the other or, if they are one, together.
        for _ in 0..3 {
            assert_eq!(at_once(&gateway, &["john:p:ss"; 3]), 3, "{cache}");
        }
        gateway.advance(300);
        let good = if cache { 9 } else { 3 };
        assert_eq!(at_once(&gateway, &["john:p:ss"; 9]), good, "{cache}");
        let before = gateway.provider.called("/token");
        let guesses = ["john:1", "john:2", "john:3", "john:4", "john:5", "john:6"];
        assert_eq!(at_once(&gateway, &guesses), 0, "{cache}");
        let asked = gateway.provider.called("/token") - before;
        assert_eq!(asked, 3, "{cache}");
        assert_eq!(call(&mut gateway, "john:7").status, 429, "{cache}");
    }
}

#[test]
fn what_one_grant_refuses_and_no_other_may_read_is_refused() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["password", "client_credentials", "authorization_code"],
        "client_credentials_param_type": ["body"],
    }));
    assert_eq!(call(&mut gateway, "john:wrong").status, 401);
}

#[test]
fn a_token_is_asked_for_anew_when_it_ends_or_the_keys_change() {
    let mut gateway = password();
    assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
    gateway.advance(299);
    assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
    assert_eq!(gateway.provider.called("/token"), 1);
    gateway.advance(1);
    assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
    assert_eq!(gateway.provider.called("/token"), 2);
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("two")];
    gateway.advance(300);
    assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
    assert_eq!(gateway.provider.called("/token"), 3);
}

#[test]
fn the_bounds_of_the_cache_hold() {
    let check = |more: Value, seconds: u64, calls: usize| {
        let mut config = json!({ "auth_methods": ["password"] });
        let members = config.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        let mut gateway = Gateway::new(config);
        assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
        gateway.advance(seconds);
        assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
        assert_eq!(gateway.provider.called("/token"), calls, "{more} {seconds}");
    };
    check(json!({ "cache_ttl_max": 165 }), 164, 1);
    check(json!({ "cache_ttl_max": 165 }), 165, 2);
    check(json!({ "cache_tokens": false }), 0, 2);
    // No lower bound hands out a token that has ended.
    check(json!({ "cache_ttl_min": 3000 }), 301, 2);
}

#[test]
fn case_31_a_password_is_found_where_it_is_looked_for() {
    let check = |places: Value, uri: &str, kind: &'static str, body: &'static str, found: bool| {
        let config = json!({ "auth_methods": ["password"], "password_param_type": places });
        let mut gateway = Gateway::new(config);
        let mut request = Request::get(uri);
        request.method = Method::POST;
        request.body = Bytes::from_static(body.as_bytes());
        request.headers.push((CONTENT_TYPE, kind.parse().unwrap()));
        let reply = gateway.send(request);
        let status = if found { 200 } else { 401 };
        assert_eq!(reply.status, status, "{uri} {body}");
        let called = gateway.provider.called("/token");
        assert_eq!(called, usize::from(found), "{uri} {body}");
    };
    let form = "application/x-www-form-urlencoded";
    let in_query = "/api?username=john&password=p%3Ass";
    check(json!(["header", "query", "body"]), in_query, form, "", true);
    check(json!(["header"]), in_query, form, "", false);
    check(
        json!(["body"]),
        "/api",
        form,
        "username=john&password=p%3Ass",
        true,
    );
    check(
        json!(["body"]),
        "/api",
        "application/json",
        r#"{"username":"john","password":"p:ss"}"#,
        true,
    );
    check(
        json!(["body"]),
        "/api",
        "application/json",
        r#"{"username":"john"}"#,
        false,
    );
    check(
        json!(["body"]),
        "/api",
        "application/json",
        r#"{"username":null,"password":[]}"#,
        false,
    );
}

#[test]
fn malformed_basic_credentials_are_none() {
    for value in [
        "Basic",
        "Basic !!!",
        "Basic am9obg==",
        "Basic /w==",
        "Basic Onh4",
        "Digest x",
    ] {
        let mut gateway = password();
        let mut request = Request::get("/api");
        request
            .headers
            .push((AUTHORIZATION, value.parse().unwrap()));
        assert_eq!(gateway.send(request).status, 401, "{value}");
        assert_eq!(gateway.provider.called("/token"), 0, "{value}");
    }
    let mut gateway = password();
    let mut twice = Request::get("/api");
    for pair in ["john:p:ss", "eve:x"] {
        twice
            .headers
            .push((AUTHORIZATION, basic(pair).parse().unwrap()));
    }
    assert_eq!(gateway.send(twice).status, 400);
}

#[test]
fn case_32_a_client_brings_its_own_credentials() {
    let config = json!({ "auth_methods": ["client_credentials"] });
    let mut gateway = Gateway::new(config);
    let reply = call(&mut gateway, "robot:robot-secret");
    assert_eq!(reply.status, 200);
    assert_eq!(form(&gateway, "client_id"), None);
    assert_eq!(call(&mut gateway, "robot:robot-secret").status, 200);
    assert_eq!(gateway.provider.called("/token"), 1);
    assert_eq!(call(&mut gateway, "robot:wrong").status, 401);
    assert_eq!(call(&mut gateway, "client:secret").status, 401);
    // In the query, the client is no choice among those that are configured.
    let uri = "/api?client_id=robot&client_secret=robot-secret";
    assert_eq!(gateway.send(Request::get(uri)).status, 200);
}

#[test]
fn basic_credentials_are_tried_as_a_users_and_then_as_a_clients() {
    let config = json!({ "auth_methods": ["client_credentials", "password"] });
    let mut gateway = Gateway::new(config);
    assert_eq!(call(&mut gateway, "robot:robot-secret").status, 200);
    assert_eq!(gateway.provider.called("/token"), 2);
    assert_eq!(call(&mut gateway, "john:p:ss").status, 200);
    assert_eq!(call(&mut gateway, "eve:x").status, 401);
    gateway.provider.script.borrow_mut().down = true;
    gateway.advance(3000);
    assert_eq!(call(&mut gateway, "robot:robot-secret").status, 503);
}

#[test]
fn case_63_a_password_starts_a_session_unless_that_is_disabled() {
    let check = |more: Value, sets: bool| {
        let mut config = json!({ "auth_methods": ["session", "password"] });
        let members = config.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        let mut gateway = Gateway::new(config);
        let mut browser = Browser::default();
        let pair = basic("john:p:ss");
        let reply = browser.get_with(&mut gateway, "/api", "authorization", &pair);
        assert_eq!((reply.status, reply.sets_session()), (200, sets), "{more}");
        let status = if sets { 200 } else { 401 };
        assert_eq!(browser.get(&mut gateway, "/api").status, status);
    };
    check(json!({}), true);
    check(json!({ "disable_session": ["password"] }), false);
}

#[test]
fn neither_credentials_nor_tokens_go_upstream_if_they_shall_not() {
    let config = json!({
        "auth_methods": ["password"], "hide_credentials": true,
        "upstream_access_token_header": null,
    });
    let mut gateway = Gateway::new(config);
    assert_eq!(call(&mut gateway, "john:p:ss").seen("authorization"), None);
    let uri = "/api?a=1&username=john&password=p%3Ass&b=2";
    let reply = gateway.send(Request::get(uri));
    assert_eq!(reply.upstream.unwrap().0, "/api?a=1&b=2");
}

#[test]
fn what_a_grant_brings_is_verified_and_has_to_be_enough() {
    let check = |config: Value, change: &dyn Fn(&Gateway), status: u16| {
        let mut all = json!({ "auth_methods": ["password"] });
        let members = all.as_object_mut().unwrap();
        members.extend(config.as_object().unwrap().clone());
        let mut gateway = Gateway::new(all);
        change(&gateway);
        assert_eq!(call(&mut gateway, "john:p:ss").status, status, "{config}");
    };
    let forged = |gateway: &Gateway| {
        gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("one"));
    };
    let expired = |gateway: &Gateway| {
        gateway.provider.script.borrow_mut().access_claims = vec![("exp", json!(1))];
    };
    let as_is = |_: &Gateway| {};
    check(json!({}), &as_is, 200);
    check(json!({}), &forged, 401);
    check(json!({}), &expired, 401);
    check(json!({ "scopes_required": ["admin"] }), &as_is, 403);
    check(json!({ "consumer_claim": ["sub"] }), &as_is, 403);
}

#[test]
fn plugins_share_tokens_only_by_an_equal_salt() {
    let check = |salts: [Value; 2], calls: usize| {
        let config =
            |salt: &Value| json!({ "auth_methods": ["password"], "cache_tokens_salt": salt });
        let mut one = Gateway::new(config(&salts[0]));
        assert_eq!(call(&mut one, "john:p:ss").status, 200);
        one.filter = super::gateway::compile(&config(&salts[1]), 8);
        assert_eq!(call(&mut one, "john:p:ss").status, 200);
        assert_eq!(one.provider.called("/token"), calls, "{salts:?}");
    };
    check([json!(null), json!(null)], 2);
    check([json!("a"), json!("b")], 2);
    check([json!("a"), json!("a")], 1);
}

#[test]
fn an_assertion_is_traded_for_a_token() {
    const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["client_credentials"], "hide_credentials": true,
    }));
    let token = gateway.provider.access_token(&[]);
    let answer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 60 });
    gateway.provider.script.borrow_mut().token_answer = Some((200, answer));
    let grant = GRANT.replace(':', "%3A");
    let form = format!("grant_type={grant}&assertion=e30.e30.x&a=1");
    let reply = Browser::default().post(&mut gateway, "/api", &form);
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.seen("authorization"),
        Some(&*format!("Bearer {token}"))
    );
    assert_eq!(reply.sent.as_deref(), Some(&b"a=1"[..]));
    let sent = gateway.provider.forms.borrow()[0].1.clone();
    assert_eq!(
        (&*sent["grant_type"], &*sent["assertion"]),
        (GRANT, "e30.e30.x")
    );
    // An application's own arguments are none of our business.
    for form in ["assertion=x", "grant_type=password&assertion=x"] {
        let reply = Browser::default().post(&mut gateway, "/api", form);
        assert_eq!(reply.status, 401, "{form}");
    }
    assert_eq!(gateway.provider.called("/token"), 1);
}

#[test]
fn a_credential_is_read_where_the_gateway_writes_its_own() {
    let config = json!({
        "auth_methods": ["refresh_token"], "refresh_token_param_name": "refresh_token",
        "refresh_token_param_type": ["header"], "upstream_refresh_token_header": "refresh_token",
        "upstream_id_token_header": "x_id_token", "anonymous": "guest", "run_on_preflight": false,
    });
    let mut gateway = Gateway::new(config);
    gateway.add_consumer(&consumer("guest", None));
    // What nobody reads goes before anybody looks.
    let owned = gateway.filter.owned_headers();
    let is_owned = |name: &str| owned.iter().any(|owned| owned == name);
    assert!(is_owned("x-id-token") && !is_owned("refresh-token"));
    let call = |gateway: &mut Gateway, method: Method, token: &str| {
        let mut request = Request::get("/api");
        request.method = method;
        let value = HeaderValue::try_from(token).unwrap();
        let name = HeaderName::from_static("refresh-token");
        request.headers.push((name, value));
        gateway.send(request)
    };
    let known = "a refresh token";
    known.clone_into(&mut gateway.provider.refresh_token.borrow_mut());
    let reply = call(&mut gateway, Method::GET, known);
    assert!(reply.seen("authorization").unwrap().starts_with("Bearer "));
    let newer = gateway.provider.refresh_token.borrow().clone();
    assert_eq!(reply.seen("refresh-token"), Some(newer.as_str()));
    // The client's own goes upstream by no way.
    for (method, token) in [(Method::GET, "no such token"), (Method::OPTIONS, known)] {
        let reply = call(&mut gateway, method, token);
        assert_eq!((reply.status, reply.seen("refresh-token")), (200, None));
    }
}
