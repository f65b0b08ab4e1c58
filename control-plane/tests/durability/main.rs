//! The program itself: an acknowledged write survives `kill -9`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod full_disk;
mod process;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use process::{PATIENCE, Process, certificates, eventually};

#[test]
fn an_acknowledged_write_survives_kill_9() {
    let root = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..8 {
        let mut process = Process::start(root.path());
        let missing: Vec<&String> = acknowledged
            .iter()
            .filter(|name| {
                process
                    .send("GET", &format!("/services/{name}"), "")
                    .unwrap()
                    .0
                    != 200
            })
            .collect();
        assert!(missing.is_empty(), "lost after kill -9: {missing:?}");
        // A writer runs until the process is killed under it, some time after so many writes.
        let (written, writes) = channel();
        let killer = std::thread::spawn({
            let id = process.child.id();
            move || {
                for _ in 0..3 + round {
                    writes.recv_timeout(PATIENCE).unwrap();
                }
                std::thread::sleep(Duration::from_millis(7 * round));
                Command::new("kill")
                    .args(["-9", &id.to_string()])
                    .status()
                    .unwrap();
            }
        });
        for at in 0.. {
            let name = format!("s-{round}-{at}");
            let body = format!(r#"{{"name":"{name}","host":"upstream.test"}}"#);
            match process.send("POST", "/services", &body) {
                Some((201, _)) => {
                    acknowledged.push(name);
                    // Once it was killed nobody listens.
                    let _ = written.send(());
                }
                Some((status, reply)) => panic!("{status} {reply}"),
                None => break,
            }
        }
        killer.join().unwrap();
        process.child.wait().unwrap();
    }
    assert!(
        acknowledged.len() > 20,
        "only {} writes were acknowledged",
        acknowledged.len()
    );
}

#[test]
fn a_lost_store_is_restored_from_its_export() {
    let root = tempfile::tempdir().unwrap();
    let exports = root.path().join("data/exports");
    let restore = |from: &Path| {
        Command::new(env!("CARGO_BIN_EXE_wardgate-control-plane"))
            .args(["restore", "--from"])
            .arg(from)
            .arg("--data-directory")
            .arg(root.path().join("data"))
            .output()
            .unwrap()
    };
    let process = Process::start(root.path());
    let body = r#"{"name":"kept","host":"upstream.test"}"#;
    assert_eq!(process.send("POST", "/services", body).unwrap().0, 201);
    // Revision 1 is the session key, 2 the service.
    let written = || {
        let mut files = std::fs::read_dir(&exports).ok()?;
        files.find_map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name()?.to_str()?;
            let generation = name.strip_suffix("-000000000002.export")?;
            Some((generation.parse::<u64>().unwrap(), path))
        })
    };
    let (generation, export) = eventually("an export is written", written);
    let refused = restore(&export);
    assert!(!refused.status.success(), "the control plane is running");
    drop(process);
    std::fs::remove_dir_all(root.path().join("data/store")).unwrap();
    let done = restore(&export);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let (_, later) = said.split_once("as generation ").unwrap_or_default();
    let later = later
        .split_whitespace()
        .next()
        .and_then(|later| later.parse().ok());
    assert!(done.status.success() && later > Some(generation), "{said}");
    let process = Process::start(root.path());
    assert_eq!(process.send("GET", "/services/kept", "").unwrap().0, 200);
}

#[test]
fn mistakes_in_settings_are_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("settings.toml");
    std::fs::write(&file, "admin_listn = \"127.0.0.1:1\"\n").unwrap();
    for (arguments, expected) in [
        (
            vec!["--config", file.to_str().unwrap(), "--check"],
            "admin_listn",
        ),
        (vec!["--admin-listen", "nowhere"], "nowhere"),
        (vec!["--check", "--admin-listen", "0.0.0.0:0"], "loopback"),
        (
            vec!["--check", "--cluster-ca", "/nowhere/ca.pem"],
            "certificates --out",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_wardgate-control-plane"))
            .args(&arguments)
            .env("WARDGATE_DATA_DIRECTORY", root.path().join("data"))
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn sound_settings_pass_the_check_and_nothing_is_made() {
    let root = tempfile::tempdir().unwrap();
    let pair = certificates(root.path());
    let output = Command::new(env!("CARGO_BIN_EXE_wardgate-control-plane"))
        .arg("--check")
        .env(
            "WARDGATE_CLUSTER_CERTIFICATE",
            pair.join("control-plane.pem"),
        )
        .env("WARDGATE_CLUSTER_KEY", pair.join("control-plane.key"))
        .env("WARDGATE_CLUSTER_CA", pair.join("ca.pem"))
        .env("WARDGATE_DATA_DIRECTORY", root.path().join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!root.path().join("data").exists() && !root.path().join("data.key").exists());
}

#[test]
fn a_client_that_does_not_get_on_does_not_keep_it_from_stopping() {
    let root = tempfile::tempdir().unwrap();
    let mut process = Process::start(root.path());
    let mut stuck = TcpStream::connect(&process.admin).unwrap();
    stuck
        .write_all(b"POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .unwrap();
    // Answered after the other request has arrived.
    assert_eq!(process.send("GET", "/services", "").unwrap().0, 200);
    let id = process.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let ended = eventually("it stops", || process.child.try_wait().unwrap());
    assert!(ended.success(), "{ended:?}");
    drop(stuck);
}
