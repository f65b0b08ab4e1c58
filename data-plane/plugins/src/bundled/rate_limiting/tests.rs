//! Limits, whom they hold for, and what clients are told.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::host::redis::Reply;
use crate::testing::{Answer, FakeHost, Request, answer_of};

fn compile(config: Value) -> Result<RateLimitingFilter, FieldErrors> {
    let config: RateLimiting = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() })
}

fn filter(config: Value) -> RateLimitingFilter {
    compile(config).unwrap()
}

fn ask(filter: &RateLimitingFilter, host: &FakeHost) -> Answer {
    answer_of(filter, host, &Request::get("/status/200"))
}

/// A Redis server that understands what this plugin says.
fn redis(host: &FakeHost) {
    redis_of(&[host]);
}

/// The same for several nodes.
fn redis_of(hosts: &[&FakeHost]) {
    let counts: RefCell<HashMap<Vec<u8>, i64>> = RefCell::default();
    let server: Rc<crate::testing::RedisFake> = Rc::new(move |commands| {
        let mut counts = counts.borrow_mut();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok(commands
            .iter()
            .map(|command| {
                let parts = &command.0;
                match text(&parts[0]).as_str() {
                    "EVAL" => {
                        let count: usize = text(&parts[2]).parse().unwrap();
                        let keys = &parts[3..3 + count];
                        let limits = parts[3 + count..].iter().step_by(2);
                        let before: Vec<i64> = keys
                            .iter()
                            .map(|key| counts.get(&key[..]).copied().unwrap_or_default())
                            .collect();
                        let free = before
                            .iter()
                            .zip(limits)
                            .all(|(used, limit)| *used < text(limit).parse().unwrap());
                        for key in keys.iter().filter(|_| free) {
                            *counts.entry(key.to_vec()).or_default() += 1;
                        }
                        Reply::List(before.into_iter().map(Reply::Integer).collect())
                    }
                    "INCRBY" => {
                        let count = counts.entry(parts[1].to_vec()).or_default();
                        *count += text(&parts[2]).parse::<i64>().unwrap();
                        Reply::Integer(*count)
                    }
                    "GET" => match counts.get(&parts[1][..]) {
                        Some(count) => Reply::Bytes(count.to_string().into()),
                        None => Reply::Nil,
                    },
                    _ => Reply::Integer(1),
                }
            })
            .collect())
    });
    for host in hosts {
        host.connect_redis(Rc::clone(&server));
    }
}

#[test]
fn the_request_above_the_limit_gets_429_and_learns_when_to_come_back() {
    for config in [
        json!({"minute": 3, "hour": 10}),
        json!({"minute": 3, "hour": 10, "policy": "redis", "redis": {"host": "redis"}}),
    ] {
        let host = FakeHost::default();
        redis(&host);
        let filter = filter(config);
        for left in [2, 1, 0] {
            let answer = ask(&filter, &host);
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("x-ratelimit-limit-minute"), "3");
            assert_eq!(
                answer.header("x-ratelimit-remaining-minute"),
                left.to_string()
            );
            assert_eq!(answer.header("x-ratelimit-limit-hour"), "10");
            assert_eq!(
                answer.header("x-ratelimit-remaining-hour"),
                (left + 7).to_string()
            );
            assert_eq!(answer.header("ratelimit-limit"), "3");
            assert_eq!(answer.header("ratelimit-remaining"), left.to_string());
            assert_eq!(answer.header("ratelimit-reset"), "60");
            assert_eq!(answer.header("retry-after"), "");
        }
        host.advance(20.0);
        let answer = ask(&filter, &host);
        assert_eq!(
            (answer.status, answer.message().as_str()),
            (429, "API rate limit exceeded")
        );
        assert_eq!(answer.header("x-ratelimit-remaining-minute"), "0");
        assert_eq!(answer.header("x-ratelimit-remaining-hour"), "7");
        assert_eq!(answer.header("retry-after"), "40");
        host.advance(40.0);
        assert_eq!(ask(&filter, &host).status, 200, "the next minute");
    }
}

#[test]
fn clients_are_told_apart_as_configured() {
    let host = FakeHost::default();
    let by_header = filter(json!({"minute": 1, "limit_by": "header", "header_name": "x-key"}));
    let with_key = |key: &'static str| {
        let mut request = Request::get("/");
        let name = HeaderName::from_static("x-key");
        request.headers.push((name, HeaderValue::from_static(key)));
        answer_of(&by_header, &host, &request).status
    };
    assert_eq!(
        [with_key("a"), with_key("a"), with_key("b")],
        [200, 429, 200]
    );
    assert_eq!(
        ask(&by_header, &host).status,
        200,
        "by address without the header"
    );
    assert_eq!(ask(&by_header, &host).status, 429);
}

#[test]
fn answer_and_headers_are_configurable() {
    let host = FakeHost::default();
    let filter = filter(json!({
        "second": 1, "hide_client_headers": true, "error_code": 404, "error_message": "Fake Not Found",
    }));
    assert_eq!(ask(&filter, &host).status, 200);
    let answer = ask(&filter, &host);
    assert_eq!(
        (answer.status, answer.message().as_str()),
        (404, "Fake Not Found")
    );
    assert_eq!(
        answer.header("ratelimit-limit") + &answer.header("retry-after"),
        ""
    );
}

#[test]
fn a_status_that_ends_no_answer_is_refused() {
    for (code, taken) in [
        (json!(429), true),
        (json!(204), true),
        (json!(100), false),
        (json!(199), false),
        (json!(12), false),
        (json!(1000), false),
        (json!(429.5), false),
    ] {
        let config = json!({ "minute": 1, "error_code": code });
        let config: RateLimiting = serde_json::from_value(config).unwrap();
        let mut errors = FieldErrors::default();
        config.refuse(&mut errors);
        assert_eq!(errors.is_empty(), taken, "{code} {errors:?}");
        assert_eq!(errors.by_field.contains_key("error_code"), !taken);
    }
}

#[test]
fn without_redis_requests_pass_or_fail_as_configured() {
    let host = FakeHost::default();
    let check = |tolerant: bool, status: u16| {
        let filter = filter(json!({
            "minute": 1, "policy": "redis", "redis": {"host": "redis"}, "fault_tolerant": tolerant,
        }));
        let answer = ask(&filter, &host);
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("ratelimit-limit"), "");
    };
    check(true, 200);
    check(false, 500);
}

#[test]
fn nodes_learn_of_each_others_requests_with_the_sync_rate() {
    let (one, other) = (FakeHost::default(), FakeHost::default());
    redis(&one);
    let config = json!({
        "hour": 2, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
    });
    let filter = filter(config);
    assert_eq!(ask(&filter, &one).status, 200);
    one.run(one.sleep(std::time::Duration::from_secs(2)));
    assert_eq!(ask(&filter, &one).header("ratelimit-remaining"), "0");
    assert_eq!(ask(&filter, &one).status, 429);
    // A node whose Redis is away counts for itself.
    assert_eq!(
        [ask(&filter, &other).status, ask(&filter, &other).status],
        [200, 200]
    );
    assert_eq!(ask(&filter, &other).status, 429);
}

#[test]
fn redis_is_told_where_the_newest_configuration_says_and_only_of_what_is_asked() {
    let host = FakeHost::default();
    let on = |server: &str| {
        filter(json!({
            "day": 9, "policy": "redis", "redis": {"host": server}, "sync_rate": 0.5,
        }))
    };
    let wait = |seconds| host.run(host.sleep(std::time::Duration::from_secs(seconds)));
    let told = || {
        let servers = host.redis_asked();
        let ports = servers.iter().map(|server| match &server.endpoint {
            crate::host::redis::Endpoint::Network(address) => address.host.clone(),
            other => format!("{other:?}"),
        });
        ports.collect::<Vec<_>>()
    };
    let (old, new) = (on("old"), on("new"));
    ask(&old, &host);
    wait(1);
    assert_eq!(told(), ["old"]);
    // One that is away is asked again, but not all the time.
    wait(12);
    assert_eq!(told(), ["old", "old", "old"]);
    redis(&host);
    assert_eq!(ask(&new, &host).header("ratelimit-remaining"), "7");
    wait(10);
    assert_eq!(told(), ["old", "old", "old", "new"]);
    assert_eq!(ask(&new, &host).header("ratelimit-remaining"), "6");
    wait(10);
    // It was read before, and told after.
    assert_eq!(told().len(), 6);
}

#[test]
fn a_node_reads_what_others_have_counted_before_it_lets_anybody_through() {
    let (one, other) = (FakeHost::default(), FakeHost::default());
    redis_of(&[&one, &other]);
    let filter = filter(json!({
        "hour": 4, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
    }));
    let later = |host: &FakeHost| host.run(host.sleep(std::time::Duration::from_secs(2)));
    for _ in 0..3 {
        assert_eq!(ask(&filter, &one).status, 200);
    }
    later(&one);
    let there = [ask(&filter, &other), ask(&filter, &other)];
    assert_eq!(there.map(|answer| answer.status), [200, 429]);
    later(&other);
    assert_eq!(ask(&filter, &one).status, 429);
}

/// A request under way that is counted later.
type Counting = Pin<Box<dyn Future<Output = Result<Usage, RedisError>>>>;

/// One of the plugin `instance`.
fn counting(host: &FakeHost, filter: &Rc<RateLimitingFilter>, instance: Uuid) -> Counting {
    let (host, filter) = (host.clone(), Rc::clone(filter));
    Box::pin(async move {
        let (server, rate) = (filter.remote.as_ref().unwrap(), filter.sync_rate.unwrap());
        let client = (instance, "a");
        remote::count_later(&host, server, client, &filter.limits, (rate, false)).await
    })
}

#[test]
fn one_request_asks_redis_for_a_new_window_and_the_others_wait_for_it() {
    let host = FakeHost::default();
    let filter = Rc::new(filter(json!({
        "hour": 1, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
    })));
    let count = {
        let host = host.clone();
        move || counting(&host, &filter, Uuid::nil())
    };
    // The second request comes while the first one is asking.
    let second: Rc<RefCell<Option<Counting>>> = Rc::default();
    let (waiting, other) = (Rc::clone(&second), count.clone());
    host.connect_redis(Rc::new(move |commands| {
        let mut waiting = waiting.borrow_mut();
        assert!(waiting.is_none(), "one has asked");
        let counting = waiting.insert(other());
        let polled = counting
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "it waits for the first");
        Ok(commands.iter().map(|_| Reply::Nil).collect())
    }));
    let exceeded = |counting: Counting| host.run(counting).unwrap().exceeded.is_some();
    assert!(!exceeded(count()));
    let second = second.borrow_mut().take().unwrap();
    assert!(exceeded(second));
    assert_eq!(host.redis_asked().len(), 1);
}

#[test]
fn what_waits_for_redis_is_counted_where_it_is_found_though_another_plugin_begins_meanwhile() {
    let host = FakeHost::default();
    let filter = Rc::new(filter(json!({
        "hour": 1, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
    })));
    let (first, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    // The other plugin's first request comes, and is through, while the first one's is asking.
    let begun = Rc::new(std::cell::Cell::new(false));
    let (its_host, its_filter, asked) = (host.clone(), Rc::clone(&filter), Rc::clone(&begun));
    host.connect_redis(Rc::new(move |commands| {
        if !asked.replace(true) {
            let mut counting = counting(&its_host, &its_filter, other);
            let polled = counting
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_ready());
        }
        Ok(commands.iter().map(|_| Reply::Nil).collect())
    }));
    let exceeded = || {
        let usage = host.run(counting(&host, &filter, first)).unwrap();
        usage.exceeded.is_some()
    };
    assert_eq!([exceeded(), exceeded()], [false, true]);
    assert!(begun.get());
}

#[test]
fn a_core_that_ends_tells_redis_what_it_has_counted() {
    let (one, other) = (FakeHost::default(), FakeHost::default());
    redis_of(&[&one, &other]);
    let config = |sync_rate| {
        filter(json!({
            "hour": 9, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": sync_rate,
        }))
    };
    let rarely = config(3000);
    for _ in 0..3 {
        assert_eq!(ask(&rarely, &one).status, 200);
    }
    one.run(flush(&one));
    let left =
        |filter: &RateLimitingFilter| ask(filter, &other).header("ratelimit-remaining").clone();
    assert_eq!(left(&config(-1)), "5");
    // Nothing is told twice.
    one.run(flush(&one));
    assert_eq!(left(&config(-1)), "4");
}

/// The end of a core.
type Ending = Pin<Box<dyn Future<Output = ()>>>;

#[test]
fn a_core_that_ends_while_it_tells_redis_waits_for_that_and_tells_it_only_once() {
    let host = FakeHost::default();
    let filter = filter(json!({
        "hour": 9, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
    }));
    let ending: Rc<RefCell<Option<Ending>>> = Rc::default();
    let told: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let (waiting, heard, its_host) = (Rc::clone(&ending), Rc::clone(&told), host.clone());
    host.connect_redis(Rc::new(move |commands| {
        let replies = commands.iter().map(|command| {
            if *command.0[0] != *b"INCRBY" {
                return Reply::Nil;
            }
            heard.borrow_mut().push(command.0[2].to_vec());
            if waiting.borrow().is_none() {
                let host = its_host.clone();
                let mut flushing: Ending = Box::pin(async move { flush(&host).await });
                let polled = flushing
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()));
                assert!(polled.is_pending(), "it waits for what is under way");
                waiting.replace(Some(flushing));
            }
            Reply::Integer(1)
        });
        Ok(replies.collect())
    }));
    assert_eq!(ask(&filter, &host).status, 200);
    host.run(host.sleep(std::time::Duration::from_secs(2)));
    let ending = ending.borrow_mut().take().expect("Redis was told");
    host.run(ending);
    let told = told.borrow();
    let counts = told.iter().filter(|count| *count != b"0");
    assert_eq!(counts.collect::<Vec<_>>(), [b"1"]);
}

#[test]
fn nobody_passes_uncounted_where_that_is_not_tolerated() {
    let host = FakeHost::default();
    let strict = filter(json!({
        "hour": 9, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
        "fault_tolerant": false,
    }));
    let statuses = || [(); 2].map(|()| ask(&strict, &host).status);
    assert_eq!(statuses(), [500, 500]);
    redis(&host);
    assert_eq!(statuses(), [200, 200]);
    // It is gone again, and what is known is too old.
    host.connect_redis(Rc::new(|_| {
        Err(RedisError::Resting {
            address: "redis".to_owned(),
        })
    }));
    host.advance(2.0);
    assert_eq!(statuses(), [500, 500]);
    // It answers, but not what it is asked.
    host.connect_redis(Rc::new(|_| Ok(vec![Reply::Error("LOADING".to_owned())])));
    host.advance(2.0);
    assert_eq!(statuses(), [500, 500]);
}

#[test]
fn rules_between_fields_are_said_in_kongs_words() {
    let check = |config: Value, expected: Value| {
        let errors = compile(config).unwrap_err();
        assert_eq!(Value::Object(errors.by_field), expected);
    };
    check(
        json!({}),
        json!({"@entity": ["at least one of these fields must be non-empty: 'config.second', 'config.minute', 'config.hour', 'config.day', 'config.month', 'config.year'"]}),
    );
    check(
        json!({"second": 10, "minute": 9}),
        json!({"@entity": "The limit for minute(9.0) cannot be lower than the limit for second(10.0)"}),
    );
    check(
        json!({"second": 0}),
        json!({"second": "value must be greater than 0"}),
    );
    check(
        json!({"second": 1, "policy": "redis"}),
        json!({
            "redis": {"host": "required field missing"},
            "@entity": ["failed conditional validation given value of field 'config.policy'"],
        }),
    );
}

#[test]
fn a_glance_counts_as_a_whole_look_does_and_refuses_nobody() {
    let header = HeaderName::from_static("x-key");
    for (by, given) in [
        (json!({"limit_by": "ip"}), &[][..]),
        (json!({"limit_by": "service"}), &[]),
        (json!({"limit_by": "path", "path": "/status/200"}), &[]),
        (
            json!({"limit_by": "header", "header_name": "x-key"}),
            &["a"],
        ),
        (json!({"limit_by": "header", "header_name": "x-key"}), &[""]),
        (
            json!({"limit_by": "consumer", "hide_client_headers": true}),
            &[],
        ),
    ] {
        let host = FakeHost::default();
        let mut config = json!({"minute": 3, "hour": 10});
        config
            .as_object_mut()
            .unwrap()
            .extend(by.as_object().unwrap().clone());
        let filter = filter(config);
        let mut request = Request::get("/status/200");
        for value in given {
            let value = HeaderValue::from_static(value);
            request.headers.push((header.clone(), value));
        }
        let glance = |request: &Request| {
            let pass = request.glance(&filter, &host)?;
            let told = pass.response_headers.into_iter().collect::<HeaderMap>();
            Some(told.get("ratelimit-remaining").cloned())
        };
        let shown = |left: u64| (by.get("hide_client_headers").is_none()).then(|| left.into());
        assert_eq!(glance(&request), Some(shown(2)), "{by}");
        assert_eq!(answer_of(&filter, &host, &request).status, 200, "{by}");
        assert_eq!(glance(&request), Some(shown(0)), "{by}");
        assert_eq!(glance(&request), None, "{by}");
        assert_eq!(answer_of(&filter, &host, &request).status, 429, "{by}");
    }
    let repeated = || [(header.clone(), HeaderValue::from_static("a"))];
    let mut request = Request::get("/");
    request
        .headers
        .extend(repeated().into_iter().chain(repeated()));
    let by_header = json!({"minute": 3, "limit_by": "header", "header_name": "x-key"});
    let host = FakeHost::default();
    assert!(request.glance(&filter(by_header), &host).is_none());
    let remote = json!({"minute": 3, "policy": "redis", "redis": {"host": "redis"}});
    assert_eq!(filter(remote).looks(), Looks::Never);
}

#[test]
fn clients_with_long_headers_are_told_apart_by_little() {
    assert_eq!(of_header(b"app-1"), "app-1");
    let (long, other) = (of_header(&[b'a'; 257]), of_header(&[b'a'; 8_000]));
    assert_eq!((long.len(), other.len()), (64, 64));
    assert_ne!(long, other);
}
