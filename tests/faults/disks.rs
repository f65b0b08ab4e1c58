//! Disks that are full, that fail, that may only be read, or that are gone: what was acknowledged is kept, requests
//! notice nothing, and all is well once the disk is.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Browser, Cluster, eventually};
use http::Method;
use serde_json::{Value, json};
use shared::clock::monotonic;

use crate::injection::inject;
use crate::load::percentile;
use crate::mount::Disk;
use crate::numbered::Numbered;
use crate::replicas::timed;

/// What happens to a disk: its name, how it is done, and how it is made good.
type Way<'a> = (&'static str, &'a dyn Fn(), &'a dyn Fn());

/// Writes a consumer; its status and what was said.
async fn write(cluster: &Cluster, name: &str) -> (u16, String) {
    let body = json!({ "username": name });
    let reply = cluster.admin(Method::POST, "/consumers", &body).await;
    (reply.status, reply.text())
}

async fn has(cluster: &Cluster, name: &str) -> bool {
    cluster.read(&format!("/consumers/{name}")).await["username"] == json!(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_disk_that_fails_a_store_makes_it_read_only_and_loses_nothing() {
    let mut cluster = Cluster::start(0).await;
    let database = cluster.directory().join("data/control-plane/store/db");
    let mut acknowledged = BTreeSet::new();
    for what in [
        "fdatasync:error=EIO:when=3",
        "fdatasync:error=ENOSPC:when=2+",
        "fdatasync:error=EDQUOT:when=4",
        "sync_file_range:error=EIO:when=3",
        "sync_file_range:error=ENOSPC:when=4+",
        "pwrite64:error=ENOSPC:when=4+",
        "pwrite64:error=EIO:when=3",
    ] {
        cluster.control_plane.take().unwrap().stop().await;
        cluster.run_under(&inject(what, &[&database]));
        cluster.start_control_plane().await;
        let mut refused = None;
        for number in 0..40 {
            let name = format!("{what}-{number}").replace([':', '=', '+'], "-");
            let (status, said) = write(&cluster, &name).await;
            if status != 201 {
                refused = Some((name, status, said));
                break;
            }
            acknowledged.insert(name);
        }
        let (unknown, status, said) = refused.unwrap_or_else(|| panic!("{what}: nothing failed"));
        assert_eq!(status, 503, "{what}: {said}");
        assert!(
            said.contains("read-only until the next start"),
            "{what}: {said}"
        );
        println!("{what}: {said}");
        // Nothing is acknowledged any more, whether the disk is well again or not, and what there was is read.
        for number in 0..3 {
            let (status, said) = write(&cluster, &format!("after-{number}")).await;
            assert_eq!(status, 503, "{what}: {said}");
        }
        for name in &acknowledged {
            assert!(has(&cluster, name).await, "{what}: {name} is not read");
        }
        cluster.control_plane.take().unwrap().kill();
        cluster.run_under::<&str>(&[]);
        cluster.start_control_plane().await;
        for name in &acknowledged {
            assert!(has(&cluster, name).await, "{what}: {name} is lost");
        }
        assert!(
            !has(&cluster, "after-0").await,
            "what was refused is nowhere"
        );
        let (status, said) = write(&cluster, &unknown).await;
        assert!([201, 409].contains(&status), "{what}: {said}");
        acknowledged.insert(unknown);
    }
    println!("{} acknowledged writes, none lost", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a while: tests/faults/run"]
async fn a_slow_disk_makes_writes_slow_and_nothing_else() {
    const SYNC: Duration = Duration::from_millis(500);
    let mut cluster = Cluster::start(1).await;
    let database = cluster.directory().join("data/control-plane/store/db");
    cluster.control_plane.take().unwrap().stop().await;
    let what = format!("fdatasync:delay_enter={}", SYNC.as_micros());
    cluster.run_under(&inject(&what, &[&database]));
    cluster.start_control_plane().await;
    cluster.settled().await;
    let names: Vec<String> = (0..12).map(|number| format!("slow-{number}")).collect();
    let writing = async {
        let started = monotonic();
        let writes = names.iter().map(|name| write(&cluster, name));
        for (status, said) in futures::future::join_all(writes).await {
            assert_eq!(status, 201, "{said}");
        }
        started.elapsed()
    };
    let reading = async {
        let mut times = Vec::new();
        loop {
            let (row, took) = timed(cluster.read("/clustering/data-planes")).await;
            assert_eq!(row["data"][0]["connected"], true, "{row}");
            times.push(took);
            // A read now and then, not a load of its own.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if has(&cluster, names.last().unwrap()).await {
                return times;
            }
        }
    };
    let (took, mut times) = tokio::join!(writing, reading);
    times.sort_unstable();
    println!(
        "{SYNC:?} for each sync: {} writes at once took {took:.1?}; {} reads meanwhile, p50 {:.1?}, at most {:.1?}",
        names.len(),
        times.len(),
        percentile(&times, 50),
        percentile(&times, 100)
    );
    assert!(percentile(&times, 50) < SYNC / 2, "reads wait for the disk");
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_full_disk_refuses_writes_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().join("disk");
    let disk = Disk::mount(&mount, 192);
    let data = mount.join("control-plane").display().to_string();
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_DATA_DIRECTORY", &data)]).await;
    assert_eq!(write(&cluster, "before").await.0, 201);
    disk.fill(32 << 20);
    let (status, said) = write(&cluster, "refused").await;
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("MiB must stay free"), "{said}");
    println!("a nearly full disk: {said}");
    assert!(has(&cluster, "before").await, "what there is can be read");
    disk.empty();
    assert_eq!(write(&cluster, "after").await.0, 201, "there is room again");

    // Not a byte is left: the control plane starts all the same, again and again.
    for _ in 0..3 {
        cluster.control_plane.take().unwrap().kill();
        disk.fill(0);
        cluster.start_control_plane().await;
        assert!(has(&cluster, "after").await);
        let (status, said) = write(&cluster, "full").await;
        assert_eq!(status, 503, "{said}");
        disk.empty();
    }
    // Without what it keeps for that it starts, if its files have room, or says what there is to do.
    cluster.control_plane.take().unwrap().kill();
    std::fs::remove_file(mount.join("control-plane/store/reserve")).unwrap();
    disk.fill(0);
    if cluster.try_start_control_plane().await.is_ok() {
        for name in ["before", "after"] {
            assert!(has(&cluster, name).await, "{name} is not read");
        }
        let (status, said) = write(&cluster, "without-a-reserve").await;
        assert_eq!(status, 503, "{said}");
        cluster.control_plane.take().unwrap().kill();
    } else {
        let log = cluster.directory().join("control-plane.log");
        let log = std::fs::read_to_string(log).unwrap();
        let last = log.lines().last().unwrap();
        assert!(
            last.contains("no space left on the disk; make room"),
            "{last}"
        );
    }
    disk.empty();
    cluster.start_control_plane().await;
    for name in ["before", "after"] {
        assert!(has(&cluster, name).await, "{name} is lost");
    }
    assert_eq!(write(&cluster, "last").await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_logout_reaches_other_nodes_though_the_disk_is_full() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().join("disk");
    let disk = Disk::mount(&mount, 192);
    let data = mount.join("control-plane").display().to_string();
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_DATA_DIRECTORY", &data)]).await;
    let mut names = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        cluster.certify(name);
        let own = place.path().join(name).display().to_string();
        names.push((name, [("WARDGATE_DATA_DIRECTORY", own)]));
    }
    for (name, own) in &names[..2] {
        cluster.start_data_plane_with(name, own).await;
    }
    let whole = crate::slow_links::config(Vec::new());
    let reply = cluster.admin(Method::POST, "/config", &whole).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    cluster.settled().await;
    let ask = async |cluster: &Cluster, at: usize, path: &str, header: (&str, &str)| {
        let url = format!("{}{path}", cluster.url(at));
        let method = if path.contains('?') {
            Method::POST
        } else {
            Method::GET
        };
        Browser::new().send(method, &url, &[header], "").await
    };
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let reply = ask(&cluster, 0, "/p", ("apikey", "kong")).await;
        let line = reply.header("set-cookie");
        sessions.push(line.split(';').next().unwrap().to_owned());
    }
    cluster.persisted().await;
    let before = cluster.read("/status").await["configuration_revision"]
        .as_u64()
        .unwrap();
    disk.fill(0);
    assert_eq!(write(&cluster, "refused").await.0, 503);
    let logout = ("cookie", &*sessions[0]);
    ask(&cluster, 0, "/p?session_logout=true", logout).await;
    let is_over = async |cluster: &Cluster, at: usize| {
        let over = eventually("the session is over", async || {
            let reply = ask(cluster, at, "/p", ("cookie", &sessions[0])).await;
            (reply.status == 403).then_some(())
        });
        let ((), took) = timed(over).await;
        println!("with a full disk a logout holds on node {at} after {took:.1?}");
        let other = ask(cluster, at, "/p", ("cookie", &sessions[1])).await;
        assert_eq!(other.status, 200, "others go on");
    };
    is_over(&cluster, 1).await;
    // Also on one that comes later.
    let (name, own) = &names[2];
    cluster.start_data_plane_with(name, own).await;
    is_over(&cluster, 2).await;
    disk.empty();
    eventually("the logout is stored", async || {
        let now = cluster.read("/status").await["configuration_revision"].as_u64()?;
        (now > before).then_some(())
    })
    .await;
    cluster.settled().await;
    is_over(&cluster, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_store_that_has_no_room_to_begin_is_told_of_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().join("disk");
    let disk = Disk::mount(&mount, 512);
    let data = mount.join("control-plane");
    let directory = data.display().to_string();
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_DATA_DIRECTORY", &directory)]).await;
    assert_eq!(write(&cluster, "before").await.0, 201);
    cluster.control_plane.take().unwrap().stop().await;
    // Each start exports what it finds.
    cluster.start_control_plane().await;
    let exports = data.join("exports");
    let export = eventually("the store is exported", async || {
        let found = std::fs::read_dir(&exports).ok()?.flatten();
        let paths = found.map(|entry| entry.path());
        let files = paths.filter(|path| path.extension().is_some_and(|last| last == "export"));
        files.max()
    })
    .await;
    cluster.control_plane.take().unwrap().stop().await;
    let kept = place.path().join("kept.export");
    std::fs::copy(export, &kept).unwrap();
    let program = harness::path("wardgate-control-plane");
    let restore = || {
        let mut command = std::process::Command::new(&program);
        let from = kept.display().to_string();
        command.args(["restore", "--from", &from, "--data-directory", &directory]);
        command.output().unwrap()
    };
    for left in [0, 8 << 20, 32 << 20] {
        disk.fill(left);
        let ran = restore();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success(), "{left}: {said}");
        assert!(said.contains("make room"), "{left}: {said}");
        assert!(!said.contains("request"), "{left}: {said}");
        assert!(!data.join("store.restoring").exists(), "{left}: {said}");
        println!("a restore with {left} bytes: {said}");
        disk.empty();
    }
    assert!(restore().status.success());
    cluster.start_control_plane().await;
    assert!(has(&cluster, "before").await, "it is restored");
    cluster.control_plane.take().unwrap().stop().await;

    // A new one: what is said before a start is what the start says.
    let file = |name: &str| cluster.directory().join("certificates").join(name);
    let environment = [
        ("WARDGATE_CLUSTER_CERTIFICATE", file("control-plane.pem")),
        ("WARDGATE_CLUSTER_KEY", file("control-plane.key")),
        ("WARDGATE_CLUSTER_CA", file("ca.pem")),
        ("WARDGATE_DATA_DIRECTORY", data.clone()),
    ];
    let check = || {
        let mut check = std::process::Command::new(&program);
        let check = check.arg("--check").env_clear().envs(environment.clone());
        let check = check.output().unwrap();
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        (check.status.success(), said)
    };
    for left in [0, 8 << 20, 40 << 20, 128 << 20] {
        std::fs::remove_dir_all(&data).unwrap();
        disk.fill(left);
        let (passes, said) = check();
        let starts = cluster.try_start_control_plane().await.is_ok();
        assert_eq!(passes, starts, "{left}: {said}");
        assert!(starts || said.contains("make room"), "{left}: {said}");
        if !starts {
            // It has begun nothing, and the next check says the same.
            assert!(!data.join("store").exists(), "{left}");
            assert_eq!(check(), (false, said.clone()), "{left}");
        }
        println!("a new store with {left} bytes: {starts} {said}");
        if let Some(process) = cluster.control_plane.take() {
            process.stop().await;
        }
        disk.empty();
        std::fs::create_dir_all(&data).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_node_whose_disk_fails_serves_the_newest_and_keeps_it_once_it_can() {
    let mut cluster = Cluster::start(0).await;
    let mount = cluster.directory().join("disk");
    let disk = Disk::mount(&mount, 4);
    let data = mount.join("node-1");
    let more = [("WARDGATE_DATA_DIRECTORY", data.display().to_string())];
    cluster.certify("node-1");
    let numbered = Numbered::create(&cluster).await;
    cluster.start_data_plane_with("node-1", &more).await;
    cluster.settled().await;
    cluster.persisted().await;
    let metric = |cluster: &Cluster| {
        let url = format!(
            "http://{}/metrics",
            cluster.data_planes[0].process.address("status")
        );
        async move {
            let text = Browser::new().get(&url).await.text();
            text.contains("wardgate_config_persisted 1")
        }
    };
    assert!(metric(&cluster).await);
    let ways: [Way<'_>; 3] = [
        ("full", &|| disk.fill(0), &|| disk.empty()),
        ("read-only", &|| disk.read_only(true), &|| {
            disk.read_only(false);
        }),
        // It heals by itself.
        ("gone", &|| std::fs::remove_dir_all(&data).unwrap(), &|| {}),
    ];
    for (number, (way, harm, heal)) in ways.iter().enumerate() {
        let number = number + 1;
        harm();
        numbered.set(&cluster, number).await;
        cluster.settled().await;
        for _ in 0..20 {
            let reply = Browser::new().get(&format!("{}/p", cluster.url(0))).await;
            let message = reply.json()["message"].clone();
            assert_eq!(
                (reply.status, message),
                (200, Value::from(number.to_string())),
                "{way}"
            );
        }
        if *way != "gone" {
            let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
            assert_eq!(row["persisted"], json!(false), "{way}: {row}");
            assert!(!metric(&cluster).await, "{way}");
        }
        heal();
        cluster.persisted().await;
        eventually("the metric says so", async || {
            metric(&cluster).await.then_some(())
        })
        .await;
        // And it is: the node starts with it, alone.
        cluster.data_planes.remove(0).process.stop().await;
        let alone = ("WARDGATE_CONTROL_PLANES", "https://127.0.0.1:1".to_owned());
        let both = [more[0].clone(), alone];
        cluster.start_data_plane_with("node-1", &both).await;
        let reply = Browser::new().get(&format!("{}/p", cluster.url(0))).await;
        assert_eq!(reply.json()["message"], json!(number.to_string()), "{way}");
        cluster.data_planes.remove(0).process.stop().await;
        cluster.start_data_plane_with("node-1", &more).await;
        cluster.settled().await;
        cluster.persisted().await;
        println!("{way}: served, told, and kept once it could be");
    }
}
