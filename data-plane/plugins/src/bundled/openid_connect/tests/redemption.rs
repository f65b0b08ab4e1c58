//! Codes are redeemed once, whatever becomes of the browser that brings one.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use http::HeaderValue;
use http::header::COOKIE;
use serde_json::json;
use shared::entity::Revocation;

use super::conformance::reason;
use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey};
use crate::filter::Filter as _;
use crate::host::{Claim, Host};
use crate::testing::{Landed, Request, START};

/// A browser with a sign-in under way, and where the provider sends it back to.
fn begun(gateway: &mut Gateway) -> (Browser, String) {
    let mut browser = Browser::default();
    let start = browser.get(gateway, "/api");
    let back = gateway.provider.authorize(start.location());
    (browser, format!("/api?{back}"))
}

#[test]
fn rule_25_whoever_lost_the_answer_gets_it_again_and_the_code_is_redeemed_once() {
    let mut gateway = Gateway::new(json!({}));
    let (mut browser, back) = begun(&mut gateway);
    let mut late = browser.clone();
    let stranger = Browser::default();
    assert!(browser.get(&mut gateway, &back).sets_session());
    let another = back.replace("code=", "code=another-");
    let other = late.clone().get(&mut gateway, &another);
    assert_eq!(
        (other.status, other.location(), other.sets_session()),
        (302, "http://gateway.example/api", false),
        "another code is not what this one was worth"
    );
    let reply = late.get(&mut gateway, &back);
    assert!(reply.status == 200 && reply.sets_session(), "{reply:?}");
    assert_eq!(late.get(&mut gateway, "/api").status, 200);
    // Without the sign-in's cookie it is a stranger's.
    assert!(!stranger.clone().get(&mut gateway, &back).sets_session());
    assert_eq!(gateway.provider.called("/token"), 1);
}

#[test]
fn rule_25_a_logout_ends_what_the_response_leads_to_whenever_it_is_brought() {
    let mut gateway = Gateway::new(json!({
        "logout_uri_suffix": "/logout", "logout_methods": ["GET"],
    }));
    let (mut browser, back) = begun(&mut gateway);
    let (copy, mut late) = (browser.clone(), browser.clone());
    assert!(browser.get(&mut gateway, &back).sets_session());
    assert!(late.get(&mut gateway, &back).sets_session());
    gateway.advance(1);
    assert!(browser.get(&mut gateway, "/logout").ends_session());
    assert_eq!(late.get(&mut gateway, "/api").status, 302);
    let reply = copy.clone().get(&mut gateway, &back);
    assert_eq!((reply.status, reply.sets_session()), (401, false));
    assert_eq!(reason(&gateway), "session_revoked");
    // The next sign-in is another.
    assert!(browser.sign_in(&mut gateway, "/api").sets_session());
}

#[test]
fn rule_25_a_sign_in_that_its_users_logout_has_ended_begins_anew() {
    let mut gateway = Gateway::new(json!({}));
    let (mut browser, mut back) = begun(&mut gateway);
    // The provider's clock is half a minute ahead.
    let logout = Revocation {
        id: Revocation::subject(ISSUER, "user-1"),
        before: START.as_millis() + 30_000,
        expires_at: START.as_secs() + 86_400,
    };
    Host::revocations(&gateway.host).add([logout], START);
    for _ in 0..2 {
        let reply = browser.get(&mut gateway, &back);
        assert_eq!((reply.status, reply.sets_session()), (302, false));
        back = format!("/api?{}", gateway.provider.authorize(reply.location()));
    }
    // It makes no circle.
    assert_eq!(browser.get(&mut gateway, &back).status, 401);
    assert_eq!(reason(&gateway), "session_revoked");
    gateway.advance(31);
    assert!(browser.sign_in(&mut gateway, "/api").sets_session());
}

#[test]
fn rule_25_a_failure_is_the_result_as_well_but_for_that_of_a_provider_that_was_away() {
    let mut gateway = Gateway::new(json!({}));
    let (browser, back) = begun(&mut gateway);
    gateway.provider.script.borrow_mut().down = true;
    assert_eq!(browser.clone().get(&mut gateway, &back).status, 503);
    gateway.provider.script.borrow_mut().down = false;
    let refused = Some((400, json!({ "error": "invalid_grant" })));
    gateway.provider.script.borrow_mut().token_answer = refused;
    for _ in 0..2 {
        let reply = browser.clone().get(&mut gateway, &back);
        assert_eq!(
            (reply.status, reason(&gateway)),
            (401, "token_http".to_owned())
        );
    }
    assert_eq!(gateway.provider.called("/token"), 2);
    // What a node remembers of codes it forgets.
    gateway.provider.script.borrow_mut().token_answer = None;
    gateway.advance(61);
    assert_eq!(browser.clone().get(&mut gateway, &back).status, 200);
}

#[test]
fn rule_25_a_sign_in_goes_on_without_its_browser() {
    let mut gateway = Gateway::new(json!({}));
    let (mut browser, back) = begun(&mut gateway);
    let mut request = Request::get(&back);
    let cookies = browser.cookies.iter();
    let cookies: Vec<_> = cookies
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let value = HeaderValue::from_str(&cookies.join("; ")).unwrap();
    request.headers.push((COOKIE, value));
    request.environment = std::mem::take(&mut gateway.environment);
    request.with_exchange(|exchange| {
        let mut answering = pin!(gateway.filter.on_request(exchange, &gateway.host));
        // It goes away as soon as it has to wait.
        assert!(answering.as_mut().now_or_never().is_none());
    });
    gateway.environment = request.environment;
    gateway.host.run(std::future::ready(()));
    assert_eq!(gateway.provider.called("/token"), 1);
    assert!(browser.get(&mut gateway, &back).sets_session());
    assert_eq!(gateway.provider.called("/token"), 1);
}

#[test]
fn rule_25_a_response_that_comes_to_two_nodes_is_redeemed_once() {
    let cluster = Rc::default();
    let [mut one, mut two] = Gateway::joined(&json!({}), &cluster);
    let (mut browser, back) = begun(&mut one);
    // A provider that was not reached has not seen the code.
    one.provider.script.borrow_mut().down = true;
    assert_eq!(browser.clone().get(&mut one, &back).status, 503);
    one.provider.script.borrow_mut().down = false;
    let late = browser.clone();
    assert!(browser.get(&mut two, &back).sets_session());
    for node in [&mut one, &mut two] {
        let mut late = late.clone();
        assert!(late.get(node, &back).sets_session());
        assert_eq!(late.get(node, "/api").status, 200);
    }
    assert_eq!(one.provider.called("/token"), 2);
    // Another response with its state is none.
    let another = back.replace("code=", "code=another-");
    for node in [&mut one, &mut two] {
        let reply = late.clone().get(node, &another);
        assert_eq!((reply.status, reply.sets_session()), (302, false));
    }
    assert_eq!(one.provider.called("/token"), 2);
    // What is too long to be told is at least known to be spent.
    let (browser, back) = begun(&mut one);
    let long = "x".repeat(40_000);
    one.provider.script.borrow_mut().access_token = Some(long);
    assert!(browser.clone().get(&mut one, &back).sets_session());
    let reply = browser.clone().get(&mut two, &back);
    assert_eq!((reply.status, reply.sets_session()), (302, false));
    assert_eq!(one.provider.called("/token"), 3);
}

/// A sign-in that has come back from the provider, whose keys have changed and cannot be had.
pub(super) fn keyless(gateway: &mut Gateway) -> (Browser, String) {
    let (browser, back) = begun(gateway);
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("two")];
    gateway.provider.script.borrow_mut().gone = vec![("/jwks", 503)];
    (browser, back)
}

#[test]
fn rule_25_a_code_whose_keys_are_out_of_reach_is_redeemed_once_and_a_reload_signs_in() {
    let mut gateway = Gateway::new(json!({}));
    let (mut browser, back) = keyless(&mut gateway);
    for _ in 0..3 {
        let reply = browser.get(&mut gateway, &back);
        assert_eq!((reply.status, reply.sets_session()), (503, false));
        gateway.advance(6);
    }
    gateway.provider.script.borrow_mut().gone.clear();
    // Another response with its state is none, and neither is one without its cookie.
    let another = back.replace("code=", "code=another-");
    assert!(!browser.clone().get(&mut gateway, &another).sets_session());
    assert!(!Browser::default().get(&mut gateway, &back).sets_session());
    assert!(browser.get(&mut gateway, &back).sets_session());
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 1);
}

#[test]
fn rule_25_tokens_that_nobody_can_verify_are_kept_for_minutes_and_no_forged_ones_are_taken() {
    let mut gateway = Gateway::new(json!({}));
    let (browser, back) = keyless(&mut gateway);
    assert_eq!(browser.clone().get(&mut gateway, &back).status, 503);
    gateway.advance(299);
    assert_eq!(browser.clone().get(&mut gateway, &back).status, 503);
    assert_eq!(gateway.provider.called("/token"), 1);
    gateway.advance(6);
    gateway.provider.script.borrow_mut().gone.clear();
    assert_eq!(browser.clone().get(&mut gateway, &back).status, 401);
    assert_eq!(gateway.provider.called("/token"), 2);

    let mut gateway = Gateway::new(json!({}));
    let (browser, back) = keyless(&mut gateway);
    gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("forged"));
    assert_eq!(browser.clone().get(&mut gateway, &back).status, 503);
    gateway.provider.script.borrow_mut().gone.clear();
    gateway.advance(6);
    for _ in 0..2 {
        assert_eq!(browser.clone().get(&mut gateway, &back).status, 401);
        assert_eq!(reason(&gateway), "idt_kid");
    }
    assert_eq!(gateway.provider.called("/token"), 1);
}

#[test]
fn rule_25_a_reload_that_comes_to_another_node_goes_on_with_tokens_that_wait_for_keys() {
    let cluster = Rc::default();
    let [mut one, mut two] = Gateway::joined(&json!({}), &cluster);
    let (browser, back) = keyless(&mut one);
    // The other one has the old keys, too.
    one.provider.script.borrow_mut().gone.clear();
    let new = one.provider.keys.take();
    *one.provider.keys.borrow_mut() = vec![SigningKey::es256("one")];
    assert_eq!(Browser::default().get(&mut two, "/api").status, 302);
    *one.provider.keys.borrow_mut() = new;
    one.provider.script.borrow_mut().gone = vec![("/jwks", 503)];
    for node in [&mut one, &mut two] {
        let reply = browser.clone().get(node, &back);
        assert_eq!((reply.status, reply.sets_session()), (503, false));
    }
    one.provider.script.borrow_mut().gone.clear();
    for node in [&mut two, &mut one] {
        node.host.advance(6.0);
        let mut browser = browser.clone();
        assert!(browser.get(node, &back).sets_session());
        assert_eq!(browser.get(node, "/api").status, 200);
    }
    assert_eq!(one.provider.called("/token"), 1);
}

#[test]
fn rule_25_an_id_token_that_ends_while_it_waits_for_keys_is_judged_as_of_when_it_was_given() {
    let cluster = Rc::default();
    let [mut one, mut two] = Gateway::joined(&json!({}), &cluster);
    let end = one.provider.now() + 30;
    one.provider.script.borrow_mut().id_claims = vec![("exp", json!(end))];
    let (browser, back) = keyless(&mut one);
    assert_eq!(browser.clone().get(&mut one, &back).status, 503);
    one.advance_with(&two, 60);
    one.provider.script.borrow_mut().gone.clear();
    for node in [&mut two, &mut one] {
        let mut browser = browser.clone();
        assert!(browser.get(node, &back).sets_session());
        assert_eq!(browser.get(node, "/api").status, 200);
    }
    assert_eq!(one.provider.called("/token"), 1);
    // One that had ended when it was given is none.
    let mut gateway = Gateway::new(json!({}));
    let end = gateway.provider.now() - 30;
    gateway.provider.script.borrow_mut().id_claims = vec![("exp", json!(end))];
    let (browser, back) = keyless(&mut gateway);
    assert_eq!(browser.clone().get(&mut gateway, &back).status, 503);
    gateway.provider.script.borrow_mut().gone.clear();
    gateway.advance(6);
    assert_eq!(browser.clone().get(&mut gateway, &back).status, 401);
}

#[test]
fn rule_25_tokens_that_wait_for_keys_are_told_again_where_they_were_forgotten() {
    // Also by a node that is told only by a control plane that is not sure.
    for is_sure in [true, false] {
        let cluster: Rc<Landed> = Rc::default();
        let [mut one, mut two] = Gateway::joined(&json!({}), &cluster);
        let (mut browser, back) = keyless(&mut one);
        assert_eq!(browser.get(&mut one, &back).status, 503);
        if !is_sure {
            one.host.claims(Claim::Alone);
        }
        for _ in 0..2 {
            cluster.borrow_mut().clear();
            let host = one.host.clone();
            host.run(host.sleep(Duration::from_secs(70)));
            two.host.set_clock(host.now());
            *one.provider.clock.borrow_mut() += 70;
        }
        one.provider.script.borrow_mut().gone.clear();
        let mut late = browser.clone();
        let reply = browser.get(&mut two, &back);
        assert!(reply.status == 200 && reply.sets_session(), "{reply:?}");
        assert_eq!(one.provider.called("/token"), 1);
        // Once they are verified there is nothing more to tell.
        assert!(late.get(&mut one, &back).sets_session());
        assert_eq!(one.provider.called("/token"), 1);
        cluster.borrow_mut().clear();
        let host = one.host.clone();
        host.run(host.sleep(Duration::from_secs(130)));
        assert!(cluster.borrow().is_empty());
    }
}
