//! Limits, whom they hold for, and what clients are told.

mod sync_rate;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

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
