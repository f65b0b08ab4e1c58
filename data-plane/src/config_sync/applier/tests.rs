//! Updates as they are put together, compiled within bounds, and kept.

use proto::Changes;
use shared::snapshot::{BucketSet, Hash, Key, Record, Revision};
use shared::tls::CONTROL_PLANE_NAME;
use uuid::Uuid;

use super::*;
use crate::balancer::tests::record as record_of;
use crate::config_sync::vouching::{cluster, vouch};

fn record(number: u128, json: &'static str) -> Record {
    let key = Key {
        kind: "services",
        id: Uuid::from_u128(number),
    };
    Record {
        key,
        json: json.into(),
    }
}

fn snapshot(revision: u64, records: Vec<Record>) -> Snapshot {
    Snapshot::new(1, Revision(revision), records)
}

#[test]
fn changes_count_only_on_what_runs_and_only_with_the_proven_outcome() {
    let running = snapshot(1, vec![record(1, "{}"), record(2, "{}")]);
    let target = snapshot(2, vec![record(2, "[]"), record(3, "{}")]);
    let good = Changes {
        puts: vec![record(2, "[]"), record(3, "{}")],
        removes: vec![record(1, "").key],
    };
    let changes = |base: &Snapshot, changes: &Changes| Content::Changes {
        base: base.position,
        changes: changes.clone(),
    };
    let on_running =
        |content| assemble(Some(&running), target.position, content).map_err(|f| f.code());
    let patched = on_running(changes(&running, &good)).unwrap();
    assert!(patched.records().eq(target.records()));
    let refused = |content| on_running(content).unwrap_err();
    assert_eq!(refused(changes(&target, &good)), Code::BadBase);
    let empty = assemble(None, target.position, changes(&running, &good));
    assert_eq!(empty.unwrap_err().code(), Code::BadBase);
    let spoiled = |spoil: &dyn Fn(&mut Changes)| {
        let mut bad = good.clone();
        spoil(&mut bad);
        refused(changes(&running, &bad))
    };
    let missing = record(9, "").key;
    assert_eq!(spoiled(&|bad| bad.removes.push(missing)), Code::Corrupt);
    assert_eq!(spoiled(&|bad| _ = bad.removes.pop()), Code::Corrupt);
    assert_eq!(
        spoiled(&|bad| bad.puts[0].json = "[1]".into()),
        Code::Corrupt
    );
    assert_eq!(
        spoiled(&|bad| bad.puts.push(record(2, "[]"))),
        Code::Corrupt
    );
}

#[test]
fn buckets_take_the_place_of_what_was_in_them() {
    let running = snapshot(1, (0..40).map(|number| record(number, "{}")).collect());
    let target = snapshot(2, (20..60).map(|number| record(number, "[]")).collect());
    let digests: Vec<Hash> = running.inventory.digests().copied().collect();
    let buckets = target.inventory.differing(&digests);
    let keys = buckets.iter().flat_map(|at| target.inventory.bucket(at));
    let puts = keys.map(|key| target.record(&key).unwrap().clone());
    let changes = Changes {
        puts: puts.collect(),
        removes: Vec::new(),
    };
    let content = |buckets| Content::Buckets {
        base: running.position,
        buckets,
        changes: changes.clone(),
    };
    let repaired = assemble(Some(&running), target.position, content(buckets)).unwrap();
    assert!(repaired.records().eq(target.records()));
    let none = content(BucketSet::default());
    let refused = assemble(Some(&running), target.position, none).unwrap_err();
    assert_eq!(refused.code(), Code::Corrupt);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_written_once_that_is_possible() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    let files = LastGood::open(&directory, Secret::new(vec![7; 100]), "node-1").unwrap();
    // Something else takes its place.
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "").unwrap();
    let (unsaved, snapshots) = watch::channel(None);
    let (positions, mut saved) = watch::channel(Position::default());
    tokio::spawn(save(Arc::new(files), snapshots, positions));
    let (signer, _) = cluster(CONTROL_PLANE_NAME);
    let snapshot = Arc::new(snapshot(1, vec![record(1, "{}")]));
    let vouched = vouch(&signer, &snapshot.position);
    let position = snapshot.position;
    unsaved.send_replace(Some(Unsaved { snapshot, vouched }));
    let early = tokio::time::timeout(Duration::from_mins(1), saved.changed());
    assert!(early.await.is_err(), "there is no directory to write to");
    std::fs::remove_file(&directory).unwrap();
    saved.changed().await.unwrap();
    assert_eq!(*saved.borrow(), position);
    assert!(directory.join("last-good").exists());
}

/// What comes of compiling `records`.
async fn compiled(records: Vec<Record>) -> Result<CompiledSnapshot, Vec<Fault>> {
    let snapshot = Arc::new(snapshot(1, records));
    // A machine that builds other things meanwhile is no reason to refuse.
    let long = Duration::from_mins(10);
    compile_guarded((long, None), Secrets::default(), None, snapshot).await
}

#[tokio::test]
async fn what_no_node_could_run_is_refused_by_its_field_whatever_it_is() {
    let of = |kind, fields| record_of(kind, 1, fields);
    let route = |fields| of("routes", fields);
    let paths = |path: String| route(serde_json::json!({ "paths": [path] }));
    let headers: serde_json::Map<String, serde_json::Value> = (0..100_000)
        .map(|number| {
            (
                format!("x-{number}"),
                serde_json::json!([number.to_string()]),
            )
        })
        .collect();
    for (record, field) in [
        (paths(format!("~/{}", "(a|b)".repeat(2_000_000))), "paths"),
        (paths(r"~/(\p{L}{1000}){1000}".to_owned()), "paths"),
        (
            paths(format!("~/{}{}", "(".repeat(8_000), ")".repeat(8_000))),
            "paths",
        ),
        (
            route(serde_json::json!({ "headers": { "x": [r"~*(\p{L}{1000}){1000}"] } })),
            "headers",
        ),
        (
            route(serde_json::json!({ "headers": { "x": ["~*("] } })),
            "headers",
        ),
        (of("routes", serde_json::json!({ "paths": 7 })), "@entity"),
        (
            of(
                "plugins",
                serde_json::json!({ "name": "no-such-plugin", "config": {} }),
            ),
            "name",
        ),
    ] {
        let faults = compiled(vec![record]).await.unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].code(), Code::Invalid);
        let told = &faults[0].field;
        assert!(told == "@entity" || told.starts_with(field), "{faults:?}");
        assert!(
            faults[0].message.len() < 20_000,
            "{}",
            faults[0].message.len()
        );
    }
    // Much, but nothing that could not be run.
    compiled(vec![route(serde_json::json!({ "headers": headers }))])
        .await
        .unwrap();
}

#[tokio::test]
async fn what_does_not_lie_ahead_is_refused_whatever_it_holds() {
    let root = tempfile::tempdir().unwrap();
    let (signer, verifier) = cluster(CONTROL_PLANE_NAME);
    let files = LastGood::open(root.path(), Secret::new(vec![7; 100]), "node-1").unwrap();
    let live = Live::default();
    let nothing = (Secrets::default(), None);
    let state = Default::default();
    let mut applier = Applier::new(live, nothing, state, None, files, verifier);
    let position = |generation, revision| Position {
        generation,
        revision: Revision(revision),
        ..Position::default()
    };
    let update = |at: Position| {
        let mut snapshot = Snapshot::new(at.generation, at.revision, Vec::new());
        snapshot.position.urgent = at.urgent;
        Update {
            nonce: 1,
            target: snapshot.position,
            vouched: vouch(&signer, &snapshot.position),
            ordered: false,
            content: Ok(Content::Full(snapshot)),
        }
    };
    applier.apply(update(position(2, 5))).await.unwrap();
    let runs = applier.running();
    // The same again, one before, and whatever an earlier generation counted up to, also if an operator orders it.
    for (generation, revision) in [(2, 5), (2, 4), (1, 5), (1, 900)] {
        let mut late = update(position(generation, revision));
        late.ordered = true;
        let faults = applier.apply(late).await.unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].code(), Code::Stale, "{generation} {revision}");
        assert_eq!(applier.running(), runs);
    }
    applier.apply(update(position(3, 1))).await.unwrap();
    assert!(applier.running().is_after(&runs));
}

#[tokio::test]
async fn what_a_node_has_crashed_with_is_run_again_if_it_has_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let open = || LastGood::open(root.path(), Secret::new(vec![7; 100]), "node-1").unwrap();
    let (signer, verifier) = cluster(CONTROL_PLANE_NAME);
    let id = Uuid::from_u128(1);
    let fields = serde_json::json!({ "id": id, "created_at": 1, "updated_at": 1, "paths": ["/a"] });
    let route = Record {
        key: Key { kind: "routes", id },
        json: serde_json::to_vec(&fields).unwrap().into(),
    };
    let snapshot = snapshot(3, vec![route.clone()]);
    let (position, configuration) = (snapshot.position, snapshot.configuration());
    let files = open();
    files.marker.tries(position, configuration);
    let vouched = vouch(&signer, &position);
    files.write(&snapshot, &vouched).unwrap();
    drop(open());
    let usable = |_: &Snapshot| Ok(());
    let start = |files: LastGood| {
        let running = files.load(&verifier, usable).map(|((), kept)| kept);
        let nothing = (Secrets::default(), None);
        let verifier = verifier.clone();
        Applier::new(
            Live::default(),
            nothing,
            Default::default(),
            running,
            files,
            verifier,
        )
    };
    let mut applier = start(open());
    assert_eq!(applier.quarantined(), [position]);
    // What a control plane has else is awaited longer than what it was that took the node down.
    let unheard = applier.again().unwrap();
    for nothing in [None, Some(position)] {
        applier.is_led_to(nothing);
        assert!(applier.again().unwrap() < unheard);
        let mend = Position {
            root: [8; 32],
            ..position
        };
        applier.is_led_to(Some(mend));
        assert!(applier.again().unwrap() >= unheard);
    }
    // It came, and cannot be run either.
    applier.finds_nothing();
    assert!(applier.again().unwrap() < unheard);
    applier.expects(Duration::from_mins(1));
    assert!(applier.again().unwrap() > unheard);
    // Its revocations and keys of now, a control plane has.
    let later = Snapshot::new(1, Revision(4), vec![route]);
    let believed = || vouch(&signer, &later.position);
    let refused = applier.replace(later.clone(), believed(), false).await;
    assert_eq!(refused.unwrap_err()[0].code(), Code::Quarantined);
    assert!(applier.asks_again());
    assert!(applier.quarantined().is_empty(), "Hello asks for it");
    assert!(applier.again().unwrap() > unheard && !applier.asks_again());
    assert_eq!(
        open().marker.quarantined(),
        [position],
        "not before it runs"
    );
    // None gives it.
    assert!(applier.run_again().await);
    assert_eq!(applier.running(), position);
    assert!(applier.quarantined().is_empty() && applier.again().is_none());
    // Its crashes count as before, and whoever has something else keeps that.
    assert_eq!(open().marker.crashes(), 1);
    let last = open();
    assert_eq!(last.marker.quarantined(), [position]);
    let mut asking = start(last);
    assert!(asking.asks_again());
    asking
        .replace(later.clone(), believed(), false)
        .await
        .unwrap();
    assert_eq!(asking.running(), later.position);
    assert!(asking.quarantined().is_empty() && asking.again().is_none());
    // A thread writes it, which is not to come behind what is written here.
    let mut saved = asking.saved();
    let written = |saved: &Position| saved.root == later.position.root;
    assert!(saved.wait_for(written).await.is_ok());
    drop(open());
    let last = open();
    assert_eq!(last.marker.quarantined(), [later.position]);
    let bare = Snapshot::new(1, Revision(5), vec![record(1, "{}")]);
    last.write(&bare, &vouch(&signer, &bare.position)).unwrap();
    assert!(start(last).again().is_none());
}

#[tokio::test]
async fn a_process_that_begins_heeds_what_was_said_of_targets_within_the_minute() {
    let root = tempfile::tempdir().unwrap();
    let (signer, verifier) = cluster(CONTROL_PLANE_NAME);
    let now = UnixTime::now().as_secs();
    let mark = |number: u128, healthy: bool, before: u64, expires_at: u64| {
        let mark = Revocation {
            id: Revocation::mark(Uuid::from_u128(number), None, healthy),
            before,
            expires_at,
        };
        Record {
            key: Key {
                kind: Revocation::KIND,
                id: mark.id,
            },
            json: serde_json::to_vec(&mark).unwrap().into(),
        }
    };
    let target = |number: u128| {
        let fields = serde_json::json!({
            "target": format!("127.0.0.{number}:80"), "upstream": { "id": Uuid::from_u128(9) }
        });
        record_of("targets", number, fields)
    };
    let records = vec![
        record_of("upstreams", 9, serde_json::json!({ "name": "u.test" })),
        target(1),
        target(2),
        target(3),
        mark(1, false, 1, now + 3600),
        mark(2, false, 1, now - 1),
        mark(3, false, 1, now + 3600),
        mark(3, true, 2, now + 3600),
    ];
    let first = snapshot(1, records);
    let ill = |live: &Live, balancers: &Balancers| {
        let live = live.load_full().unwrap();
        let balancers = live.balancers(balancers);
        crate::balancer::report::unhealthy(&balancers[0])
    };
    let begin = |live: &Live, balancers: &Arc<Balancers>, running| {
        let files = LastGood::open(root.path(), Secret::new(vec![7; 100]), "node-1").unwrap();
        let nothing = (Secrets::default(), None);
        let state = (Arc::default(), Arc::clone(balancers));
        Applier::new(
            live.clone(),
            nothing,
            state,
            running,
            files,
            verifier.clone(),
        )
    };
    // A node that never ran anything.
    let (live, balancers) = (Live::default(), Arc::default());
    let mut applier = begin(&live, &balancers, None);
    let vouched = vouch(&signer, &first.position);
    applier
        .replace(first.clone(), vouched.clone(), false)
        .await
        .unwrap();
    assert_eq!(ill(&live, &balancers), [Uuid::from_u128(1)]);
    // One that goes on by what the process before has kept.
    let compiled = crate::compile::compile(&first).unwrap();
    let (live, balancers) = (Live::default(), Arc::default());
    live.store(Some(Arc::new(compiled)));
    for on_disk in [true, false] {
        let kept = Kept {
            snapshot: first.clone(),
            vouched: Some(vouched.clone()),
            on_disk,
        };
        let applier = begin(&live, &balancers, Some(kept));
        assert_eq!(ill(&live, &balancers), [Uuid::from_u128(1)]);
        // What that has given is written once it is gone.
        assert_eq!(applier.is_persisted(), on_disk);
        applier.persist();
        let mut saved = applier.saved();
        let written = saved.wait_for(|saved| *saved == first.position);
        assert!(written.await.is_ok());
    }
}
