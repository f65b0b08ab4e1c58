//! A disk that is full or fails: writes are refused with 503 and a reason, reads go on, nothing that was
//! acknowledged is lost, and writes go on once there is room.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::Process;

/// Tags of each service.
const TAGS: usize = 80;

/// A service of some kilobytes.
fn body(name: &str) -> String {
    let tags: Vec<String> = (0..TAGS)
        .map(|at| format!("\"{name}-{at:0>60}\""))
        .collect();
    let tags = tags.join(",");
    format!(r#"{{"name":"{name}","host":"upstream.test","tags":[{tags}]}}"#)
}

fn create(process: &Process, name: &str) -> (u16, String) {
    process.send("POST", "/services", &body(name)).unwrap()
}

fn exists(process: &Process, name: &str) -> bool {
    let (status, _) = process
        .send("GET", &format!("/services/{name}"), "")
        .unwrap();
    assert!([200, 404].contains(&status), "{status}");
    status == 200
}

/// Everything that was acknowledged is there, whole.
fn check(process: &Process, acknowledged: &[String]) {
    let mut found = BTreeSet::new();
    let mut next = Some("/services?size=1000".to_owned());
    while let Some(path) = next {
        let (status, reply) = process.send("GET", &path, "").unwrap();
        assert_eq!(status, 200, "{reply}");
        let page: Value = serde_json::from_str(&reply).unwrap();
        for service in page["data"].as_array().unwrap() {
            assert_eq!(service["tags"].as_array().unwrap().len(), TAGS);
            found.insert(service["name"].as_str().unwrap().to_owned());
        }
        next = page["next"]
            .as_str()
            .map(|next| format!("{next}&size=1000"));
    }
    let lost: Vec<&String> = acknowledged
        .iter()
        .filter(|name| !found.contains(*name))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}

#[test]
fn a_write_that_the_disk_refuses_makes_the_store_read_only_until_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    // The store grows from round to round, and so does what its file may have.
    for round in 1..=3_u32 {
        let process = Process::start_with_file_limit(root.path(), round * 800 + 300);
        check(&process, &acknowledged);
        let reason = (0..2_000).find_map(|at| {
            let name = format!("s-{round}-{at}");
            match create(&process, &name) {
                (201, _) => {
                    acknowledged.push(name);
                    None
                }
                refusal => Some(refusal),
            }
        });
        let (status, reply) = reason.expect("the limit is reached");
        assert_eq!(status, 503, "{reply}");
        assert!(reply.contains("read-only until the next start"), "{reply}");
        let (status, reply) = create(&process, "not-yet");
        assert_eq!(status, 503, "{reply}");
        check(&process, &acknowledged);
        // Dropped: killed as by `kill -9`.
    }
    let process = Process::start(root.path());
    // What was refused is whole, which is checked along, or not there.
    check(&process, &acknowledged);
    assert!(!exists(&process, "not-yet"));
    assert_eq!(create(&process, "at-last").0, 201);
}

/// A small file system in memory; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where nobody may mount.
    fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={mebibytes}m"))
            .arg("tmpfs")
            .arg(at)
            .status();
        let mounted = mounted.is_ok_and(|status| status.success());
        mounted.then(|| Self(at.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_nearly_full_disk_refuses_writes_until_there_is_room() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let Some(disk) = SmallDisk::mount(&data, 96) else {
        eprintln!("not tested with a real full disk: mounting one is not allowed here");
        return;
    };
    let filler = disk.0.join("filler");
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let process = Process::start(root.path());
        check(&process, &acknowledged);
        let name = format!("before-{round}");
        assert_eq!(create(&process, &name).0, 201);
        acknowledged.push(name);
        std::fs::write(&filler, vec![1; 40 * 1024 * 1024]).unwrap();
        let (status, reply) = create(&process, &format!("full-{round}"));
        assert_eq!(status, 503, "{reply}");
        assert!(reply.contains("64 MiB must stay free"), "{reply}");
        check(&process, &acknowledged);
        if round == 1 {
            // It starts on a full disk as well, and reads.
            drop(process);
            let process = Process::start(root.path());
            check(&process, &acknowledged);
            assert_eq!(create(&process, "full-again").0, 503);
            std::fs::remove_file(&filler).unwrap();
            assert_eq!(create(&process, "after-restart").0, 201);
            acknowledged.push("after-restart".to_owned());
            continue;
        }
        std::fs::remove_file(&filler).unwrap();
        let name = format!("after-{round}");
        assert_eq!(create(&process, &name).0, 201);
        acknowledged.push(name);
        assert!(!exists(&process, &format!("full-{round}")));
    }
    let process = Process::start(root.path());
    check(&process, &acknowledged);
}
