//! What responses cost, and what becomes of those who have used their quota up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Value, json};

use super::*;
use crate::host::redis::Reply as RedisReply;
use crate::testing::{FakeHost, Replied, Request, answer_of, reply_of};

fn compile(config: Value) -> Result<ResponseRatelimitingFilter, FieldErrors> {
    let config: ResponseRatelimiting = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() })
}

fn filter(config: Value) -> ResponseRatelimitingFilter {
    compile(config).unwrap()
}

fn ask(filter: &ResponseRatelimitingFilter, host: &FakeHost, cost: &'static str) -> Replied {
    let request = Request::get("/");
    reply_of(filter, host, &request, &[("x-kong-limit", cost)], "body")
}

/// A Redis server that adds and tells.
fn redis(host: &FakeHost) {
    let counts: RefCell<HashMap<Vec<u8>, i64>> = RefCell::default();
    host.connect_redis(Rc::new(move |commands| {
        let mut counts = counts.borrow_mut();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let reply = |command: &crate::host::redis::Command| {
            let parts = &command.0;
            match text(&parts[0]).as_str() {
                "GET" => match counts.get(&parts[1].to_vec()) {
                    Some(count) => RedisReply::Bytes(count.to_string().into()),
                    None => RedisReply::Nil,
                },
                "INCRBY" => {
                    let count = counts.entry(parts[1].to_vec()).or_default();
                    *count += text(&parts[2]).parse::<i64>().unwrap();
                    RedisReply::Integer(*count)
                }
                _ => RedisReply::Integer(1),
            }
        };
        Ok(commands.iter().map(reply).collect())
    }));
}

#[test]
fn costs_may_come_in_several_fields() {
    let filter = filter(json!({"limits": {"video": {"minute": 9}, "image": {"minute": 9}}}));
    let said = [
        ("x-kong-limit", "video=2"),
        ("x-kong-limit", "image=x, image=1, video=3"),
    ];
    let request = Request::get("/");
    let reply = reply_of(&filter, &FakeHost::default(), &request, &said, "");
    let left = |name: &str| reply.headers[format!("x-ratelimit-remaining-{name}-minute")].clone();
    assert_eq!(
        (left("video"), left("image")),
        ("6".parse().unwrap(), "8".parse().unwrap())
    );
    assert!(!reply.headers.contains_key("x-kong-limit"));
}

#[test]
fn a_response_costs_what_the_upstream_says_until_nothing_is_left() {
    for more in [
        json!({}),
        json!({"policy": "redis", "redis": {"host": "redis"}}),
    ] {
        let host = FakeHost::default();
        redis(&host);
        let mut config =
            json!({"limits": {"video": {"minute": 6}, "image": {"minute": 9, "hour": 20}}});
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let filter = filter(config);
        for left in [3, 0] {
            let reply = ask(&filter, &host, "video=3, other=9 , image = 1");
            host.run(host.sleep(std::time::Duration::from_millis(1)));
            assert_eq!(reply.status, 200);
            assert_eq!(reply.headers["x-ratelimit-limit-video-minute"], "6");
            assert_eq!(
                reply.headers["x-ratelimit-remaining-video-minute"],
                left.to_string()
            );
            assert_eq!(&reply.body[..], b"body");
            assert!(!reply.headers.contains_key("x-kong-limit"));
        }
        let told = answer_of(&filter, &host, &Request::get("/"));
        assert_eq!(told.upstream_header("x-ratelimit-remaining-video"), "0");
        assert_eq!(told.upstream_header("x-ratelimit-remaining-image"), "7");
        // What costs nothing of it still passes.
        assert_eq!(ask(&filter, &host, "image=1").status, 200);
        host.run(host.sleep(std::time::Duration::from_millis(1)));
        let refused = ask(&filter, &host, "video=1");
        assert_eq!((refused.status, refused.body.len()), (429, 0));
        assert_eq!(refused.headers["x-ratelimit-remaining-image-hour"], "17");
        host.advance(61.0);
        assert_eq!(
            ask(&filter, &host, "video=1").status,
            200,
            "the next minute"
        );
    }
}

#[test]
fn a_violation_blocks_all_requests_if_so_configured() {
    let host = FakeHost::default();
    let filter = filter(json!({
        "limits": {"video": {"minute": 1}, "image": {"minute": 9}},
        "block_on_first_violation": true, "hide_client_headers": true,
    }));
    let reply = ask(&filter, &host, "video=2");
    assert_eq!(reply.status, 200);
    assert!(reply.headers.is_empty(), "{:?}", reply.headers);
    let answer = answer_of(&filter, &host, &Request::get("/"));
    let message = "API rate limit exceeded for 'video'";
    assert_eq!((answer.status, answer.message().as_str()), (429, message));
}

#[test]
fn without_redis_requests_pass_or_fail_as_configured() {
    let host = FakeHost::default();
    let check = |tolerant: bool, status: u16| {
        let filter = filter(json!({
            "limits": {"video": {"minute": 1}}, "policy": "redis", "redis": {"host": "redis"},
            "fault_tolerant": tolerant,
        }));
        assert_eq!(answer_of(&filter, &host, &Request::get("/")).status, status);
    };
    check(true, 200);
    check(false, 500);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let check = |config: Value, field: &str| {
        let errors = compile(config).unwrap_err();
        assert!(errors.by_field.contains_key(field), "{field}: {errors:?}");
    };
    let limits = |limits: Value, expected: Value| {
        let errors = compile(json!({ "limits": limits })).unwrap_err();
        assert_eq!(
            Value::Object(errors.by_field),
            json!({ "limits": expected })
        );
    };
    let one_of = "at least one of these fields must be non-empty: 'second', 'minute', 'hour', 'day', 'month', 'year'";
    limits(json!({"video": {}}), json!({ "@entity": [one_of] }));
    limits(
        json!({"video": {"second": 0}}),
        json!({"second": "value must be greater than 0"}),
    );
    limits(
        json!({"a b": {"second": 1}}),
        json!("the name 'a b' cannot be part of a header's"),
    );
    limits(
        json!({"video": {"second": 30, "minute": 20}}),
        json!("the limit for minute(20.0) cannot be lower than the limit for second(30.0)"),
    );
    check(
        json!({"limits": {"video": {"second": 1}}, "policy": "redis"}),
        "redis",
    );
    check(
        json!({"limits": {"video": {"second": 1}}, "header_name": "a b"}),
        "header_name",
    );
}

#[test]
fn some_limit_is_wanted() {
    let errors = crate::registry::check("response-ratelimiting", &json!({"limits": {}}));
    assert_eq!(
        Value::Object(errors.unwrap_err().by_field),
        json!({"limits": "length must be at least 1"})
    );
}
