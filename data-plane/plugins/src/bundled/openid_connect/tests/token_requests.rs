//! What goes to the token endpoint and the exchange hook, and what comes back from them.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, Reply, compile};
use super::provider::{ISSUER, basic};
use crate::testing::Request;

fn with(headers: &[(&'static str, &str)]) -> Request {
    let mut request = Request::get("/api");
    for (name, value) in headers {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_str(value).unwrap();
        request.headers.push((name, value));
    }
    request
}

#[test]
fn headers_and_arguments_of_the_client_pass_as_configured() {
    let config = json!({
        "auth_methods": ["password"], "token_headers_client": ["x-tenant"],
        "token_headers_names": ["x-fixed"], "token_headers_values": ["1"],
        "token_post_args_client": ["resource", "region", "x_device", "grant_type", "client_secret"],
    });
    let mut gateway = Gateway::new(config);
    let mut request = with(&[("x-tenant", "t1"), ("x-device", "phone")]);
    let pair = basic("john:p:ss").parse().unwrap();
    request.headers.push((AUTHORIZATION, pair));
    request.method = Method::POST;
    request.uri = "/api?resource=a&grant_type=evil&client_secret=evil".to_owned();
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.push((CONTENT_TYPE, form));
    request.body = Bytes::from_static(b"region=eu&other=x");
    assert_eq!(gateway.send(request).status, 200);
    let asked = gateway.provider.last("/token");
    assert_eq!(asked.headers()["x-tenant"], "t1");
    assert_eq!(asked.headers()["x-fixed"], "1");
    let forms = gateway.provider.forms.borrow();
    let form = &forms[0].1;
    assert_eq!(form["resource"], "a");
    assert_eq!(form["region"], "eu");
    assert_eq!(form["x_device"], "phone");
    assert_eq!(form["grant_type"], "password");
    assert!(!form.contains_key("other") && !form.contains_key("client_secret"));
}

#[test]
fn a_sign_in_costs_exactly_one_token_call() {
    for config in [
        json!({}),
        json!({ "client_auth": ["client_secret_post"] }),
        json!({ "login_action": "redirect", "login_tokens": null }),
        json!({ "introspect_jwt_tokens": true, "search_user_info": true }),
        json!({ "auth_methods": ["session", "authorization_code"], "reverify": true }),
    ] {
        let (mut gateway, mut browser) = (Gateway::new(config.clone()), Browser::default());
        let start = browser.get(&mut gateway, "/api");
        let back = format!("/api?{}", gateway.provider.authorize(start.location()));
        let mut early = browser.clone();
        // The answer that is brought again, from before and after, is no further one.
        for browser in [&mut browser, &mut early] {
            assert!(browser.get(&mut gateway, &back).sets_session(), "{config}");
        }
        for uri in [&*back, "/api", "/api/other"] {
            browser.get(&mut gateway, uri);
        }
        assert_eq!(gateway.provider.called("/token"), 1, "{config}");
    }
}

#[test]
fn headers_of_the_token_endpoint_come_back_for_the_grants_that_are_listed() {
    let check = |grants: Value, shown: bool| {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["password"], "token_headers_replay": ["x-answered"],
            "token_headers_prefix": "idp-", "token_headers_grants": grants,
        }));
        let reply = gateway.send(with(&[("authorization", &basic("john:p:ss"))]));
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.headers.contains_key("idp-x-answered"),
            shown,
            "{grants}"
        );
    };
    check(json!(null), true);
    check(json!(["password"]), true);
    check(json!(["refresh_token"]), false);
    let mut gateway = Gateway::new(json!({ "token_headers_replay": ["x-answered"] }));
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(reply.headers["x-answered"], "yes");
    // All that there are of a name.
    let mut gateway = Gateway::new(json!({ "token_headers_replay": ["X-Many", "x-none"] }));
    let many = ["a", "b"].map(|value| ("x-many", value.to_owned()));
    gateway.provider.script.borrow_mut().headers = many.to_vec();
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    let values: Vec<_> = reply.headers.get_all("x-many").iter().collect();
    assert_eq!(values, ["a", "b"]);
}

#[test]
fn plugins_with_one_salt_share_tokens_and_scopes_part_them_if_configured() {
    for (include, calls) in [(false, 1), (true, 2)] {
        let config = |scopes: Value| {
            json!({
                "auth_methods": ["password"], "cache_tokens_salt": "shared", "scopes": scopes,
                "token_cache_key_include_scope": include,
            })
        };
        let mut gateway = Gateway::new(config(json!(["openid"])));
        let pair = basic("john:p:ss");
        assert_eq!(gateway.send(with(&[("authorization", &pair)])).status, 200);
        gateway.filter = compile(&config(json!(["openid", "email"])), 8);
        assert_eq!(gateway.send(with(&[("authorization", &pair)])).status, 200);
        assert_eq!(gateway.provider.called("/token"), calls);
    }
}

#[test]
fn the_exchange_hook_replaces_the_token_that_goes_upstream() {
    let config = |cache: bool| {
        json!({
            "auth_methods": ["bearer", "session"], "cache_token_exchange": cache,
            "token_exchange_endpoint": format!("{ISSUER}/exchange"),
            "downstream_access_token_header": "x-original",
        })
    };
    for (cache, calls) in [(true, 1), (false, 2)] {
        let mut gateway = Gateway::new(config(cache));
        let token = gateway.provider.access_token(&[]);
        for _ in 0..2 {
            let reply = gateway.call(&token);
            assert_eq!(reply.seen("authorization"), Some("Bearer exchanged"));
            assert_eq!(reply.headers["x-original"], token.as_str());
        }
        assert_eq!(gateway.provider.called("/exchange"), calls);
        let asked = gateway.provider.last("/exchange");
        assert_eq!(asked.method(), Method::POST);
        assert_eq!(
            asked.headers()["authorization"],
            format!("Bearer {token}").as_str()
        );
    }
    let check = |answer: (u16, &'static str), status: u16| {
        let mut gateway = Gateway::new(config(true));
        gateway.provider.script.borrow_mut().exchange = Some(answer);
        let token = gateway.provider.access_token(&[]);
        assert_eq!(gateway.call(&token).status, status, "{answer:?}");
    };
    check((403, ""), 401);
    check((429, ""), 503);
    check((500, ""), 503);
    check((200, ""), 503);
    check((200, "two words"), 503);
    // A token that is refused is never traded.
    let mut gateway = Gateway::new(config(true));
    assert_eq!(gateway.call("ey.ey.ey").status, 401);
    assert_eq!(gateway.provider.called("/exchange"), 0);
}

#[test]
fn the_keys_that_signed_go_where_the_configuration_says() {
    let mut gateway = Gateway::new(json!({
        "upstream_access_token_jwk_header": "x-access-key", "upstream_id_token_jwk_header": "x-id-key",
        "downstream_access_token_jwk_header": "x-key",
    }));
    let mut browser = Browser::default();
    let first = browser.sign_in(&mut gateway, "/api");
    let again = browser.get(&mut gateway, "/api");
    for reply in [first, again] {
        use base64::Engine;
        let shown = reply.seen("x-access-key").unwrap();
        let key = base64::engine::general_purpose::STANDARD
            .decode(shown)
            .unwrap();
        let key: Value = serde_json::from_slice(&key).unwrap();
        assert_eq!(key, gateway.provider.keys.borrow()[0].jwk);
        assert_eq!(reply.seen("x-id-key"), Some(shown));
        assert_eq!(reply.headers["x-key"], shown);
    }
}

#[test]
fn login_tokens_may_be_the_introspection() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["introspection"], "login_methods": ["introspection"],
        "login_action": "response", "login_tokens": ["introspection"],
    }));
    let reply = gateway.call("opaque");
    assert_eq!(
        (reply.status, &reply.json()["username"]),
        (200, &json!("john"))
    );
}

#[test]
fn case_26_a_redirect_carries_the_whole_answer_if_that_is_listed() {
    for (tokens, names) in [
        (
            json!(["tokens"]),
            &[
                "access_token",
                "token_type",
                "expires_in",
                "refresh_token",
                "id_token",
            ][..],
        ),
        (json!(["tokens", "id_token"]), &["access_token", "id_token"]),
        (json!(["refresh_token"]), &["refresh_token"]),
    ] {
        for (mode, mark) in [("fragment", '#'), ("query", '?')] {
            let mut gateway = Gateway::new(json!({
                "login_action": "redirect", "login_redirect_uri": ["https://a/b"],
                "login_redirect_mode": mode, "login_tokens": tokens,
            }));
            let reply = Browser::default().sign_in(&mut gateway, "/api");
            let (_, carried) = reply.location().split_once(mark).unwrap();
            let carried: Vec<_> = form_urlencoded::parse(carried.as_bytes()).collect();
            for name in names {
                let found = carried.iter().filter(|(carried, _)| carried == name);
                assert_eq!(found.count(), 1, "{tokens} {mode} {name}");
            }
            let given = |name| carried.iter().find(|(carried, _)| carried == name);
            let is_number = |text: &str| text.parse::<u32>().is_ok();
            assert!(given("expires_in").is_none_or(|(_, seconds)| is_number(seconds)));
        }
    }
}

#[test]
fn a_redirect_carries_the_introspection_if_that_is_listed() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["introspection"], "login_methods": ["introspection"],
        "login_action": "redirect", "login_tokens": ["introspection", "access_token"],
        "login_redirect_uri": ["https://a/b"],
    }));
    let reply = gateway.call("opaque");
    let location = reply.location();
    for carried in ["active=true", "username=john", "access_token=opaque"] {
        assert!(location.contains(carried), "{location}");
    }
}

#[test]
fn what_follows_a_session_follows_one_that_is_refreshed_too() {
    let mut gateway = Gateway::new(json!({
        "login_methods": ["session"], "login_action": "response", "login_tokens": ["access_token"],
    }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    let token = |reply: &Reply| reply.json()["access_token"].as_str().unwrap().to_owned();
    let first = browser.get(&mut gateway, "/api");
    gateway.advance(301);
    let refreshed = browser.get(&mut gateway, "/api");
    assert!(refreshed.upstream.is_none() && refreshed.sets_session());
    assert_ne!(token(&refreshed), token(&first));
    assert_eq!(token(&browser.get(&mut gateway, "/api")), token(&refreshed));
}

#[test]
fn what_follows_each_request_does_not_follow_where_it_leads() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["bearer", "session"], "login_methods": ["bearer", "session"],
        "login_action": "redirect", "login_tokens": null,
        "login_redirect_uri": ["http://gateway.example/api/home?x=1"],
    }));
    let token = gateway.provider.access_token(&[]);
    let reply = gateway.call(&token);
    assert_eq!(
        (reply.status, reply.location()),
        (302, "http://gateway.example/api/home?x=1")
    );
    let mut request = Request::get("/api/home?x=1");
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    request.headers.push((AUTHORIZATION, value));
    assert_eq!(gateway.send(request).status, 200);
}
