//! Files that are not as they were written: a start has everything that was acknowledged, or refuses with the file
//! and what to do; never a panic, never something else. A node starts with the newest that is whole.

use std::path::{Path, PathBuf};

use harness::{Browser, Cluster, eventually};
use serde_json::json;

use crate::numbered::Numbered;

/// What happens to a file: its name, and what is left.
type Damage = (&'static str, fn(&[u8]) -> Vec<u8>);

const DAMAGES: [Damage; 6] = [
    ("empty", |_| Vec::new()),
    ("cut in half", |whole| whole[..whole.len() / 2].to_vec()),
    ("cut by a byte", |whole| {
        whole[..whole.len().saturating_sub(1)].to_vec()
    }),
    ("zeros", |whole| vec![0; whole.len()]),
    ("a bit flipped at a third", |whole| {
        flipped(whole, whole.len() / 3)
    }),
    ("a bit flipped at the beginning", |whole| flipped(whole, 0)),
];

fn flipped(whole: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x10;
    }
    bytes
}

/// Every file below `directory`.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// A copy of everything below a directory, to go back to.
struct Kept {
    directory: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Kept {
    fn of(directory: &Path) -> Self {
        let files = files(directory).into_iter();
        Self {
            directory: directory.to_owned(),
            files: files
                .map(|path| {
                    let bytes = std::fs::read(&path).unwrap();
                    (path, bytes)
                })
                .collect(),
        }
    }

    fn back(&self) {
        let _ = std::fs::remove_dir_all(&self.directory);
        for (path, bytes) in &self.files {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// The last line of a log that is none of `before`.
fn last_words(log: &Path, before: usize) -> (String, String) {
    let text = std::fs::read_to_string(log).unwrap();
    let text = text[before..].to_owned();
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    (last.unwrap_or_default().to_owned(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_control_plane_with_damaged_files_has_everything_or_says_what_to_do() {
    const RECORDS: usize = 12;
    let mut cluster = Cluster::start(0).await;
    for number in 0..RECORDS {
        let body = json!({ "username": format!("consumer-{number}"), "custom_id": "x".repeat(3_000) + &number.to_string() });
        cluster.create("/consumers", body).await;
    }
    cluster.control_plane.take().unwrap().stop().await;
    // This start exports what there is.
    cluster.start_control_plane().await;
    let data = cluster.directory().join("data");
    eventually("the store is exported", async || {
        let paths = files(&data);
        paths
            .iter()
            .any(|path| path.extension().is_some_and(|end| end == "export"))
            .then_some(())
    })
    .await;
    cluster.control_plane.take().unwrap().stop().await;
    let log = cluster.directory().join("control-plane.log");
    let (kept, certificates) = (
        Kept::of(&data),
        Kept::of(&cluster.directory().join("certificates")),
    );
    let own = ["control-plane.pem", "control-plane.key", "ca.pem"];
    let paths = kept.files.iter().map(|(path, bytes)| (path, bytes));
    let paths = paths.chain(certificates.files.iter().filter_map(|(path, bytes)| {
        let name = path.file_name()?.to_str()?;
        own.contains(&name).then_some((path, bytes))
    }));
    let (mut whole, mut refused) = (0, 0);
    for (path, bytes) in paths.collect::<Vec<_>>() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for (damage, harm) in DAMAGES {
            kept.back();
            certificates.back();
            std::fs::write(path, harm(bytes)).unwrap();
            let before = std::fs::metadata(&log).unwrap().len();
            let before = usize::try_from(before).unwrap();
            let case = format!("{name}, {damage}");
            match cluster.try_start_control_plane().await {
                Ok(()) => {
                    let consumers = cluster.read("/consumers?size=1000").await;
                    let found = consumers["data"].as_array().unwrap().len();
                    assert_eq!(found, RECORDS, "{case}: {consumers}");
                    cluster.control_plane.take().unwrap().kill();
                    whole += 1;
                }
                Err(status) => {
                    let (last, text) = last_words(&log, before);
                    assert_eq!(status.code(), Some(1), "{case}: {status}: {text}");
                    assert!(last.starts_with("error: "), "{case}: {text}");
                    // The file, or the store that it belongs to, or the setting that names it.
                    let named = last.contains(&name)
                        || last.contains("store in ")
                        || last.contains("secrets_key_file");
                    assert!(named, "{case}: {last}");
                    println!("{case}: {last}");
                    refused += 1;
                }
            }
        }
    }
    kept.back();
    certificates.back();
    cluster.start_control_plane().await;
    println!("{whole} starts with everything, {refused} refused by name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_node_with_damaged_files_serves_the_newest_that_is_whole() {
    let mut cluster = Cluster::start(1).await;
    let numbered = Numbered::create(&cluster).await;
    for number in 1..=3 {
        numbered.set(&cluster, number).await;
        cluster.settled().await;
        cluster.persisted().await;
    }
    cluster.data_planes.remove(0).process.stop().await;
    let data = cluster.directory().join("data/node-1");
    let kept = Kept::of(&data);
    let alone = ("WARDGATE_CONTROL_PLANES", "https://127.0.0.1:1".to_owned());
    let mut starts = 0;
    let mut serves = async |cluster: &mut Cluster, case: &str, expected: Option<&str>| {
        cluster
            .start_data_plane_with("node-1", std::slice::from_ref(&alone))
            .await;
        let node = cluster.data_planes.remove(0);
        let reply = Browser::new().get(&format!("{}/p", node.url())).await;
        if let Some(message) = expected {
            let said = reply.json()["message"].clone();
            assert_eq!(said, json!(message), "{case}: {}", reply.text());
        } else {
            assert_eq!(reply.status, 503, "{case}: {}", reply.text());
        }
        assert_eq!(node.is_ready().await, expected.is_some(), "{case}");
        assert!(!node.process.log().contains("panicked"), "{case}");
        node.process.stop().await;
        starts += 1;
    };
    for (damage, harm) in DAMAGES {
        kept.back();
        // One generation after the other.
        for (name, next) in [
            ("last-good", Some("2")),
            ("last-good.1", Some("1")),
            ("last-good.2", None),
        ] {
            let path = data.join(name);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, harm(&bytes)).unwrap();
            serves(&mut cluster, &format!("{name}, {damage}"), next).await;
        }
    }
    for name in [
        "trying",
        "quarantine",
        "running",
        "last-good.new",
        "trying.new",
    ] {
        for content in [&b""[..], b"x", &[0; 64], &[0xff; 4_096]] {
            kept.back();
            std::fs::write(data.join(name), content).unwrap();
            serves(
                &mut cluster,
                &format!("{name} of {} bytes", content.len()),
                Some("3"),
            )
            .await;
        }
    }
    // Another node's file, and one from a time to come.
    kept.back();
    let newest = std::fs::File::options()
        .write(true)
        .open(data.join("last-good"))
        .unwrap();
    let ahead = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000);
    newest.set_modified(ahead).unwrap();
    serves(&mut cluster, "modified in the future", Some("3")).await;
    println!("{starts} starts of a node, each with the newest that was whole or not ready");
}
