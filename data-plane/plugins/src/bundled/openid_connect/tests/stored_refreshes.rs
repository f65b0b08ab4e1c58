//! Refreshes by several nodes at once that share a Redis server, of sessions that lie there and of others.

use std::rc::Rc;

use serde_json::json;

use super::gateway::{Browser, Gateway};
use super::provider::plain;
use super::redemption_in_turn::{fall_silent, noted};
use super::storage::{Redis, gateways};
use crate::host::Claim;
use crate::host::redis::{Command, Reply};

/// The browser of a session that is due at both nodes.
fn due(one: &mut Gateway, two: &Gateway) -> Browser {
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(one, "/api").status, 200);
    one.advance_with(two, 350);
    browser
}

#[test]
fn rule_41_whoever_is_too_late_with_a_refresh_finds_what_the_other_node_has_stored() {
    for is_heard in [true, false] {
        let (mut one, mut two, redis) = gateways(&json!({ "refresh_grace": 0 }));
        let mut browser = due(&mut one, &two);
        let old = redis.values.borrow().clone();
        let renewed = browser.clone().get(&mut one, "/api");
        let renewed = renewed.seen("authorization").unwrap().to_owned();
        // The other one has read the session before that, and asks after it.
        let new = redis.values.replace(old);
        let (store, provider) = (Rc::clone(&redis), Rc::clone(&one.provider));
        two.host.connect(Rc::new(move |request| {
            if request.uri().path() == "/token" {
                store.values.borrow_mut().clone_from(&new);
                let refusal = json!({ "error": "invalid_grant" }).to_string();
                return Ok(plain(400, "application/json", refusal));
            }
            provider.handle(request)
        }));
        if !is_heard {
            two.host.claims(Claim::Alone);
        }
        let reply = browser.get(&mut two, "/api");
        assert_eq!(
            (reply.status, reply.ends_session()),
            (200, false),
            "{is_heard}"
        );
        assert_eq!(reply.seen("authorization"), Some(&*renewed));
    }
}

#[test]
fn rule_41_without_a_control_plane_a_stored_session_is_refreshed_by_whose_turn_it_is() {
    let (mut one, mut two, redis) = gateways(&json!({}));
    one.host.claims(Claim::Alone);
    two.host.claims(Claim::Alone);
    let mut browser = due(&mut one, &two);
    let calls = one.provider.called("/token");
    // While one is at it, the other one looks for what comes of that.
    let (store, provider) = (Rc::clone(&redis), Rc::clone(&one.provider));
    let turn = move || {
        let values = store.values.borrow();
        values
            .keys()
            .filter(|key| key.starts_with("sessions:turn:"))
            .count()
    };
    let at_it = turn.clone();
    one.host.connect(Rc::new(move |request| {
        assert!(request.uri().path() != "/token" || at_it() == 1);
        provider.handle(request)
    }));
    assert_eq!(browser.clone().get(&mut one, "/api").status, 200);
    // Who has read the session before it was stored again does not ask after it.
    assert_eq!(turn(), 1);
    assert_eq!(browser.get(&mut two, "/api").status, 200);
    assert_eq!(one.provider.called("/token"), calls + 1);
}

#[test]
fn rule_41_a_node_that_hears_a_control_plane_and_one_that_does_not_take_turns() {
    // Whichever of the two is cut off.
    for first_is_cut_off in [true, false] {
        let (mut one, mut two, redis) = gateways(&json!({ "refresh_grace": 0 }));
        let cut_off = if first_is_cut_off { &one } else { &two };
        cut_off.host.claims(Claim::Alone);
        let mut browser = due(&mut one, &two);
        let old = redis.values.borrow().clone();
        let renewed = browser.clone().get(&mut one, "/api");
        assert_eq!(renewed.status, 200);
        // The first one has its tokens, and has not stored them yet.
        let mut stored = redis.values.borrow().clone();
        stored.retain(|key, _| old.contains_key(key));
        redis.values.borrow_mut().extend(old);
        let calls = one.provider.called("/token");
        let reply = browser.clone().get(&mut two, "/api");
        let outcome = (reply.status, reply.ends_session());
        assert_eq!(outcome, (503, false), "{first_is_cut_off}");
        assert_eq!(one.provider.called("/token"), calls, "{first_is_cut_off}");
        redis.values.borrow_mut().extend(stored);
        assert_eq!(browser.get(&mut two, "/api").status, 200);
        assert_eq!(one.provider.called("/token"), calls, "{first_is_cut_off}");
    }
}

#[test]
fn rule_41_a_turn_that_has_brought_nothing_is_over_and_one_that_has_lapsed_is_another_nodes() {
    let (mut one, _, redis) = gateways(&json!({ "refresh_grace": 0, "timeout": 30_000 }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    let turns = |redis: &Redis| {
        let values = redis.values.borrow();
        let turns = values.keys().filter(|key| key.contains(":turn:"));
        turns.count()
    };
    one.advance(350);
    for (seconds, left) in [(1.0, 0), (9.0, 0), (11.0, 1)] {
        let host = one.host.clone();
        one.host.connect(Rc::new(move |_| {
            host.advance(seconds);
            Ok(plain(503, "text/plain", String::new()))
        }));
        assert_eq!(browser.get(&mut one, "/api").status, 503);
        assert_eq!(turns(&redis), left, "{seconds}");
    }
}

#[test]
fn rule_41_the_turn_of_a_node_that_dies_at_a_refresh_is_soon_over() {
    let (mut one, _, redis) = gateways(&json!({ "refresh_grace": 0, "timeout": 30_000 }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    one.advance(350);
    let commands = noted(&one, &redis);
    // Whoever waits for the provider says so again and again, until it is over.
    one.host.hang(true);
    assert_eq!(browser.get(&mut one, "/api").status, 503);
    let said = commands.take();
    let of_turn = said.iter().filter(|words| words[1].contains(":turn:"));
    let mut said = of_turn.map(|words| {
        let rest = words[2..].join(" ");
        format!("{} {rest}", words[0]).trim_end().to_owned()
    });
    assert_eq!(said.next().as_deref(), Some("SET 1 PX 10000 NX"));
    let mut said: Vec<_> = said.collect();
    assert_eq!(said.pop().as_deref(), Some("DEL"));
    assert!(said.len() > 1, "{said:?}");
    assert!(
        said.iter().all(|words| words == "PEXPIRE 10000"),
        "{said:?}"
    );
}

#[test]
fn rule_41_tokens_that_end_within_a_turn_are_renewed_in_one_of_their_own() {
    for rotates in [true, false] {
        let (mut one, mut two, _) = gateways(&json!({ "session_idling_timeout": 0 }));
        one.host.claims(Claim::Alone);
        let mut browser = Browser::default();
        one.provider.script.borrow_mut().lifetime = Some(3);
        assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
        one.provider.script.borrow_mut().no_refresh_token = !rotates;
        for round in 1..=6 {
            one.advance_with(&two, 3);
            let nodes = [&mut one, &mut two];
            for number in [round, round + 1] {
                let node = &mut *nodes[number % 2];
                assert_eq!(browser.get(node, "/api").status, 200, "{rotates} {round}");
            }
            assert_eq!(one.provider.called("/token"), 1 + round, "{rotates}");
        }
    }
}

#[test]
fn a_refresh_token_that_a_client_brings_needs_no_redis() {
    let config = json!({
        "auth_methods": ["refresh_token"], "refresh_token_param_name": "refresh_token",
    });
    let (mut one, _, redis) = gateways(&config);
    let mut other = Gateway::with_provider(&json!({}), Rc::clone(&one.provider), 3);
    Browser::default().sign_in(&mut other, "/api");
    redis.down.set(true);
    let mut client = Browser::default();
    let reply = client.get_with(&mut one, "/api", "refresh-token", "refresh-1");
    assert_eq!((reply.status, reply.sets_session()), (200, false));
}

#[test]
fn a_refresh_token_that_a_client_brings_is_spent_once_what_comes_in_its_place_has_one_to_hold_it() {
    // Whether Redis fails before the provider is asked, what tells the new one, and what comes of it.
    let response = json!({
        "login_action": "response", "login_methods": ["refresh_token"], "login_tokens": ["tokens"],
    });
    let header = json!({ "downstream_refresh_token_header": "x-refresh" });
    let upstream = json!({ "upstream_refresh_token_header": "x-refresh" });
    let unkept = json!({ "disable_session": ["refresh_token"] });
    for (more, status, calls) in [
        (&json!({}), 503, 0),
        (&response, 200, 1),
        (&header, 200, 1),
        (&upstream, 200, 1),
        (&unkept, 200, 1),
    ] {
        for is_down in [true, false] {
            let mut config = json!({
                "auth_methods": ["session", "refresh_token"], "refresh_token_param_name": "refresh_token",
            });
            let members = config.as_object_mut().unwrap();
            members.extend(more.as_object().unwrap().clone());
            let (mut one, _, redis) = gateways(&config);
            let mut other = Gateway::with_provider(&json!({}), Rc::clone(&one.provider), 3);
            Browser::default().sign_in(&mut other, "/api");
            redis.down.set(is_down);
            redis
                .refuses
                .set((!is_down).then_some("OOM command not allowed"));
            let mut client = Browser::default();
            let mut bring = |one: &mut Gateway| {
                let reply = client.get_with(one, "/api", "refresh-token", "refresh-1");
                (
                    reply.status,
                    reply.sets_session(),
                    one.provider.called("/token") - 1,
                )
            };
            assert_eq!(bring(&mut one), (status, false, calls), "{more}");
            redis.down.set(false);
            redis.refuses.set(None);
            assert_eq!(bring(&mut one), (200, *more != unkept, 1), "{more}");
        }
    }
}

#[test]
fn a_refresh_token_that_serves_on_needs_no_session_and_one_that_is_spent_is_given_the_same_again() {
    for (rotates, status) in [(true, 503), (false, 200)] {
        let config = json!({
            "auth_methods": ["session", "refresh_token"], "refresh_token_param_name": "refresh_token",
        });
        let (mut one, _, redis) = gateways(&config);
        let mut other = Gateway::with_provider(&json!({}), Rc::clone(&one.provider), 3);
        Browser::default().sign_in(&mut other, "/api");
        one.provider.script.borrow_mut().no_refresh_token = !rotates;
        // Redis goes away while the provider answers.
        let (store, provider) = (Rc::clone(&redis), Rc::clone(&one.provider));
        one.host.connect(Rc::new(move |request| {
            store.down.set(request.uri().path() == "/token");
            provider.handle(request)
        }));
        let mut client = Browser::default();
        let mut bring = |one: &mut Gateway| {
            let reply = client.get_with(one, "/api", "refresh-token", "refresh-1");
            (reply.status, reply.sets_session())
        };
        assert_eq!(bring(&mut one), (status, false), "{rotates}");
        redis.down.set(false);
        assert_eq!(bring(&mut one), (200, true), "{rotates}");
        assert_eq!(one.provider.called("/token"), 2, "{rotates}");
    }
}

#[test]
fn rule_41_a_turn_that_brought_the_same_token_again_is_over() {
    let (mut one, _, redis) = gateways(&json!({ "refresh_grace": 0 }));
    one.provider.script.borrow_mut().opaque = true;
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut one, "/api").status, 200);
    // The provider gives what it has until that ends, and takes the same refresh token again.
    one.provider.script.borrow_mut().no_refresh_token = true;
    one.provider.script.borrow_mut().lifetime = Some(20);
    one.advance(350);
    let refresh_token = one.provider.refresh_token.borrow().clone();
    for calls in 2..=4 {
        assert_eq!(browser.get(&mut one, "/api").status, 200, "{calls}");
        assert_eq!(one.provider.called("/token"), calls);
        one.advance(20);
    }
    assert_eq!(*one.provider.refresh_token.borrow(), refresh_token);
    let values = redis.values.borrow();
    assert!(!values.keys().any(|key| key.contains(":turn:")));
}

#[test]
fn rule_41_no_refresh_token_is_spent_for_a_session_whose_shard_takes_no_writes() {
    let (mut one, _, redis) = gateways(&json!({
        "refresh_grace": 0, "upstream_session_id_header": "x-session",
        "redis": { "cluster_nodes": [{ "ip": "127.0.0.1", "port": 7000 }] },
    }));
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut one, "/api");
    let session = format!("sessions:{}", reply.seen("x-session").unwrap());
    // What the slot of a key comes from: what stands in its first braces, or all of it.
    let tag = |key: &str| {
        let tagged = key
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'));
        tagged.map_or_else(|| key.to_owned(), |(tag, _)| tag.to_owned())
    };
    let calls = one.provider.called("/token");
    for (is_its_own, status) in [(true, 503), (false, 200)] {
        one.advance(350);
        let (redis, session) = (Rc::clone(&redis), session.clone());
        one.host.connect_redis(Rc::new(move |commands: &[Command]| {
            let key = |number: usize| str::from_utf8(&commands[0].0[number]).unwrap();
            let refuses = key(0) != "GET" && (tag(key(1)) == session) == is_its_own;
            if refuses {
                let refusal = "NOREPLICAS Not enough good replicas to write.";
                return Ok(vec![Reply::Error(refusal.to_owned())]);
            }
            redis.answer(commands)
        }));
        let reply = browser.get(&mut one, "/api");
        assert_eq!((reply.status, reply.ends_session()), (status, false));
        let spent = usize::from(!is_its_own);
        assert_eq!(one.provider.called("/token"), calls + spent, "{is_its_own}");
    }
}

/// Nodes that keep sessions in cookies and share answers in Redis, the second or the first of which hears no control plane.
fn sharing(first_is_heard: bool) -> (Gateway, Gateway, Rc<Redis>) {
    let (one, two, redis) = gateways(&json!({
        "session_storage": "cookie", "cluster_cache_strategy": "redis", "refresh_grace": 0,
    }));
    let unheard = if first_is_heard { &two } else { &one };
    unheard.host.claims(Claim::Alone);
    (one, two, redis)
}

#[test]
fn rule_41_of_two_nodes_one_of_which_hears_no_control_plane_one_refreshes_a_session_in_a_cookie() {
    for first_is_heard in [true, false] {
        let (mut one, mut two, redis) = sharing(first_is_heard);
        let browser = due(&mut one, &two);
        let calls = one.provider.called("/token");
        let renewed = browser.clone().get(&mut one, "/api");
        let late = browser.clone().get(&mut two, "/api");
        let outcome = (late.status, late.ends_session());
        assert_eq!(outcome, (200, false), "{first_is_heard}");
        assert_eq!(late.seen("authorization"), renewed.seen("authorization"));
        assert_eq!(one.provider.called("/token"), calls + 1);
        let values = redis.values.borrow();
        let refreshes = values.iter().filter(|(key, _)| key.contains("=refresh:"));
        let told: Vec<_> = refreshes.map(|(_, told)| told).collect();
        assert!(told.len() == 1 && !told[0].contains("refresh-"), "{told:?}");
    }
}

#[test]
fn rule_41_while_a_node_refreshes_a_session_in_a_cookie_another_one_does_not() {
    for first_is_heard in [true, false] {
        let (mut one, mut two, redis) = sharing(first_is_heard);
        let browser = due(&mut one, &two);
        let calls = one.provider.called("/token");
        let store = Rc::clone(&redis);
        two.host.connect_redis(Rc::new(move |asked: &[Command]| {
            // Somebody is at it for as long as it is looked.
            let key = String::from_utf8_lossy(&asked[0].0[1]).into_owned();
            if key.contains("=refresh:") {
                store.values.borrow_mut().insert(key, "1".to_owned());
            }
            store.answer(asked)
        }));
        let reply = browser.clone().get(&mut two, "/api");
        assert_eq!((reply.status, reply.ends_session()), (503, false));
        assert_eq!(one.provider.called("/token"), calls);
        // A server that is away costs nobody the session.
        redis.down.set(true);
        assert_eq!(browser.clone().get(&mut one, "/api").status, 200);
        assert_eq!(one.provider.called("/token"), calls + 1);
    }
}

#[test]
fn rule_41_a_refresh_that_another_node_is_at_stays_that_nodes_though_redis_falls_silent() {
    for first_is_heard in [true, false] {
        for (asks, is_told) in [(usize::MAX, false), (9, false), (10, false), (9, true)] {
            let (mut one, mut two, redis) = sharing(first_is_heard);
            let browser = due(&mut one, &two);
            let renewed = browser.clone().get(&mut one, "/api");
            let calls = one.provider.called("/token");
            let values = redis.values.borrow().clone();
            let mut told = values
                .into_iter()
                .filter(|(key, _)| key.contains("=refresh:"));
            let told = told.next().map(|(_, told)| told).filter(|_| is_told);
            fall_silent(&two, &redis, "=refresh:", (asks, told));
            let reply = browser.clone().get(&mut two, "/api");
            let status = if is_told { 200 } else { 503 };
            let outcome = (reply.status, reply.ends_session());
            assert_eq!(outcome, (status, false), "{first_is_heard} {asks}");
            if is_told {
                assert_eq!(reply.seen("authorization"), renewed.seen("authorization"));
            }
            assert_eq!(one.provider.called("/token"), calls);
        }
    }
}

#[test]
fn rule_41_what_a_refresh_brought_serves_no_other_session() {
    let (mut one, mut two, redis) = sharing(true);
    let mut first = due(&mut one, &two);
    let reply = first.get(&mut one, "/api");
    let values = redis.values.borrow().clone();
    let mut told = values
        .into_iter()
        .filter(|(key, _)| key.contains("=refresh:"));
    let (_, told) = told.next().unwrap();
    one.provider.script.borrow_mut().lifetime = Some(3);
    let mut second = Browser::default();
    assert_eq!(second.sign_in(&mut one, "/api").status, 200);
    one.advance_with(&two, 3);
    // Whoever can write there puts it in the place of another one.
    let store = Rc::clone(&redis);
    two.host.connect_redis(Rc::new(move |asked: &[Command]| {
        let key = String::from_utf8_lossy(&asked[0].0[1]).into_owned();
        if key.contains("=refresh:") {
            store.values.borrow_mut().insert(key, told.clone());
        }
        store.answer(asked)
    }));
    let other = second.get(&mut two, "/api");
    assert_eq!(other.status, 200);
    assert_ne!(other.seen("authorization"), reply.seen("authorization"));
}
