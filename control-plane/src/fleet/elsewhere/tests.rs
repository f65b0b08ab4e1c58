//! What control planes over one store know of each other's nodes.

use std::net::SocketAddr;
use std::time::Duration;

use shared::snapshot::Position;

use super::*;
use crate::fleet::tests::{at, fault, ill, introduction};
use crate::fleet::{Address, Progress, Report, Shunned};

const NOW: UnixTime = UnixTime::from_secs(10_000);

fn named(name: &str, running: Position) -> Introduction {
    Introduction {
        name: name.to_owned(),
        ..introduction("a", running)
    }
}

/// Has `to` know what `from` does, whose clock is `ahead` of it.
fn exchange(from: (&Fleet, Uuid), to: &Fleet, ahead: Duration) {
    for part in from.0.parts() {
        let clock = NOW.saturating_add(ahead);
        let packed = from.0.tell(part.number, true, clock).unwrap();
        to.take(from.1, part.number, &packed, NOW).unwrap();
    }
}

#[test]
fn every_control_plane_shows_the_nodes_of_all() {
    let (one, other) = (Fleet::shared(), Fleet::shared());
    let id = Uuid::from_u128(1);
    let _here = other.join(named("here", at(2)), NOW).unwrap();
    let ahead = Duration::from_hours(3);
    let clock = NOW.saturating_add(ahead);
    let (there, _) = one.join(named("there", at(1)), clock).unwrap();
    there.refused(at(2), vec![fault("no")], clock);
    let mut targets = ill([7, 8], 8);
    let (target, address) = (Uuid::from_u128(6), SocketAddr::from(([10, 0, 0, 1], 80)));
    let (weight, healthy) = (5, true);
    targets.addresses = vec![(target, address, Address { weight, healthy })];
    let report = Report {
        running: at(1),
        clock,
        targets: Arc::new(targets.clone()),
        ..Report::default()
    };
    there.reports(report, clock);
    exchange((&one, id), &other, ahead);
    other.look([id].into());
    assert_eq!(other.present(), Some([id].into()));

    let rows = other.list(|_| at(2), NOW);
    let shown = |field: &str| -> Vec<serde_json::Value> {
        rows.iter().map(|row| row[field].clone()).collect()
    };
    assert_eq!(shown("name"), ["here", "there"]);
    assert_eq!(shown("progress"), ["current", "refused"]);
    assert_eq!(shown("connected"), [true, true]);
    // By our clock, not by that of the other.
    assert_eq!(rows[1]["last_seen"], NOW.as_secs());
    assert_eq!(rows[1]["last_refusal"]["faults"][0]["field"], "paths");
    let asked = [6, 7, 8].map(Uuid::from_u128).into();
    assert_eq!(other.targets(&asked), targets);
    let progress = other.progress_of(|_, position| *position == at(2));
    let expected = Progress {
        serving: vec!["here".to_owned()],
        refused: vec!["there".to_owned()],
        waiting: Vec::new(),
    };
    assert_eq!(progress, expected);
    // An order for it is passed on.
    assert!(other.retry("there") && !other.retry("nowhere"));
    assert_eq!(other.orders(), ["there"]);
    assert!(other.orders().is_empty());

    // It leaves for the other, which knows what this run of it has refused.
    drop(there);
    let (_there, refused) = other.join(named("there", at(1)), NOW).unwrap();
    assert_eq!(refused, [Shunned::from(at(2))]);
    exchange((&one, id), &other, ahead);
    let rows = other.list(|_| at(2), NOW);
    assert_eq!((rows.len(), &rows[1]["connected"]), (2, &true.into()));
}

#[test]
fn what_is_told_of_a_node_is_so_until_its_control_plane_was_last_heard() {
    let (one, other) = (Fleet::shared(), Fleet::shared());
    let id = Uuid::from_u128(1);
    let (_here, _) = other.join(named("here", at(1)), NOW).unwrap();
    let (there, _) = one.join(named("there", at(1)), NOW).unwrap();
    exchange((&one, id), &other, Duration::ZERO);
    let told_at = || {
        let views = other.views(at(1).generation).into_iter();
        views.map(|view| view.told_at).collect::<Vec<_>>()
    };
    assert_eq!(told_at(), [None, Some(NOW)]);
    let later = NOW.saturating_add(Duration::from_secs(2));
    other.hears(Uuid::from_u128(2), later);
    assert_eq!(told_at(), [None, Some(NOW)]);
    other.hears(id, later);
    assert_eq!(told_at(), [None, Some(later)]);
    // Whoever comes here is known first-hand.
    drop(there);
    let (_there, _) = other.join(named("there", at(1)), later).unwrap();
    exchange((&one, id), &other, Duration::ZERO);
    assert_eq!(told_at(), [None, None]);
}

#[test]
fn the_nodes_of_a_control_plane_that_ends_are_gone_until_another_has_them() {
    let (one, other) = (Fleet::shared(), Fleet::shared());
    let id = Uuid::from_u128(1);
    assert_eq!(other.present(), None);
    let (_there, _) = one.join(named("there", at(1)), NOW).unwrap();
    exchange((&one, id), &other, Duration::ZERO);
    other.look(BTreeSet::new());
    let rows = other.list(|_| at(1), NOW);
    assert_eq!((rows.len(), &rows[0]["connected"]), (1, &false.into()));
    let progress = other.progress_of(|_, _| true);
    assert_eq!(progress, Progress::default());
    let third = Uuid::from_u128(3);
    exchange((&one, third), &other, Duration::ZERO);
    other.look([third].into());
    let rows = other.list(|_| at(1), NOW);
    assert_eq!((rows.len(), &rows[0]["connected"]), (1, &true.into()));
}

#[test]
fn a_part_is_marked_anew_for_what_others_wait_for() {
    let fleet = Fleet::default();
    let (member, _) = fleet.join(named("node", at(1)), NOW).unwrap();
    let before = fleet.parts();
    let counts = |requests| Report {
        running: at(1),
        requests,
        ..Report::default()
    };
    member.reports(counts(1), NOW);
    member.reports(counts(9), NOW);
    assert_eq!(fleet.parts(), before);
    member.runs(at(2), NOW);
    let then = fleet.parts();
    assert_ne!(then, before);
    member.refused(at(3), Vec::new(), NOW);
    assert_ne!(fleet.parts(), then);
}

#[test]
fn what_is_too_much_for_one_value_is_left_out() {
    let noise = |seed: usize, length: usize| {
        let hash = |place: usize| blake3::hash(format!("{seed} {place}").as_bytes());
        let parts = (0..length / 64).map(|place| hash(place).to_hex().to_string());
        parts.collect::<String>()
    };
    let (fleet, other) = (Fleet::default(), Fleet::shared());
    let in_part = |name: &String| part_of(name) == 0;
    let mut names = (0..).map(|number| format!("node-{number}")).filter(in_part);
    let mut members = Vec::new();
    for (number, name) in names.by_ref().take(100).enumerate() {
        let (member, _) = fleet.join(named(&name, at(1)), NOW).unwrap();
        let fault = |place: usize| fault(&noise(number * 100 + place, 2048));
        member.refused(at(2), (0..20).map(fault).collect(), NOW);
        members.push(member);
    }
    let told = |fleet: &Fleet| {
        let packed = fleet.tell(0, true, NOW).unwrap();
        assert!(packed.len() <= TOLD);
        other.take(Uuid::nil(), 0, &packed, NOW).unwrap();
        other.list(|_| at(2), NOW)
    };
    let rows = told(&fleet);
    assert_eq!(rows.len(), 100);
    let faults = rows[0]["last_refusal"]["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 1);
    // One that says more than all others together is not told of, and hides none of them.
    let mut vast = named(&names.next().unwrap(), at(1));
    vast.features = (0..1024).map(|seed| noise(seed, 4096)).collect();
    let (_vast, _) = fleet.join(vast, NOW).unwrap();
    assert_eq!(told(&fleet).len(), 100);
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    let fleet = Fleet::default();
    let bomb = zstd::bulk::compress(&vec![b' '; LARGEST + 1], 1).unwrap();
    for packed in [&b"nonsense"[..], &bomb] {
        assert!(fleet.take(Uuid::nil(), 0, packed, NOW).is_err());
    }
    assert!(fleet.list(|_| at(1), NOW).is_empty());
}
