//! A provider that is down, slow or talks nonsense: a clear answer, quickly, and sessions go on.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::check::drop_provider;
use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey, basic};
use crate::bundled::openid_connect::explain::Explanations;
use crate::bundled::openid_connect::provider::{self, ProviderError};
use crate::filter::{Filter, Flow};
use crate::host::Host;
use crate::testing::Request;

#[test]
fn a_provider_that_is_down_is_a_503_and_sessions_go_on() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.provider.script.borrow_mut().down = true;
    gateway.advance(200);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(
        Browser::default().get(&mut gateway, "/api").status,
        302,
        "discovery is remembered"
    );
}

#[test]
fn case_67_discovery_that_fails_recovers_without_a_restart() {
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().down = true;
    let reply = Browser::default().get(&mut gateway, "/api");
    assert_eq!(
        (reply.status, &reply.json()["message"]),
        (503, &json!("The OpenID provider is unavailable"))
    );
    assert!(reply.headers.contains_key("retry-after"));
    let calls = gateway.provider.calls.borrow().len();
    for _ in 0..50 {
        assert_eq!(Browser::default().get(&mut gateway, "/api").status, 503);
    }
    assert_eq!(
        gateway.provider.calls.borrow().len(),
        calls,
        "it is left alone for a moment"
    );
    gateway.provider.script.borrow_mut().down = false;
    gateway.advance(6);
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
}

#[test]
fn rule_77_cached_keys_serve_while_the_provider_is_down() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"], "cache_ttl": 10 }));
    let first = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&first).status, 200);
    gateway.provider.script.borrow_mut().down = true;
    gateway.advance(100);
    let second = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&second).status, 200);
}

#[test]
fn an_endpoint_that_is_asked_no_more_does_not_make_the_provider_fail_for_good() {
    let gateway = Gateway::new(json!({}));
    let (rules, host) = (&gateway.filter.0, &gateway.host);
    let fail = |endpoint: &str| {
        let failed = async { Err::<(), _>(ProviderError::Slow) };
        host.run(provider::guarded(rules, host, endpoint, failed))
    };
    let rests = |endpoint: &str| matches!(fail(endpoint), Err(ProviderError::Resting(_)));
    assert!(!provider::fails(rules, host));
    assert!(!(0..4).any(|_| rests("https://idp.example/first")));
    assert!(provider::fails(rules, host));
    gateway.advance(59);
    assert!(provider::fails(rules, host));
    gateway.advance(1);
    assert!(!provider::fails(rules, host));
    // Many others make nobody forget one that rests now.
    assert!(!(0..4).any(|_| rests("https://idp.example/token")));
    for number in 0..31 {
        _ = fail(&format!("https://idp.example/{number}"));
    }
    assert!(rests("https://idp.example/token"));
}

#[test]
fn an_unexpected_redirect_takes_the_place_of_the_503() {
    let mut gateway = Gateway::new(json!({ "unexpected_redirect_uri": ["https://a/sorry"] }));
    gateway.provider.script.borrow_mut().down = true;
    let reply = Browser::default().get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.location()), (302, "https://a/sorry"));
}

#[test]
fn a_call_by_grpc_is_refused_in_its_own_terms() {
    let gateway = Gateway::new(json!({ "auth_methods": ["bearer"] }));
    let mut request = Request::get("/api");
    let kind = http::HeaderValue::from_static("application/grpc");
    request.headers.push((http::header::CONTENT_TYPE, kind));
    let answer = request.with_exchange(|exchange| {
        exchange.request.version = http::Version::HTTP_2;
        let asked = gateway.filter.on_request(exchange, &gateway.host);
        match gateway.host.run(asked) {
            Flow::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    });
    let headers = answer.headers();
    assert_eq!(
        (
            &headers["content-type"],
            &headers["grpc-status"],
            &headers["grpc-message"]
        ),
        (
            &http::HeaderValue::from_static("application/grpc"),
            &http::HeaderValue::from_static("16"),
            &http::HeaderValue::from_static("Unauthorized")
        )
    );
    assert!(headers.contains_key("www-authenticate") && answer.body().is_empty());
}

#[test]
fn rule_40_a_refresh_that_nobody_explains_ends_no_session() {
    let check = |grace: u64, status: u16, error: &str, expected: u16, ends: bool| {
        let mut gateway = Gateway::new(json!({ "refresh_grace": grace }));
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
        gateway.advance(301);
        let answer = (status, json!({ "error": error }));
        gateway.provider.script.borrow_mut().token_answer = Some(answer);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!(
            (reply.status, reply.ends_session()),
            (expected, ends),
            "{status} {error}"
        );
        // Once it is put right, the session goes on at once.
        gateway.provider.script.borrow_mut().token_answer = None;
        gateway.advance(1);
        assert_eq!(
            browser.get(&mut gateway, "/api").status == 200,
            !ends,
            "{status} {error}"
        );
    };
    for (status, error) in [
        (403, "blocked"),
        (404, ""),
        (400, "temporarily_unavailable"),
        (400, "server_error"),
    ] {
        check(300, status, error, 200, false);
        check(0, status, error, 503, false);
    }
    check(0, 401, "invalid_client", 502, false);
    check(300, 400, "invalid_grant", 401, true);
    // Whoever signs in again does so by another grant.
    check(300, 400, "unauthorized_client", 401, true);
    check(300, 403, "invalid_grant", 401, true);
}

#[test]
fn rule_70_discovery_that_cannot_be_right_is_not_used() {
    let check = |name: &'static str, value: Value| {
        let mut gateway = Gateway::new(json!({}));
        gateway.provider.script.borrow_mut().discovery = vec![(name, value.clone())];
        assert_eq!(
            Browser::default().get(&mut gateway, "/api").status,
            503,
            "{name} {value}"
        );
    };
    check("issuer", json!("https://evil.example"));
    check("issuer", json!(null));
    check("issuer", json!(1));
    check(
        "authorization_endpoint",
        json!("http://idp.example/authorize"),
    );
    check("authorization_endpoint", json!("javascript:alert(1)"));
    check("authorization_endpoint", json!(null));
    check("token_endpoint", json!("file:///etc/passwd"));
    check("jwks_uri", json!(null));
    check("jwks_uri", json!("https://idp.example/nowhere"));
}

#[test]
fn rule_74_discovery_that_readers_may_take_differently_is_not_used() {
    let check = |change: &dyn Fn(String) -> String, page: bool, status: u16| {
        let mut gateway = Gateway::new(json!({}));
        let text = change(gateway.provider.discovery().to_string());
        let mut script = gateway.provider.script.borrow_mut();
        script.discovery_text = Some(text.clone().into_bytes());
        script.discovery_is_page = page;
        drop(script);
        let found = Browser::default().get(&mut gateway, "/api").status;
        assert_eq!(found, status, "{text} {page}");
    };
    let with = |member: &str| {
        let member = format!(",{member}}}");
        move |text: String| text.trim_end_matches('}').to_owned() + &member
    };
    let deep = |depth| format!("\"x\":{}{}", "[".repeat(depth), "]".repeat(depth));
    check(&|text| text, false, 302);
    check(&with(&deep(60)), false, 302);
    check(&with(&deep(100)), false, 503);
    check(&with("\"issuer\":\"https://evil.example\""), false, 503);
    check(&|text| text, true, 503);
}

#[test]
fn further_keys_that_are_away_leave_those_of_the_provider() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["bearer"], "extra_jwks_uris": ["https://idp.example/nowhere"],
    }));
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
}

#[test]
fn rule_77_further_keys_stay_while_their_server_fails() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["bearer"], "extra_jwks_uris": ["https://idp.example/further"],
        "rediscovery_lifetime": 0,
    }));
    let key = SigningKey::es256("further");
    let further = json!({ "keys": [key.jwk] }).to_string();
    let status = Rc::new(Cell::new(200));
    let (provider, its_status) = (Rc::clone(&gateway.provider), Rc::clone(&status));
    gateway.host.connect(Rc::new(move |request| {
        if request.uri().path() != "/further" {
            return provider.handle(request);
        }
        let answer = http::Response::builder().status(its_status.get());
        let body = Bytes::from(further.clone());
        Ok(answer
            .header("content-type", "application/json")
            .body(body)
            .unwrap())
    }));
    let own = gateway.provider.access_token(&[]);
    gateway.provider.script.borrow_mut().signs_with = Some(key);
    let theirs = gateway.provider.access_token(&[]);
    gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("unknown"));
    let unknown = gateway.provider.access_token(&[]);
    let calls =
        |gateway: &mut Gateway| [&theirs, &own, &unknown].map(|token| gateway.call(token).status);
    assert_eq!(calls(&mut gateway), [200, 200, 401]);
    status.set(503);
    for _ in 0..2 {
        gateway.advance(10);
        assert_eq!(calls(&mut gateway), [200, 200, 401]);
    }
    // But an operator has the last word.
    drop_provider(&gateway, gateway.host.now().as_millis());
    gateway.advance(10);
    assert_eq!(calls(&mut gateway), [401, 200, 401]);
}

#[test]
fn case_67_what_needs_no_discovery_goes_on_without() {
    let check = |method: &str, endpoint: &str, at: &str, contradicts: bool, status: u16| {
        let mut gateway = Gateway::new(json!({
            "auth_methods": [method], endpoint: format!("{ISSUER}{at}"),
            "ignore_signature": ["client_credentials"],
        }));
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.no_discovery = !contradicts;
            script.no_id_token = true;
            script.discovery = vec![("issuer", json!("https://evil.example"))];
        }
        let mut request = Request::get("/api");
        let credential = match method {
            "client_credentials" => basic("robot:robot-secret"),
            _ => "Bearer opaque".to_owned(),
        };
        let credential = (http::header::AUTHORIZATION, credential.parse().unwrap());
        request.headers.push(credential);
        assert_eq!(gateway.send(request).status, status, "{method} {endpoint}");
    };
    for (method, endpoint, at) in [
        ("introspection", "introspection_endpoint", "/introspect"),
        ("userinfo", "userinfo_endpoint", "/userinfo"),
        ("client_credentials", "token_endpoint", "/token"),
    ] {
        check(method, endpoint, at, false, 200);
        check(method, endpoint, at, true, 503);
        check(method, "end_session_endpoint", "/end", false, 503);
    }
}

#[test]
fn another_issuer_is_accepted_if_it_is_listed() {
    let mut gateway = Gateway::new(json!({ "issuers_allowed": ["https://tenant.example"] }));
    gateway.provider.script.borrow_mut().discovery =
        vec![("issuer", json!("https://tenant.example"))];
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
}

#[test]
fn a_token_endpoint_that_fails_is_a_503_and_reloading_works() {
    let check = |answer: (u16, Value)| {
        let mut gateway = Gateway::new(json!({}));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        let back = format!("/api?{}", gateway.provider.authorize(start.location()));
        gateway.provider.script.borrow_mut().token_answer = Some(answer.clone());
        let reply = browser.get(&mut gateway, &back);
        assert_eq!(
            (reply.status, reply.sets_session()),
            (503, false),
            "{answer:?}"
        );
        gateway.provider.script.borrow_mut().token_answer = None;
        assert_eq!(browser.get(&mut gateway, &back).status, 200, "{answer:?}");
    };
    check((500, json!({})));
    check((302, json!({})));
}

#[test]
fn a_token_endpoint_that_refuses_is_a_401() {
    let mut gateway = Gateway::new(json!({ "display_errors": true }));
    gateway.provider.script.borrow_mut().token_answer = Some((
        400,
        json!({ "error": "<script>", "error_description": "secret words" }),
    ));
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(reply.status, 401);
    let body = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(
        !body.contains("script") && !body.contains("words"),
        "{body}"
    );
}

#[test]
fn a_token_endpoint_that_keeps_failing_is_left_alone() {
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().token_answer = Some((503, json!({})));
    for _ in 0..20 {
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 503);
    }
    assert!(gateway.provider.called("/token") <= 4);
}

#[test]
fn operators_learn_what_is_wrong_with_the_connection() {
    let mut gateway = Gateway::new(json!({ "display_errors": true }));
    gateway.provider.script.borrow_mut().down = true;
    let reply = Browser::default().get(&mut gateway, "/api");
    let reason = "connecting to idp.example:443: connection refused";
    assert!(!String::from_utf8_lossy(&reply.body).contains("refused"));
    let explanations = gateway.host.node_state::<Explanations>();
    let id = "0123456789abcdef0123456789abcdef";
    let told = explanations.find(id, gateway.host.now()).unwrap();
    assert!(told.to_string().contains(reason), "{told}");
}

#[test]
fn an_endpoint_that_fails_leaves_the_others() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["userinfo", "authorization_code"] }));
    gateway.provider.script.borrow_mut().user_info = Some((503, json!({})));
    for number in 0..20 {
        let token = format!("opaque-{number}");
        assert_eq!(gateway.call(&token).status, 503);
    }
    assert!(
        gateway.provider.called("/userinfo") <= 4,
        "it is left alone"
    );
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    gateway.provider.script.borrow_mut().user_info = None;
    gateway.advance(6);
    assert_eq!(gateway.call("opaque-later").status, 200);
}

#[test]
fn rule_138_what_the_provider_answers_to_one_client_ends_no_others() {
    let check = |method: &str, status: u16| {
        let mut gateway = Gateway::new(json!({ "auth_methods": [method, "authorization_code"] }));
        let credential = |number: u32| match method {
            "password" => basic("john:p:ss"),
            _ => format!("Bearer opaque-{number}"),
        };
        let call = |gateway: &mut Gateway, number: u32| {
            let mut request = Request::get("/api");
            let credential = credential(number).parse().unwrap();
            request
                .headers
                .push((http::header::AUTHORIZATION, credential));
            gateway.send(request).status
        };
        let fail = |gateway: &Gateway, fails: bool| {
            let answer = fails.then(|| (status, json!({})));
            let mut script = gateway.provider.script.borrow_mut();
            script.user_info.clone_from(&answer);
            script.introspection.clone_from(&answer);
            script.token_answer = answer;
        };
        fail(&gateway, true);
        for number in 0..5 {
            assert_eq!(call(&mut gateway, number), 503, "{method} {status}");
        }
        fail(&gateway, false);
        let signed_in = Browser::default().sign_in(&mut gateway, "/api").status;
        let passed = call(&mut gateway, 9);
        // What cannot be reached is not asked for a while, but for codes: nobody makes those up.
        let expected = if status == 504 { 503 } else { 200 };
        assert_eq!((signed_in, passed), (200, expected), "{method} {status}");
    };
    for method in ["introspection", "userinfo", "password"] {
        for status in [500, 429, 504] {
            check(method, status);
        }
    }
}

#[test]
fn rule_128_nothing_secret_is_printed() {
    let gateway =
        Gateway::new(json!({ "client_secret": ["canary-1"], "session_secret": "canary-2" }));
    assert!(!format!("{:?}", gateway.filter).contains("canary"));
}

#[test]
fn a_provider_that_hangs_holds_back_the_first_requests_only() {
    let mut gateway = Gateway::new(json!({}));
    gateway.host.hang(true);
    let mut waited = Vec::new();
    for _ in 0..5 {
        let before = gateway.host.now();
        let reply = Browser::default().get(&mut gateway, "/api");
        assert_eq!(reply.status, 503);
        assert!(reply.headers.contains_key("retry-after"));
        waited.push(gateway.host.now().saturating_since(before).as_secs());
    }
    assert_eq!(waited[0], 10, "the configured timeout bounds it all");
    assert!(waited[1..].iter().all(|waited| *waited <= 1), "{waited:?}");
    gateway.host.hang(false);
    gateway.advance(10);
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
}

#[test]
fn of_a_hanging_token_endpoint_one_request_at_a_time_finds_out() {
    let mut gateway = Gateway::new(json!({ "timeout": 2000 }));
    let mut waited = Vec::new();
    for _ in 0..10 {
        let mut browser = Browser::default();
        gateway.host.hang(false);
        let start = browser.get(&mut gateway, "/api");
        let back = format!("/api?{}", gateway.provider.authorize(start.location()));
        gateway.host.hang(true);
        let before = gateway.host.now();
        assert_eq!(browser.get(&mut gateway, &back).status, 503);
        waited.push(gateway.host.now().saturating_since(before).as_secs());
    }
    assert_eq!(waited[..4], [2, 2, 2, 2]);
    assert!(waited[4..].iter().sum::<u64>() <= 2, "{waited:?}");
}

#[test]
fn sessions_and_known_tokens_do_not_notice_a_provider_that_hangs() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
    gateway.host.hang(true);
    let before = gateway.host.now();
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.call(&token).status, 200);
    assert_eq!(gateway.host.now(), before);
}
