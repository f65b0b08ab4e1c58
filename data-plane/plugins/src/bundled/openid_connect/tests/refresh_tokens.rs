//! Refresh tokens that the provider takes more than once.

use std::collections::HashSet;
use std::rc::Rc;

use serde_json::json;

use super::gateway::{Browser, Gateway};
use super::provider::SigningKey;
use crate::host::{Claim, Host as _, Number};

#[test]
fn rule_41_a_refresh_token_that_is_not_rotated_is_used_again_at_each_end() {
    // Tokens of 300 seconds are due after 160.
    let config = json!({ "leeway": 140, "session_idling_timeout": 0 });
    let mut nodes = Gateway::joined(&config, &Rc::default());
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut nodes[0], "/api").status, 200);
    nodes[0].provider.script.borrow_mut().no_refresh_token = true;
    let mut tokens = HashSet::new();
    for round in 1..=4 {
        let late = browser.clone();
        nodes[0].advance(160);
        nodes[1].host.set_clock(nodes[0].host.now());
        let mut served = HashSet::new();
        for number in [round, round + 1] {
            let node = &mut nodes[number % 2];
            let reply = browser.get(node, "/api");
            assert_eq!(reply.status, 200, "{round}");
            served.insert(reply.seen("authorization").map(str::to_owned));
            // Who has not heard of the new ones yet gets them, too.
            let reply = late.clone().get(node, "/api");
            served.insert(reply.seen("authorization").map(str::to_owned));
        }
        assert_eq!(served.len(), 1, "{round}");
        tokens.extend(served);
        assert_eq!(nodes[0].provider.called("/token"), 1 + round);
    }
    assert_eq!(tokens.len(), 4);
}

#[test]
fn a_token_is_not_refreshed_before_half_of_its_life_is_over_whatever_leeway_says() {
    // Tokens of 300 seconds: the leeway, whether the session is renewed, and when they are due.
    for (leeway, is_renewed, due) in [
        (0, true, 300),
        (100, true, 200),
        (300, true, 150),
        (1_000, true, 150),
        (1_000, false, 150),
    ] {
        let disabled = if is_renewed { vec![] } else { vec!["session"] };
        let config = json!({
            "leeway": leeway, "session_idling_timeout": 0, "disable_session": disabled,
        });
        let mut gateway = Gateway::new(config);
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
        for round in 1..=3 {
            for (wait, calls) in [(0, round), (due - 1, round), (1, round + 1)] {
                gateway.advance(wait);
                let reply = browser.get(&mut gateway, "/api");
                let seen = (reply.status, gateway.provider.called("/token"));
                assert_eq!(seen, (200, calls), "{leeway} {is_renewed} {round} {wait}");
            }
        }
    }
}

#[test]
fn what_came_of_a_refresh_serves_for_half_of_its_life_whatever_leeway_says() {
    for rotates in [true, false] {
        let config = json!({ "leeway": 1_000, "session_idling_timeout": 0 });
        let mut nodes = Gateway::joined(&config, &Rc::default());
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut nodes[0], "/api").status, 200);
        nodes[0].provider.script.borrow_mut().no_refresh_token = !rotates;
        nodes[0].advance(150);
        nodes[1].host.set_clock(nodes[0].host.now());
        // Requests that were sent before the browser had the new cookie.
        for number in 0..6 {
            let reply = browser.clone().get(&mut nodes[number % 2], "/api");
            assert_eq!(reply.status, 200, "{rotates} {number}");
        }
        assert_eq!(nodes[0].provider.called("/token"), 2, "{rotates}");
    }
}

#[test]
fn rule_41_who_comes_late_gets_no_tokens_that_have_ended_since() {
    let check = |rotates: bool, in_cluster: bool| {
        let config = json!({ "session_idling_timeout": 0 });
        let mut nodes = if in_cluster {
            Gateway::joined(&config, &Rc::default())
        } else {
            Gateway::two(&config)
        };
        let mut browser = Browser::default();
        nodes[0].provider.script.borrow_mut().lifetime = Some(3);
        assert_eq!(browser.sign_in(&mut nodes[0], "/api").status, 200);
        nodes[0].provider.script.borrow_mut().no_refresh_token = !rotates;
        let mut late = browser.clone();
        let (mut first, mut newest) = (None, None);
        for round in 1..=12 {
            nodes[0].advance(3);
            nodes[1].host.set_clock(nodes[0].host.now());
            let node = &mut nodes[0];
            newest = browser
                .get(node, "/api")
                .seen("authorization")
                .map(str::to_owned);
            first = first.or_else(|| newest.clone());
            // A copy of the first cookie that never takes a new one.
            let node = &mut nodes[usize::from(in_cluster)];
            let reply = late.clone().get(node, "/api");
            assert_eq!(reply.status, 200, "{rotates} {in_cluster} {round}");
            let seen = reply.seen("authorization").map(str::to_owned);
            assert_eq!(seen, newest, "{rotates} {in_cluster} {round}");
            assert_eq!(nodes[0].provider.called("/token"), 1 + round);
            // A late one is late by half a minute at most.
            if round == 9 {
                late = browser.clone();
            }
        }
        assert_ne!(first, newest);
    };
    check(true, false);
    check(false, false);
    check(true, true);
    check(false, true);
}

#[test]
fn rule_41_a_token_is_due_by_what_stands_in_it() {
    let config = json!({ "reverify": true, "session_idling_timeout": 0 });
    let mut gateway = Gateway::new(config);
    let exp = gateway.host.now().as_secs() + 100;
    gateway.provider.script.borrow_mut().access_claims = vec![("exp", exp.into())];
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    gateway.provider.script.borrow_mut().access_claims.clear();
    gateway.advance(99);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 1);
    gateway.advance(1);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/token"), 2);
}

#[test]
fn rule_41_what_another_node_is_still_at_is_not_done_a_second_time() {
    let mut gateway = Gateway::new(json!({ "refresh_grace": 0 }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    // A code that it redeems, and then a refresh.
    for (uri, calls) in [(back.as_str(), 0), ("/api", 1)] {
        gateway.host.claims(Claim::Taken);
        for _ in 0..2 {
            let reply = browser.get(&mut gateway, uri);
            assert_eq!((reply.status, reply.ends_session()), (503, false), "{uri}");
            assert_eq!(gateway.provider.called("/token"), calls, "{uri}");
        }
        gateway.host.claims(None);
        assert_eq!(browser.get(&mut gateway, uri).status, 200);
        assert_eq!(gateway.provider.called("/token"), calls + 1, "{uri}");
        gateway.advance(350);
    }
}

#[test]
fn what_a_token_that_is_not_rotated_was_traded_for_serves_clients_while_it_lives_and_if_it_is_kept()
{
    // Tokens of 300 seconds are due after 160; the wait before each request, and the calls that there were then.
    let check = |cache: bool, steps: &[(u64, usize)]| {
        let mut nodes = Gateway::two(&json!({}));
        Browser::default().sign_in(&mut nodes[0], "/api");
        nodes[0].provider.script.borrow_mut().no_refresh_token = true;
        let config = json!({
            "auth_methods": ["refresh_token"], "refresh_token_param_name": "refresh_token",
            "cache_tokens": cache, "leeway": 140,
        });
        let cluster = Rc::default();
        for node in &mut nodes {
            node.host.join(&cluster);
            node.filter = super::gateway::compile(&config, 8);
        }
        let before = nodes[0].provider.called("/token");
        for (number, (wait, calls)) in steps.iter().enumerate() {
            nodes[0].advance(*wait);
            nodes[1].host.set_clock(nodes[0].host.now());
            let mut client = Browser::default();
            let node = &mut nodes[number % 2];
            let reply = client.get_with(node, "/api", "refresh-token", "refresh-1");
            assert_eq!(reply.status, 200, "{cache} {number}");
            let called = nodes[0].provider.called("/token") - before;
            assert_eq!(called, *calls, "{cache} {number}");
        }
    };
    // Once what all nodes have heard of is due, each asks for itself: the token is not used up by that.
    check(true, &[(0, 1), (0, 1), (159, 1), (1, 2), (0, 3), (159, 3)]);
    check(false, &[(0, 1), (0, 2), (1, 3), (1, 4)]);
}

#[test]
fn rule_41_a_token_that_a_client_brings_is_never_traded_for_one_that_has_ended() {
    for cache in [true, false] {
        let mut nodes = Gateway::two(&json!({}));
        Browser::default().sign_in(&mut nodes[0], "/api");
        let config = json!({
            "auth_methods": ["refresh_token"], "refresh_token_param_name": "refresh_token",
            "cache_tokens": cache, "reverify": true,
        });
        nodes[0].provider.script.borrow_mut().lifetime = Some(3);
        let cluster = Rc::default();
        for node in &mut nodes {
            node.host.join(&cluster);
            node.filter = super::gateway::compile(&config, 8);
        }
        let mut seen = HashSet::new();
        for round in 1..=5 {
            for at in [0, 1] {
                let mut client = Browser::default();
                let node = &mut nodes[at];
                let reply = client.get_with(node, "/api", "refresh-token", "refresh-1");
                assert_eq!(reply.status, 200, "{cache} {round} {at}");
                seen.insert(reply.seen("authorization").unwrap().to_owned());
            }
            // One of its own at each end, for both nodes.
            assert_eq!(seen.len(), round, "{cache}");
            assert_eq!(nodes[0].provider.called("/token"), 1 + round, "{cache}");
            nodes[0].advance(4);
            nodes[1].host.set_clock(nodes[0].host.now());
        }
    }
}

#[test]
fn rule_41_a_session_by_a_token_that_is_not_rotated_is_refreshed_with_it() {
    for rotates in [true, false] {
        let mut gateway = Gateway::new(json!({}));
        Browser::default().sign_in(&mut gateway, "/api");
        let config = json!({
            "auth_methods": ["session", "refresh_token"], "refresh_token_param_name": "refresh_token",
        });
        gateway.provider.script.borrow_mut().no_refresh_token = !rotates;
        gateway.filter = super::gateway::compile(&config, 8);
        let mut client = Browser::default();
        let reply = client.get_with(&mut gateway, "/api", "refresh-token", "refresh-1");
        assert_eq!((reply.status, reply.sets_session()), (200, true));
        for _ in 0..3 {
            gateway.advance(310);
            let reply = client.get(&mut gateway, "/api");
            let outcome = (reply.status, reply.ends_session());
            assert_eq!(outcome, (200, false), "{rotates}");
        }
        assert_eq!(gateway.provider.called("/token"), 5);
    }
}

#[test]
fn a_session_that_is_verified_again_goes_on_for_its_grace_too() {
    for more in [
        json!({}),
        json!({ "auth_methods": ["session", "introspection", "authorization_code"] }),
    ] {
        let mut config = json!({ "reverify": true });
        let members = config.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        let mut gateway = Gateway::new(config);
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
        gateway.provider.script.borrow_mut().gone = vec![("/token", 503)];
        gateway.advance(310);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (200, false));
        gateway.advance(300);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (503, false));
        gateway.provider.script.borrow_mut().gone.clear();
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    }
}

#[test]
fn rule_41_whoever_may_have_lost_a_refresh_ends_no_session_that_is_verified_again() {
    let config = json!({ "reverify": true });
    let [mut one, mut two] = Gateway::two(&config);
    for node in [&one, &two] {
        node.host.claims(Claim::Alone);
    }
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    one.advance_with(&two, 310);
    let mut late = browser.clone();
    assert_eq!(browser.get(&mut one, "/api").status, 200);
    // The provider takes its refresh token no more; it goes on for its grace. So it does though a control plane is back, which
    // does not know what the other node was given: the token is not brought again.
    let calls = one.provider.called("/token") + 1;
    for (seconds, status) in [(0, 200), (6, 200), (60, 200), (229, 503)] {
        two.advance(seconds);
        let reply = late.get(&mut two, "/api");
        let outcome = (reply.status, reply.ends_session());
        assert_eq!(outcome, (status, false), "{seconds}");
        assert_eq!(one.provider.called("/token"), calls, "{seconds}");
        two.host.claims(Claim::Ours(Number::default()));
    }
    // Whoever comes with it later on was logged out.
    two.advance(10);
    let reply = late.get(&mut two, "/api");
    assert_eq!((reply.status, reply.ends_session()), (401, true));
}

#[test]
fn a_refusal_is_doubted_for_as_long_as_the_session_goes_on_without() {
    // With claims of 60 seconds, whenever the access token ends: how long they serve on, and when the session is over.
    for (stale_if_error, lifetime, steps) in [
        (0, 300, &[(0, 503), (9, 503), (1, 401)][..]),
        (0, 28_800, &[(0, 503), (9, 503), (1, 401)]),
        (
            40,
            28_800,
            &[(0, 200), (39, 200), (1, 503), (9, 503), (1, 401)],
        ),
    ] {
        let config = json!({ "max_claim_age": 60, "stale_if_error": stale_if_error });
        let mut gateway = Gateway::new(config);
        gateway.host.claims(Claim::Alone);
        gateway.provider.script.borrow_mut().lifetime = Some(lifetime);
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
        gateway.provider.script.borrow_mut().token_answer =
            Some((400, json!({ "error": "invalid_grant" })));
        gateway.advance(60);
        for &(seconds, status) in steps {
            gateway.advance(seconds);
            let reply = browser.get(&mut gateway, "/api");
            let outcome = (reply.status, reply.ends_session());
            assert_eq!(outcome, (status, status == 401), "{lifetime} {steps:?}");
        }
    }
}

#[test]
fn a_refusal_of_a_refresh_token_that_a_client_brings_is_not_remembered() {
    for (error, status) in [
        ("invalid_grant", 401),
        ("invalid_scope", 401),
        ("unauthorized_client", 502),
        ("unsupported_grant_type", 502),
    ] {
        for keeps in [true, false] {
            let mut gateway = Gateway::new(json!({
                "auth_methods": ["refresh_token"], "refresh_token_param_name": "refresh_token",
                "cache_tokens": keeps,
            }));
            let mut other = Gateway::with_provider(&json!({}), Rc::clone(&gateway.provider), 3);
            Browser::default().sign_in(&mut other, "/api");
            let bring = |gateway: &mut Gateway| {
                let mut client = Browser::default();
                let (name, token) = ("refresh-token", "refresh-1");
                client.get_with(gateway, "/api", name, token).status
            };
            let answer = (400, json!({ "error": error }));
            gateway.provider.script.borrow_mut().token_answer = Some(answer);
            assert_eq!(bring(&mut gateway), status, "{error} {keeps}");
            gateway.provider.script.borrow_mut().token_answer = None;
            assert_eq!(bring(&mut gateway), 200, "{error} {keeps}");
        }
    }
}

#[test]
fn a_forged_refresh_leaves_nobody_anonymous_at_the_nodes_that_hear_of_it() {
    let config = json!({ "anonymous": "guest", "anonymous_for_forged_tokens": false });
    let [mut one, mut two] = Gateway::joined(&config, &Rc::default());
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    one.advance_with(&two, 350);
    let kid = one.provider.keys.borrow()[0].jwk["kid"].clone();
    let forger = SigningKey::es256(kid.as_str().unwrap());
    one.provider.script.borrow_mut().signs_with = Some(forger);
    assert_eq!(browser.clone().get(&mut one, "/api").status, 401);
    let calls = one.provider.called("/token");
    assert_eq!(browser.get(&mut two, "/api").status, 401);
    assert_eq!(one.provider.called("/token"), calls);
}

#[test]
fn rule_40_a_session_that_one_node_has_ended_at_its_refresh_is_over_at_all() {
    let refused = json!({ "error": "invalid_grant" });
    for forged in [false, true] {
        let [mut one, mut two] = Gateway::joined(&json!({}), &Rc::default());
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
        one.advance_with(&two, 350);
        if forged {
            one.provider.script.borrow_mut().id_claims = vec![("sub", json!("mallory"))];
        } else {
            one.provider.script.borrow_mut().token_answer = Some((400, refused.clone()));
        }
        let reply = browser.clone().get(&mut one, "/api");
        assert_eq!((reply.status, reply.ends_session()), (401, true));
        let calls = one.provider.called("/token");
        // Whatever the provider would say by now.
        one.provider.script.borrow_mut().token_answer = Some((503, json!({})));
        one.provider.script.borrow_mut().id_claims = Vec::new();
        let reply = browser.get(&mut two, "/api");
        assert_eq!(
            (reply.status, reply.ends_session()),
            (401, true),
            "{forged}"
        );
        assert_eq!(one.provider.called("/token"), calls);
    }
}

#[test]
fn case_44_a_session_ends_with_its_token_where_none_is_refreshed() {
    // Without a refresh the token serves as long as clocks may differ.
    let mut gateway = Gateway::new(json!({ "refresh_tokens": false, "leeway": 10 }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    for (seconds, status, ends) in [(309, 200, false), (1, 401, true)] {
        gateway.advance(seconds);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (status, ends));
    }
    assert_eq!(gateway.provider.called("/token"), 1);
}
