//! Codes that two nodes redeem that share a Redis server, where both, one or none of them hears a control plane.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::conformance::reason;
use super::gateway::{Browser, Gateway};
use super::provider::plain;
use super::redemption::keyless;
use super::storage::{Redis, gateways};
use crate::host::redis::{Command, Reply};
use crate::host::{Claim, Host as _};

/// Two nodes that share `redis` with `config`, and hear no control plane.
fn alone(config: &Value) -> (Gateway, Gateway, Rc<Redis>) {
    let (one, two, redis) = gateways(config);
    for node in [&one, &two] {
        node.host.claims(Claim::Alone);
    }
    (one, two, redis)
}

/// A browser with a sign-in under way, and where the provider sends it back to.
fn begun(gateway: &mut Gateway) -> (Browser, String) {
    let mut browser = Browser::default();
    let start = browser.get(gateway, "/api");
    let back = gateway.provider.authorize(start.location());
    (browser, format!("/api?{back}"))
}

/// What nodes say to one another of codes: by its key.
fn said(redis: &Redis) -> Vec<(String, String)> {
    let values = redis.values.borrow();
    let of_codes = values.iter().filter(|(key, _)| key.contains("code:"));
    of_codes
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// What `node` asks `redis` from now on: each command by its words.
pub(super) fn noted(node: &Gateway, redis: &Rc<Redis>) -> Rc<RefCell<Vec<Vec<String>>>> {
    let commands: Rc<RefCell<Vec<Vec<String>>>> = Rc::default();
    let (seen, server) = (Rc::clone(&commands), Rc::clone(redis));
    node.host.connect_redis(Rc::new(move |asked: &[Command]| {
        for Command(words) in asked {
            let words = words.iter().map(|word| String::from_utf8_lossy(word));
            seen.borrow_mut().push(words.map(String::from).collect());
        }
        server.answer(asked)
    }));
    commands
}

/// Has `redis` say to `node` that another one is at what has `name` in its key, refuse the next `asks` commands about it, and
/// go on `then` with what the other has told, or with nothing.
pub(super) fn fall_silent(
    node: &Gateway,
    redis: &Rc<Redis>,
    name: &'static str,
    (asks, then): (usize, Option<String>),
) {
    let (server, count) = (Rc::clone(redis), Cell::new(0));
    node.host.connect_redis(Rc::new(move |asked: &[Command]| {
        let key = String::from_utf8_lossy(&asked[0].0[1]).into_owned();
        if key.contains(name) {
            count.set(count.get() + 1);
            let mut values = server.values.borrow_mut();
            match count.get() {
                1 | 2 => values.insert(key, "1".to_owned()),
                number if number - 2 <= asks => {
                    let refusal = "LOADING Redis is loading the dataset in memory";
                    return Ok(vec![Reply::Error(refusal.to_owned())]);
                }
                number if number - 3 == asks => match &then {
                    Some(told) => values.insert(key, told.clone()),
                    None => values.remove(&key),
                },
                _ => None,
            };
        }
        server.answer(asked)
    }));
}

#[test]
fn rule_25_without_a_control_plane_nodes_that_share_redis_redeem_a_code_once() {
    let shared = json!({
        "session_storage": "cookie", "cluster_cache_strategy": "redis",
        "cluster_cache_redis": { "host": "127.0.0.1", "prefix": "ours" },
    });
    for (config, prefix) in [(json!({}), "sessions:code:"), (shared, "ours:=code:")] {
        let (mut one, mut two, redis) = alone(&config);
        let (browser, back) = begun(&mut one);
        // While one is at it, it says so.
        let (store, provider) = (Rc::clone(&redis), Rc::clone(&one.provider));
        one.host.connect(Rc::new(move |request| {
            if request.uri().path() == "/token" {
                let said = said(&store);
                assert!(said.len() == 1 && said[0].0.starts_with(prefix), "{said:?}");
                assert_eq!(said[0].1, "1");
            }
            provider.handle(request)
        }));
        for node in [&mut one, &mut two] {
            let mut browser = browser.clone();
            let reply = browser.get(node, &back);
            assert!(reply.sets_session(), "{prefix}: {reply:?}");
            assert_eq!(browser.get(node, "/api").status, 200);
        }
        assert_eq!(one.provider.called("/token"), 1, "{prefix}");
        // What is told is sealed, and belongs to this response.
        let said = said(&redis);
        assert!(!said[0].1.contains("refresh-") && said.len() == 1);
        let another = back.replace("code=", "code=another-");
        let reply = browser.clone().get(&mut two, &another);
        assert_eq!((reply.status, reply.sets_session()), (302, false));
        assert_eq!(one.provider.called("/token"), 1);
    }
}

#[test]
fn rule_25_a_code_that_another_node_is_at_for_long_stays_that_nodes() {
    let (mut one, mut two, redis) = alone(&json!({}));
    let (browser, back) = begun(&mut one);
    // A provider that was not reached has not seen it: the next node may.
    one.provider.script.borrow_mut().down = true;
    assert_eq!(browser.clone().get(&mut one, &back).status, 503);
    assert!(said(&redis).is_empty());
    one.provider.script.borrow_mut().down = false;
    assert!(browser.clone().get(&mut one, &back).sets_session());
    let (key, told) = said(&redis).remove(0);
    let at_it = |value: &str| {
        let value = value.to_owned();
        redis.values.borrow_mut().insert(key.clone(), value);
    };
    at_it("1");
    let began = two.host.now();
    let reply = browser.clone().get(&mut two, &back);
    assert_eq!((reply.status, reply.sets_session()), (503, false));
    assert_eq!(reason(&two), "idp_unreachable");
    let waited = two.host.now().saturating_since(began);
    assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(40));
    // The sign-in is not over by that.
    at_it(&told);
    two.host.set_clock(one.host.now());
    assert!(browser.clone().get(&mut two, &back).sets_session());
    assert_eq!(one.provider.called("/token"), 2);
}

#[test]
fn rule_25_a_code_that_another_node_is_at_stays_that_nodes_though_redis_falls_silent() {
    let shared = json!({ "session_storage": "cookie", "cluster_cache_strategy": "redis" });
    for config in [json!({}), shared] {
        for (asks, is_told) in [(usize::MAX, false), (9, false), (10, false), (9, true)] {
            let (mut one, mut two, redis) = alone(&config);
            let (browser, back) = begun(&mut one);
            assert!(browser.clone().get(&mut one, &back).sets_session());
            let (_, told) = said(&redis).remove(0);
            two.host.set_clock(one.host.now());
            fall_silent(&two, &redis, "code:", (asks, is_told.then_some(told)));
            let reply = browser.clone().get(&mut two, &back);
            let status = if is_told { 200 } else { 503 };
            let outcome = (reply.status, reply.sets_session());
            assert_eq!(outcome, (status, is_told), "{config} {asks}");
            assert_eq!(one.provider.called("/token"), 1, "{config} {asks}");
        }
    }
}

#[test]
fn rule_25_the_turn_of_a_node_that_dies_at_a_code_is_soon_over() {
    let (mut one, mut two, redis) = alone(&json!({}));
    let commands = noted(&one, &redis);
    let (browser, back) = begun(&mut one);
    // Whoever waits for the provider says so again and again.
    one.host.hang(true);
    assert_eq!(browser.clone().get(&mut one, &back).status, 503);
    one.host.hang(false);
    let said = commands.take();
    let of_code = said.iter().filter(|words| words[1].contains(":code:"));
    let (mut key, mut prolonged) = (None, 0);
    for words in of_code {
        match words[0].as_str() {
            "SET" => {
                assert_eq!(words[2..], ["1", "PX", "10000", "NX"]);
                key = Some(words[1].clone());
            }
            "PEXPIRE" => {
                assert_eq!(words[2], "10000");
                prolonged += 1;
            }
            other => assert_eq!(other, "DEL"),
        }
    }
    assert!(prolonged > 1, "{said:?}");
    // One that has died says nothing any more.
    let key = key.unwrap();
    redis
        .values
        .borrow_mut()
        .insert(key.clone(), "1".to_owned());
    let (server, host) = (Rc::clone(&redis), two.host.clone());
    let began = host.now();
    two.host.connect_redis(Rc::new(move |asked: &[Command]| {
        if host.now().saturating_since(began) >= Duration::from_secs(10) {
            let mut values = server.values.borrow_mut();
            if values.get(&key).is_some_and(|value| value == "1") {
                values.remove(&key);
            }
        }
        server.answer(asked)
    }));
    assert!(browser.clone().get(&mut two, &back).sets_session());
    let waited = two.host.now().saturating_since(began);
    assert!(waited < Duration::from_secs(15), "{waited:?}");
}

#[test]
fn rule_25_no_code_is_spent_where_nothing_could_be_kept_of_it() {
    let (mut one, _, redis) = alone(&json!({}));
    let (browser, back) = begun(&mut one);
    redis.down.set(true);
    assert_eq!(browser.clone().get(&mut one, &back).status, 503);
    assert_eq!(one.provider.called("/token"), 0);
    redis.down.set(false);
    assert!(browser.clone().get(&mut one, &back).sets_session());
    // Sessions in cookies do without.
    let (mut one, _, redis) = alone(&json!({
        "session_storage": "cookie", "cluster_cache_strategy": "redis",
    }));
    let (browser, back) = begun(&mut one);
    redis.down.set(true);
    assert!(browser.clone().get(&mut one, &back).sets_session());
}

#[test]
fn rule_25_a_node_that_hears_a_control_plane_and_one_that_hears_none_redeem_a_code_once() {
    let shared = json!({ "session_storage": "cookie", "cluster_cache_strategy": "redis" });
    for config in [json!({}), shared] {
        // Whichever of the two comes first.
        for first_is_heard in [true, false] {
            let (mut one, mut two, _) = gateways(&config);
            let unheard = if first_is_heard { &two } else { &one };
            unheard.host.claims(Claim::Alone);
            let (browser, back) = begun(&mut one);
            for node in [&mut one, &mut two] {
                let mut browser = browser.clone();
                let reply = browser.get(node, &back);
                assert!(reply.sets_session(), "{config} {first_is_heard}: {reply:?}");
                assert_eq!(browser.get(node, "/api").status, 200);
            }
            assert_eq!(
                one.provider.called("/token"),
                1,
                "{config} {first_is_heard}"
            );
        }
    }
}

#[test]
fn rule_25_a_code_that_another_node_has_in_redis_is_left_to_it_though_a_control_plane_gives_it() {
    let cluster = Rc::default();
    let (mut one, mut two, redis) = gateways(&json!({}));
    two.host.join(&cluster);
    one.host.claims(Claim::Alone);
    let (browser, back) = begun(&mut one);
    assert!(browser.clone().get(&mut one, &back).sets_session());
    let (key, told) = said(&redis).remove(0);
    redis
        .values
        .borrow_mut()
        .insert(key.clone(), "1".to_owned());
    let reply = browser.clone().get(&mut two, &back);
    assert_eq!((reply.status, reply.sets_session()), (503, false));
    assert!(cluster.borrow().is_empty(), "it has nothing to tell");
    redis.values.borrow_mut().insert(key, told);
    two.host.set_clock(one.host.now());
    assert!(browser.clone().get(&mut two, &back).sets_session());
    assert_eq!(one.provider.called("/token"), 1);
}

#[test]
fn rule_25_tokens_that_cannot_be_verified_yet_are_known_for_as_long_as_they_are_kept() {
    let (mut one, mut two, redis) = alone(&json!({}));
    let commands = noted(&one, &redis);
    let (browser, back) = keyless(&mut one);
    assert_eq!(browser.clone().get(&mut one, &back).status, 503);
    let of_code = |words: &&Vec<String>| words[0] == "SET" && words[1].contains(":code:");
    let told = commands.borrow().iter().rfind(of_code).cloned().unwrap();
    assert_eq!(told[3..], ["PX", "300000"]);
    one.provider.script.borrow_mut().gone.clear();
    assert!(browser.clone().get(&mut two, &back).sets_session());
    assert_eq!(one.provider.called("/token"), 1);
}

#[test]
fn rule_41_what_one_node_did_alone_others_hear_of_a_control_plane_that_is_back() {
    let cluster = Rc::default();
    let [mut one, mut two] = Gateway::joined(&json!({}), &cluster);
    one.host.claims(Claim::Alone);
    let (browser, back) = begun(&mut one);
    let mut signed_in = browser.clone();
    assert!(signed_in.get(&mut one, &back).sets_session());
    assert!(browser.clone().get(&mut two, &back).sets_session());
    assert_eq!(one.provider.called("/token"), 1);
    // A refresh alike.
    one.advance_with(&two, 350);
    let provider = Rc::clone(&one.provider);
    two.host.connect(Rc::new(move |request| {
        if request.uri().path() == "/token" {
            let refusal = json!({ "error": "invalid_grant" }).to_string();
            return Ok(plain(400, "application/json", refusal));
        }
        provider.handle(request)
    }));
    for node in [&mut one, &mut two] {
        assert_eq!(signed_in.clone().get(node, "/api").status, 200);
    }
    assert_eq!(one.provider.called("/token"), 2);
}
