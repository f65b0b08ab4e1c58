//! What a node took while its successor began holds on after that, whatever becomes of the control plane meanwhile.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Browser, Cluster, eventually};
use http::Method;
use serde_json::json;

use crate::guide::{GATEWAY, Guide, gateway};

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
    let written = guide.cluster.directory().join("node-2.json");
    let number = || std::fs::metadata(&written).unwrap().ino();
    let first = number();
    signal("STOP", old);
    let _open = gate.open();
    eventually("the new process is about to ask", async || {
        (number() != first).then_some(())
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

/// A program that takes the place of a data plane, asks for what runs, and ends once it is `let_go`, without having served.
const FAILS: &str = r#"#!/bin/bash
words=$((LISTEN_FDS_FIRST_FD + LISTEN_FDS - 1))
printf asks >&"$words"
head -c 1 <&"$words" > /dev/null
: > "$0.given"
read -r < "$0.let_go"
exit 3
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_successor_fails_in_the_end_goes_on_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    for name in ["wardgate-control-plane", "wardgate-data-plane"] {
        std::os::unix::fs::symlink(harness::path(name), place(name)).unwrap();
    }
    let programs = directory.path().to_str().unwrap();
    let cluster = Cluster::start_of(Some(programs), 2, &[]).await;
    let options = "--data config.logout_uri_suffix=/logout";
    let mut guide = Guide::set_up(cluster, options).await;
    let (alice, bob) = (guide.browser(0), guide.browser(1));
    let sign_in = async |browser: &Browser, user| {
        assert_eq!(browser.sign_in(&gateway("/"), user).await.status, 200);
        browser.cookie(GATEWAY, "session").unwrap()
    };
    let copies = [sign_in(&alice, "alice").await, sign_in(&bob, "bob").await];
    let program = place("wardgate-data-plane");
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, FAILS).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let let_go = place("wardgate-data-plane.let_go");
    let made = Command::new("mkfifo").arg(&let_go).status();
    assert!(made.is_ok_and(|status| status.success()));

    guide.cluster.data_planes[0]
        .process
        .start_successor("USR2")
        .await;
    let given = place("wardgate-data-plane.given");
    eventually("the successor is given what runs", async || {
        given.exists().then_some(())
    })
    .await;
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
    std::fs::remove_file(&program).unwrap();
    std::os::unix::fs::symlink(harness::path("wardgate-data-plane"), &program).unwrap();
    guide.cluster.control_plane.take().unwrap().kill();
    let process = &mut guide.cluster.data_planes[0].process;
    process.goes_on();
    process.succeed("USR2").await;
    assert_eq!(Browser::new().get(&later).await.status, 200);
}
