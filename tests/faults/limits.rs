//! Descriptors, memory and processor time that run short, and clients that do not get on: what is under way goes on,
//! the rest is refused, and the control plane is heard all the time.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use harness::{Browser, Cluster, Demo, eventually};
use http::Method;
use serde_json::json;
use shared::clock::monotonic;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Load, Target};
use crate::replicas::timed;

/// A cluster with a node that runs under a command, and the route `/p`.
pub(crate) async fn limited(
    demo: &Demo,
    under: &[String],
    more: &[(&'static str, String)],
) -> Cluster {
    let mut cluster = Cluster::start(0).await;
    cluster.route(&demo.upstream(), "/p").await;
    cluster.certify("node-1");
    cluster.run_under(under);
    cluster.start_data_plane_with("node-1", more).await;
    cluster.run_under::<&str>(&[]);
    cluster.settled().await;
    cluster
}

/// A connection on which a request was answered.
pub(crate) async fn kept(address: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    ask(&mut stream).await.then_some(stream)
}

/// Whether a request on a kept connection is answered 200.
async fn ask(stream: &mut TcpStream) -> bool {
    let request = b"GET /p HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let mut answer = [0; 4_096];
    let exchange = async {
        stream.write_all(request).await.ok()?;
        stream.read(&mut answer).await.ok()
    };
    let read = tokio::time::timeout(Duration::from_secs(5), exchange).await;
    let length = read.ok().flatten().unwrap_or(0);
    answer[..length].starts_with(b"HTTP/1.1 200")
}

/// The processor time that a process has used.
fn used(id: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(')').unwrap();
    let fields: Vec<u64> = rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    // User and system time, in hundredths of a second.
    Duration::from_millis((fields[11] + fields[12]) * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn descriptors_that_run_out_refuse_new_clients_and_nothing_else() {
    let demo = Demo::start(&[]).await;
    let under = ["prlimit", "--nofile=256:256"].map(str::to_owned);
    let cluster = limited(&demo, &under, &[]).await;
    let node = &cluster.data_planes[0];
    let address = node.process.address("proxy");
    let mut good = Vec::new();
    for _ in 0..20 {
        good.push(kept(&address).await.expect("there is room yet"));
    }
    let mut crowd = Vec::new();
    for _ in 0..1_000 {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    // Five seconds over which the processor's time is counted.
    let (before, started) = (used(node.process.id()), monotonic());
    for _ in 0..5 {
        for stream in &mut good {
            assert!(ask(stream).await, "who was there is served");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let busy = used(node.process.id()).saturating_sub(before);
    let share = busy.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0;
    // The control plane is heard, and the last good file written.
    cluster.create("/services", json!({ "host": "h" })).await;
    cluster.settled().await;
    cluster.persisted().await;
    let descriptors = node.process.descriptors();
    println!(
        "1,000 clients with 256 descriptors: {descriptors} in use, {share:.0} % of a core for 20 requests a second"
    );
    assert!(descriptors <= 256);
    drop(crowd);
    eventually("there is room again", async || {
        kept(&address).await.map(drop)
    })
    .await;
}

/// A control group of its own; removed when dropped.
struct Group {
    directory: PathBuf,
}

impl Group {
    /// One below `controller` with these values; none where that may not be made.
    fn make(controller: &str, values: &[(&str, &str)]) -> Option<Self> {
        let name = format!("wardgate-{}", std::process::id());
        let directory = PathBuf::from("/sys/fs/cgroup").join(controller).join(name);
        std::fs::create_dir(&directory).ok()?;
        let group = Self { directory };
        for (name, value) in values {
            std::fs::write(group.directory.join(name), value).ok()?;
        }
        Some(group)
    }

    /// What runs a program inside.
    fn command(&self) -> Vec<String> {
        let enter = format!(
            "echo $$ > {}/cgroup.procs && exec \"$@\"",
            self.directory.display()
        );
        ["sh", "-c", &enter, "sh"].map(str::to_owned).into()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The processes that were in it have just been killed.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and control groups: tests/faults/run"]
async fn memory_that_runs_short_is_no_end_of_the_process() {
    const LIMIT: u64 = 256 << 20;
    let Some(group) = Group::make("memory", &[("memory.limit_in_bytes", "268435456")]) else {
        println!("skipped: control groups for memory cannot be made here");
        return;
    };
    let demo = Demo::start(&[]).await;
    let mut cluster = limited(&demo, &group.command(), &[]).await;
    let address = cluster.data_planes[0].process.address("proxy");
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/p")]);
    // 64 MB each, to an upstream that takes 1 MB: refused, and never held.
    let bodies = (0..40).map(|_| {
        let address = address.clone();
        tokio::spawn(async move {
            let Ok(mut stream) = TcpStream::connect(&address).await else {
                return;
            };
            let head = "POST /p HTTP/1.1\r\nHost: app.test\r\nContent-Length: 67108864\r\n\r\n";
            let piece = vec![b'x'; 64 * 1024];
            let sending = async {
                stream.write_all(head.as_bytes()).await?;
                for _ in 0..1_024 {
                    stream.write_all(&piece).await?;
                }
                std::io::Result::Ok(())
            };
            // It may be refused on its way.
            let _ = tokio::time::timeout(Duration::from_secs(20), sending).await;
        })
    });
    futures::future::join_all(bodies).await;
    let node = &mut cluster.data_planes[0];
    assert!(
        node.process.ended().is_none(),
        "the kernel has ended the process"
    );
    let most = node.process.most_memory();
    let figures = load.end().await;
    println!(
        "40 bodies of 64 MB with 256 MiB: {} MiB at most; meanwhile {figures}",
        most >> 20
    );
    assert!(most < LIMIT, "{most}");
    assert!(figures.failed.is_empty(), "{:?}", figures.failed);
    drop(cluster);
    drop(group);
}

/// Expressions whose texts are short and that take half a megabyte each, as the control plane takes them one by one: far more
/// than what a node may always take, and what is left of its memory. On a slow machine the time is up before the memory is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_configuration_that_would_take_all_memory_is_refused_and_what_runs_goes_on() {
    const LIMIT: u64 = 128;
    const MANY: usize = 400;
    let demo = Demo::start(&[]).await;
    let more = [("WARDGATE_MEMORY_LIMIT_MB", LIMIT.to_string())];
    let cluster = limited(&demo, &[], &more).await;
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/p")]);
    let whole = |count: usize| {
        let route = |at: usize| json!({ "name": format!("r{at}"), "tags": ["many"], "paths": [format!("~/{at}/[ab]{{8000}}$")] });
        let routes: Vec<_> = (0..count).map(route).collect();
        json!({ "_format_version": "3.0", "_info": { "select_tags": ["many"] }, "routes": routes })
    };
    let post = async |count: usize| {
        let reply = cluster.admin(Method::POST, "/config", &whole(count)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    let row = async || cluster.read("/clustering/data-planes").await["data"][0].clone();
    post(1).await;
    cluster.settled().await;
    let before = row().await["revision"].clone();
    post(MANY).await;
    let refusal = eventually("the node answers", async || {
        let row = row().await;
        assert_eq!(row["revision"], before, "it has taken what is too large");
        let refusal = row["last_refusal"].clone();
        (!refusal.is_null()).then_some(refusal)
    })
    .await;
    let fault = &refusal["faults"][0];
    let message = fault["message"].as_str().unwrap();
    let named = (&fault["entity_type"], &fault["field"]) == (&json!("routes"), &json!("paths"));
    let bounds = ["more memory than this node has", "compiling it took over"];
    let told = bounds.map(|bound| message.contains(bound));
    assert!(told[1] || (told[0] && named), "{refusal}");
    let most = cluster.data_planes[0].process.most_memory() >> 20;
    println!("{MANY} expressions with {LIMIT} MiB: refused at {most} MiB: {message}");
    assert!(most < LIMIT, "{most}");
    post(2).await;
    cluster.settled().await;
    let figures = load.end().await;
    println!("meanwhile {figures}");
    figures.none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and control groups: tests/faults/run"]
async fn a_tenth_of_a_core_keeps_the_control_plane_in_touch() {
    let values = [
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "10000"),
    ];
    let Some(group) = Group::make("cpu", &values) else {
        println!("skipped: control groups for processors cannot be made here");
        return;
    };
    let demo = Demo::start(&[]).await;
    let cluster = limited(&demo, &group.command(), &[]).await;
    let load = Load::start(100, vec![Target::of(&cluster.url(0), "/p")]);
    // Longer than the silence that it must not exceed.
    let mut silence = 0;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let silent = async {
            let status = cluster.data_planes[0].status().await?;
            status["control_plane"]["silent_seconds"].as_u64()
        };
        silence = silence.max(silent.await.unwrap_or(0));
    }
    cluster.create("/services", json!({ "host": "h" })).await;
    let ((), took) = timed(cluster.settled()).await;
    let figures = load.end().await;
    println!(
        "a tenth of a core, 100 requests a second: {figures}; silence of {silence} s at most, a change after {took:.1?}"
    );
    assert!(silence <= 15, "{silence}");
    let wrong = figures
        .failed
        .iter()
        .filter(|failure| !failure.contains("no answer"));
    assert_eq!(
        wrong.count(),
        0,
        "late is allowed, wrong is not: {:?}",
        figures.failed
    );
    drop(cluster);
    drop(group);
}

/// Waits until the other side closes; after how long.
async fn closed(mut stream: TcpStream, each: Option<&'static [u8]>) -> Duration {
    let started = monotonic();
    let mut buffer = [0; 1_024];
    while started.elapsed() < Duration::from_mins(1) {
        if let Some(bytes) = each
            && stream.write_all(bytes).await.is_err()
        {
            break;
        }
        match tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await {
            Ok(Ok(1..)) | Err(_) => {}
            Ok(Ok(_) | Err(_)) => break,
        }
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn clients_that_do_not_get_on_are_let_go_and_cost_nobody_else() {
    let slow = crate::number("SLOW", 500);
    let demo = Demo::start(&[]).await;
    let more = [("WARDGATE_MAX_CONNECTIONS_PER_ADDRESS", "20000".to_owned())];
    let cluster = limited(&demo, &[], &more).await;
    let node = &cluster.data_planes[0];
    let address = node.process.address("proxy");
    let load = Load::start(100, vec![Target::of(&cluster.url(0), "/p")]);
    let alone = load.within(Duration::from_secs(5)).await;
    println!("without them: {alone}");
    let memory = node.process.memory_now();
    for (what, head, each, longest) in [
        (
            "a head, byte by byte",
            "GET /p HTTP/1.1\r\nHost: app.test\r\nX-Slow: ",
            Some(&b"x"[..]),
            12,
        ),
        ("half of a head", "GET /p HTTP/1.1\r\nHo", None, 12),
        (
            "a body that stops",
            "POST /p HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000\r\n\r\nx",
            None,
            32,
        ),
    ] {
        let _ = load.lap();
        let mut clients = Vec::new();
        for _ in 0..slow {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            clients.push(tokio::spawn(closed(stream, each)));
        }
        let each = node.process.memory_now().saturating_sub(memory) / u64::try_from(slow).unwrap();
        let mut most = Duration::ZERO;
        for client in clients {
            most = most.max(client.await.unwrap());
        }
        let figures = load.lap();
        println!(
            "{slow} clients with {what}: let go after {most:.1?} at most, {} KB each; meanwhile {figures}",
            each / 1_024
        );
        figures.none_failed();
        assert!(most < Duration::from_secs(longest), "{what}: {most:?}");
    }
    load.end().await.none_failed();
}

/// Clients that read nothing of what they have asked for. Each takes megabytes of the kernel's memory.
const READERS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn clients_that_read_nothing_are_let_go_and_cost_nobody_else() {
    let demo = Demo::start(&[]).await;
    let cluster = limited(&demo, &[], &[]).await;
    cluster.route(&long_answers().await, "/long").await;
    cluster.settled().await;
    let node = &cluster.data_planes[0];
    let address = node.process.address("proxy");
    let load = Load::start(100, vec![Target::of(&cluster.url(0), "/p")]);
    println!(
        "without them: {}",
        load.within(Duration::from_secs(5)).await
    );
    let before = (node.process.memory_now(), node.process.descriptors());
    let _ = load.lap();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = b"GET /long HTTP/1.1\r\nHost: app.test\r\n\r\n";
        stream.write_all(request).await.unwrap();
        // It reads that it is answered, and nothing more.
        stream.read_u8().await.unwrap();
        readers.push(stream);
    }
    // Of each, one to the client and one to the server.
    let more = || node.process.descriptors().saturating_sub(before.1);
    assert!(more() >= READERS, "{}", more());
    let each = node.process.memory_now().saturating_sub(before.0) / u64::try_from(READERS).unwrap();
    let started = monotonic();
    eventually("half of them are let go", async || {
        (more() < READERS / 2).then_some(())
    })
    .await;
    let took = started.elapsed();
    let figures = load.lap();
    println!(
        "{READERS} clients that do not read 10 MB: let go after {took:.1?}, {} KB each; meanwhile {figures}",
        each / 1_024
    );
    figures.none_failed();
    drop(readers);
    load.end().await.none_failed();
}

/// A server with answers of 10 MB, for as long as the runtime lasts.
async fn long_answers() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = Bytes::from(vec![b'x'; 10_000_000]);
    let answer = move || {
        let body = body.clone();
        async move { body }
    };
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Redirects of a browser are of no interest here: one route, asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn thousands_of_changes_leave_memory_and_descriptors_as_they_were() {
    let revisions = crate::number("REVISIONS", 1_000);
    let demo = Demo::start(&[]).await;
    let cluster = limited(&demo, &[], &[]).await;
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/p")]);
    let change = async |count: usize| {
        for number in 0..count {
            let name = format!("/services/s-{}", number % 10);
            let body = json!({ "host": "h", "retries": number % 100 });
            let reply = cluster.admin(Method::PUT, &name, &body).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        cluster.settled().await;
    };
    // What is filled once does not count.
    change(revisions / 4).await;
    let before = load.within(Duration::from_secs(5)).await;
    let node = &cluster.data_planes[0].process;
    let control_plane = cluster.control_plane.as_ref().unwrap();
    let measure = || {
        (
            [node.memory_now(), control_plane.memory_now()],
            [node.descriptors(), control_plane.descriptors()],
        )
    };
    let (memory, descriptors) = measure();
    let ((), took) = timed(change(revisions)).await;
    let during = load.lap();
    let (memory_after, descriptors_after) = measure();
    let grown = |at: usize| {
        let (before, after) = (memory[at], memory_after[at]);
        i64::try_from(after).unwrap() * 100 / i64::try_from(before).unwrap() - 100
    };
    println!(
        "{revisions} revisions in {took:.0?}: memory of the node {:+} %, of the control plane {:+} %; descriptors {descriptors:?} then {descriptors_after:?}",
        grown(0),
        grown(1)
    );
    println!("without changes {before}; meanwhile {during}");
    during.none_failed();
    load.end().await.none_failed();
    let reply = Browser::new().get(&format!("{}/p", cluster.url(0))).await;
    assert_eq!(reply.status, 200);
}
