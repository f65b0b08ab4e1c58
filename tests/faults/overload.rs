//! Three times what a node, or the Admin API, can do: as much as before is done, the rest is refused at once, and
//! it is over when the crowd is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use harness::{Browser, Cluster};
use http::Method;
use serde_json::json;
use shared::clock::monotonic;
use tokio::net::TcpListener;

use crate::load::{Load, Target, percentile};

/// How long the upstream takes for an answer.
const WORK: Duration = Duration::from_millis(100);

/// How many requests the node has under way at once: that and [`WORK`] are its capacity.
const AT_ONCE: usize = 20;

fn per_second(count: usize, time: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap()) / time.as_secs_f64()
}

/// An upstream that takes its time; its base URL.
async fn slow_upstream() -> String {
    let answer = async || {
        tokio::time::sleep(WORK).await;
        "done"
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn three_times_the_capacity_of_a_node_is_served_once_and_refused_twice() {
    let at_once = AT_ONCE.to_string();
    let cluster = Cluster::start_with(1, &[("WARDGATE_MAX_REQUESTS", &at_once)]).await;
    cluster.route(&slow_upstream().await, "/p").await;
    cluster.settled().await;
    let target = || vec![Target::of(&cluster.url(0), "/p")];
    let capacity = AT_ONCE * 1_000 / usize::try_from(WORK.as_millis()).unwrap();
    let measure = Duration::from_secs(crate::number("SECONDS", 20).try_into().unwrap());

    // As much as it can: the peak.
    let load = Load::start(capacity, target());
    load.within(Duration::from_secs(2)).await;
    let peak = load.within(measure).await;
    load.end().await;
    let peak_rate = per_second(peak.latencies.len(), measure);
    println!("at its capacity of {capacity} a second: {peak}");

    let load = Load::start(3 * capacity, target());
    load.within(Duration::from_secs(1)).await;
    let _ = load.lap();
    let started = monotonic();
    let (mut slowest, mut silent) = (Duration::ZERO, 0);
    while started.elapsed() < measure {
        let asked = monotonic();
        let node = &cluster.data_planes[0];
        let status = node.status().await.expect("the status is answered");
        slowest = slowest.max(asked.elapsed());
        silent = silent.max(status["control_plane"]["silent_seconds"].as_u64().unwrap());
        assert!(node.is_ready().await);
        // A look now and then, not a load of its own.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let over = load.lap();
    let rate = per_second(over.latencies.len(), started.elapsed());
    // What is configured meanwhile comes into force.
    cluster.create("/services", json!({ "host": "h" })).await;
    cluster.settled().await;
    load.end().await;
    let goodput = rate / peak_rate * 100.0;
    println!(
        "at three times that: {over}; goodput {goodput:.0} % of the peak, refusals p50 {:.1?} p99 {:.1?}, status within {slowest:.1?}, silence {silent} s",
        percentile(&over.refusals, 50),
        percentile(&over.refusals, 99)
    );
    assert!(
        over.failed.is_empty(),
        "{:?}",
        &over.failed[..over.failed.len().min(5)]
    );
    // Where the machine does other things, too, the crowd itself slows the upstream down, and there is no peak to reach.
    if peak.refusals.len() * 20 > peak.count() {
        println!("what is within its capacity is refused already: goodput is not judged");
    } else {
        assert!(goodput >= 85.0, "{goodput}");
    }
    assert!(silent <= 15, "{silent}");

    let load = Load::start(capacity / 2, target());
    let after = load.within(Duration::from_secs(2)).await;
    let later = load.within(Duration::from_secs(3)).await;
    load.end().await;
    println!("half of its capacity right after: {after}");
    later.none_failed();
}

/// Writes one of fifty consumers; how that is answered, if it is.
async fn put(url: &str, number: usize) -> Option<u16> {
    let name = format!("c-{}", number % 50);
    let body = json!({ "username": name }).to_string();
    let path = format!("{url}/consumers/{name}");
    let headers = [("content-type", "application/json")];
    let reply = Browser::new()
        .try_send(Method::PUT, &path, &headers, body)
        .await;
    Some(reply?.status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn three_times_what_the_admin_api_takes_keeps_it_and_its_nodes_alive() {
    let cluster = Cluster::start(1).await;
    let url = cluster.admin_url();
    // What eight writers get done.
    let (started, done) = (monotonic(), AtomicUsize::new(0));
    let measure = Duration::from_secs(5);
    let writers = (0..8).map(async |_| {
        while started.elapsed() < measure {
            let number = done.fetch_add(1, Ordering::Relaxed);
            assert_eq!(put(&url, number).await, Some(200));
        }
    });
    futures::future::join_all(writers).await;
    let capacity = per_second(done.load(Ordering::Relaxed), started.elapsed());

    // Three times that, whether it is answered or not.
    let answered = Arc::new(std::sync::Mutex::new(Vec::new()));
    let every = Duration::from_secs_f64(1.0 / (3.0 * capacity));
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
    let started = monotonic();
    let mut sent = 0_usize;
    let mut waiting = tokio::task::JoinSet::new();
    let silence = async || {
        let status = cluster.data_planes[0].status().await.unwrap();
        status["control_plane"]["silent_seconds"].as_u64().unwrap()
    };
    let (mut silent, mut slowest_read) = (0, Duration::ZERO);
    let mut next = Duration::from_secs(1);
    while started.elapsed() < 2 * measure {
        ticks.tick().await;
        sent += 1;
        let (place, kept, number) = (url.clone(), Arc::clone(&answered), sent);
        waiting.spawn(async move {
            let asked = monotonic();
            let answer = tokio::time::timeout(Duration::from_mins(1), put(&place, number)).await;
            kept.lock()
                .unwrap()
                .push((answer.ok().flatten(), asked.elapsed()));
        });
        if started.elapsed() > next {
            next += Duration::from_secs(1);
            silent = silent.max(silence().await);
            let asked = monotonic();
            let found = Browser::new().get(&format!("{url}/status")).await;
            assert_eq!(found.status, 200, "reads go on: {}", found.text());
            slowest_read = slowest_read.max(asked.elapsed());
        }
    }
    while waiting.join_next().await.is_some() {}
    let answered = std::mem::take(&mut *answered.lock().unwrap());
    let count = |status| {
        answered
            .iter()
            .filter(|(found, _)| *found == status)
            .count()
    };
    let (done, refused, lost) = (
        count(Some(200)),
        count(Some(503)) + count(Some(429)),
        count(None),
    );
    let mut times: Vec<Duration> = answered.iter().map(|(_, took)| *took).collect();
    times.sort_unstable();
    let elapsed = started.elapsed().as_secs_f64();
    println!(
        "the Admin API takes {capacity:.0} writes a second; of {sent} in {elapsed:.0} s {done} were done, {refused} refused, {lost} not answered; p50 {:.1?}, p99 {:.1?}; a read within {slowest_read:.1?}, silence {silent} s",
        percentile(&times, 50),
        percentile(&times, 99)
    );
    assert_eq!(done + refused, sent, "each was answered: {answered:?}");
    assert!(silent <= 15, "{silent}");
    let ((), took) = crate::replicas::timed(cluster.settled()).await;
    println!("the node has the last after {took:.1?}");
    assert_eq!(put(&url, 1).await, Some(200));
}
