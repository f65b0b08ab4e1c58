//! Published configurations: what travels, and where it leads.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proto::v1::chunk::Packing;
use serde_json::json;
use shared::properties::cases;
use shared::snapshot::{Revision, Snapshot};
use uuid::Uuid;

use super::*;

fn put(number: u128, padding: usize) -> (Key, Stored) {
    let key = Key {
        kind: "services",
        id: Uuid::from_u128(number),
    };
    let text = "x".repeat(padding);
    let fields = json!({ "id": key.id, "name": format!("s{number}"), "path": text });
    (key, Stored::of(fields.as_object().unwrap()))
}

fn config(records: u128, padding: usize) -> Config {
    let change = Change {
        puts: (0..records).map(|number| put(number, padding)).collect(),
        removes: Vec::new(),
    };
    Config::default().evolve(&change, Revision(7))
}

fn follower(config: Config) -> Follower {
    Follower::new(config, 1, SharedSigner::default())
}

/// Who signs with a certificate of its own.
fn signer() -> Signer {
    let made = rcgen::generate_simple_self_signed(vec!["cp".to_owned()]).unwrap();
    let identity = shared::tls::Identity {
        certificate_path: "test".into(),
        key_path: "test".into(),
        chain: vec![made.cert.der().clone()],
        key: made.signing_key.into(),
    };
    Signer::new(&identity).unwrap()
}

/// What signs what is published.
pub(crate) fn shared_signer() -> SharedSigner {
    Arc::new(RwLock::new(Some(signer())))
}

#[test]
fn what_a_renewed_certificate_vouched_for_is_signed_anew() {
    let signs = SharedSigner::default();
    *signs.write().unwrap() = Some(signer());
    let follower = Follower::new(config(3, 10), 1, Arc::clone(&signs));
    let published = follower.newest();
    let first = published.vouched();
    assert_eq!(published.vouched().signature, first.signature);
    *signs.write().unwrap() = Some(signer());
    let second = published.vouched();
    assert_ne!(second.chain(), first.chain());
    assert_ne!(second.signature, first.signature);
    assert_eq!(published.vouched().signature, second.signature);
}

pub(crate) fn unpack(encoded: &Encoded) -> proto::Changes {
    let mut raw = Vec::new();
    for (chunk, index) in encoded.chunks.iter().zip(0..) {
        assert_eq!((chunk.index, chunk.update), (index, encoded.update));
        assert!(chunk.raw_size <= 256 * 1024);
        match chunk.packing() {
            Packing::Plain => raw.extend_from_slice(&chunk.data),
            Packing::Zstd => {
                let size = usize::try_from(chunk.raw_size).unwrap();
                raw.extend(zstd::bulk::decompress(&chunk.data, size).unwrap());
            }
        }
    }
    assert_eq!(u64::try_from(raw.len()).unwrap(), encoded.raw_bytes);
    let changes = proto::decode_changes(raw).unwrap();
    assert_eq!(
        usize::try_from(encoded.records).unwrap(),
        changes.puts.len()
    );
    changes
}

fn snapshot(config: &Config) -> Snapshot {
    let records = config
        .records()
        .map(|(key, stored)| record(*key, stored))
        .collect();
    Snapshot::new(1, config.revision(), records)
}

#[tokio::test]
async fn every_record_arrives_in_parts_of_bounded_size() {
    for (records, padding) in [(0, 0), (3, 10), (2, 700_000), (5_000, 200)] {
        let config = config(records, padding);
        let follower = follower(config.clone());
        let published = follower.newest();
        let changes = unpack(&published.everything().await.unwrap());
        assert_eq!(changes.puts.len(), config.len());
        let arrived = Snapshot::new(1, config.revision(), changes.puts).position;
        assert_eq!(arrived, published.position);
    }
}

#[tokio::test]
async fn equal_content_has_equal_roots_at_any_revision() {
    let config = config(20, 5);
    let mut follower = follower(config.clone());
    let one = follower.newest().position;
    let other = follower
        .publish(config.evolve(&Change::default(), Revision(9)))
        .position;
    assert_eq!(one.root, other.root);
    assert!(other.is_after(&one));
}

#[tokio::test]
async fn a_group_that_stays_the_same_is_packed_once() {
    let before = config(2_000, 50);
    let mut follower = follower(before.clone());
    let first = follower.newest().everything().await.unwrap();
    let change = Change {
        puts: vec![put(3, 77)],
        removes: Vec::new(),
    };
    follower.publish(before.evolve(&change, Revision(8)));
    let second = follower.newest().everything().await.unwrap();
    let shared = first
        .chunks
        .iter()
        .zip(&second.chunks)
        .filter(|(a, b)| a.data.as_ptr() == b.data.as_ptr());
    assert_eq!(shared.count(), first.chunks.len() - 1);
}

#[tokio::test]
async fn one_difference_serves_every_node_and_is_as_long_as_the_change() {
    let before = config(5_000, 200);
    let mut follower = follower(before.clone());
    let root = follower.newest().position.root;
    let change = Change {
        puts: vec![put(3, 77)],
        removes: vec![put(4, 0).0],
    };
    let published = Arc::clone(follower.publish(before.evolve(&change, Revision(8))));
    let delta = published.since(root).await.unwrap();
    assert!(Arc::ptr_eq(&delta, &published.since(root).await.unwrap()));
    let packed: usize = delta.chunks.iter().map(|chunk| chunk.data.len()).sum();
    assert!(packed < 400, "{packed}");
    let changes = unpack(&delta);
    assert_eq!((changes.puts.len(), changes.removes.len()), (1, 1));
    assert!(published.knows(&root) && !published.knows(&[9; 32]));
    assert!(published.since([9; 32]).await.is_none());
    // A difference that is no shorter than everything is none.
    let other = Config::default().evolve(&Change::default(), Revision(9));
    let root = published.position.root;
    let emptied = Arc::clone(follower.publish(other));
    assert!(emptied.since(root).await.is_none());
}

#[test]
fn what_a_node_does_not_know_is_named_with_a_record() {
    let plugin = |number: u128, name: &str| {
        let key = Key {
            kind: "plugins",
            id: Uuid::from_u128(number),
        };
        let fields = json!({ "id": key.id, "name": name });
        (key, Stored::of(fields.as_object().unwrap()))
    };
    let change = |puts, removes| Change { puts, removes };
    let first = config(2, 0).evolve(
        &change(vec![plugin(7, "acl"), plugin(8, "acl")], Vec::new()),
        Revision(8),
    );
    let mut follower = follower(first.clone());
    let known: BTreeSet<String> = ["kind/services", "kind/plugins"].map(str::to_owned).into();
    let missing = |follower: &Follower| {
        let newest = follower.newest();
        newest.requirements.missing(&known, newest.config())
    };
    let acl = Missing {
        feature: "plugin/acl".to_owned(),
        record: Some(plugin(7, "").0),
    };
    assert_eq!(missing(&follower), std::slice::from_ref(&acl));
    let newest = follower.newest();
    let silent = newest
        .requirements
        .missing(&BTreeSet::new(), newest.config());
    assert!(silent.is_empty(), "{silent:?}");
    let second = first.evolve(
        &change(vec![plugin(8, "cors")], vec![plugin(7, "").0]),
        Revision(9),
    );
    follower.publish(second.clone());
    let names: Vec<_> = missing(&follower)
        .into_iter()
        .map(|missing| missing.feature)
        .collect();
    assert_eq!(names, ["plugin/cors"]);
    follower.publish(second.evolve(&change(vec![], vec![plugin(8, "").0]), Revision(10)));
    assert_eq!(missing(&follower), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    /// Whatever was published when, the difference and the repair lead from it to what is published now.
    #[test]
    fn differences_and_repairs_lead_to_the_target(
        changes in prop::collection::vec(prop::collection::vec((0u128..40, prop::option::of(0usize..3)), 0..6), 2..8),
        from in 0usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut configs = vec![config(20, 1)];
        let mut follower = follower(configs[0].clone());
        for (change, revision) in changes.iter().zip(8..) {
            let last = configs.last().unwrap();
            let puts = change.iter().filter_map(|(number, padding)| Some(put(*number, (*padding)?)));
            let removes = change.iter().filter(|(_, padding)| padding.is_none());
            let change = Change {
                puts: puts.collect(),
                removes: removes.map(|(number, _)| put(*number, 0).0).collect(),
            };
            // What is put after it was removed is there.
            let next = last.evolve(&change, Revision(revision));
            follower.publish(next.clone());
            configs.push(next);
        }
        let published = Arc::clone(follower.newest());
        let target = snapshot(configs.last().unwrap());
        prop_assert_eq!(published.position, target.position);
        let base = snapshot(&configs[from % (configs.len() - 1)]);
        let revision = target.position.revision;
        runtime.block_on(async {
            if base.position.root != target.position.root {
                let changes = unpack(&published.since(base.position.root).await.unwrap());
                let patched = base.patched(1, revision, changes.puts, &changes.removes).unwrap();
                assert_eq!(patched.position, target.position);
            }
            let digests: Vec<Hash> = base.inventory.digests().copied().collect();
            let (buckets, encoded) = published.repair(&digests).await.unwrap();
            let records = unpack(&encoded).puts;
            let repaired = base.with_buckets(1, revision, &buckets, records).unwrap();
            assert_eq!(repaired.position, target.position);
        });
    }
}
