//! Balancing without sockets.

mod ended;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use plugins::exchange::{Captures, Identity};
use plugins::glance::Pass;
use serde_json::{Value, json};
use shared::clock::monotonic;
use shared::snapshot::{Key, Record, Revision, Snapshot};
use uuid::Uuid;

use super::hash::{self, HashInput, Hashable};
use super::{Balancer, Balancers, NoPeer, Peer, show};
use crate::compile::{CompiledSnapshot, compile};
use crate::http1::headers::View;
use crate::pipeline::Put;

/// A record of `kind` with `fields`, and with those that each has.
pub(crate) fn record(kind: &'static str, id: u128, mut fields: Value) -> Record {
    let id = Uuid::from_u128(id);
    fields["id"] = json!(id);
    fields["created_at"] = json!(1);
    fields["updated_at"] = json!(1);
    Record {
        key: Key { kind, id },
        json: serde_json::to_vec(&fields).unwrap().into(),
    }
}

/// An upstream with targets `127.0.0.N:80` of the weights given.
fn snapshot(upstream: Value, weights: &[u16]) -> CompiledSnapshot {
    let mut upstream = upstream;
    upstream["name"] = json!("u.test");
    let mut records = vec![record("upstreams", 1, upstream)];
    for (number, weight) in (1..).zip(weights) {
        let target = json!({
            "target": format!("127.0.0.{number}:80"), "weight": weight,
            "upstream": {"id": Uuid::from_u128(1)}
        });
        records.push(record("targets", 100 + number, target));
    }
    compile(&Snapshot::new(1, Revision(1), records)).unwrap()
}

pub(super) fn balancer(node: &Balancers, upstream: Value, weights: &[u16]) -> Arc<Balancer> {
    Arc::clone(&snapshot(upstream, weights).balancers(node)[0])
}

fn pick(balancer: &Arc<Balancer>, hash: Option<u32>) -> Result<String, NoPeer> {
    let lease = balancer.pick(hash, &[])?;
    Ok(lease.peer.key.address.to_string())
}

fn count(balancer: &Arc<Balancer>, picks: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..picks {
        *counts.entry(pick(balancer, None).unwrap()).or_default() += 1;
    }
    counts
}

fn of(counts: &HashMap<String, usize>) -> Vec<(&str, usize)> {
    let mut all: Vec<(&str, usize)> = counts
        .iter()
        .map(|(address, count)| (address.as_str(), *count))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn the_turn_goes_round_by_weight_and_passes_weight_0() {
    let node = Balancers::default();
    let even = balancer(&node, json!({}), &[100, 100]);
    assert_eq!(
        of(&count(&even, 20)),
        [("127.0.0.1", 10), ("127.0.0.2", 10)]
    );
    let uneven = balancer(&node, json!({}), &[10, 30, 0]);
    assert_eq!(
        of(&count(&uneven, 40)),
        [("127.0.0.1", 10), ("127.0.0.2", 30)]
    );
    let huge = balancer(&node, json!({}), &[65535, 1]);
    assert!(count(&huge, 1000).get("127.0.0.2").copied().unwrap_or(0) <= 2);
}

#[test]
fn a_further_attempt_goes_to_another_target() {
    let balancer = balancer(&Balancers::default(), json!({}), &[1, 1, 1]);
    for _ in 0..10 {
        let first = balancer.pick(None, &[]).unwrap();
        let tried = [Arc::clone(&first.peer)];
        let second = balancer.pick(None, &tried).unwrap();
        assert!(!Arc::ptr_eq(&first.peer, &second.peer));
    }
    // When all have been tried, one is tried again.
    let all: Vec<_> = balancer
        .table()
        .entries
        .iter()
        .map(|entry| Arc::clone(&entry.peer))
        .collect();
    assert!(balancer.pick(None, &all).is_ok());
}

#[test]
fn attempts_go_round_all_targets_before_one_is_tried_again() {
    for algorithm in [
        "round-robin",
        "consistent-hashing",
        "least-connections",
        "latency",
    ] {
        let upstream = json!({"algorithm": algorithm, "hash_on": "ip"});
        let balancer = balancer(&Balancers::default(), upstream, &[20, 50, 70]);
        let (mut tried, mut counts) = (Vec::new(), HashMap::new());
        for attempt in 0..6 {
            let lease = balancer.pick(Some(7), &tried).unwrap();
            assert_eq!(lease.start_over(&mut tried), attempt == 3, "{algorithm}");
            tried.push(Arc::clone(&lease.peer));
            *counts
                .entry(lease.peer.key.address.to_string())
                .or_default() += 1;
        }
        let twice = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|address| (address, 2));
        assert_eq!(of(&counts), twice, "{algorithm}");
    }
}

#[test]
fn without_targets_or_with_weight_0_only_there_is_no_peer() {
    let node = Balancers::default();
    for weights in [&[][..], &[0, 0]] {
        for algorithm in [
            "round-robin",
            "consistent-hashing",
            "least-connections",
            "latency",
        ] {
            let balancer = balancer(&node, json!({"algorithm": algorithm}), weights);
            assert_eq!(pick(&balancer, Some(7)), Err(NoPeer), "{algorithm}");
        }
    }
}

#[test]
fn a_hash_meets_the_same_target_and_moves_only_with_it() {
    let config = || json!({"algorithm": "consistent-hashing", "hash_on": "ip", "slots": 1000});
    let node = Balancers::default();
    let three = balancer(&node, config(), &[100, 100, 100]);
    let hashes: Vec<u32> = (0..300_u32).map(|n| n.wrapping_mul(0x9e37_79b9)).collect();
    let before: Vec<String> = hashes
        .iter()
        .map(|hash| pick(&three, Some(*hash)).unwrap())
        .collect();
    // Another node, and the targets in another order of creation: the same.
    let elsewhere = balancer(&Balancers::default(), config(), &[100, 100, 100]);
    for (hash, address) in hashes.iter().zip(&before) {
        assert_eq!(&pick(&elsewhere, Some(*hash)).unwrap(), address);
    }
    for address in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        let share = before.iter().filter(|known| *known == address).count();
        assert!((40..=180).contains(&share), "{address} {share}");
    }
    // One falls ill: only its own requests go elsewhere.
    let table = three.table();
    let ill = &table.entries[1].peer;
    three.set_health(ill, false);
    for (hash, address) in hashes.iter().zip(&before) {
        let now = pick(&three, Some(*hash)).unwrap();
        assert!(now != "127.0.0.2" && (now == *address || address == "127.0.0.2"));
    }
    // It goes altogether: all of the others' stay.
    let two = balancer(&node, config(), &[100, 0, 100]);
    let moved = hashes
        .iter()
        .zip(&before)
        .filter(|(hash, address)| {
            *address != "127.0.0.2" && pick(&two, Some(**hash)).unwrap() != **address
        })
        .count();
    assert_eq!(moved, 0);
    // One comes: what moves goes to it, and it gets its share.
    let four = balancer(&Balancers::default(), config(), &[100, 100, 100, 100]);
    let moved: Vec<String> = hashes
        .iter()
        .zip(&before)
        .map(|(hash, address)| (pick(&four, Some(*hash)).unwrap(), address))
        .filter_map(|(now, address)| (now != *address).then_some(now))
        .collect();
    assert!(moved.iter().all(|now| now == "127.0.0.4"), "{moved:?}");
    assert!((30..=120).contains(&moved.len()), "{}", moved.len());
}

#[test]
fn the_least_busy_for_its_weight_comes_first() {
    let balancer = balancer(
        &Balancers::default(),
        json!({"algorithm": "least-connections"}),
        &[100, 200],
    );
    let held: Vec<_> = (0..9).map(|_| balancer.pick(None, &[]).unwrap()).collect();
    let first = held
        .iter()
        .filter(|lease| lease.peer.key.address.to_string() == "127.0.0.1")
        .count();
    assert_eq!(first, 3);
    drop(held);
    let table = balancer.table();
    for entry in &table.entries {
        assert_eq!(
            entry.peer.busy.load(std::sync::atomic::Ordering::Relaxed),
            0
        );
    }
}

#[test]
fn the_fastest_for_its_weight_comes_first() {
    for (weights, times, expected) in [
        ([1, 1], [40, 10], "127.0.0.2"),
        ([1, 1], [10, 40], "127.0.0.1"),
        ([100, 10], [40, 10], "127.0.0.1"),
    ] {
        let upstream = json!({"algorithm": "latency"});
        let balancer = balancer(&Balancers::default(), upstream, &weights);
        let asked = monotonic();
        for (entry, took) in balancer.table().entries.iter().zip(times) {
            let latency = &entry.peer.latency;
            latency.observe(asked, asked + Duration::from_millis(took));
        }
        for _ in 0..20 {
            assert_eq!(pick(&balancer, None).unwrap(), expected, "{times:?}");
        }
    }
}

#[test]
fn a_stream_that_fails_says_nothing_of_how_fast_requests_are_answered() {
    let upstream = json!({"algorithm": "latency"});
    let balancer = balancer(&Balancers::default(), upstream, &[1, 1]);
    let lease = balancer.pick(None, &[]).unwrap();
    let failed = lease.peer.key.address.to_string();
    lease.failed();
    drop(lease);
    assert!((0..50).any(|_| pick(&balancer, None).unwrap() == failed));

    let lease = balancer.pick(None, &[]).unwrap();
    let silent = lease.peer.key.address.to_string();
    lease.unanswered();
    drop(lease);
    assert!((0..50).all(|_| pick(&balancer, None).unwrap() != silent));
}

#[test]
fn a_target_that_has_failed_is_asked_again_within_seconds() {
    let upstream = json!({"algorithm": "latency"});
    let balancer = balancer(&Balancers::default(), upstream, &[1, 1]);
    let [well, failed] = [0, 1].map(|at| Arc::clone(&balancer.table().entries[at].peer));
    let now = monotonic();
    let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
    let always = |expected: &Peer| {
        let expected = expected.key.address.to_string();
        (0..20).all(|_| pick(&balancer, None).unwrap() == expected)
    };
    // Requests are seldom, so that each of them counts for much.
    for peer in [&well, &failed] {
        let asked = ago(60);
        peer.latency
            .observe(asked, asked + Duration::from_millis(1));
    }
    failed.latency.observe_failure(ago(15), ago(15));
    well.latency
        .observe(ago(1), ago(1) + Duration::from_millis(1));
    assert!(always(&failed), "what it did 15 seconds ago has faded");
    failed.latency.observe_failure(ago(3), ago(3));
    assert!(always(&well), "3 seconds ago is not long");

    // One of many exchanges that are under way breaks.
    let balancer = self::balancer(
        &Balancers::default(),
        json!({"algorithm": "latency"}),
        &[1, 1],
    );
    let [well, busy] = [0, 1].map(|at| Arc::clone(&balancer.table().entries[at].peer));
    let answered = ago(15) + Duration::from_millis(10);
    busy.latency.observe_failure(ago(15), ago(15));
    busy.latency.observe(ago(15), answered);
    well.latency
        .observe(ago(1), ago(1) + Duration::from_millis(20));
    let expected = busy.key.address.to_string();
    assert!(
        (0..20).all(|_| pick(&balancer, None).unwrap() == expected),
        "an answer after the failure does not have it remembered for longer"
    );
}

#[test]
fn passive_checks_break_the_circuit_and_the_threshold_all_of_it() {
    let node = Balancers::default();
    let config = json!({"healthchecks": {"threshold": 40, "passive": {
        "unhealthy": {"http_failures": 2, "tcp_failures": 1, "timeouts": 1},
        "healthy": {"successes": 1}
    }}});
    let three = balancer(&node, config.clone(), &[1, 1, 1]);
    let lease = |address: &str| loop {
        let lease = three.pick(None, &[]).unwrap();
        if lease.peer.key.address.to_string() == address {
            break lease;
        }
    };
    let failing = lease("127.0.0.1");
    failing.answered(StatusCode::INTERNAL_SERVER_ERROR);
    failing.answered(StatusCode::OK);
    failing.answered(StatusCode::INTERNAL_SERVER_ERROR);
    assert!(failing.peer.is_healthy(), "a success begins the count anew");
    failing.answered(StatusCode::NOT_FOUND);
    failing.answered(StatusCode::SERVICE_UNAVAILABLE);
    assert!(!failing.peer.is_healthy());
    assert!(
        count(&three, 30)
            .keys()
            .all(|address| address != "127.0.0.1")
    );
    let shown = show::targets_with_health(&three, "n");
    let health: Vec<&str> = shown["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target["health"].as_str().unwrap())
        .collect();
    assert_eq!(health, ["UNHEALTHY", "HEALTHY", "HEALTHY"]);
    // The next snapshot keeps what is known.
    let mut changed = config;
    changed["slots"] = json!(20);
    let again = balancer(&node, changed, &[1, 1, 1]);
    assert!(!again.table().entries[0].peer.is_healthy());
    lease("127.0.0.2").failed();
    assert_eq!(
        pick(&three, None),
        Err(NoPeer),
        "a third is healthy, and 40 % are needed"
    );
    let whole = show::balancer_health(&three, "n");
    assert_eq!(whole["data"]["health"], "UNHEALTHY");
    assert_eq!(whole["data"]["balancer_health"], "UNHEALTHY");
    let details = &whole["data"]["details"];
    assert_eq!(details["weight"]["available"], 1);
    let addresses = [0, 1, 2].map(|at| details["hosts"][at]["addresses"][0].clone());
    assert_eq!(
        addresses.each_ref().map(|one| one["healthy"].as_bool()),
        [Some(false), Some(false), Some(true)]
    );
    assert!(addresses[0].get("health").is_none(), "{details}");
    // By hand, one address and then all.
    assert!(show::set_health(
        &three,
        "127.0.0.1:80",
        Some("127.0.0.1:80"),
        true
    ));
    assert!(!show::set_health(&three, "127.0.0.9:80", None, true));
    assert!(pick(&three, None).is_ok());
}

#[test]
fn an_unchanged_upstream_keeps_its_balancer() {
    let node = Balancers::default();
    let first = balancer(&node, json!({}), &[1, 2]);
    let second = balancer(&node, json!({}), &[1, 2]);
    assert!(Arc::ptr_eq(&first, &second));
    let third = balancer(&node, json!({}), &[1, 3]);
    assert!(!Arc::ptr_eq(&first, &third));
    let peer = |balancer: &Balancer| Arc::clone(&balancer.table().entries[0].peer);
    assert!(Arc::ptr_eq(&peer(&first), &peer(&third)));
    assert_eq!(
        show::targets_with_health(&third, "n")["data"][0]["health"],
        "HEALTHCHECKS_OFF"
    );
}

#[test]
fn a_request_is_hashed_by_what_the_upstream_says() {
    let mut headers = HeaderMap::new();
    headers.insert("x-user", HeaderValue::from_static("alice"));
    headers.insert("cookie", HeaderValue::from_static("a=1; sticky=abc"));
    let identity = Identity {
        credential: Some("key-1".to_owned()),
        ..Identity::default()
    };
    let captures = Captures {
        whole: String::new(),
        numbered: vec!["42".to_owned()],
        named: vec![("id".to_owned(), "42".to_owned())],
    };
    let pass = Pass {
        fields: vec![(
            HeaderName::from_static("x-put"),
            HeaderValue::from_static("alice"),
        )],
        cookies: Some(b"put=abc"[..].into()),
        ..Pass::default()
    };
    let request = Hashable {
        identity: &identity,
        client: "192.0.2.1".parse().unwrap(),
        headers: View::Map(&headers),
        put: Put::of(&pass),
        path: "/users/42",
        query: Some("b=2&user=al%69ce&c"),
        captures: &captures,
    };
    let hashed = |input: HashInput, fallback: HashInput| {
        hash::hash(&input, &fallback, "/p", &request, || "made".to_owned())
    };
    let by = |input: HashInput| hashed(input, HashInput::None).hash;
    let header = |name: &str| HashInput::Header(name.parse().unwrap());
    let text = |name: &str| name.to_owned();
    for input in [
        HashInput::Consumer,
        HashInput::Ip,
        HashInput::Path,
        header("x-user"),
        HashInput::Cookie(text("sticky")),
        HashInput::QueryArg(text("user")),
        HashInput::QueryArg(text("c")),
        HashInput::UriCapture(text("id")),
    ] {
        assert!(by(input.clone()).is_some(), "{input:?}");
    }
    assert_eq!(by(header("x-user")), by(HashInput::QueryArg(text("user"))));
    assert_eq!(by(header("x-user")), by(header("x-put")));
    let cookie = |name: &str| by(HashInput::Cookie(text(name)));
    assert_eq!(cookie("sticky"), cookie("put"));
    assert_eq!(
        by(HashInput::UriCapture(text("1"))),
        by(HashInput::UriCapture(text("id")))
    );
    assert_eq!(by(header("x-none")), None);
    assert_eq!(by(HashInput::UriCapture(text("0"))), None);
    assert_eq!(
        hashed(header("x-none"), HashInput::Ip).hash,
        by(HashInput::Ip)
    );
    let path = |path: &str| {
        let request = Hashable { path, ..request };
        hash::hash(
            &HashInput::Path,
            &HashInput::None,
            "/p",
            &request,
            String::new,
        )
        .hash
    };
    assert_eq!(path("/a/%28%2F%29"), path("/a/(/)"));
    assert_ne!(path("/a/%2528"), path("/a/%28"));
    let made = hashed(header("x-none"), HashInput::Cookie(text("fresh")));
    assert!(made.hash.is_some());
    assert_eq!(made.cookie.unwrap(), "fresh=made; Path=/p");
}

#[test]
fn the_health_of_every_target_is_shown_as_metrics() {
    let node = Balancers::default();
    let lines = |upstream: Value| {
        let checked = balancer(&node, upstream, &[100, 100]);
        show::set_health(&checked, "127.0.0.2:80", None, false);
        show::metrics(&[checked], &["http"])
    };
    let line = |number: u8, state: &str, value: u8| {
        format!(
            r#"kong_upstream_target_health{{upstream="u.test",target="127.0.0.{number}:80",address="127.0.0.{number}:80",state="{state}",subsystem="http"}} {value}"#
        )
    };
    let passive = json!({"healthchecks": {"passive": {"unhealthy": {"tcp_failures": 1}}}});
    let checked = lines(passive);
    for (number, is) in [(1, "healthy"), (2, "unhealthy")] {
        for state in ["healthchecks_off", "healthy", "unhealthy", "dns_error"] {
            let line = line(number, state, u8::from(state == is));
            assert!(
                checked.lines().any(|found| found == line),
                "{line}\n{checked}"
            );
        }
    }
    let unchecked = lines(json!({}));
    let line = line(1, "healthchecks_off", 1);
    assert!(unchecked.lines().any(|found| found == line), "{unchecked}");
    let elsewhere = lines(json!({"ws_id": Uuid::from_u128(7)}));
    let workspace = format!(
        r#",subsystem="http",workspace="{}"}} 1"#,
        Uuid::from_u128(7)
    );
    assert!(elsewhere.contains(&workspace), "{elsewhere}");
    let named = record(
        "targets",
        101,
        json!({"target": "named.test:80", "weight": 1, "upstream": {"id": Uuid::from_u128(1)}}),
    );
    let records = vec![record("upstreams", 1, json!({"name": "u.test"})), named];
    let unresolved = compile(&Snapshot::new(1, Revision(1), records)).unwrap();
    let shown = show::metrics(unresolved.balancers(&Balancers::default()), &["http"]);
    let line = r#"kong_upstream_target_health{upstream="u.test",target="named.test:80",address="",state="dns_error",subsystem="http"} 1"#;
    assert!(shown.lines().any(|found| found == line), "{shown}");
}
