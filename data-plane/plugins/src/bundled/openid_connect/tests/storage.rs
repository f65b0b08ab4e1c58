//! Sessions in Redis.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Value, json};
use shared::schema::FieldErrors;

use super::super::session_store;
use super::gateway::{Browser, Gateway};
use super::provider::{Provider, SigningKey};
use crate::host::Host as _;
use crate::host::redis::{Address, Command, Endpoint, RedisError, RedisTls, Reply, SentinelRole};
use crate::testing::Request;

/// A Redis server that knows a few commands.
#[derive(Default)]
pub(super) struct Redis {
    pub(super) values: RefCell<BTreeMap<String, String>>,
    lists: RefCell<BTreeMap<String, Vec<String>>>,
    pub(super) down: Cell<bool>,
    /// What is said to commands that write.
    pub(super) refuses: Cell<Option<&'static str>>,
    /// What is said to those that read, in place of a value.
    babbles: RefCell<Option<Reply>>,
}

impl Redis {
    pub(super) fn answer(&self, commands: &[Command]) -> Result<Vec<Reply>, RedisError> {
        if self.down.get() {
            return Err(RedisError::Connect {
                address: "127.0.0.1:6379".to_owned(),
                reason: "refused".to_owned(),
            });
        }
        Ok(commands.iter().map(|command| self.run(command)).collect())
    }

    fn run(&self, Command(words): &Command) -> Reply {
        let words: Vec<String> = words
            .iter()
            .map(|word| String::from_utf8(word.to_vec()).unwrap())
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut values = self.values.borrow_mut();
        if let Some(refusal) = self.refuses.get().filter(|_| words[0] != "GET") {
            return Reply::Error(refusal.to_owned());
        }
        match words.as_slice() {
            ["SET", key, value, "PX", time, rest @ ..] => {
                assert!(time.parse::<u64>().unwrap() > 0);
                let is_there = values.contains_key(*key);
                if (*rest == ["XX"] && !is_there) || (*rest == ["NX"] && is_there) {
                    return Reply::Nil;
                }
                values.insert((*key).to_owned(), (*value).to_owned());
                Reply::Status("OK".to_owned())
            }
            ["GET", _] if let Some(reply) = &*self.babbles.borrow() => reply.clone(),
            ["GET", key] => match values.get(*key) {
                Some(value) => Reply::Bytes(value.clone().into()),
                None => Reply::Nil,
            },
            ["DEL", keys @ ..] => {
                let gone = keys.iter().filter(|key| values.remove(**key).is_some());
                Reply::Integer(i64::try_from(gone.count()).unwrap())
            }
            ["ZADD", key, _, member] => {
                let mut lists = self.lists.borrow_mut();
                lists
                    .entry((*key).to_owned())
                    .or_default()
                    .push((*member).to_owned());
                Reply::Integer(1)
            }
            ["PEXPIRE", key, _] => Reply::Integer(i64::from(values.contains_key(*key))),
            ["ZREMRANGEBYSCORE", ..] => Reply::Integer(0),
            other => Reply::Error(format!("unknown command {other:?}")),
        }
    }
}

pub(super) fn gateways(config: &Value) -> (Gateway, Gateway, Rc<Redis>) {
    let mut all = json!({ "session_storage": "redis", "logout_uri_suffix": "/logout" });
    all.as_object_mut()
        .unwrap()
        .extend(config.as_object().unwrap().clone());
    let redis = Rc::new(Redis::default());
    let one = Gateway::with_provider(&all, Provider::new(), 1);
    let two = Gateway::with_provider(&all, Rc::clone(&one.provider), 2);
    for gateway in [&one, &two] {
        let redis = Rc::clone(&redis);
        gateway
            .host
            .connect_redis(Rc::new(move |commands: &[Command]| redis.answer(commands)));
    }
    (one, two, redis)
}

#[test]
fn a_stored_session_serves_on_every_node_until_it_is_deleted() {
    let (mut one, mut two, redis) = gateways(&json!({ "upstream_session_id_header": "x-session" }));
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut one, "/api");
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    assert!(browser.cookies["session"].len() < 250, "only a ticket");
    let reply = browser.get(&mut two, "/api");
    assert_eq!(reply.status, 200);
    let key = format!("sessions:{}", reply.seen("x-session").unwrap());
    let stored = redis.values.borrow()[&key].clone();
    assert!(!stored.contains("refresh-") && !stored.contains("user-1"));
    redis.values.borrow_mut().remove(&key);
    assert_eq!(browser.get(&mut one, "/api").status, 302);
}

#[test]
fn rule_41_new_tokens_that_nobody_can_judge_yet_are_stored_for_all_nodes() {
    let (mut one, mut two, redis) = gateways(&json!({ "refresh_grace": 0 }));
    let mut browser = Browser::default();
    browser.sign_in(&mut one, "/api");
    one.advance_with(&two, 301);
    let late = SigningKey::es256("late");
    one.provider.script.borrow_mut().signs_with = Some(late.clone());
    for node in [&mut one, &mut two] {
        let reply = browser.get(node, "/api");
        assert_eq!((reply.status, reply.ends_session()), (503, false));
    }
    let values = redis.values.borrow().clone();
    let mut aside = values.iter().filter(|(key, _)| key.contains(":refreshed:"));
    let (_, stored) = aside.next().unwrap();
    assert!(!stored.contains("refresh-") && aside.next().is_none());
    // Nobody asks the provider while nobody knows what is stored.
    let (mut three, _, _) = gateways(&json!({ "refresh_grace": 0 }));
    three.provider = Rc::clone(&one.provider);
    let (network, store) = (Rc::clone(&one.provider), Rc::clone(&redis));
    three.host.set_clock(one.host.now());
    three
        .host
        .connect(Rc::new(move |request| network.handle(request)));
    three
        .host
        .connect_redis(Rc::new(move |commands: &[Command]| {
            let is_aside = |command: &Command| {
                let Command(words) = command;
                words[1].windows(9).any(|part| part == b"refreshed")
            };
            if commands.iter().any(is_aside) {
                return Ok(vec![Reply::Error("LOADING".to_owned())]);
            }
            store.answer(commands)
        }));
    let reply = browser.get(&mut three, "/api");
    assert_eq!((reply.status, reply.ends_session()), (503, false));
    one.provider.keys.borrow_mut().push(late);
    one.advance_with(&two, 2);
    for node in [&mut two, &mut one] {
        let reply = browser.get(node, "/api");
        assert_eq!((reply.status, reply.ends_session()), (200, false));
    }
    assert_eq!(one.provider.called("/token"), 2);
}

#[test]
fn case_59_after_logout_the_old_cookie_is_refused_everywhere() {
    let (mut one, mut two, redis) = gateways(&json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut one, "/api");
    let mut thief = browser.clone();
    let reply = browser.post(&mut one, "/logout", "");
    assert!(reply.ends_session());
    let values = redis.values.borrow().clone();
    assert!(values.keys().all(|key| key.starts_with("sessions:code:")));
    assert_eq!(thief.get(&mut two, "/api").status, 302);
}

#[test]
fn a_use_is_noted_in_the_store_and_brings_nothing_back() {
    let (mut one, _, redis) = gateways(&json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut one, "/api");
    let first = redis.values.borrow().clone();
    one.advance(100);
    assert_eq!(browser.get(&mut one, "/api").status, 200);
    assert_ne!(*redis.values.borrow(), first);
    for _ in 0..3 {
        one.advance(800);
        assert_eq!(browser.get(&mut one, "/api").status, 200);
    }
    one.advance(1_000);
    assert_eq!(browser.get(&mut one, "/api").status, 302);
}

#[test]
fn rule_97_a_logout_ends_the_session_although_the_store_does_not_answer() {
    let (mut one, _, redis) = gateways(&json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut one, "/api");
    let mut thief = browser.clone();
    redis.down.set(true);
    let reply = browser.post(&mut one, "/logout", "");
    assert_eq!((reply.status, reply.ends_session()), (302, true));
    assert!(reply.location().starts_with("https://idp.example/logout?"));
    redis.down.set(false);
    assert!(!redis.values.borrow().is_empty());
    assert_eq!(thief.get(&mut one, "/api").status, 302);
    assert_eq!(browser.get(&mut one, "/api").status, 302);
    // A cookie that is not ours names no session.
    redis.down.set(true);
    let mut stranger = Browser::default();
    stranger
        .cookies
        .insert("session".to_owned(), "x".to_owned());
    assert_eq!(stranger.post(&mut one, "/logout", "").status, 302);
}

#[test]
fn rule_60_a_session_stored_in_the_place_of_another_is_none() {
    let (mut one, _, redis) = gateways(&json!({ "upstream_session_id_header": "x-session" }));
    let (mut alice, mut bob) = (Browser::default(), Browser::default());
    let key = |browser: &mut Browser, one: &mut Gateway| {
        browser.sign_in(one, "/api");
        let reply = browser.get(one, "/api");
        format!("sessions:{}", reply.seen("x-session").unwrap())
    };
    let (of_alice, of_bob) = (key(&mut alice, &mut one), key(&mut bob, &mut one));
    let value = redis.values.borrow()[&of_alice].clone();
    redis.values.borrow_mut().insert(of_bob, value);
    assert_eq!(bob.get(&mut one, "/api").status, 302);
    assert_eq!(alice.get(&mut one, "/api").status, 200);
}

#[test]
fn no_refresh_token_is_spent_while_the_store_takes_no_writes() {
    for refusal in [
        "READONLY You can't write",
        "OOM command not allowed",
        "NOPERM this user has no permissions",
    ] {
        let (mut one, mut two, redis) = gateways(&json!({}));
        let mut browser = Browser::default();
        browser.sign_in(&mut one, "/api");
        redis.refuses.set(Some(refusal));
        // It goes on for its grace, as if the provider were away.
        one.advance(310);
        two.host.advance(310.0);
        assert_eq!(browser.get(&mut one, "/api").status, 200);
        one.advance(300);
        two.host.advance(300.0);
        let reply = browser.get(&mut one, "/api");
        assert_eq!((reply.status, reply.ends_session()), (503, false));
        assert_eq!(one.provider.called("/token"), 1);
        // Longer than a node remembers what a refresh has brought.
        one.advance(100);
        two.host.advance(100.0);
        redis.refuses.set(None);
        for node in [&mut two, &mut one] {
            assert_eq!(browser.get(node, "/api").status, 200, "{refusal}");
        }
        assert_eq!(one.provider.called("/token"), 2);
    }
}

#[test]
fn a_session_too_large_for_the_store_says_so() {
    let (mut one, ..) = gateways(&json!({}));
    let long = ("groups", json!("x".repeat(70_000)));
    one.provider.script.borrow_mut().access_claims = vec![long];
    let reply = Browser::default().sign_in(&mut one, "/api");
    let message = reply.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(reply.status, 502);
    assert!(
        message.contains("64 KiB") && !message.contains("cookie"),
        "{message}"
    );
}

#[test]
fn a_store_that_does_not_answer_begins_no_circle() {
    let (mut one, _, redis) = gateways(&json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut one, "/api");
    redis.down.set(true);
    let reply = browser.get(&mut one, "/api");
    assert_eq!((reply.status, reply.ends_session()), (503, false));
    // The page does not put it on the provider.
    let page = browser.get_with(&mut one, "/api", "accept", "text/html");
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(
        page.contains("<h1>The session storage is unavailable</h1>"),
        "{page}"
    );
    assert!(!page.contains("provider"), "{page}");
    redis.down.set(false);
    assert_eq!(browser.get(&mut one, "/api").status, 200);
}

#[test]
fn a_store_whose_replies_are_no_values_ends_no_session() {
    for reply in [
        Reply::Integer(7),
        Reply::List(vec![Reply::Nil]),
        Reply::Status("OK".to_owned()),
        Reply::Error("ERR what is that".to_owned()),
    ] {
        let (mut one, _, redis) = gateways(&json!({}));
        let mut browser = Browser::default();
        browser.sign_in(&mut one, "/api");
        *redis.babbles.borrow_mut() = Some(reply.clone());
        let refused = browser.get(&mut one, "/api");
        let outcome = (refused.status, refused.ends_session());
        assert_eq!(outcome, (503, false), "{reply:?}");
        *redis.babbles.borrow_mut() = None;
        assert_eq!(browser.get(&mut one, "/api").status, 200);
    }
}

#[test]
fn keys_and_subjects_are_hashed_on_demand() {
    let (mut one, _, redis) = gateways(&json!({
        "session_hash_storage_key": true, "session_store_metadata": true,
        "session_hash_subject": true, "upstream_session_id_header": "x-session",
        "redis": { "prefix": "app" },
    }));
    let mut browser = Browser::default();
    browser.sign_in(&mut one, "/api");
    let reply = browser.get(&mut one, "/api");
    let id = reply.seen("x-session").unwrap().to_owned();
    let values = redis.values.borrow();
    let key = values.keys().next().unwrap();
    assert!(key.starts_with("app:") && !key.contains(&id));
    let lists = redis.lists.borrow();
    let (list, members) = lists.iter().next().unwrap();
    assert!(list.starts_with("app:default:") && !list.contains("user-1"));
    assert_eq!(members.first(), Some(key));
}

#[test]
fn a_remembered_browser_is_restored_from_the_store() {
    let (mut one, mut two, _) = gateways(&json!({ "session_remember": true }));
    let mut browser = Browser::default();
    browser.sign_in(&mut one, "/api");
    browser
        .cookies
        .retain(|name, _| name.starts_with("remember"));
    let reply = browser.get(&mut two, "/api");
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    assert_eq!(browser.get(&mut one, "/api").status, 200);
}

#[test]
fn a_form_that_no_cookie_holds_comes_back_on_any_node() {
    let config = json!({ "redirect_uri": ["http://gateway.example/back"] });
    let (mut one, mut two, redis) = gateways(&config);
    // Text that nothing makes shorter than half of it.
    let hashed = |number: u32| blake3::hash(&number.to_be_bytes()).to_hex().to_string();
    let text: String = (0..300).map(hashed).collect();
    let mut request = Request::get("/orders");
    request.method = http::Method::POST;
    request.body = format!("text={text}").into();
    for (name, value) in [
        (
            http::header::CONTENT_TYPE,
            "application/x-www-form-urlencoded",
        ),
        (
            http::HeaderName::from_static("sec-fetch-site"),
            "same-origin",
        ),
    ] {
        let value = http::HeaderValue::from_static(value);
        request.headers.push((name, value));
    }
    let mut browser = Browser::default();
    let start = browser.send(&mut one, request);
    assert_eq!(start.status, 302, "{start:?}");
    let stored: Vec<_> = redis.values.borrow().clone().into_iter().collect();
    let [(key, sealed)] = stored.as_slice() else {
        panic!("{stored:?}")
    };
    assert!(key.starts_with("sessions:form:") && !sealed.contains(&text[..20]));
    let back = one.provider.authorize(start.location());
    let page = browser.get(&mut two, &format!("/back?{back}"));
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(page.contains(&text) && page.contains("http://gateway.example/orders"));
    let form = redis
        .values
        .borrow()
        .keys()
        .any(|key| key.contains(":form:"));
    assert!(!form, "it is given back once");
}

#[test]
fn what_the_store_cannot_be_is_refused() {
    let nodes = json!([{}]);
    for (storage, redis, field) in [
        ("memcached", json!({}), "session_storage"),
        ("redis", json!({ "sentinel_master": "m" }), "redis"),
        ("redis", json!({ "sentinel_nodes": nodes }), "redis"),
        (
            "redis",
            json!({ "sentinel_master": "m", "sentinel_nodes": nodes, "cluster_nodes": nodes }),
            "redis",
        ),
        (
            "redis",
            json!({ "cluster_nodes": nodes, "connection_is_proxied": true }),
            "redis",
        ),
        (
            "redis",
            json!({ "cluster_nodes": nodes, "database": 1 }),
            "redis",
        ),
    ] {
        let config = json!({
            "issuer": "https://idp.example", "session_storage": storage, "redis": redis,
        });
        let errors = crate::registry::check("openid-connect", &config).unwrap_err();
        assert_eq!(
            errors.by_field.keys().next().map(String::as_str),
            Some(field),
            "{config}"
        );
    }
}

#[test]
fn nodes_share_introspection_answers_if_that_is_configured() {
    let config = |strategy: &str| {
        json!({
            "auth_methods": ["introspection"], "session_storage": "cookie",
            "cluster_cache_strategy": strategy, "cluster_cache_redis": { "prefix": "answers" },
        })
    };
    for (strategy, calls) in [("redis", 1), ("off", 2)] {
        let (mut one, mut two, redis) = gateways(&config(strategy));
        assert_eq!(one.call("opaque").status, 200);
        assert_eq!(two.call("opaque").status, 200);
        assert_eq!(one.provider.called("/introspect"), calls);
        let stored: String = redis.values.borrow().values().cloned().collect();
        assert_eq!(stored.is_empty(), strategy == "off");
        let values = redis.values.borrow();
        assert!(values.keys().all(|key| key.starts_with("answers:")));
        assert!(!stored.contains("john"));
    }
    // What was not sealed here counts for nothing, and a store that is away is passed by.
    let (mut one, mut two, redis) = gateways(&config("redis"));
    assert_eq!(one.call("opaque").status, 200);
    let (key, sealed) = redis
        .values
        .borrow()
        .first_key_value()
        .map(|(k, v)| (k.clone(), v.clone()))
        .unwrap();
    redis.values.borrow_mut().insert(key, format!("{sealed}A"));
    assert_eq!(two.call("opaque").status, 200);
    assert_eq!(one.provider.called("/introspect"), 2);
    redis.down.set(true);
    assert_eq!(two.call("opaque-2").status, 200);
    assert_eq!(one.call("unknown").status, 401);
}

#[test]
fn a_server_is_reached_as_its_record_says() {
    let server = |record: Value| {
        let mut errors = FieldErrors::default();
        let record = serde_json::from_value(record).unwrap();
        let server = session_store::server("redis", &record, &mut errors);
        assert!(errors.by_field.is_empty(), "{errors:?}");
        server
    };
    let one = server(json!({
        "host": "redis.example", "port": 7000, "username": "u", "password": "p", "database": 3,
        "ssl": true, "ssl_verify": true, "server_name": "other.example", "connect_timeout": 100,
        "send_timeout": 400, "read_timeout": 300, "keepalive_pool_size": 5, "keepalive_backlog": 9,
    }));
    let at = Address::new("redis.example", 7000);
    assert!(matches!(&one.endpoint, Endpoint::Network(found) if *found == at));
    let password = one.password.as_ref().unwrap().expose().as_str();
    assert_eq!((one.username.as_deref(), password), (Some("u"), "p"));
    let tls = RedisTls {
        verify: true,
        server_name: Some("other.example".to_owned()),
    };
    assert_eq!((one.database, one.tls), (3, Some(tls)));
    // The longer of both: what is sent is answered.
    let waits = [one.connect_timeout, one.read_timeout].map(|wait| wait.as_millis());
    assert_eq!(waits, [100, 400]);
    let cluster = server(json!({
        "cluster_nodes": [{ "ip": "redis.example", "port": 7000 }], "cluster_max_redirections": 2,
    }));
    let Endpoint::Cluster(cluster) = cluster.endpoint else {
        panic!("{cluster:?}");
    };
    assert_eq!((cluster.nodes, cluster.max_redirections), (vec![at], 2));
    let group = server(json!({
        "sentinel_master": "m", "sentinel_role": "slave", "sentinel_nodes": [{ "host": "s" }],
        "sentinel_username": "watcher", "sentinel_password": "w",
    }));
    let Endpoint::Sentinel(group) = group.endpoint else {
        panic!("{group:?}");
    };
    assert_eq!(group.nodes, [Address::new("s", 6379)]);
    assert_eq!(
        (group.name.as_str(), group.role),
        ("m", SentinelRole::Replica)
    );
    assert_eq!(group.username.as_deref(), Some("watcher"));
    assert_eq!(group.password.unwrap().expose(), "w");
}
