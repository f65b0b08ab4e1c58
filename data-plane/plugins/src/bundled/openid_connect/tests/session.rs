//! Sessions: lifetimes, cookies, refresh.

use futures::future::join_all;
use http::header::COOKIE;
use http::{HeaderName, HeaderValue};
use serde_json::json;

use super::gateway::{Browser, Gateway};
use crate::filter::Filter;
use crate::sessions::session_keys::KeyRing;
use crate::testing::{Request, key_ring, session_key};

fn signed_in(config: serde_json::Value) -> (Gateway, Browser) {
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert_eq!(reply.status, 200, "{reply:?}");
    (gateway, browser)
}

#[test]
fn case_8_a_session_ends_with_its_lifetime() {
    let (mut gateway, mut browser) =
        signed_in(json!({ "session_cookie_lifetime": 3, "session_cookie_renew": 0 }));
    gateway.advance(2);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(2);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn case_9_without_the_code_flow_an_ended_session_is_401() {
    let (mut gateway, mut browser) = signed_in(json!({ "session_cookie_lifetime": 3 }));
    gateway.filter = super::gateway::compile(
        &json!({ "session_cookie_lifetime": 3, "auth_methods": ["session", "bearer"] }),
        7,
    );
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(4);
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
}

#[test]
fn case_10_a_session_in_use_lives_and_an_idle_one_ends() {
    let (mut gateway, mut browser) = signed_in(json!({ "session_cookie_idletime": 2 }));
    for _ in 0..10 {
        gateway.advance(1);
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    }
    gateway.advance(3);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn case_11_a_session_is_renewed_when_little_of_it_is_left() {
    let (mut gateway, mut browser) =
        signed_in(json!({ "session_cookie_lifetime": 10, "session_cookie_renew": 8 }));
    gateway.advance(3);
    assert!(browser.get(&mut gateway, "/api").sets_session());
    gateway.advance(9);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn no_use_carries_a_session_over_its_absolute_end() {
    let (mut gateway, mut browser) = signed_in(json!({
        "session_absolute_timeout": 20, "session_rolling_timeout": 8, "session_idling_timeout": 5,
    }));
    for _ in 0..19 {
        gateway.advance(1);
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    }
    gateway.advance(1);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn rule_64_a_clock_that_goes_back_ends_nothing_and_extends_nothing() {
    let (mut gateway, mut browser) = signed_in(json!({ "session_rolling_timeout": 10 }));
    gateway
        .host
        .set_clock(shared::clock::UnixTime::from_secs(1_799_999_000));
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway
        .host
        .set_clock(shared::clock::UnixTime::from_secs(1_800_000_010));
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn case_42_a_session_wins_over_a_bearer_token() {
    let (mut gateway, mut browser) = signed_in(json!({}));
    let reply = browser.get_with(&mut gateway, "/api", "authorization", "Bearer rubbish");
    assert_eq!(reply.status, 200);
    assert_ne!(reply.seen("authorization"), Some("Bearer rubbish"));
}

#[test]
fn case_44_an_expired_token_is_refreshed_silently() {
    let (mut gateway, mut browser) = signed_in(json!({ "upstream_id_token_header": "x-id-token" }));
    let before = browser.get(&mut gateway, "/api");
    gateway.provider.script.borrow_mut().no_id_token = true;
    gateway.advance(300);
    let after = browser.get(&mut gateway, "/api");
    assert_eq!(after.status, 200);
    assert!(after.sets_session());
    assert_ne!(after.seen("authorization"), before.seen("authorization"));
    assert_eq!(
        after.seen("x-id-token"),
        before.seen("x-id-token"),
        "the ID token is kept"
    );
    gateway.advance(300);
    assert_eq!(
        browser.get(&mut gateway, "/api").status,
        200,
        "the rotated refresh token serves"
    );
}

#[test]
fn case_44_a_refused_refresh_is_401_and_ends_the_session() {
    for (destroy, ends) in [(true, true), (false, false)] {
        let (mut gateway, mut browser) =
            signed_in(json!({ "unauthorized_destroy_session": destroy }));
        gateway.provider.script.borrow_mut().token_answer =
            Some((400, json!({ "error": "invalid_grant" })));
        gateway.advance(300);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (401, ends));
        assert!(reply.challenge().contains("error=\"invalid_token\""));
    }
}

#[test]
fn a_refresh_that_brings_another_user_is_refused() {
    let (mut gateway, mut browser) = signed_in(json!({}));
    gateway.provider.script.borrow_mut().id_claims = vec![("sub", json!("user-2"))];
    gateway.advance(300);
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
}

#[test]
fn a_provider_that_is_away_ends_no_session() {
    let (mut gateway, mut browser) = signed_in(json!({ "leeway": 60, "refresh_grace": 0 }));
    gateway.provider.script.borrow_mut().down = true;
    gateway.advance(250);
    assert_eq!(
        browser.get(&mut gateway, "/api").status,
        200,
        "the token still lives"
    );
    gateway.advance(60);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (503, false));
    gateway.provider.script.borrow_mut().down = false;
    gateway.advance(10);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn an_expired_token_without_a_refresh_token_is_401_once() {
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().no_refresh_token = true;
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.advance(300);
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

/// Sends requests at the same time, all with the browser's cookies, and tells which go upstream.
fn at_once(gateway: &Gateway, browser: &Browser, targets: &[&str]) -> Vec<bool> {
    let cookies: Vec<_> = browser
        .cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let cookies = HeaderValue::from_str(&cookies.join("; ")).unwrap();
    let run = |target: &&str| {
        let head = http::Request::get(*target)
            .header(COOKIE, &cookies)
            .body(())
            .unwrap()
            .into_parts()
            .0;
        send_at_once(gateway, head)
    };
    gateway.host.run(join_all(targets.iter().map(run)))
}

pub(super) async fn send_at_once(gateway: &Gateway, head: http::request::Parts) -> bool {
    let environment = crate::environment::Environment {
        session_keys: key_ring(),
        ..Default::default()
    };
    let mut body = Nothing;
    let mut exchange = crate::exchange::Exchange {
        path: "/api".to_owned(),
        request: head,
        client: crate::exchange::Client {
            address: [127, 0, 0, 1].into(),
            https: false,
            certificate: None,
            authority: "gateway.example".into(),
            port: 8000,
            peer: [127, 0, 0, 1].into(),
            source_port: Some(40_000),
        },
        identity: crate::exchange::Identity::default(),
        response_headers: Vec::new(),
        body: &mut body,
        environment: &environment,
        error_templates: &shared::error_form::NO_TEMPLATES,
        matched: &crate::exchange::Matched::default(),
        captures: crate::exchange::Captures::default(),
        upstream: crate::exchange::Overrides::default(),
        notes: crate::exchange::Notes::default(),
        tenure: None,
        request_id: crate::request_id::RequestId::new(0),
    };
    matches!(
        gateway
            .filter
            .on_request(&mut exchange, &gateway.host)
            .await,
        crate::filter::Flow::Continue
    )
}

#[test]
fn a_logout_while_a_refresh_is_under_way_wins() {
    let mut gateway = Gateway::new(json!({
        "logout_query_arg": "logout", "logout_methods": ["GET"], "logout_revoke": true,
    }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.advance(350);
    let upstream = at_once(&gateway, &browser, &["/api", "/api?logout", "/api"]);
    assert_eq!(upstream, [false, false, false]);
    assert_eq!(gateway.provider.called("/token"), 2);
    let forms = gateway.provider.forms.borrow();
    let revoked = forms.iter().filter(|(path, _)| path == "/revoke");
    let mut tokens: Vec<_> = revoked.map(|(_, form)| form["token"].clone()).collect();
    tokens.retain(|token| token.starts_with("refresh"));
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens, ["refresh-1", "refresh-2"]);
    drop(forms);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

struct Nothing;

impl crate::exchange::BodySource for Nothing {
    fn read(
        &mut self,
        _: usize,
        _: crate::exchange::Parsing,
    ) -> futures::future::LocalBoxFuture<'_, Result<bytes::Bytes, crate::exchange::BodyError>> {
        Box::pin(std::future::ready(Ok(bytes::Bytes::new())))
    }
}

#[test]
fn rule_41_two_hundred_requests_at_once_make_one_refresh_and_all_succeed() {
    let (gateway, browser) = signed_in(json!({}));
    gateway.advance(300);
    let served = at_once(&gateway, &browser, &["/api"; 200]);
    assert!(served.into_iter().all(|served| served));
    assert_eq!(gateway.provider.called("/token"), 2);
}

#[test]
fn rule_65_a_late_request_with_the_old_cookie_gets_the_refreshed_tokens() {
    let (mut gateway, mut browser) = signed_in(json!({}));
    let mut late = browser.clone();
    gateway.advance(300);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.advance(20);
    assert_eq!(late.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 2);
}

#[test]
fn a_client_that_goes_away_does_not_lose_a_rotated_refresh_token() {
    let (mut gateway, mut browser) = signed_in(json!({}));
    gateway.advance(300);
    let cookies: Vec<_> = browser
        .cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut request = Request::get("/api");
    request
        .headers
        .push((COOKIE, HeaderValue::from_str(&cookies.join("; ")).unwrap()));
    request.with_exchange(|exchange| {
        let (filter, host) = (&gateway.filter, &gateway.host);
        // The request is polled once and dropped, as when its connection breaks.
        let once = async { _ = futures::poll!(Box::pin(filter.on_request(exchange, host))) };
        host.run(once);
    });
    assert_eq!(
        gateway.provider.called("/token"),
        2,
        "the refresh ran to its end"
    );
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 2);
}

#[test]
fn case_60_large_sessions_come_in_chunks_and_shrink_again() {
    let mut gateway = Gateway::new(json!({}));
    // Random text does not compress.
    let noise: String = (0_u64..300)
        .map(|n| blake3::hash(&n.to_be_bytes()).to_hex().to_string())
        .collect();
    gateway.provider.script.borrow_mut().access_claims = vec![("noise", json!(noise[..6000]))];
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert!(
        browser.cookies.contains_key("session2"),
        "{:?}",
        browser.cookies.keys()
    );
    assert!(
        reply
            .set_cookies()
            .iter()
            .all(|cookie| cookie.len() <= 4096)
    );
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    let mut broken = browser.clone();
    broken.cookies.remove("session2");
    assert_eq!(broken.get(&mut gateway, "/api").status, 302);
    let mut swapped = browser.clone();
    let (one, two) = (
        browser.cookies["session"].clone(),
        browser.cookies["session2"].clone(),
    );
    swapped.cookies.insert("session".to_owned(), two);
    swapped.cookies.insert("session2".to_owned(), one);
    assert_eq!(swapped.get(&mut gateway, "/api").status, 302);
    gateway.provider.script.borrow_mut().access_claims = Vec::new();
    gateway.advance(300);
    let smaller = browser.get(&mut gateway, "/api");
    assert!(
        smaller
            .set_cookies()
            .iter()
            .any(|cookie| cookie.starts_with("session2=;"))
    );
    assert!(!browser.cookies.contains_key("session2"));
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn many_groups_fit_since_tokens_are_compressed_as_what_they_say() {
    let mut gateway = Gateway::new(json!({}));
    let groups: Vec<_> = (0..400).map(|n| format!("department-{n}")).collect();
    gateway.provider.script.borrow_mut().access_claims = vec![("groups", json!(groups))];
    gateway.provider.script.borrow_mut().id_claims = vec![("groups", json!(groups))];
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    assert!(!browser.cookies.contains_key("session2"));
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!(reply.status, 200);
    // Token for token as the provider signed it.
    let token = reply.seen("authorization").unwrap().to_owned();
    assert_eq!(gateway.call(&token["Bearer ".len()..]).status, 200);
}

#[test]
fn rule_62_what_could_not_be_opened_again_is_not_sealed() {
    // It compresses well, but is more than a session may hold.
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().access_claims = vec![("a", json!("a".repeat(40_000)))];
    gateway.provider.script.borrow_mut().id_claims = vec![("a", json!("a".repeat(40_000)))];
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!((reply.status, reply.sets_session()), (502, false));
}

#[test]
fn rule_58_a_session_that_fits_no_cookie_is_an_explained_failure() {
    let mut gateway = Gateway::new(json!({ "display_errors": true }));
    let noise: String = (0_u64..900)
        .map(|n| blake3::hash(&n.to_be_bytes()).to_hex().to_string())
        .collect();
    gateway.provider.script.borrow_mut().access_claims = vec![("noise", json!(noise[..45_000]))];
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!((reply.status, reply.sets_session()), (502, false));
    assert!(
        reply.json()["message"]
            .as_str()
            .unwrap()
            .contains("too large")
    );
}

#[test]
fn rule_66_planted_cookies_of_the_same_name_do_not_log_out() {
    let (mut gateway, browser) = signed_in(json!({}));
    let mut request = Request::get("/api");
    let cookies = format!(
        "session=planted; session={}; a=b",
        browser.cookies["session"]
    );
    request
        .headers
        .push((COOKIE, HeaderValue::from_str(&cookies).unwrap()));
    let reply = gateway.send(request);
    assert_eq!((reply.status, reply.seen("cookie")), (200, Some("a=b")));
}

#[test]
fn rule_68_a_rotated_key_logs_nobody_out_and_a_burned_one_logs_out_at_once() {
    let (mut gateway, mut browser) = signed_in(json!({}));
    let mut newer = session_key(2);
    newer.activate_at = 1;
    gateway.environment.session_keys = KeyRing {
        keys: vec![newer.clone(), session_key(1)],
    };
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    gateway.environment.session_keys = KeyRing { keys: vec![newer] };
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!(reply.status, 302);
    assert!(
        !reply.ends_session(),
        "the cookie of an unknown key is left alone"
    );
}

#[test]
fn without_a_session_key_a_sign_in_waits() {
    let mut gateway = Gateway::new(json!({}));
    gateway.environment.session_keys = KeyRing::default();
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 503);
}

#[test]
fn case_70_two_plugins_share_a_session_if_they_share_a_secret() {
    for (secret, status) in [(json!("s3cret"), 200), (json!(null), 302)] {
        let config = json!({ "session_secret": secret });
        let (mut gateway, mut browser) = signed_in(config.clone());
        gateway.filter = super::gateway::compile(&config, 8);
        assert_eq!(browser.get(&mut gateway, "/api").status, status);
    }
}

#[test]
fn rule_69_a_cookie_that_only_has_a_name_of_ours_is_the_application_s() {
    let (gateway, browser) = signed_in(json!({}));
    let sealed = &browser.cookies["session"];
    let cookie = format!("session=app; remember=me; authorization=app; a=b; session={sealed}");
    for https in [false, true] {
        let mut bearer = Gateway::with_provider(
            &json!({ "auth_methods": ["bearer"], "bearer_token_cookie_name": "authorization" }),
            std::rc::Rc::clone(&gateway.provider),
            2,
        );
        bearer.https = https;
        let mut request = Request::get("/api");
        let token = bearer.provider.access_token(&[]);
        for (name, value) in [
            ("cookie", cookie.clone()),
            ("authorization", format!("Bearer {token}")),
        ] {
            let name = HeaderName::from_static(name);
            request.headers.push((name, value.parse().unwrap()));
        }
        let reply = bearer.send(request);
        assert_eq!(reply.status, 200);
        let kept = "session=app; remember=me; authorization=app; a=b";
        assert_eq!(reply.seen("cookie"), Some(kept));
        for name in ["session", "remember", "authorization"] {
            assert!(!bearer.filter.owns_cookie(name), "{name}");
        }
    }
}

#[test]
fn rule_69_an_upstream_may_not_set_our_cookies() {
    let gateway = Gateway::new(json!({}));
    for (name, ours) in [
        ("session", true),
        ("session2", true),
        ("authorization", true),
        ("authorization_0123456789abcdef", true),
        ("sessionid", false),
        ("remember", false),
        ("theme", false),
    ] {
        assert_eq!(gateway.filter.owns_cookie(name), ours, "{name}");
    }
}

#[test]
fn rule_61_cookies_of_the_first_format_stay_readable() {
    let value = include_str!("../../../../testdata/session-1.cookie").trim();
    let config = serde_json::from_value(json!({ "issuer": "https://idp.example" })).unwrap();
    let rules = super::super::rules::Rules::new(config, uuid::Uuid::from_u128(7)).unwrap();
    let start = crate::testing::START;
    let (session, key) =
        super::super::session::open("session", &rules, &key_ring(), value, start).unwrap();
    assert_eq!(
        (session.access_token.as_str(), session.started_at, key),
        ("access", start, [1; 8])
    );
    assert_eq!(session.refresh_token.as_deref(), Some("refresh"));
}
