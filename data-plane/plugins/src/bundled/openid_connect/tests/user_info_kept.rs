//! What a session knows of its user from the user info endpoint, while that fails.

use serde_json::{Value, json};

use super::conformance::reason;
use super::gateway::{Browser, Gateway, Reply};
use super::provider::ISSUER;

/// A gateway with a browser that is in the team `blue`, or `told`, and whose access token has ended.
fn due(more: Value, told: Option<Value>) -> (Gateway, Browser) {
    let mut config = json!({
        "search_user_info": true, "authenticated_groups_claim": ["team"],
        "upstream_user_info_header": "x-userinfo", "session_idling_timeout": 0,
    });
    let Value::Object(more) = more else {
        unreachable!("a configuration is an object");
    };
    config.as_object_mut().unwrap().extend(more);
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().user_info = told.map(|told| (200, told));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    gateway.advance(301);
    (gateway, browser)
}

fn fails(gateway: &Gateway, status: u16) {
    gateway.provider.script.borrow_mut().user_info = Some((status, json!({})));
}

fn tells(gateway: &Gateway, team: &str) {
    let told = json!({ "sub": "user-1", "team": team });
    gateway.provider.script.borrow_mut().user_info = Some((200, told));
}

fn team(reply: &Reply) -> (u16, Option<&str>) {
    let seen = (reply.status == 200).then(|| reply.seen("x-authenticated-groups"));
    (reply.status, seen.flatten())
}

#[test]
fn rule_39_a_session_goes_by_what_was_said_before_while_nobody_can_say_it_anew() {
    for status in [500, 503, 429] {
        let (mut gateway, mut browser) = due(json!({}), None);
        fails(&gateway, status);
        let asked = |gateway: &Gateway| gateway.provider.called("/userinfo");
        // It has new tokens, and is asked about at each request.
        for number in 2..4 {
            let reply = browser.get(&mut gateway, "/api");
            assert_eq!(team(&reply), (200, Some("blue")), "{status}");
            assert!(reply.seen("x-userinfo").is_some(), "{status}");
            assert_eq!(asked(&gateway), number, "{status}");
        }
        assert_eq!(gateway.provider.called("/token"), 2, "{status}");
        // Over another refresh as well.
        gateway.advance(301);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!(team(&reply), (200, Some("blue")), "{status}");
        gateway.advance(31);
        tells(&gateway, "green");
        let before = asked(&gateway);
        for _ in 0..2 {
            let reply = browser.get(&mut gateway, "/api");
            assert_eq!(team(&reply), (200, Some("green")), "{status}");
        }
        assert_eq!(asked(&gateway) - before, 1, "{status}");
    }
}

#[test]
fn rule_93_what_was_said_before_decides_as_long_as_it_may() {
    // (max_claim_age, stale_if_error), and whether it still serves 301 and 602 seconds later.
    for (age, stale, served) in [
        (600, 0, [200, 503]),
        (600, 60, [200, 200]),
        (301, 0, [503, 503]),
        (301, 1, [200, 503]),
    ] {
        let config = json!({ "max_claim_age": age, "stale_if_error": stale });
        let (mut gateway, mut browser) = due(config, None);
        fails(&gateway, 500);
        for status in served {
            let reply = browser.get(&mut gateway, "/api");
            let seen = (status == 200).then_some("blue");
            assert_eq!(team(&reply), (status, seen), "{age} {stale}");
            assert!(!reply.ends_session());
            gateway.advance(301);
        }
    }
    // Where each request is to ask, nothing stands in: neither at a refresh nor after it.
    for is_refreshed in [false, true] {
        let (mut gateway, mut browser) = due(json!({ "cache_user_info": false }), None);
        if is_refreshed {
            assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        }
        fails(&gateway, 500);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (503, false));
        tells(&gateway, "green");
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!(team(&reply), (200, Some("green")));
    }
}

#[test]
fn rule_38_a_user_of_whom_the_provider_says_no_more_has_no_session() {
    for status in [401, 403] {
        let (mut gateway, mut browser) = due(json!({}), None);
        fails(&gateway, status);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (401, true));
        // Where it decides nothing, nothing is shown that it no longer says.
        let (mut gateway, mut browser) = due(json!({ "search_user_info": false }), None);
        fails(&gateway, status);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.seen("x-userinfo")), (200, None));
    }
}

#[test]
fn user_info_that_is_no_object_refuses_a_token_only_where_it_decides() {
    for (decides, status) in [(true, 503), (false, 200)] {
        let mut gateway = Gateway::new(json!({
            "search_user_info": decides, "upstream_user_info_header": "x-userinfo",
        }));
        gateway.provider.script.borrow_mut().user_info = Some((200, json!(["sub"])));
        let token = gateway.provider.access_token(&[]);
        let reply = gateway.call(&token);
        assert_eq!(reply.status, status);
        assert!(status != 200 || reply.seen("x-userinfo").is_none());
    }
}

#[test]
fn rule_38_user_info_that_is_no_object_begins_no_session_and_ends_none() {
    for (more, answer) in [
        (json!({}), json!(["sub"])),
        (json!({ "search_user_info": false }), json!("user-1")),
    ] {
        let mut gateway = Gateway::new(json!({ "upstream_user_info_header": "x-userinfo" }));
        gateway.provider.script.borrow_mut().user_info = Some((200, answer.clone()));
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!((reply.status, reply.sets_session()), (503, false));
        assert_eq!(reason(&gateway), "userinfo_shape");
        let (mut gateway, mut browser) = due(more, None);
        gateway.provider.script.borrow_mut().user_info = Some((200, answer));
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    }
}

#[test]
fn rule_39_what_a_source_said_before_stands_in_for_it() {
    let told = json!({
        "sub": "user-1", "_claim_names": { "team": "shop" },
        "_claim_sources": { "shop": { "endpoint": format!("{ISSUER}/source") } },
    });
    let mut gateway = Gateway::new(json!({
        "search_user_info": true, "authenticated_groups_claim": ["team"],
        "resolve_distributed_claims": true,
    }));
    let key = gateway.provider.keys.borrow()[0].clone();
    let says = |gateway: &Gateway, team: &str| {
        let token = key.sign(&json!({ "iss": ISSUER, "team": team }));
        gateway.provider.script.borrow_mut().source = Some(token);
    };
    says(&gateway, "blocked");
    gateway.provider.script.borrow_mut().user_info = Some((200, told));
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert_eq!(team(&reply), (200, Some("blocked")));
    gateway.provider.script.borrow_mut().source_fails = Some(503);
    for _ in 0..2 {
        gateway.advance(301);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!(team(&reply), (200, Some("blocked")));
    }
    gateway.provider.script.borrow_mut().source_fails = None;
    says(&gateway, "free");
    gateway.advance(11);
    for _ in 0..2 {
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!(team(&reply), (200, Some("free")));
    }
}

#[test]
fn a_session_by_user_info_that_cannot_be_verified_again_is_kept() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["session", "userinfo"], "reverify": true, "cache_ttl": 10,
    }));
    let mut browser = Browser::default();
    let reply = browser.get_with(&mut gateway, "/api", "authorization", "Bearer opaque");
    assert!(reply.sets_session());
    gateway.advance(11);
    fails(&gateway, 503);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (503, false));
    tells(&gateway, "blue");
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    // One that the provider refuses is over.
    gateway.advance(11);
    fails(&gateway, 401);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (401, true));
}
