//! What a node took while its successor began holds on after that, whatever becomes of the control plane meanwhile.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Browser, Cluster, Demo, Relay, eventually};
use http::Method;
use serde_json::json;
use shared::passing::pass;
use uuid::Uuid;

use crate::guide::{GATEWAY, Guide, gateway};

const DATA_PLANE: &str = "wardgate-data-plane";

/// A file of a node's settings that has each process of it wait until somebody reads: after it has read its configuration,
/// and before it serves.
struct Gate(PathBuf);

impl Gate {
    fn new(directory: &Path) -> Self {
        let path = directory.join("access.fifo");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|status| status.success()));
        Self(path)
    }

    /// Lets processes pass for as long as there is one of these.
    fn open(&self) -> File {
        both_ends(&self.0)
    }
}

/// Opens a pipe that has a name, without waiting for anybody.
fn both_ends(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).open(path).unwrap()
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status();
    assert!(sent.is_ok_and(|status| status.success()));
}

/// How many processes of the node have read what was on the disk.
fn begun(cluster: &Cluster, at: usize) -> usize {
    let log = cluster.data_planes[at].process.log();
    log.matches("starting with the last good configuration")
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_took_while_its_successor_began_is_not_forgotten() {
    let options = "--data config.logout_uri_suffix=/logout";
    let mut guide = Guide::start(1, options).await;
    let gate = Gate::new(guide.cluster.directory());
    let first = gate.open();
    guide.cluster.certify("node-2");
    let log = [("WARDGATE_ACCESS_LOG", gate.0.display().to_string())];
    guide.cluster.start_data_plane_with("node-2", &log).await;
    guide.cluster.settled().await;
    guide.cluster.persisted().await;
    let (alice, bob) = (guide.browser(1), guide.browser(1));
    for (browser, user) in [(&alice, "alice"), (&bob, "bob")] {
        let reply = browser.sign_in(&gateway("/"), user).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let copy = alice.cookie(GATEWAY, "session").unwrap();
    let thief = guide.browser(1);
    drop(first);

    let before = begun(&guide.cluster, 1);
    let process = &mut guide.cluster.data_planes[1].process;
    let old = process.start_successor("USR2").await;
    eventually("the successor has read what was on the disk", async || {
        (begun(&guide.cluster, 1) > before).then_some(())
    })
    .await;
    // All of this the process before it has taken, and has said so.
    let reply = alice.post_form(&gateway("/logout"), &[]).await;
    assert!([200, 302].contains(&reply.status), "{}", reply.text());
    let service = json!({ "url": guide.demo.upstream() });
    let service = guide.cluster.create("/services", service).await;
    let route = json!({ "paths": ["/later"], "service": { "id": service["id"] } });
    guide.cluster.create("/routes?wait=60", route).await;
    guide.cluster.settled().await;
    let address = guide.cluster.data_planes[1].process.address("status");
    let ready = format!("http://{address}/status/ready");
    let browser = Browser::new();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let drains = browser.send(Method::POST, &ready, &form, "status=draining".to_owned());
    assert_eq!(drains.await.status, 204);
    guide.cluster.control_plane.take().unwrap().kill();

    // The old process has yet to tell while others want something of the new one.
    signal("STOP", old);
    let _open = gate.open();
    eventually("the new process is about to ask", async || {
        let log = guide.cluster.data_planes[1].process.log();
        log.contains("asking the previous process").then_some(())
    })
    .await;
    for _ in 0..20 {
        guide.cluster.data_planes[1].process.signal("USR1");
    }
    signal("CONT", old);
    let old = &mut guide.cluster.data_planes[1].process;
    let ended = eventually("the old process has ended", async || old.ended()).await;
    assert!(ended.success(), "{ended}");
    let url = |path: &str| format!("{}{path}", guide.cluster.url(1));
    assert_eq!(Browser::new().get(&url("/later")).await.status, 200);
    thief.set_cookie(GATEWAY, "session", &copy);
    assert_eq!(thief.get(&gateway("/")).await.status, 302);
    assert_eq!(bob.get(&gateway("/")).await.status, 200);
    assert_eq!(Browser::new().get(&ready).await.status, 503);
}

/// The programs of a cluster, where a data plane's successor can be another.
struct Programs(tempfile::TempDir);

impl Programs {
    fn new() -> Self {
        let programs = Self(tempfile::tempdir().unwrap());
        let name = "wardgate-control-plane";
        std::os::unix::fs::symlink(harness::path(name), programs.0.path().join(name)).unwrap();
        std::os::unix::fs::symlink(harness::path(DATA_PLANE), programs.data_plane()).unwrap();
        programs
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn data_plane(&self) -> PathBuf {
        self.0.path().join(DATA_PLANE)
    }

    /// Has the next data plane be this script.
    fn replace(&self, script: &str) {
        let program = self.data_plane();
        std::fs::remove_file(&program).unwrap();
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }

    /// The number that a process in the place of a data plane has noted.
    async fn noted(&self, suffix: &str) -> u32 {
        let path = self.data_plane().with_extension(suffix);
        eventually("the process has noted its number", async || {
            let noted = std::fs::read_to_string(&path).ok()?;
            noted.strip_suffix('\n')?.parse().ok()
        })
        .await
    }

    /// Has the next data plane be one again.
    fn restore(&self) {
        std::fs::remove_file(self.data_plane()).unwrap();
        std::os::unix::fs::symlink(harness::path(DATA_PLANE), self.data_plane()).unwrap();
    }
}

/// A program that takes the place of a data plane, asks for what runs, and ends once it is `let_go`, without having served.
const FAILS: &str = r#"#!/bin/bash
words=$((LISTEN_FDS_FIRST_FD + LISTEN_FDS - 1))
printf asks >&"$words"
head -c 1 <&"$words" > /dev/null
echo $$ > "$0.given"
read -r < "$0.let_go"
exit 3
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_successor_fails_in_the_end_goes_on_as_before() {
    let programs = Programs::new();
    let place = |name: &str| programs.0.path().join(name);
    let cluster = Cluster::start_of(Some(programs.path()), 2, &[]).await;
    let options = "--data config.logout_uri_suffix=/logout";
    let mut guide = Guide::set_up(cluster, options).await;
    let (alice, bob) = (guide.browser(0), guide.browser(1));
    let sign_in = async |browser: &Browser, user| {
        assert_eq!(browser.sign_in(&gateway("/"), user).await.status, 200);
        browser.cookie(GATEWAY, "session").unwrap()
    };
    let copies = [sign_in(&alice, "alice").await, sign_in(&bob, "bob").await];
    programs.replace(FAILS);
    let let_go = place("wardgate-data-plane.let_go");
    let made = Command::new("mkfifo").arg(&let_go).status();
    assert!(made.is_ok_and(|status| status.success()));

    guide.cluster.data_planes[0]
        .process
        .start_successor("USR2")
        .await;
    programs.noted("given").await;
    // Meanwhile it serves, and what its clients ask is answered.
    let revision = async || guide.cluster.read("/status").await["configuration_revision"].clone();
    let before = revision().await;
    let reply = alice.post_form(&gateway("/logout"), &[]).await;
    assert!([200, 302].contains(&reply.status), "{}", reply.text());
    eventually("the logout is stored", async || {
        (revision().await != before).then_some(())
    })
    .await;
    // So does a logout at another node.
    let reply = bob.post_form(&gateway("/logout"), &[]).await;
    assert!([200, 302].contains(&reply.status), "{}", reply.text());
    let thief = guide.browser(0);
    for copy in &copies {
        eventually("the session is over", async || {
            thief.set_cookie(GATEWAY, "session", copy);
            (thief.get(&gateway("/")).await.status == 302).then_some(())
        })
        .await;
    }
    let service = json!({ "url": guide.demo.upstream() });
    let service = guide.cluster.create("/services", service).await;
    let route = json!({ "paths": ["/later"], "service": { "id": service["id"] } });
    guide.cluster.create("/routes", route).await;
    let mut way = both_ends(&let_go);
    way.write_all(b"\n").unwrap();

    guide.cluster.settled().await;
    let node = &guide.cluster.data_planes[0].process;
    assert!(node.log().contains("no successor: this process goes on"));
    let later = format!("{}/later", guide.cluster.url(0));
    assert_eq!(Browser::new().get(&later).await.status, 200);
    for copy in &copies {
        thief.set_cookie(GATEWAY, "session", copy);
        assert_eq!(thief.get(&gateway("/")).await.status, 302);
    }
    // It is written to the disk again, and the next successor takes over.
    guide.cluster.persisted().await;
    programs.restore();
    guide.cluster.control_plane.take().unwrap().kill();
    let process = &mut guide.cluster.data_planes[0].process;
    process.goes_on();
    process.succeed("USR2").await;
    assert_eq!(Browser::new().get(&later).await.status, 200);
}

/// A program that serves at once, as it says, like one of the version that was not told what runs.
const OF_BEFORE: &str = r#"#!/bin/bash
words=$((LISTEN_FDS_FIRST_FD + LISTEN_FDS - 1))
printf ready >&"$words"
echo $$ > "$0.serves"
exec sleep 600
"#;

/// A cluster of one node, of these programs, where `/p` is answered 200; the URL of that.
async fn answering(programs: &Programs) -> (Cluster, String) {
    let cluster = Cluster::start_of(Some(programs.path()), 1, &[]).await;
    let ends = json!({ "name": "request-termination", "config": { "status_code": 200 } });
    cluster.create("/plugins", ends).await;
    cluster.create("/routes", json!({ "paths": ["/p"] })).await;
    cluster.settled().await;
    cluster.persisted().await;
    let url = format!("{}/p", cluster.url(0));
    (cluster, url)
}

async fn status(url: &str) -> u16 {
    Browser::new().get(url).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_disk_takes_nothing_only_who_is_told_what_runs_takes_over() {
    let programs = Programs::new();
    let (mut cluster, url) = answering(&programs).await;
    let unfinished = cluster.directory().join("data/node-1/last-good.new");
    std::fs::create_dir(&unfinished).unwrap();
    cluster
        .create("/routes?wait=60", json!({ "paths": ["/later"] }))
        .await;
    cluster.control_plane.take().unwrap().kill();
    let node = &mut cluster.data_planes[0];
    eventually("the node hears nobody", async || {
        let heard = &node.status().await?["control_plane"]["connected"];
        (heard == false).then_some(())
    })
    .await;
    let later = url.replace("/p", "/later");
    programs.replace(OF_BEFORE);
    node.process.start_successor("USR2").await;
    eventually("the node goes on", async || {
        let log = node.process.log();
        log.contains("it is of a version that is not told what runs")
            .then_some(())
    })
    .await;
    assert_eq!(status(&later).await, 200);
    programs.restore();
    node.process.goes_on();
    node.process.succeed("USR2").await;
    assert_eq!(status(&later).await, 200);
    // It is written as soon as that is possible, though nothing changes.
    let kept = unfinished.with_file_name("last-good");
    let number = || std::fs::metadata(&kept).ok().map(|file| file.ino());
    let before = number();
    std::fs::remove_dir(&unfinished).unwrap();
    eventually("what runs is on the disk", async || {
        (number() != before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_the_version_before_takes_over_and_is_succeeded() {
    let programs = Programs::new();
    let (mut cluster, url) = answering(&programs).await;
    let node = &mut cluster.data_planes[0].process;
    // As its successor finds them.
    let read = std::fs::read(format!("/proc/{}/environ", node.id())).unwrap();
    let variables = read.split(|byte| *byte == 0).filter_map(|variable| {
        let variable = std::str::from_utf8(variable).ok()?;
        variable.split_once('=')
    });
    let mut command = Command::new(harness::path(DATA_PLANE));
    command.env_clear().envs(variables);
    programs.replace(OF_BEFORE);
    node.start_successor("USR2").await;
    let ended = eventually("the old process has ended", async || node.ended()).await;
    assert!(ended.success(), "{ended}");
    // It is nobody's to end any more.
    signal("KILL", programs.noted("serves").await);

    // It gives its sockets and nothing else.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (words, its_words) = UnixDatagram::pair().unwrap();
    let sockets = vec![
        ("proxy".to_owned(), OwnedFd::from(listener)),
        ("succession".to_owned(), OwnedFd::from(its_words)),
    ];
    let passed = pass(&mut command, sockets).unwrap();
    let mut successor = command.spawn().unwrap();
    drop(passed);
    let said = tokio::task::spawn_blocking(move || {
        let mut said = [0; 16];
        let count = words.recv(&mut said).unwrap();
        said[..count].to_vec()
    });
    let said = tokio::time::timeout(Duration::from_mins(1), said).await;
    assert_eq!(said.unwrap().unwrap(), b"ready");
    let path = url.rsplit('/').next().unwrap();
    assert_eq!(status(&format!("http://{address}/{path}")).await, 200);
    successor.kill().unwrap();
    successor.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_have_used_of_a_limit_they_have_used_at_the_next_process() {
    let programs = Programs::new();
    let (mut cluster, url) = answering(&programs).await;
    let limits = json!({ "name": "rate-limiting", "config": { "year": 3, "policy": "local" } });
    cluster.create("/plugins", limits).await;
    cluster.settled().await;
    assert_eq!([status(&url).await, status(&url).await], [200; 2]);
    cluster.data_planes[0].process.succeed("USR2").await;
    assert_eq!([status(&url).await, status(&url).await], [200, 429]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_checks_have_taken_out_is_not_asked_by_the_next_process() {
    let mut cluster = Cluster::start(1).await;
    let demo = Demo::start(&[]).await;
    let passive = json!({ "unhealthy": { "tcp_failures": 1 } });
    let upstream = json!({ "name": "servers", "healthchecks": { "passive": passive } });
    cluster.create("/upstreams", upstream).await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let refuses = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let answers = demo.upstream();
    let answers = answers.trim_start_matches("http://").trim_end_matches('/');
    for target in [&refuses, answers] {
        let target = json!({ "target": target });
        cluster.create("/upstreams/servers/targets", target).await;
    }
    let service = json!({ "name": "servers", "url": "http://servers", "retries": 0 });
    let service = cluster.create("/services", service).await;
    let route = json!({ "paths": ["/"], "service": { "id": service["id"] } });
    cluster.create("/routes", route).await;
    cluster.settled().await;
    cluster.persisted().await;
    let url = format!("{}/", cluster.url(0));
    let mut statuses = Vec::new();
    while statuses.last() != Some(&502) {
        assert!(statuses.len() < 10, "{statuses:?}");
        statuses.push(status(&url).await);
    }
    for _ in 0..2 {
        cluster.data_planes[0].process.succeed("USR2").await;
        for _ in 0..4 {
            assert_eq!(status(&url).await, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_told_to_stop_while_it_gives_what_runs_stops() {
    let programs = Programs::new();
    let (mut cluster, url) = answering(&programs).await;
    programs.replace(FAILS);
    let let_go = programs.data_plane().with_extension("let_go");
    let made = Command::new("mkfifo").arg(let_go).status();
    assert!(made.is_ok_and(|status| status.success()));
    let node = &mut cluster.data_planes[0].process;
    node.start_successor("USR2").await;
    let successor = programs.noted("given").await;
    assert_eq!(status(&url).await, 200);
    node.goes_on();
    node.signal("TERM");
    let ended = eventually("the process has ended", async || node.ended()).await;
    assert!(ended.success(), "{ended}");
    // Another process may have got its number meanwhile.
    let runs = std::fs::read(format!("/proc/{successor}/cmdline")).unwrap_or_default();
    let runs = String::from_utf8_lossy(&runs);
    assert!(!runs.contains(DATA_PLANE), "its successor has ended, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_keys_that_came_beside_an_update_hold_for_the_next_process() {
    let cluster = Cluster::start(0).await;
    let mut guide = Guide::set_up(cluster, "").await;
    let relay = Relay::start(guide.cluster.cluster_address()).await;
    guide.cluster.certify("node-1");
    guide.cluster.lead_through(&relay.address());
    guide.cluster.start_data_plane("node-1").await;
    guide.cluster.settled().await;
    guide.cluster.persisted().await;
    let alice = guide.browser(0);
    let reply = alice.sign_in(&gateway("/"), "alice").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let copy = alice.cookie(GATEWAY, "session").unwrap();
    let thief = guide.browser(0);
    let answers = async || {
        thief.set_cookie(GATEWAY, "session", &copy);
        thief.get(&gateway("/")).await.status
    };
    assert_eq!(answers().await, 200);

    // What cannot be packed, over a link that takes minutes for it.
    relay.narrow(20_000);
    for number in 0..30 {
        let tags: Vec<_> = (0..1_000).map(|_| Uuid::new_v4().to_string()).collect();
        let consumer = json!({ "username": number.to_string(), "tags": tags });
        guide.cluster.create("/consumers", consumer).await;
    }
    let revoke = "/clustering/session-keys/revoke";
    let reply = guide
        .cluster
        .admin(Method::POST, revoke, &json!(null))
        .await;
    assert!(reply.status < 300, "{}", reply.text());
    eventually("the key is revoked on the node", async || {
        (answers().await == 302).then_some(())
    })
    .await;
    let row = guide.cluster.read("/clustering/data-planes").await["data"][0].clone();
    assert_eq!(row["progress"], "behind", "the update has not come: {row}");
    guide.cluster.control_plane.take().unwrap().kill();
    guide.cluster.data_planes[0].process.succeed("USR2").await;
    assert_eq!(answers().await, 302);
}
