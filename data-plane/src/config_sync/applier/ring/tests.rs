//! Keys that come before the update that brings them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::v1;
use serde_json::json;
use shared::secret::Secret;
use shared::signature::Signer;
use shared::snapshot::Revision;
use shared::tls::CONTROL_PLANE_NAME;

use super::*;
use crate::balancer::tests::record;
use crate::config_sync::receiver::{Content, Update};
use crate::config_sync::vouching::{cluster, vouch};
use crate::last_good::LastGood;
use crate::live::Live;
use crate::secrets::Secrets;

/// The session key of this number.
fn key(number: u8) -> Record {
    let secret = STANDARD.encode([number; 32]);
    let fields = json!({ "secret": secret, "activate_at": number, "state": "ready" });
    record("session_keys", number.into(), fields)
}

/// A record of another kind.
fn group(number: u128) -> Record {
    record(
        "consumer_groups",
        number,
        json!({ "name": number.to_string() }),
    )
}

/// What a control plane tells of the keys of `revision`, as a `subject`.
fn tell(signer: &Signer, subject: Subject, at: (u64, u64), keys: &[Record]) -> SessionKeys {
    let target = Snapshot::new(at.0, Revision(at.1), Vec::new()).position;
    let record = |record: &Record| v1::Record {
        kind: record.key.kind.to_owned(),
        id: record.key.id.as_bytes().to_vec().into(),
        json: record.json.clone(),
    };
    let ring = KeyRing {
        target: Some((&target).into()),
        created_ms: UnixTime::now().as_millis(),
        keys: keys.iter().map(record).collect(),
        chain: signer.chain().map(|chain| chain.to_vec().into()).collect(),
    };
    let ring = ring.encode_to_vec();
    SessionKeys {
        signature: signer.sign(subject, &ring).unwrap().into(),
        ring: ring.into(),
    }
}

/// `snapshot` as it is sent: whole, or as what it differs in from `base`.
fn content(base: Option<&Snapshot>, snapshot: &Snapshot) -> Content {
    let Some(base) = base else {
        return Content::Full(snapshot.clone());
    };
    let difference = snapshot.inventory.since(&base.inventory);
    let puts = difference.puts.iter();
    Content::Changes {
        base: base.position,
        changes: proto::Changes {
            puts: puts.filter_map(|key| snapshot.record(key)).collect(),
            removes: difference.removes,
        },
    }
}

#[tokio::test]
async fn keys_that_come_beside_an_update_hold_until_one_brings_newer_ones() {
    let root = tempfile::tempdir().unwrap();
    let (signer, verifier) = cluster(CONTROL_PLANE_NAME);
    let files = LastGood::open(root.path(), Secret::new(vec![7; 100]), "node-1").unwrap();
    let live = Live::default();
    let secrets = (Secrets::default(), None);
    let state = Default::default();
    let mut applier = Applier::new(live.clone(), secrets, state, None, files, verifier);
    let ring = || {
        let live = live.load_full().unwrap();
        let keys = live.environment.session_keys.keys.iter();
        keys.map(|key| key.activate_at).collect::<Vec<_>>()
    };
    let update = |revision: u64, base: Option<&Snapshot>, records: Vec<Record>| {
        let snapshot = Snapshot::new(3, Revision(revision), records);
        let content = content(base, &snapshot);
        let update = Update {
            nonce: 1,
            target: snapshot.position,
            vouched: vouch(&signer, &snapshot.position),
            ordered: false,
            content: Ok(content),
        };
        (snapshot, update)
    };
    let told = |at, keys: &[Record]| tell(&signer, Subject::SessionKeys, at, keys);
    // Without a configuration there is nobody to need them.
    applier.take_keys(&told((3, 9), &[key(2)])).await;
    assert!(live.load().is_none());
    let (first, came) = update(5, None, vec![group(1), key(1)]);
    applier.apply(came).await.unwrap();
    assert_eq!(ring(), [1]);

    // The first is revoked, and another takes its place.
    let digests = applier.digests();
    let beside = told((3, 9), &[key(2)]);
    applier.take_keys(&beside).await;
    assert_eq!(ring(), [2]);
    // A process that takes the place of this one is to know of both.
    let holds = applier.holds();
    let (kept, _) = holds.kept.unwrap();
    assert_eq!(kept.position, first.position);
    assert_eq!(SessionKeys::decode(holds.keys.as_slice()), Ok(beside));
    assert_eq!(
        (applier.running(), applier.digests()),
        (first.position, digests)
    );
    // What is older, of a store that was put back, not a control plane's, or none, changes nothing.
    let (stranger, _) = cluster(CONTROL_PLANE_NAME);
    let keys = &[key(1)];
    for told in [
        told((3, 9), keys),
        told((3, 8), keys),
        told((2, 10), keys),
        told((3, 10), &[]),
        told((3, 10), &[group(1)]),
        tell(&signer, Subject::Manifest, (3, 10), keys),
        tell(&stranger, Subject::SessionKeys, (3, 10), keys),
        SessionKeys::default(),
    ] {
        applier.take_keys(&told).await;
        assert_eq!(ring(), [2], "{told:?}");
    }

    // Nor does an update that was on its way, as a difference or whole.
    let (second, came) = update(6, Some(&first), vec![group(1), group(2), key(1)]);
    applier.apply(came).await.unwrap();
    assert_eq!(ring(), [2]);
    assert_eq!(applier.running(), second.position);
    let (third, came) = update(7, None, vec![group(3), key(1)]);
    applier.apply(came).await.unwrap();
    assert_eq!((ring(), applier.running()), (vec![2], third.position));

    // The one that brings them counts, and what comes after it.
    let (fourth, came) = update(9, Some(&third), vec![group(3), key(2)]);
    applier.apply(came).await.unwrap();
    assert_eq!((ring(), applier.running()), (vec![2], fourth.position));
    assert!(applier.told.is_none());
    applier.take_keys(&told((3, 9), keys)).await;
    assert_eq!(ring(), [2]);
    let (fifth, came) = update(10, Some(&fourth), vec![group(3), key(3)]);
    applier.apply(came).await.unwrap();
    assert_eq!(ring(), [3]);

    // Where a node only moves they are judged as well: a store that was put back never had them.
    applier.take_keys(&told((3, 12), &[key(4)])).await;
    assert_eq!(ring(), [4]);
    let same = |generation, revision| {
        let mut target = fifth.position;
        (target.generation, target.revision) = (generation, Revision(revision));
        Update {
            nonce: 1,
            target,
            vouched: vouch(&signer, &target),
            ordered: false,
            content: Ok(Content::Same),
        }
    };
    let (on, back) = (same(3, 11), same(4, 5));
    let (moved, restored) = (on.target, back.target);
    applier.apply(on).await.unwrap();
    assert_eq!((ring(), applier.running()), (vec![4], moved));
    assert_eq!(applier.runs_by().unwrap().position, moved);
    applier.apply(back).await.unwrap();
    assert_eq!((ring(), applier.running()), (vec![3], restored));
    assert!(applier.told.is_none());
}

#[tokio::test]
async fn keys_of_another_store_hold_until_the_one_before_leads_again() {
    let root = tempfile::tempdir().unwrap();
    let (signer, verifier) = cluster(CONTROL_PLANE_NAME);
    let files = LastGood::open(root.path(), Secret::new(vec![7; 100]), "node-1").unwrap();
    let live = Live::default();
    let secrets = (Secrets::default(), None);
    let mut applier = Applier::new(
        live.clone(),
        secrets,
        Default::default(),
        None,
        files,
        verifier,
    );
    let ring = || {
        let live = live.load_full().unwrap();
        let keys = live.environment.session_keys.keys.iter();
        keys.map(|key| key.activate_at).collect::<Vec<_>>()
    };
    let update = |content: Content, target: Position| Update {
        nonce: 1,
        target,
        vouched: vouch(&signer, &target),
        ordered: false,
        content: Ok(content),
    };
    let told = |at, number| tell(&signer, Subject::SessionKeys, at, &[key(number)]);
    let snapshot = Snapshot::new(4, Revision(5), vec![group(1), key(3)]);
    let running = snapshot.position;
    let whole = update(Content::Full(snapshot), running);
    applier.apply(whole).await.unwrap();
    // Who refuses what a store holds that was put in place of the one before hears of its keys all the same.
    applier.take_keys(&told((5, 1), 6)).await;
    assert_eq!((ring(), applier.running()), (vec![6], running));
    // That store is taken away again: whoever leads to what runs has keys of its own.
    applier.is_led_in(5).await;
    assert_eq!(ring(), [6]);
    applier.is_led_in(4).await;
    assert_eq!((ring(), applier.running()), (vec![3], running));
    assert!(applier.told.is_none());
    applier.take_keys(&told((4, 9), 5)).await;
    applier.is_led_in(4).await;
    assert_eq!(ring(), [5]);
    // So has what it sends.
    applier.take_keys(&told((5, 1), 6)).await;
    assert_eq!(ring(), [6]);
    let mut target = running;
    target.revision = Revision(6);
    let on = update(Content::Same, target);
    applier.apply(on).await.unwrap();
    assert_eq!(ring(), [3]);
    assert!(applier.told.is_none());
}

#[test]
fn keys_are_newer_by_when_they_are_of() {
    let ring = |generation, revision, urgent| {
        let mut at = Snapshot::new(generation, Revision(revision), Vec::new()).position;
        at.urgent = Revision(urgent);
        let keys = Vec::new();
        let came = SessionKeys::default();
        Ring { at, keys, came }
    };
    // Of a node that is kept at an earlier revision.
    let kept = ring(3, 5, 9);
    // What a control plane that is behind leads it to has the keys of before.
    let behind = ring(3, 7, 7);
    assert!(kept.is_after(&behind.at) && !behind.is_after(&kept.at));
    assert!(!ring(3, 9, 9).is_after(&kept.at));
    assert!(ring(3, 10, 10).is_after(&kept.at));
    assert!(ring(4, 1, 1).is_after(&kept.at));
}
