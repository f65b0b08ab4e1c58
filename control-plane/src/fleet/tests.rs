//! What is known of nodes, and how it is shown.

use futures::FutureExt as _;
use shared::snapshot::Revision;
use uuid::Uuid;

use super::member::FAULTS;
use super::*;

pub(crate) fn at(revision: u64) -> Position {
    Position {
        generation: 1,
        revision: Revision(revision),
        urgent: Revision::default(),
        root: [u8::try_from(revision).unwrap(); 32],
    }
}

/// What a node says of a record that it cannot run.
pub(super) fn fault(message: &str) -> Fault {
    Fault {
        code: "INVALID".to_owned(),
        entity_type: "routes".to_owned(),
        entity_id: "x".to_owned(),
        field: "paths".to_owned(),
        message: message.to_owned(),
    }
}

pub(crate) fn introduction(boot: &str, running: Position) -> Introduction {
    Introduction {
        name: "node-1".to_owned(),
        group: None,
        version: "1".to_owned(),
        hostname: "machine".to_owned(),
        ip: None,
        labels: BTreeMap::new(),
        certificate_expires_at: None,
        boot: boot.to_owned(),
        running,
        features: BTreeSet::new(),
        quarantined: Vec::new(),
        crash_restarts: 0,
        handed_over: false,
    }
}

const NOW: UnixTime = UnixTime::from_secs(1_000);

/// Targets that nobody asks, one of which leads nowhere.
pub(super) fn ill<const N: usize>(unhealthy: [u128; N], unresolved: u128) -> Targets {
    Targets {
        unhealthy: unhealthy.map(Uuid::from_u128).into(),
        unresolved: [Uuid::from_u128(unresolved)].into(),
        ..Targets::default()
    }
}

#[test]
fn a_node_shows_what_it_runs_and_what_it_refused() {
    let fleet = Fleet::default();
    let (member, refused) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    assert_eq!(refused, []);
    member.refused(at(2), vec![fault("not a pattern"); 30], NOW);
    let shown = fleet.list(|_| at(2), NOW).remove(0);
    assert_eq!(shown["progress"], "refused");
    assert_eq!(shown["revision"], 1);
    assert_eq!(shown["last_refusal"]["revision"], 2);
    assert_eq!(
        shown["last_refusal"]["faults"].as_array().unwrap().len(),
        FAULTS
    );
    member.runs(at(3), NOW);
    let shown = fleet.list(|_| at(3), NOW).remove(0);
    assert_eq!(shown["progress"], "current");
    assert_eq!(shown["config_hash"], "03".repeat(16));
    assert_eq!(fleet.list(|_| at(1), NOW).remove(0)["progress"], "ahead");
    drop(member);
    assert_eq!(fleet.list(|_| at(3), NOW).remove(0)["connected"], false);
}

#[tokio::test]
async fn a_newer_stream_of_a_node_silences_the_older_one() {
    let fleet = Fleet::default();
    let (mut old, _) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    let (mut new, _) = fleet.join(introduction("a", at(5)), NOW).unwrap();
    assert_eq!(old.order().await, None);
    assert!(fleet.retry("node-1") && !fleet.retry("node-2"));
    assert_eq!(new.order().await, Some(Order::Retry));
    old.runs(at(2), NOW);
    drop(old);
    let shown = fleet.list(|_| at(5), NOW).remove(0);
    assert_eq!(
        (&shown["revision"], &shown["connected"]),
        (&5.into(), &true.into())
    );
}

#[test]
fn a_refused_snapshot_is_offered_again_only_to_a_restarted_node() {
    let fleet = Fleet::default();
    let (member, _) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    member.refused(at(2), Vec::new(), NOW);
    drop(member);
    let (member, refused) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    assert_eq!(refused, [Shunned::from(at(2))]);
    drop(member);
    let mut crashed = introduction("b", at(1));
    crashed.quarantined = vec![at(3)];
    assert_eq!(fleet.join(crashed, NOW).unwrap().1, [Shunned::from(at(3))]);
    let shown = fleet.list(|_| at(3), NOW).remove(0);
    assert_eq!(shown["progress"], "quarantined");
}

#[test]
fn what_was_refused_with_other_keys_counts_as_refused() {
    let fleet = Fleet::default();
    let (member, _) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    let shunned = Shunned {
        position: at(2),
        configuration: Some([7; 32]),
    };
    member.refused(shunned, vec![fault("no")], NOW);
    member.still_refuses(at(3));
    // What another control plane made of it earlier changes nothing.
    member.still_refuses(at(2));
    let shown = fleet.list(|_| at(3), NOW).remove(0);
    assert_eq!(shown["progress"], "refused");
    assert_eq!(shown["last_refusal"]["revision"], 3);
    assert_eq!(shown["last_refusal"]["faults"][0]["field"], "paths");
    // Nor does it take keys for what it runs.
    let with_keys = Position {
        urgent: at(4).revision,
        ..at(1)
    };
    member.refused(with_keys, Vec::new(), NOW);
    assert_eq!(fleet.list(|_| at(3), NOW), [shown]);
    drop(member);
    let (_member, refused) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    let known = Shunned {
        position: at(3),
        ..shunned
    };
    assert_eq!(refused, [known]);
}

#[test]
fn a_configuration_that_was_refused_is_sent_again_to_a_node_that_has_gone_on() {
    let fleet = Fleet::default();
    let (member, _) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    let refused = Shunned {
        position: at(2),
        configuration: Some([7; 32]),
    };
    member.refused(refused, vec![fault("no")], NOW);
    // Keys take it nowhere.
    let with_keys = Position {
        urgent: at(3).revision,
        ..at(1)
    };
    member.runs(with_keys, NOW);
    let (member, shunned) = fleet.join(introduction("a", with_keys), NOW).unwrap();
    assert_eq!(shunned, [refused]);
    member.runs(at(4), NOW);
    let (member, shunned) = fleet.join(introduction("a", at(4)), NOW).unwrap();
    assert_eq!(shunned, [Shunned::from(at(2))]);
    // The same is so if the answer that told of it was lost with the stream.
    let refused = Shunned {
        position: at(5),
        ..refused
    };
    member.refused(refused, vec![fault("no")], NOW);
    let (_member, shunned) = fleet.join(introduction("a", at(6)), NOW).unwrap();
    assert_eq!(shunned, [Shunned::from(at(5))]);
}

#[test]
fn what_a_node_has_released_from_its_quarantine_is_sent_to_it() {
    let fleet = Fleet::default();
    let mut crashed = introduction("a", Position::default());
    crashed.quarantined = vec![at(2)];
    let (member, _) = fleet.join(crashed.clone(), NOW).unwrap();
    let refused = Shunned {
        position: at(3),
        configuration: Some([7; 32]),
    };
    let quarantine = || {
        vec![Fault {
            code: Code::Quarantined.as_str_name().to_owned(),
            ..fault("this node crashed with it, twice")
        }]
    };
    member.refused(refused, quarantine(), NOW);
    let shown = fleet.list(|_| at(3), NOW).remove(0);
    assert_eq!(shown["progress"], "quarantined");
    // It still has it there.
    let (member, shunned) = fleet.join(crashed, NOW).unwrap();
    assert_eq!(shunned, [Shunned::from(at(2)), refused]);
    member.refused(refused, quarantine(), NOW);
    assert_eq!(fleet.list(|_| at(3), NOW)[0]["progress"], "quarantined");
    // It runs it by itself.
    let (_member, shunned) = fleet.join(introduction("a", at(2)), NOW).unwrap();
    assert_eq!(shunned, []);
    let shown = fleet.list(|_| at(3), NOW).remove(0);
    assert_eq!(
        (&shown["progress"], &shown["last_refusal"]),
        (&"behind".into(), &Value::Null)
    );
    // Or on order, with the keys of now: it tells without a stream of its own.
    let mut crashed = introduction("a", at(2));
    crashed.quarantined = vec![at(3)];
    let (member, _) = fleet.join(crashed, NOW).unwrap();
    member.refused(at(4), quarantine(), NOW);
    member.runs(at(5), NOW);
    let reports = |quarantined| Report {
        running: at(5),
        quarantined,
        ..Report::default()
    };
    let shown = || {
        let shown = fleet.list(|_| at(5), NOW).remove(0);
        (
            shown["quarantined"].clone(),
            shown["last_refusal"].is_null(),
        )
    };
    for told in [None, Some(vec![at(3)])] {
        member.reports(reports(told), NOW);
        assert_eq!(shown(), (json!([3]), false));
    }
    member.reports(reports(Some(Vec::new())), NOW);
    assert_eq!(shown(), (json!([]), true));
    // What else it refuses stays refused, whatever it releases.
    let mut crashed = introduction("b", at(2));
    crashed.quarantined = vec![at(1)];
    drop(member);
    let (member, _) = fleet.join(crashed, NOW).unwrap();
    member.refused(refused, vec![fault("no")], NOW);
    let (_member, shunned) = fleet.join(introduction("b", at(2)), NOW).unwrap();
    assert_eq!(shunned, [refused]);
}

#[test]
fn a_node_that_refuses_for_the_same_reason_again_is_stuck() {
    let fleet = Fleet::default();
    let (member, _) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    let progress = |target: &Position| fleet.list(|_| *target, NOW).remove(0)["progress"].clone();
    member.refused(at(2), Vec::new(), NOW);
    assert_eq!(progress(&at(2)), "refused");
    // Once more, on order; or the next one.
    for target in [at(2), at(3)] {
        assert!(fleet.retry("node-1"));
        assert_eq!(progress(&at(2)), "refused");
        member.refused(target, Vec::new(), NOW);
        assert_eq!(progress(&target), "stuck");
    }
    // It is given keys all the same.
    assert_eq!(
        fleet.strays(1),
        BTreeSet::new(),
        "it cannot be held at a state"
    );
    drop(member);
    let mut joins = introduction("a", at(1));
    joins.features.insert(proto::features::URGENT.to_owned());
    let (member, _) = fleet.join(joins, NOW).unwrap();
    assert_eq!(fleet.strays(1), BTreeSet::from([at(1).revision]));
    assert_eq!(fleet.strays(2), BTreeSet::new());
    let minute = Duration::from_mins(1);
    assert!(fleet.is_behind(|_| at(3), minute, NOW));
    let with_keys = Position {
        urgent: at(3).revision,
        ..at(1)
    };
    member.runs(with_keys, NOW);
    assert!(!fleet.is_behind(|_| at(3), minute, NOW));
    assert_eq!(progress(&at(3)), "stuck");
    assert_eq!(fleet.strays(1), BTreeSet::from([at(1).revision]));
    member.runs(at(4), NOW);
    assert_eq!(progress(&at(5)), "behind");
    assert_eq!(fleet.strays(1), BTreeSet::new());
}

#[test]
fn a_node_shows_what_it_lacks_and_how_it_does() {
    let fleet = Fleet::default();
    let mut joins = introduction("a", at(1));
    joins.certificate_expires_at = Some(NOW.saturating_add(shared::expiry::SOON * 2));
    let (member, _) = fleet.join(joins, NOW).unwrap();
    let missing = Missing {
        feature: "plugin/acl".to_owned(),
        record: None,
    };
    member.lacks(vec![missing]);
    let report = Report {
        running: at(1),
        clock: NOW.saturating_add(Duration::from_secs(7)),
        requests: 5,
        expiries: vec![("proxy_tls_certificate".to_owned(), NOW)],
        targets: Arc::new(ill([7, 8], 8)),
        ..Report::default()
    };
    member.reports(report, NOW);
    let asked = [6, 7, 8].map(Uuid::from_u128).into();
    assert_eq!(fleet.targets(&asked), ill([7, 8], 8));
    let shown = fleet.list(|_| at(2), NOW).remove(0);
    assert_eq!(shown["sync_status"], "plugin_set_incompatible");
    assert_eq!(shown["progress"], "blocked");
    assert_eq!(shown["missing"][0]["feature"], "plugin/acl");
    assert_eq!(
        (&shown["clock_offset_ms"], &shown["requests"]),
        (&7000.into(), &5.into())
    );
    assert_eq!(
        shown["expiring"],
        json!([{ "what": "proxy_tls_certificate", "at": 1000 }])
    );
}

#[test]
fn the_time_is_what_half_of_the_clocks_have_reached() {
    let fleet = Fleet::default();
    let mut members = Vec::new();
    let mut join = |name: &str, clock: u64| {
        let mut joins = introduction("a", at(1));
        name.clone_into(&mut joins.name);
        let (member, _) = fleet.join(joins, NOW).unwrap();
        let report = Report {
            running: at(1),
            clock: UnixTime::from_secs(clock),
            ..Report::default()
        };
        member.reports(report, NOW);
        members.push(member);
        let agreed = fleet.agreed_time(NOW).map(UnixTime::as_secs);
        (agreed.unwrap(), fleet.latest_time(NOW).as_secs())
    };
    let now = NOW.as_secs();
    assert_eq!(join("behind", now - 500), (now - 500, now));
    // One whose clock does not go holds nothing up once there are more.
    assert_eq!(join("stopped", 1), (1, now));
    assert_eq!(join("right", now), (now - 500, now));
    assert_eq!(join("ahead", now + 900), (now - 500, now));
    assert_eq!(join("too", now + 900), (now, now));
    assert_eq!(join("more", now + 800), (now, now + 800));
    members.clear();
    assert_eq!(fleet.agreed_time(NOW), None);
    assert_eq!(fleet.latest_time(NOW), NOW);
}

#[test]
fn a_node_that_is_gone_is_forgotten_after_the_purge_delay() {
    let fleet = Fleet::default();
    drop(fleet.join(introduction("a", at(1)), NOW).unwrap());
    assert_eq!(fleet.list(|_| at(1), NOW).len(), 1);
    let minute = Duration::from_mins(1);
    assert!(fleet.is_behind(|_| at(2), minute, NOW) && !fleet.is_behind(|_| at(1), minute, NOW));
    assert!(!fleet.is_behind(|_| at(2), minute, NOW.saturating_add(minute)));
    let later = NOW.saturating_add(PURGE_DELAY);
    assert!(fleet.list(|_| at(1), later).is_empty());
    let fleet = Fleet::default().purging_after(minute);
    drop(fleet.join(introduction("a", at(1)), NOW).unwrap());
    assert_eq!(fleet.list(|_| at(1), NOW).remove(0)["ttl"], 60);
    assert!(fleet.list(|_| at(1), NOW.saturating_add(minute)).is_empty());
}

#[test]
fn two_processes_with_one_certificate_are_told_of_and_count_as_none() {
    let fleet = Fleet::default();
    let run = |boot: &str| Introduction {
        boot: boot.to_owned(),
        hostname: boot.to_owned(),
        ..introduction("a", at(2))
    };
    let contested = || fleet.list(|_| at(2), NOW).remove(0)["contested"].clone();
    let serving = || fleet.progress_of(|_, position| *position == at(2)).serving;
    let (_first, _) = fleet.join(run("first"), NOW).unwrap();
    // A restart is none.
    let (_second, _) = fleet.join(run("second"), NOW).unwrap();
    assert_eq!((contested(), serving().len()), (false.into(), 1));
    let (_again, _) = fleet.join(run("first"), NOW).unwrap();
    assert_eq!((contested(), serving().len()), (true.into(), 0));
    let (_second, _) = fleet.join(run("second"), NOW).unwrap();
    assert_eq!(contested(), true);
    // The other one has been stopped.
    let (_second, _) = fleet.join(run("second"), NOW).unwrap();
    assert_eq!((contested(), serving().len()), (false.into(), 1));
    // A process that hands over on one machine may come back for a moment.
    for boot in ["old", "new", "old", "new"] {
        let _stream = fleet.join(introduction(boot, at(2)), NOW).unwrap();
        assert_eq!(contested(), false, "{boot}");
    }
    // Two that both want to stay are two, on one machine as well.
    for (boot, is_contested) in [("old", false), ("new", true), ("old", true)] {
        let _stream = fleet.join(introduction(boot, at(2)), NOW).unwrap();
        assert_eq!(contested(), is_contested, "{boot}");
    }
    let _successor = fleet.join(introduction("newest", at(2)), NOW).unwrap();
    assert_eq!(contested(), false);
}

#[test]
fn monitoring_hears_of_trouble_and_not_of_nodes_that_have_left() {
    let fleet = Fleet::default();
    let figures = || fleet.figures(|_| at(3), NOW);
    let (member, _) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    for target in [at(2), at(3)] {
        member.refused(target, Vec::new(), NOW);
        assert!(fleet.figures(|_| target, NOW)[0].standing.is_refusal());
    }
    member.reports(
        Report {
            clock: NOW.saturating_add(Duration::from_secs(9)),
            draining: true,
            ..Report::default()
        },
        NOW,
    );
    assert_eq!(figures()[0].clock_offset, Some(9000));
    drop(member);
    assert!(figures().is_empty(), "it has left in order");
    drop(fleet.join(introduction("b", at(1)), NOW).unwrap());
    assert_eq!(figures().len(), 1, "it has vanished");
}

#[test]
fn a_certificate_that_was_renewed_counts_once_the_node_tells() {
    let fleet = Fleet::default();
    let mut joins = introduction("a", at(1));
    joins.certificate_expires_at = Some(NOW);
    let (member, _) = fleet.join(joins, NOW).unwrap();
    let shown = fleet.list(|_| at(1), NOW).remove(0);
    assert_eq!(shown["expiring"][0]["what"], "cluster_certificate");
    let renewed = NOW.saturating_add(shared::expiry::SOON * 2);
    let report = Report {
        running: at(1),
        expiries: vec![(shared::tls::CLUSTER_CERTIFICATE.to_owned(), renewed)],
        ..Report::default()
    };
    member.reports(report, NOW);
    let shown = fleet.list(|_| at(1), NOW).remove(0);
    assert_eq!(shown["expiring"], json!([]));
    let told = &shown["cert_details"]["expiry_timestamp"];
    assert_eq!(*told, json!(renewed.as_secs()));
}

#[test]
fn a_process_that_has_a_successor_counts_for_nothing_beside_it() {
    let fleet = Fleet::default();
    let (mut successor, _) = fleet.join(introduction("b", at(1)), NOW).unwrap();
    let leaving = || Introduction {
        handed_over: true,
        quarantined: vec![at(9)],
        ..introduction("a", at(1))
    };
    let (mut old, refused) = fleet.join(leaving(), NOW).unwrap();
    assert_eq!(refused, [Shunned::from(at(9))]);
    old.runs(at(5), NOW);
    old.refused(at(6), Vec::new(), NOW);
    successor.runs(at(2), NOW);
    let shown = fleet.list(|_| at(2), NOW);
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["progress"], "current");
    assert!(shown[0]["last_refusal"].is_null());
    assert!(fleet.retry("node-1"));
    assert_eq!(successor.order().now_or_never(), Some(Some(Order::Retry)));
    assert_eq!(old.order().now_or_never(), None, "it is not thrown out");
    // Of each process there is one stream, and a node that is restarted twice in a row has two that leave.
    let again = |boot: &str| Introduction {
        boot: boot.to_owned(),
        ..leaving()
    };
    let (mut newer, _) = fleet.join(again("a2"), NOW).unwrap();
    assert_eq!(old.order().now_or_never(), None, "another is let be");
    let (mut anew, _) = fleet.join(leaving(), NOW).unwrap();
    assert_eq!(old.order().now_or_never(), Some(None));
    assert_eq!(newer.order().now_or_never(), None);
    // Whoever invents runs without end has a few at a time: the newest.
    let mut many: Vec<_> = (0..room::OF_A_NODE - 1)
        .map(|boot| fleet.join(again(&boot.to_string()), NOW).unwrap().0)
        .collect();
    assert_eq!(newer.order().now_or_never(), Some(None));
    for stays in many.iter_mut().chain([&mut anew]) {
        assert_eq!(stays.order().now_or_never(), None);
    }
    drop((old, newer, anew, many));
    assert_eq!(fleet.list(|_| at(2), NOW)[0]["connected"], true);
}

#[test]
fn how_slow_a_node_was_before_it_took_up_a_change_is_not_said_of_the_change() {
    let fleet = Fleet::default();
    let (member, _) = fleet.join(introduction("a", at(1)), NOW).unwrap();
    let report = |running, requests| Report {
        running,
        requests,
        p99_us: 5,
        ..Report::default()
    };
    for (revision, requests) in [(1, 10), (1, 30), (2, 70), (2, 80), (2, 80)] {
        member.reports(report(at(revision), requests), NOW);
    }
    let samples = fleet.views(1).remove(0).samples;
    let told = samples.iter();
    let told = told.map(|sample| (sample.revision.0, sample.requests, sample.p99_us));
    let told: Vec<_> = told.collect();
    // The first says nothing of when its requests were; the third is of both revisions.
    assert_eq!(told, [(1, 20, 5), (2, 40, 0), (2, 10, 5)]);
}
