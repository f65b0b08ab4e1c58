//! What earlier versions have said and kept is understood. Recorded by `RECORD=DIRECTORY tests/faults/run`.

use std::path::{Path, PathBuf};

use prost::Message;
use proto::v1::ControlMessage;
use proto::v1::control_message::Kind;
use shared::secret::Secret;
use shared::signature::Verifier;
use shared::snapshot::{Hash, Position, Snapshot};
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

/// Reads what a control plane says until it ends or is nonsense; where each update that was good leads.
fn led_to(mut bytes: &[u8]) -> Vec<Position> {
    let mut receiver = Receiver::default();
    let mut positions = Vec::new();
    while let Ok(message) = ControlMessage::decode_length_delimited(&mut bytes) {
        let followed = match message.kind {
            Some(Kind::Begin(begin)) => receiver.begin(begin),
            Some(Kind::Chunk(chunk)) => receiver.chunk(&chunk),
            Some(Kind::Commit(commit)) => receiver.commit(&commit).map(|update| {
                // Changes prove themselves only on what runs.
                let proven = matches!(update.content, Ok(Content::Full(_)));
                positions.extend(proven.then_some(update.target));
            }),
            _ => Ok(()),
        };
        if followed.is_err() {
            break;
        }
    }
    positions
}

/// The root is the content's, so whatever else of a position is wrong is for the signature to say.
fn roots(positions: &[Position]) -> Vec<Hash> {
    positions.iter().map(|position| position.root).collect()
}

#[test]
fn a_stream_that_ends_anywhere_leads_no_further_than_what_was_whole() {
    let whole = std::fs::read(file(VERSIONS[0], "control-plane")).unwrap();
    let all = roots(&led_to(&whole));
    assert!(!all.is_empty());
    for end in 0..whole.len() {
        assert!(
            all.starts_with(&roots(&led_to(&whole[..end]))),
            "cut at {end}"
        );
    }
}

#[test]
fn a_stream_with_any_damage_leads_nowhere_else() {
    let whole = std::fs::read(file(VERSIONS[0], "control-plane")).unwrap();
    let all = roots(&led_to(&whole));
    let mut dice = 1_u64;
    let mut throw = |most: usize| {
        // Numerical Recipes' constants: the same in each run.
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(dice >> 33).unwrap() % most
    };
    for _ in 0..10_000 {
        let mut bytes = whole.clone();
        for _ in 0..=throw(3) {
            let at = throw(bytes.len());
            match throw(4) {
                0 => bytes[at] ^= 1 << throw(8),
                1 => bytes[at] = u8::try_from(throw(256)).unwrap(),
                2 => _ = bytes.remove(at),
                _ => bytes.insert(at, u8::try_from(throw(256)).unwrap()),
            }
        }
        let led = roots(&led_to(&bytes));
        assert!(led.iter().all(|root| all.contains(root)), "{led:?}");
    }
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
        let secret = Secret::new(identity.key.secret_der().to_vec());
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
