//! A provider that changes its keys: nobody notices, and nobody can make it a matter of others.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, Reply};
use super::logout::logout_claims;
use super::provider::{ISSUER, SigningKey};
use crate::host::Host;
use crate::testing::Request;

/// Somebody shows a token with a key that nobody has.
fn garbage(gateway: &mut Gateway) -> u16 {
    let claims = json!({ "iss": ISSUER, "sub": "x", "exp": gateway.provider.now() + 99 });
    gateway
        .call(&SigningKey::es256("nobody").sign(&claims))
        .status
}

/// The same as a logout token, which has what one must have, each second from elsewhere.
fn garbage_logout(gateway: &mut Gateway) -> u16 {
    let claims = logout_claims(gateway, &json!({}));
    let token = SigningKey::es256("nobody").sign(&claims);
    let from = u8::try_from(gateway.provider.now() % 200).unwrap();
    log_out_from(gateway, from, &token).0
}

/// What becomes of a logout token that comes from the host `from`: the status, and whether it is to come again.
fn log_out_from(gateway: &mut Gateway, from: u8, token: &str) -> (u16, bool) {
    let mut request = Request::get("/bcl");
    request.method = Method::POST;
    request.address = [192, 0, 2, from].into();
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.push((CONTENT_TYPE, form));
    request.body = Bytes::from(format!("logout_token={token}"));
    let reply = gateway.send(request);
    (reply.status, reply.headers.contains_key(RETRY_AFTER))
}

#[test]
fn rule_79_nobody_elses_token_keeps_a_logout_from_finding_a_rotated_key() {
    let mut gateway = Gateway::new(json!({ "backchannel_logout_uri_suffix": "/bcl" }));
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    gateway.advance(60);
    let garbage = |gateway: &mut Gateway| {
        let claims = logout_claims(gateway, &json!({ "jti": "x" }));
        log_out_from(gateway, 1, &SigningKey::es256("nobody").sign(&claims))
    };
    assert_eq!(garbage(&mut gateway), (400, false));
    rotate(&gateway, "two");
    gateway.advance(2);
    let signed = |gateway: &Gateway, id: &str| {
        let claims = logout_claims(gateway, &json!({ "jti": id }));
        gateway.provider.keys.borrow()[0].sign(&claims)
    };
    let token = signed(&gateway, "a");
    // From where the other came it is to come again, from elsewhere it is heard.
    assert_eq!(log_out_from(&mut gateway, 1, &token), (503, true));
    assert_eq!(log_out_from(&mut gateway, 2, &token), (200, false));
    gateway.advance(30);
    // The same after a rotation at the very second of a search.
    assert_eq!(garbage(&mut gateway), (400, false));
    rotate(&gateway, "three");
    let token = signed(&gateway, "b");
    assert_eq!(log_out_from(&mut gateway, 3, &token), (503, true));
    gateway.advance(1);
    assert_eq!(log_out_from(&mut gateway, 3, &token), (200, false));
}

#[test]
fn rule_78_logout_tokens_make_one_fetch_in_a_second_and_one_for_each_address() {
    let mut gateway = Gateway::new(json!({ "backchannel_logout_uri_suffix": "/bcl" }));
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    let key = SigningKey::es256("nobody");
    let fetched = gateway.provider.called("/jwks");
    let send = |gateway: &mut Gateway, changes: &Value| {
        let token = key.sign(&logout_claims(gateway, changes));
        for from in 1..=3 {
            let (status, _) = log_out_from(gateway, from, &token);
            assert!(matches!(status, 400 | 503), "{status}");
        }
        gateway.provider.called("/jwks") - fetched
    };
    // Nobody looks for the key of what could not be right.
    for changes in [
        json!({ "iss": "https://evil.example" }),
        json!({ "aud": "another" }),
        json!({ "iat": 1 }),
        json!({ "events": {} }),
        json!({ "nonce": "n" }),
        json!({ "jti": null }),
        json!({ "sid": null, "sub": null }),
    ] {
        assert_eq!(send(&mut gateway, &changes), 0, "{changes}");
    }
    assert_eq!(send(&mut gateway, &json!({})), 1);
    let mut all = 0;
    for _ in 0..5 {
        gateway.advance(1);
        all = send(&mut gateway, &json!({}));
    }
    assert_eq!(all, 3);
}

fn rotate(gateway: &Gateway, name: &str) {
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256(name)];
}

/// A gateway with a browser whose access token has ended.
pub(super) fn due(grace: u64) -> (Gateway, Browser) {
    let mut gateway = Gateway::new(json!({ "refresh_grace": grace }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    gateway.advance(301);
    (gateway, browser)
}

#[test]
fn rule_79_nobody_uses_up_the_search_for_a_key_that_the_token_endpoint_uses() {
    let nothing: fn(&mut Gateway) -> u16 = |_| 0;
    for (before, status) in [(nothing, 0), (garbage, 401), (garbage_logout, 400)] {
        let mut gateway = Gateway::new(json!({ "backchannel_logout_uri_suffix": "/bcl" }));
        let mut signed_in = || {
            assert_eq!(before(&mut gateway), status);
            let reply = Browser::default().sign_in(&mut gateway, "/api");
            gateway.advance(1);
            let name = format!("key-{}", gateway.provider.now());
            rotate(&gateway, &name);
            reply.status
        };
        assert_eq!([signed_in(), signed_in(), signed_in()], [200; 3]);
    }
}

#[test]
fn rule_79_a_refresh_finds_a_rotated_key_whatever_clients_bring() {
    let (mut gateway, mut browser) = due(0);
    assert_eq!(garbage(&mut gateway), 401);
    rotate(&gateway, "two");
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (200, false));
    assert_eq!(gateway.provider.called("/token"), 2);
}

#[test]
fn rule_40_a_refresh_whose_key_is_published_late_ends_no_session_and_is_not_lost() {
    for (grace, status) in [(300, 200), (0, 503)] {
        let (mut gateway, mut browser) = due(grace);
        let late = SigningKey::es256("late");
        gateway.provider.script.borrow_mut().signs_with = Some(late.clone());
        let seen = |reply: &Reply| (reply.status, reply.ends_session());
        for _ in 0..3 {
            let reply = browser.get(&mut gateway, "/api");
            assert_eq!(seen(&reply), (status, false), "{grace}");
            gateway.advance(1);
        }
        gateway.provider.keys.borrow_mut().push(late);
        for _ in 0..2 {
            let reply = browser.get(&mut gateway, "/api");
            assert_eq!(seen(&reply), (200, false), "{grace}");
            gateway.advance(200);
        }
        // The refresh token served once, and what it was given for serves to its end.
        assert_eq!(gateway.provider.called("/token"), 2);
    }
}

#[test]
fn a_key_that_never_comes_ends_the_session_after_a_while() {
    let (mut gateway, mut browser) = due(0);
    gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("never"));
    assert_eq!(browser.get(&mut gateway, "/api").status, 503);
    gateway.advance(299);
    assert_eq!(browser.get(&mut gateway, "/api").status, 503);
    gateway.advance(1);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (401, true));
}

#[test]
fn a_key_that_never_comes_ends_the_session_of_a_refresh_token_that_serves_on_too() {
    let (mut gateway, mut browser) = due(0);
    {
        let mut script = gateway.provider.script.borrow_mut();
        script.signs_with = Some(SigningKey::es256("never"));
        script.no_refresh_token = true;
        script.lifetime = Some(60);
    }
    for _ in 0..4 {
        assert_eq!(browser.get(&mut gateway, "/api").status, 503);
        gateway.advance(70);
    }
    gateway.advance(20);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (401, true));
}

#[test]
fn rule_41_new_tokens_that_nobody_can_judge_yet_are_known_to_all_nodes() {
    // The control plane remembers them, or has forgotten them and is told again; or is asked once they are too old.
    for (wait, calls) in [(0, 2), (70, 2), (290, 2), (360, 3)] {
        let config = json!({ "refresh_grace": 0, "session_idling_timeout": 0 });
        let cluster = Rc::default();
        let [mut one, mut two] = Gateway::joined(&config, &cluster);
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
        // Runs what is under way on the one node meanwhile: it tells the control plane.
        let pass = |one: &Gateway, two: &Gateway, seconds: u64| {
            let host = one.host.clone();
            host.run(host.sleep(Duration::from_secs(seconds)));
            two.host.set_clock(host.now());
            *one.provider.clock.borrow_mut() += seconds;
        };
        pass(&one, &two, 301);
        let late = SigningKey::es256("late");
        one.provider.script.borrow_mut().signs_with = Some(late.clone());
        let seen = |reply: &Reply| (reply.status, reply.ends_session());
        assert_eq!(seen(&browser.get(&mut one, "/api")), (503, false));
        if wait > 0 {
            cluster.borrow_mut().clear();
            pass(&one, &two, wait);
        }
        if calls == 2 {
            // The other node cannot judge them either.
            assert_eq!(seen(&browser.get(&mut two, "/api")), (503, false), "{wait}");
            one.provider.keys.borrow_mut().push(late);
            pass(&one, &two, 2);
            let mut behind = browser.clone();
            for _ in 0..2 {
                assert_eq!(seen(&browser.get(&mut two, "/api")), (200, false), "{wait}");
            }
            assert_eq!(seen(&behind.get(&mut one, "/api")), (200, false), "{wait}");
        } else {
            assert_eq!(seen(&browser.get(&mut two, "/api")), (401, true), "{wait}");
        }
        assert_eq!(one.provider.called("/token"), calls, "{wait}");
    }
}

#[test]
fn rule_41_new_tokens_that_end_unjudged_are_renewed_on_whichever_node() {
    // Providers that give a new refresh token each time, and others.
    for rotates in [true, false] {
        let config = json!({ "refresh_grace": 0, "session_idling_timeout": 0 });
        let [mut one, mut two] = Gateway::joined(&config, &Rc::default());
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
        one.advance_with(&two, 301);
        let late = SigningKey::es256("late");
        {
            let mut script = one.provider.script.borrow_mut();
            script.signs_with = Some(late.clone());
            script.no_refresh_token = !rotates;
            script.lifetime = Some(60);
            script.access_claims = vec![("exp", json!(one.provider.now() + 60))];
        }
        let seen = |reply: &Reply| (reply.status, reply.ends_session());
        for node in [&mut one, &mut two] {
            assert_eq!(seen(&browser.get(node, "/api")), (503, false), "{rotates}");
        }
        let calls = if rotates { 2 } else { 3 };
        assert_eq!(one.provider.called("/token"), calls, "{rotates}");
        one.advance_with(&two, 61);
        one.provider.keys.borrow_mut().push(late);
        {
            let mut script = one.provider.script.borrow_mut();
            (script.lifetime, script.access_claims) = (None, Vec::new());
        }
        for node in [&mut two, &mut one] {
            let reply = browser.get(node, "/api");
            assert_eq!(seen(&reply), (200, false), "{rotates}");
        }
        assert_eq!(one.provider.called("/token"), calls + 1, "{rotates}");
    }
}

#[test]
fn rule_41_the_refresh_token_that_came_unjudged_serves_on_if_no_other_comes() {
    let config = json!({ "refresh_grace": 0, "session_idling_timeout": 0 });
    let mut one = Gateway::new(config);
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    one.advance(301);
    let late = SigningKey::es256("late");
    {
        let mut script = one.provider.script.borrow_mut();
        script.signs_with = Some(late.clone());
        script.lifetime = Some(60);
    }
    assert_eq!(browser.get(&mut one, "/api").status, 503);
    one.advance(61);
    one.provider.keys.borrow_mut().push(late);
    {
        let mut script = one.provider.script.borrow_mut();
        script.lifetime = None;
        script.no_refresh_token = true;
    }
    let seen = |reply: &Reply| (reply.status, reply.ends_session());
    for _ in 0..2 {
        assert_eq!(seen(&browser.get(&mut one, "/api")), (200, false));
        one.advance(301);
    }
    assert_eq!(one.provider.called("/token"), 4);
}

#[test]
fn rule_41_what_waits_unjudged_is_not_taken_for_the_newest_of_a_refresh_token_that_serves_on() {
    let config = json!({ "refresh_grace": 0, "session_idling_timeout": 0, "leeway": 30 });
    let [mut one, mut two] = Gateway::two(&config);
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    one.advance_with(&two, 301);
    let late = SigningKey::es256("late");
    {
        let mut script = one.provider.script.borrow_mut();
        script.signs_with = Some(late.clone());
        script.no_refresh_token = true;
        script.lifetime = Some(60);
    }
    assert_eq!(browser.get(&mut one, "/api").status, 503);
    one.advance_with(&two, 30);
    one.provider.keys.borrow_mut().push(late);
    assert_eq!(browser.get(&mut two, "/api").status, 200);
    assert_eq!(one.provider.called("/token"), 3);
    // What the first node keeps has ended by now, and is older than what the session holds.
    one.advance_with(&two, 45);
    assert_eq!(browser.get(&mut one, "/api").status, 200);
    assert_eq!(one.provider.called("/token"), 4);
}

#[test]
fn rule_40_what_was_good_when_it_was_given_is_good_when_its_key_comes() {
    let (mut gateway, mut browser) = due(0);
    let late = SigningKey::es256("late");
    {
        let mut script = gateway.provider.script.borrow_mut();
        script.signs_with = Some(late.clone());
        script.id_claims = vec![("exp", json!(gateway.provider.now() + 60))];
    }
    let seen = |reply: &Reply| (reply.status, reply.ends_session());
    assert_eq!(seen(&browser.get(&mut gateway, "/api")), (503, false));
    gateway.provider.keys.borrow_mut().push(late.clone());
    gateway.advance(90);
    assert_eq!(seen(&browser.get(&mut gateway, "/api")), (200, false));
    assert_eq!(gateway.provider.called("/token"), 2);

    // What had ended when it was given is refused.
    let (mut gateway, mut browser) = due(0);
    {
        let mut script = gateway.provider.script.borrow_mut();
        script.signs_with = Some(late.clone());
        script.id_claims = vec![("exp", json!(gateway.provider.now() - 1))];
    }
    assert_eq!(seen(&browser.get(&mut gateway, "/api")), (503, false));
    gateway.provider.keys.borrow_mut().push(late);
    gateway.advance(2);
    assert_eq!(seen(&browser.get(&mut gateway, "/api")), (401, true));
}

#[test]
fn rule_41_the_other_nodes_are_told_only_what_was_given() {
    let config = json!({ "refresh_grace": 0 });
    let mut one = Gateway::new(config);
    let cluster: Rc<crate::testing::Landed> = Rc::default();
    one.host.join(&cluster);
    let mut browser = Browser::default();
    browser.sign_in(&mut one, "/api");
    cluster.borrow_mut().clear();
    one.advance(301);
    one.provider.script.borrow_mut().token_answer = Some((503, json!({})));
    assert_eq!(browser.get(&mut one, "/api").status, 503);
    assert!(cluster.borrow().is_empty(), "another node may try");
    one.provider.script.borrow_mut().token_answer = None;
    one.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("late"));
    assert_eq!(browser.get(&mut one, "/api").status, 503);
    let told: Vec<_> = cluster.borrow().values().cloned().collect();
    assert_eq!(told.len(), 1);
    let told = String::from_utf8_lossy(&told[0]).into_owned();
    assert!(
        !told.contains("refresh-") && !told.contains("user-1"),
        "sealed"
    );
}

#[test]
fn rule_78_unknown_keys_of_the_token_endpoint_make_one_fetch_in_a_second() {
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("never"));
    for _ in 0..5 {
        assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 401);
    }
    assert_eq!(gateway.provider.called("/jwks"), 2);
    gateway.advance(1);
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 401);
    assert_eq!(gateway.provider.called("/jwks"), 3);
}

#[test]
fn rule_77_keys_that_cannot_be_had_end_no_session_and_refuse_no_logout() {
    let mut gateway =
        Gateway::new(json!({ "refresh_grace": 0, "backchannel_logout_uri_suffix": "/bcl" }));
    let mut browsers: Vec<Browser> = (0..3).map(|_| Browser::default()).collect();
    for browser in &mut browsers {
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    }
    gateway.advance(301);
    gateway.provider.script.borrow_mut().no_discovery = true;
    rotate(&gateway, "two");
    for _ in 0..2 {
        assert_eq!(garbage_logout(&mut gateway), 503);
    }
    // The provider of these tests knows one refresh token at a time: the last one's.
    let browser = browsers.last_mut().unwrap();
    for _ in 0..3 {
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (503, false));
    }
    gateway.provider.script.borrow_mut().no_discovery = false;
    gateway.advance(6);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn rule_40_what_a_refresh_gave_is_kept_though_its_request_is_refused() {
    let mut gateway = Gateway::new(json!({
        "token_exchange_endpoint": format!("{ISSUER}/exchange"), "cache_token_exchange": false,
    }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    gateway.advance(301);
    gateway.provider.script.borrow_mut().exchange = Some((503, ""));
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.sets_session()), (503, true));
    gateway.provider.script.borrow_mut().exchange = None;
    // Long after the refresh is forgotten here.
    gateway.advance(90);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 2);
}

#[test]
fn the_time_that_a_late_key_has_is_counted_anew_once_new_tokens_have_come_on_any_node() {
    let config = json!({ "refresh_grace": 0, "session_idling_timeout": 0 });
    let cluster = Rc::default();
    let [mut one, mut two] = Gateway::joined(&config, &cluster);
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    let seen = |reply: &Reply| (reply.status, reply.ends_session());
    let late = |one: &Gateway, name: &str| {
        let late = SigningKey::es256(name);
        let mut script = one.provider.script.borrow_mut();
        script.no_refresh_token = true;
        script.signs_with = Some(late.clone());
        late
    };
    one.advance_with(&two, 301);
    let key = late(&one, "late");
    assert_eq!(seen(&browser.get(&mut one, "/api")), (503, false));
    one.provider.keys.borrow_mut().push(key);
    one.advance_with(&two, 31);
    cluster.borrow_mut().clear();
    assert_eq!(seen(&browser.get(&mut two, "/api")), (200, false));
    one.advance_with(&two, 301);
    cluster.borrow_mut().clear();
    late(&one, "later");
    assert_eq!(seen(&browser.get(&mut one, "/api")), (503, false));
}
