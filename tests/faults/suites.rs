//! What others have written to judge servers by their standards, against a node: h2spec for HTTP/2 (RFC 7540, RFC 7541),
//! Autobahn's test suite for RFC 6455, by which the server of a WebSocket has to do behind a route as well as it does alone, and
//! the cases by which implementations of gRPC are tried against each other.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use harness::{Cluster, Demo, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

/// What a listener for HTTP/1.1 and HTTP/2 does not pass of h2spec: who does not begin as a client of HTTP/2 is taken for one of
/// HTTP/1.1, is answered 400 so and hung up on, where the suite hears of no answer.
const ANSWERED: (&str, &str) = ("http2/3.5", "Sends invalid connection preface");

/// How many cases h2spec has.
const ALL: usize = 146;

/// Cases of Autobahn's suite, beside those that measure speed: frames, pings, reserved bits, opcodes, fragments, texts, closes.
const CASES: [&str; 8] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];

/// Whether `program` can be run; if not, says so.
#[expect(clippy::print_stderr, reason = "what is left out is to be seen")]
async fn is_installed(program: &str) -> bool {
    let told = Command::new(program).arg("--version").output().await;
    let installed = told.is_ok_and(|told| told.status.success());
    if !installed {
        eprintln!("left out: {program} is not installed");
    }
    installed
}

/// Cases that have not passed, each by its section and what it does, with what went wrong.
type Failed = BTreeMap<(String, String), String>;

/// What h2spec says of the server at `address`: how many cases have passed, and those that have not.
async fn h2spec(directory: &Path, address: &str, more: &[&str]) -> (usize, Failed) {
    let report = directory.join("h2spec.xml");
    let (host, port) = address.rsplit_once(':').unwrap();
    let told = Command::new("h2spec")
        .args(["--strict", "--timeout", "5", "--host", host, "--port", port])
        .arg("--junit-report")
        .arg(&report)
        .args(more)
        .output()
        .await
        .unwrap();
    let report = std::fs::read_to_string(&report)
        .unwrap_or_else(|_| panic!("h2spec has not come to its end: {told:?}"));
    let (mut passed, mut failed) = (0, Failed::new());
    for case in report.split("<testcase ").skip(1) {
        let case = case.split("</testcase>").next().unwrap_or_default();
        let of = |name: &str| {
            let (_, rest) = case.split_once(&format!("{name}=\""))?;
            rest.split('"').next().map(str::to_owned)
        };
        let name = (of("package").unwrap(), of("classname").unwrap());
        if case.contains("<failure") || case.contains("<error") {
            failed.insert(name, case.to_owned());
        } else if !case.contains("<skipped") {
            passed += 1;
        }
    }
    (passed, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes h2spec: tests/faults/run"]
async fn a_node_passes_h2spec_but_for_what_is_known() {
    if !is_installed("h2spec").await {
        return;
    }
    let demo = Demo::start(&[]).await;
    let cluster = Cluster::start(1).await;
    cluster.route(&demo.upstream(), "/").await;
    cluster.settled().await;
    let node = &cluster.data_planes[0].process;
    for (listener, more, known) in [
        ("proxy", &[][..], &[ANSWERED][..]),
        ("proxy_tls", &["--tls", "--insecure"], &[]),
    ] {
        let address = node.address(listener);
        let (passed, failed) = h2spec(cluster.directory(), &address, more).await;
        let count = failed.len();
        println!("h2spec, {listener}: {passed} passed, {count} failed");
        let names = failed.keys();
        let names: Vec<_> = names
            .map(|(of, case)| (of.as_str(), case.as_str()))
            .collect();
        assert_eq!(names, known, "{listener}: {failed:#?}");
        assert_eq!(passed + count, ALL, "all of them were run");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes Autobahn's test suite: tests/faults/run"]
async fn a_web_socket_is_behind_a_route_what_it_is_alone() {
    if !is_installed("wstest").await {
        return;
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = free.local_addr().unwrap().to_string();
    drop(free);
    let url = format!("ws://{server}");
    let _echo = Command::new("wstest")
        .args(["--mode", "echoserver", "--wsuri", &url, "--webport", "0"])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the server of WebSockets listens", async || {
        TcpStream::connect(&server).await.ok()
    })
    .await;
    let cluster = Cluster::start(1).await;
    cluster.route(&format!("http://{server}"), "/").await;
    cluster.settled().await;
    let gateway = format!("ws://{}", cluster.data_planes[0].process.address("proxy"));
    let reports = cluster.directory().join("autobahn");
    let spec = json!({
        "outdir": reports,
        "servers": [{ "agent": "alone", "url": url }, { "agent": "behind", "url": gateway }],
        "cases": CASES,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let file = cluster.directory().join("autobahn.json");
    std::fs::write(&file, spec.to_string()).unwrap();
    let ran = Command::new("wstest")
        .args(["--mode", "fuzzingclient", "--spec"])
        .arg(&file)
        .output()
        .await
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let index = std::fs::read(reports.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let outcomes = |agent: &str| {
        let cases = index[agent].as_object().unwrap().iter();
        let outcome = |case: &Value| {
            ["behavior", "behaviorClose"].map(|name| case[name].as_str().unwrap().to_owned())
        };
        let outcomes = cases.map(|(number, case)| (number.clone(), outcome(case)));
        outcomes.collect::<BTreeMap<_, _>>()
    };
    let (alone, behind) = (outcomes("alone"), outcomes("behind"));
    let well = |[behaviour, _]: &[String; 2]| behaviour == "OK";
    println!(
        "Autobahn's suite: {} cases, {} OK behind a route, {} alone",
        behind.len(),
        behind.values().filter(|outcome| well(outcome)).count(),
        alone.values().filter(|outcome| well(outcome)).count()
    );
    assert!(behind.len() > 200, "all of them were run");
    for (case, outcome) in &behind {
        assert_eq!(outcome, &alone[case], "case {case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes Go: tests/faults/run"]
async fn grpc_is_behind_a_route_what_it_is_alone() {
    if !is_installed("interop").await {
        return;
    }
    let mut server = Command::new("interop")
        .arg("serve")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let server = lines.next_line().await.unwrap().unwrap();
    let cluster = Cluster::start(1).await;
    let url = format!("grpc://{server}");
    let service = cluster.create("/services", json!({ "url": url })).await;
    let route =
        json!({ "protocols": ["grpc"], "paths": ["/"], "service": { "id": service["id"] } });
    cluster.create("/routes", route).await;
    cluster.settled().await;
    for address in [server, cluster.data_planes[0].process.address("proxy")] {
        let ran = Command::new("interop")
            .args(["call", &address])
            .output()
            .await
            .unwrap();
        let passed = String::from_utf8_lossy(&ran.stdout).lines().count();
        println!("gRPC at {address}: {passed} cases passed");
        assert!(ran.status.success() && passed == 14, "{ran:?}");
    }
}
