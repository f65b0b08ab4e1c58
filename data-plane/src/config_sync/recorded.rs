//! What earlier versions have said and kept is understood. Recorded by `RECORD=DIRECTORY tests/faults/run`.

use std::path::{Path, PathBuf};

use prost::Message;
use proto::v1::ControlMessage;
use proto::v1::control_message::Kind;
use shared::signature::Verifier;
use shared::snapshot::Snapshot;
use shared::tls::{self, Identity};

use super::applier::assemble;
use super::receiver::{Content, Receiver};
use crate::compile::compile;
use crate::last_good::LastGood;

/// The recordings, of the versions whose names they bear.
const VERSIONS: [&str; 1] = ["version-2"];

fn file(version: &str, name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    data.join(version).join(name)
}

fn verifier(version: &str) -> Verifier {
    Verifier::new(tls::read_authorities(&file(version, "ca.pem")).unwrap())
}

/// The last state that the control plane of `version` has led its node to, by whole sets and differences.
fn followed(version: &str) -> Snapshot {
    let bytes = std::fs::read(file(version, "control-plane")).unwrap();
    let (mut bytes, verifier) = (bytes.as_slice(), verifier(version));
    let mut receiver = Receiver::default();
    let mut running: Option<Snapshot> = None;
    let (mut whole, mut differences) = (0, 0);
    while !bytes.is_empty() {
        let message = ControlMessage::decode_length_delimited(&mut bytes).unwrap();
        let update = match message.kind.unwrap() {
            Kind::Begin(begin) => {
                receiver.begin(begin).unwrap();
                continue;
            }
            Kind::Chunk(chunk) => {
                receiver.chunk(&chunk).unwrap();
                continue;
            }
            Kind::Commit(commit) => receiver.commit(&commit).unwrap(),
            _ => continue,
        };
        let target = update.target;
        update.vouched.check(&verifier, &target).unwrap();
        let content = update.content.unwrap();
        if matches!(content, Content::Same) {
            running.as_mut().unwrap().position = target;
            continue;
        }
        *if matches!(content, Content::Full(_)) {
            &mut whole
        } else {
            &mut differences
        } += 1;
        let next = assemble(running.as_ref(), target, content).unwrap();
        assert_eq!(next.position, target);
        compile(&next).unwrap();
        running = Some(next);
    }
    assert!(whole > 0 && differences > 1, "{whole}, {differences}");
    running.unwrap()
}

#[test]
fn what_a_control_plane_of_an_earlier_version_sends_is_run() {
    for version in VERSIONS {
        let last = followed(version);
        let compiled = compile(&last).unwrap();
        assert!(compiled.routes.get(0).is_some() && compiled.routes.get(1).is_none());
        assert!(
            last.records()
                .any(|record| record.key.kind == "session_keys")
        );
    }
}

#[test]
fn what_a_node_of_an_earlier_version_has_kept_is_run() {
    for version in VERSIONS {
        let [certificate, key] = ["node-1.pem", "node-1.key"].map(|name| file(version, name));
        let identity = Identity::read(&certificate, &key).unwrap();
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("data");
        let secret = identity.key.secret_der().to_vec();
        let files = LastGood::open(&directory, secret, "node-1").unwrap();
        std::fs::copy(file(version, "last-good"), directory.join("last-good")).unwrap();
        let loaded = files.load(&verifier(version), |kept| {
            compile(kept).map_err(|faults| format!("{faults:?}"))
        });
        let (_, kept) = loaded.unwrap();
        assert_eq!(kept.snapshot.position, followed(version).position);
        assert!(kept.vouched.is_some());
    }
}
