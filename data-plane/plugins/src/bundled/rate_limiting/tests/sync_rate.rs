//! Counts that a node keeps for itself, and tells Redis of every so often.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{Either, join, select};

use super::*;
use crate::testing::RedisFake;

#[test]
fn cores_of_a_node_together_let_through_what_the_limit_says() {
    let one = FakeHost::default();
    let other = one.beside();
    let elsewhere = FakeHost::default();
    redis_of(&[&one, &elsewhere]);
    let filter = filter(json!({
        "hour": 4, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
    }));
    let answers = [&one, &other, &other, &one, &other, &one].map(|core| ask(&filter, core));
    let statuses = answers.each_ref().map(|answer| answer.status);
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
    let left = answers
        .each_ref()
        .map(|answer| answer.header("ratelimit-remaining"));
    assert_eq!(left, ["3", "2", "1", "0", "0", "0"]);
    // Redis is told of both, and once.
    one.run(flush(&one));
    one.run(flush(&other));
    assert_eq!(one.redis_asked().len(), 2);
    assert_eq!(ask(&filter, &elsewhere).status, 429);
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
    one.run(one.sleep(Duration::from_secs(2)));
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
    let wait = |seconds| host.run(host.sleep(Duration::from_secs(seconds)));
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
    let later = |host: &FakeHost| host.run(host.sleep(Duration::from_secs(2)));
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
    counting_of(host, filter, instance, "a")
}

/// The same of the client `name`.
fn counting_of(
    host: &FakeHost,
    filter: &Rc<RateLimitingFilter>,
    instance: Uuid,
    name: &'static str,
) -> Counting {
    let (host, filter) = (host.clone(), Rc::clone(filter));
    Box::pin(async move {
        let (server, rate) = (filter.remote.as_ref().unwrap(), filter.sync_rate.unwrap());
        let client = (instance, name);
        synchronised::count(&host, server, client, &filter.limits, (rate, false)).await
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
            let _ = counting
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
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
type Ending = Pin<Box<dyn Future<Output = usize>>>;

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
    host.run(host.sleep(Duration::from_secs(2)));
    let ending = ending.borrow_mut().take().expect("Redis was told");
    assert_eq!(host.run(ending), 0);
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

/// A Redis server that knows one count, and what that is.
fn redis_with(host: &FakeHost, count: u64) -> Rc<std::cell::Cell<u64>> {
    let total = Rc::new(std::cell::Cell::new(count));
    let known = Rc::clone(&total);
    host.connect_redis(Rc::new(move |commands| Ok(answers(&known, commands))));
    total
}

fn answers(known: &std::cell::Cell<u64>, commands: &[crate::host::redis::Command]) -> Vec<Reply> {
    let answer = |command: &crate::host::redis::Command| match &command.0[0][..] {
        b"INCRBY" => {
            let more = str::from_utf8(&command.0[2]).unwrap();
            known.set(known.get() + more.parse::<u64>().unwrap());
            Reply::Integer(known.get().try_into().unwrap())
        }
        b"GET" => Reply::Bytes(known.get().to_string().into()),
        _ => Reply::Integer(1),
    };
    commands.iter().map(answer).collect()
}

fn hourly(most: u64, sync_rate: f64) -> Rc<RateLimitingFilter> {
    Rc::new(filter(json!({
        "hour": most, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": sync_rate,
    })))
}

/// How many requests of the hour had been counted before another one of `host`.
async fn before(host: &FakeHost, filter: &Rc<RateLimitingFilter>) -> u64 {
    let usage = counting(host, filter, Uuid::nil()).await.unwrap();
    usage.before[0]
}

#[test]
fn what_a_core_has_counted_is_told_with_the_rate_though_it_is_gone() {
    let one = FakeHost::default();
    let other = one.beside();
    let (told, filter) = (redis_with(&one, 0), hourly(9, 1.0));
    assert_eq!(other.run(before(&one, &filter)), 0);
    one.end();
    assert_eq!(other.run(before(&other, &filter)), 1);
    other.run(other.sleep(Duration::from_secs(2)));
    assert_eq!(told.get(), 2);
}

#[test]
fn a_core_that_ends_while_redis_is_told_keeps_nobody_waiting() {
    let one = FakeHost::default();
    let other = one.beside();
    let (told, filter) = (redis_with(&one, 0), hourly(9, 1.0));
    other.run(before(&one, &filter));
    other.run(before(&other, &filter));
    one.redis_takes(Duration::from_secs(1));
    other.run(other.sleep(Duration::from_millis(1500)));
    one.end();
    let waits = other.sleep(Duration::from_mins(1));
    let flushed = select(Box::pin(flush(&other)), Box::pin(waits));
    assert!(matches!(other.run(flushed), Either::Left(_)));
    assert_eq!(told.get(), 2);
}

#[test]
fn what_redis_is_being_told_counts_once() {
    let host = FakeHost::default();
    let other = host.beside();
    let (known, filter) = (Rc::new(std::cell::Cell::new(40)), hourly(100, 1.0));
    // Another core has a request while Redis, which has been told, has not answered.
    let seen: Rc<RefCell<Option<Counting>>> = Rc::default();
    let (its_filter, its_known, waits) = (Rc::clone(&filter), Rc::clone(&known), Rc::clone(&seen));
    let server: Rc<RedisFake> = Rc::new(move |commands| {
        let replies = answers(&its_known, commands);
        if *commands[0].0[0] == *b"INCRBY" && waits.borrow().is_none() {
            let mut counting = counting(&other, &its_filter, Uuid::nil());
            let polled = counting
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            *waits.borrow_mut() = Some(match polled {
                Poll::Ready(usage) => Box::pin(std::future::ready(usage)),
                Poll::Pending => counting,
            });
        }
        Ok(replies)
    });
    host.connect_redis(server);
    for number in 0..30 {
        assert_eq!(host.run(before(&host, &filter)), 40 + number);
    }
    host.run(host.sleep(Duration::from_secs(2)));
    let seen = seen.borrow_mut().take().expect("Redis was told");
    assert_eq!(host.run(seen).unwrap().before, [70]);
}

#[test]
fn what_redis_says_holds_however_long_it_takes() {
    let host = FakeHost::default();
    let (known, filter) = (redis_with(&host, 0), hourly(9, 0.5));
    assert_eq!(host.run(before(&host, &filter)), 0);
    host.run(host.sleep(Duration::from_secs(2)));
    known.set(9);
    host.redis_takes(Duration::from_secs(1));
    let later = async {
        host.sleep(Duration::from_millis(600)).await;
        before(&host, &filter).await
    };
    let (asks, _) = host.run(join(before(&host, &filter), later));
    assert!(asks >= 9, "{asks}");
}

#[test]
fn a_window_that_ends_while_redis_is_told_takes_nothing_from_the_next() {
    let host = FakeHost::default();
    redis(&host);
    let filter = Rc::new(filter(json!({
        "minute": 9, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
    })));
    let second =
        |second| host.set_clock(crate::testing::START.saturating_add(Duration::from_secs(second)));
    second(58);
    for number in 0..3 {
        assert_eq!(host.run(before(&host, &filter)), number);
    }
    host.redis_takes(Duration::from_secs(2));
    host.run(host.sleep(Duration::from_millis(2500)));
    for number in 0..3 {
        assert_eq!(host.run(before(&host, &filter)), number);
    }
    host.run(host.sleep(Duration::from_secs(10)));
    assert_eq!(host.run(before(&host, &filter)), 3);
}

#[test]
fn a_rate_that_is_lowered_is_heeded_though_the_old_one_is_long() {
    let host = FakeHost::default();
    let told = redis_with(&host, 0);
    host.run(before(&host, &hourly(9, 3600.0)));
    host.run(host.sleep(Duration::from_secs(1)));
    host.run(before(&host, &hourly(9, 1.0)));
    host.run(host.sleep(Duration::from_secs(10)));
    assert_eq!(told.get(), 2);
}

#[test]
fn a_server_that_is_back_is_told_soon_however_long_the_rate_is_and_with_little_first() {
    let host = FakeHost::default();
    let filter = hourly(9, 3600.0);
    for client in ["a", "b", "c"] {
        let counting = counting_of(&host, &filter, Uuid::nil(), client);
        host.run(counting).unwrap();
    }
    let parts: Rc<RefCell<Vec<usize>>> = Rc::default();
    let heard = Rc::clone(&parts);
    host.connect_redis(Rc::new(move |commands| {
        let counts = commands
            .iter()
            .filter(|command| *command.0[0] == *b"INCRBY");
        heard.borrow_mut().push(counts.count());
        Ok(commands.iter().map(|_| Reply::Integer(1)).collect())
    }));
    host.run(host.sleep(Duration::from_secs(20)));
    assert_eq!(*parts.borrow(), [1, 2]);
}

#[test]
fn redis_is_not_asked_for_who_does_not_come_again() {
    let host = FakeHost::default();
    redis(&host);
    let filter = Rc::new(filter(json!({
        "second": 9, "hour": 99, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 2,
    })));
    host.run(before(&host, &filter));
    host.run(host.sleep(Duration::from_secs(3)));
    let asked = host.redis_asked().len();
    host.run(host.sleep(Duration::from_mins(1)));
    assert_eq!(host.redis_asked().len(), asked);
    assert_eq!(host.run(flush(&host)), 0);
}

#[test]
fn without_a_rate_redis_is_asked_with_every_request_and_told_of_nothing_else() {
    let host = FakeHost::default();
    redis(&host);
    let filter = hourly(3, -1.0);
    for (status, asked) in [(200, 1), (200, 2), (200, 3), (429, 4)] {
        assert_eq!(ask(&filter, &host).status, status);
        host.run(host.sleep(Duration::from_mins(1)));
        host.run(flush(&host));
        assert_eq!(host.redis_asked().len(), asked);
    }
}

#[test]
fn a_turn_with_redis_that_panics_is_one_that_fails() {
    let (one, other) = (FakeHost::default(), FakeHost::default());
    one.connect_redis(Rc::new(|_| panic!("what nobody has thought of")));
    let config = json!({
        "hour": 3, "policy": "redis", "redis": {"host": "redis"}, "sync_rate": 1,
    });
    let filter = filter(config);
    for _ in 0..2 {
        assert_eq!(ask(&filter, &one).status, 200);
        one.run(one.sleep(Duration::from_secs(10)));
    }
    // What could not be told is told later.
    redis_of(&[&one, &other]);
    one.run(one.sleep(Duration::from_secs(10)));
    assert_eq!(ask(&filter, &other).header("ratelimit-remaining"), "0");
    assert_eq!(ask(&filter, &other).status, 429);
}
