//! What roll-outs do with nodes that do well, badly, or nothing.

mod away;
mod elsewhere;
mod replaced;
mod resumed;

use proptest::prelude::*;
use shared::snapshot::Position;

use super::*;
use crate::fleet::{Refused, Sample};

const PLAN: Plan = Plan {
    canary: Duration::from_secs(30),
    share: 10,
    share_bake: Duration::from_mins(1),
    rollback: true,
};

const FROM: Revision = Revision(10);
const TO: Revision = Revision(11);

const fn second(seconds: u64) -> UnixTime {
    UnixTime::from_secs(1_000_000 + seconds)
}

fn running(revision: Revision) -> Position {
    Position {
        generation: 1,
        revision,
        ..Position::default()
    }
}

fn fleet(count: usize) -> Vec<View> {
    let node = |number| View {
        name: format!("node-{number}"),
        connected: true,
        running: running(FROM),
        last_seen: second(0),
        ..View::default()
    };
    (0..count).map(node).collect()
}

/// Does what is to be done at `now`, and has those that were given the change serve it.
fn turn(rollout: &mut Rollout, nodes: &mut [View], now: UnixTime) -> Action {
    let action = step(rollout, &PLAN, nodes, now);
    rollout.apply(&action, nodes, now);
    for node in nodes.iter_mut().filter(|node| node.connected) {
        node.last_seen = now;
        if rollout.members.contains_key(&node.name) && node.refusal.is_none() {
            node.running = running(TO);
        }
    }
    action
}

fn serving(nodes: &[View]) -> usize {
    let serve = |node: &&View| node.running.revision == TO;
    nodes.iter().filter(serve).count()
}

/// How many nodes serve the change in each second, until the roll-out has ended or `until`.
fn play(
    nodes: &mut [View],
    until: u64,
    mut meddle: impl FnMut(u64, &Rollout, &mut [View]),
) -> (Rollout, Vec<usize>) {
    let mut rollout = Rollout::new(FROM, TO, second(0));
    let mut counts = Vec::new();
    for at in 0..until {
        meddle(at, &rollout, nodes);
        while turn(&mut rollout, nodes, second(at)) != Action::Wait {}
        counts.push(serving(nodes));
        if rollout.state != State::Running {
            break;
        }
    }
    (rollout, counts)
}

fn sample(at: u64, revision: Revision, requests: u64, failed: u64, p99_us: u32) -> Sample {
    Sample {
        at: second(at),
        revision,
        requests,
        failed,
        left: Some(0),
        p99_us,
    }
}

#[test]
fn one_node_is_first_then_a_share_then_all() {
    let mut nodes = fleet(50);
    let (rollout, counts) = play(&mut nodes, 200, |_, _, _| {});
    let ended = (rollout.state, rollout.stage);
    assert_eq!(ended, (State::Completed, Stage::All));
    assert!(counts[..30].iter().all(|count| *count == 1), "{counts:?}");
    assert!(counts[30..90].iter().all(|count| *count == 5), "{counts:?}");
    assert_eq!(counts.len(), 91);
}

#[test]
fn who_stops_in_order_is_no_reason_and_another_takes_its_place() {
    for at in [10, 40] {
        let mut nodes = fleet(50);
        let mut left = None;
        let (rollout, counts) = play(&mut nodes, 400, |second, rollout, nodes| {
            if second == at {
                let first = rollout.members.keys().next().cloned();
                let node = nodes
                    .iter_mut()
                    .find(|node| Some(&node.name) == first.as_ref());
                let node = node.unwrap();
                (node.connected, node.draining) = (false, true);
                left = first;
            }
        });
        assert!(left.is_some());
        assert_eq!(
            (rollout.state, rollout.stage),
            (State::Completed, Stage::All),
            "{at}: {:?}",
            rollout.reason
        );
        // One in the place of the one that left, which had it too.
        let most = counts[usize::try_from(at).unwrap() + 1];
        assert_eq!(most, if at == 10 { 2 } else { 6 }, "{counts:?}");
    }
}

#[test]
fn a_change_that_only_those_have_who_stop_is_not_proved() {
    let mut nodes = fleet(1);
    let (rollout, counts) = play(&mut nodes, 100, |second, _, nodes| {
        if second >= 1 {
            (nodes[0].connected, nodes[0].draining) = (false, true);
        }
    });
    assert_eq!((rollout.state, counts.len()), (State::Running, 100));
    // It comes back, and serves.
    nodes[0] = View {
        connected: true,
        running: running(TO),
        last_seen: second(100),
        ..nodes[0].clone()
    };
    nodes[0].draining = false;
    let mut rollout = rollout;
    for at in 100..110 {
        while turn(&mut rollout, &mut nodes, second(at)) != Action::Wait {
            if rollout.state != State::Running {
                break;
            }
        }
    }
    assert_eq!(rollout.state, State::Completed);
}

#[test]
fn a_small_fleet_waits_two_seconds_and_one_without_nodes_a_minute() {
    for count in 1..=3 {
        let (rollout, counts) = play(&mut fleet(count), 100, |_, _, _| {});
        assert_eq!(rollout.state, State::Completed);
        assert_eq!(counts, [1, 1, 1]);
    }
    let (rollout, counts) = play(&mut [], 100, |_, _, _| {});
    assert_eq!((rollout.state, counts.len()), (State::Completed, 61));
}

#[test]
fn nodes_with_the_label_are_first_and_otherwise_not_always_the_same() {
    let mut nodes = fleet(50);
    nodes[7].canary = true;
    nodes[9].canary = true;
    let action = step(&Rollout::new(FROM, TO, second(0)), &PLAN, &nodes, second(0));
    let both = vec!["node-7".to_owned(), "node-9".to_owned()];
    assert_eq!(action, Action::Admit(Stage::Canary, both));
    let nodes = fleet(50);
    let firsts: BTreeSet<String> = (11..40)
        .map(|to| {
            let rollout = Rollout::new(FROM, Revision(to), second(0));
            match step(&rollout, &PLAN, &nodes, second(0)) {
                Action::Admit(Stage::Canary, names) => names[0].clone(),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert!(firsts.len() > 10, "{firsts:?}");
}

/// Has `harm` done to the first node after ten seconds; why the roll-out is halted, if it is.
fn halted_by(harm: impl Fn(&mut View)) -> Option<String> {
    let mut nodes = fleet(20);
    let (rollout, counts) = play(&mut nodes, 200, |at, rollout, nodes| {
        let members = rollout.members.keys().next();
        if let Some(first) = members.filter(|_| at >= 10) {
            nodes
                .iter_mut()
                .filter(|node| node.name == *first)
                .for_each(&harm);
        }
    });
    let most = counts.iter().max().copied();
    if rollout.state == State::Halted {
        assert_eq!(most, Some(1), "a change that goes wrong reaches one node");
    }
    (rollout.state == State::Halted).then(|| rollout.reason.unwrap())
}

#[test]
fn a_node_that_does_badly_halts_it_while_it_is_alone() {
    assert_eq!(halted_by(|_| {}), None);
    let refused = |node: &mut View| {
        node.refusal = Some(Refused {
            revision: TO,
            reason: "routes x paths: bad".to_owned(),
        });
    };
    assert!(halted_by(refused).unwrap().contains("routes x paths: bad"));
    let older = |node: &mut View| {
        node.refusal = Some(Refused {
            revision: FROM,
            reason: String::new(),
        });
    };
    assert_eq!(halted_by(older), None);
    assert!(halted_by(|node| node.crash_restarts = 1).is_some());
    assert!(halted_by(|node| node.quarantined = vec![TO]).is_some());
    assert!(halted_by(|node| node.connected = false).is_some());
    let fails = |node: &mut View| node.samples = vec![sample(11, TO, 1_000, 10, 0)];
    assert!(halted_by(fails).unwrap().contains("10 of 1,000"));
    // Of few requests most have to fail, fewer say nothing, and neither do failures that were there before.
    for (requests, failed, halts) in [
        (99, 50, true),
        (99, 49, false),
        (10, 10, true),
        (9, 9, false),
    ] {
        let few = |node: &mut View| node.samples = vec![sample(11, TO, requests, failed, 0)];
        assert_eq!(halted_by(few).is_some(), halts, "{failed} of {requests}");
    }
    let few_as_before = |node: &mut View| {
        node.samples = vec![sample(1, FROM, 20, 20, 0), sample(11, TO, 20, 20, 0)];
    };
    assert_eq!(halted_by(few_as_before), None);
    let as_before = |node: &mut View| {
        node.samples = vec![
            sample(1, FROM, 1_000, 300, 0),
            sample(11, TO, 1_000, 305, 0),
        ];
    };
    assert_eq!(halted_by(as_before), None);
    let slow = |node: &mut View| {
        let with = (11..14).map(|at| sample(at, TO, 100, 0, 16_000));
        node.samples = std::iter::once(sample(1, FROM, 100, 0, 10_000))
            .chain(with)
            .collect();
    };
    assert!(halted_by(slow).unwrap().contains("16000 us"));
    // What is far slower needs fewer reports.
    for (p99, halts) in [(190_000, false), (200_000, true)] {
        let slow = |node: &mut View| {
            let [before, one] = [sample(1, FROM, 100, 0, 10_000), sample(11, TO, 100, 0, p99)];
            node.samples = vec![before, one, one];
        };
        assert_eq!(halted_by(slow).is_some(), halts);
    }
    // One slow moment is neither a verdict nor what is usual.
    let once = |node: &mut View| {
        node.samples = vec![
            sample(1, FROM, 100, 0, 10_000),
            sample(11, TO, 100, 0, 90_000),
        ];
    };
    assert_eq!(halted_by(once), None);
    let slow_after_a_moment = |node: &mut View| {
        let before =
            (0..20).map(|at| sample(1, FROM, 100, 0, if at == 5 { 90_000 } else { 10_000 }));
        let with = (11..14).map(|at| sample(at, TO, 100, 0, 16_000));
        node.samples = before.chain(with).collect();
    };
    assert!(
        halted_by(slow_after_a_moment)
            .unwrap()
            .contains("10000 us before")
    );
}

/// Why a roll-out is halted whose nodes have answered `usual` requests in each of the ten seconds between two reports; from
/// then on those that have the change `with` and the others `without`.
fn halted_by_pace(usual: u64, with: u64, without: u64) -> Option<String> {
    let mut nodes = fleet(5);
    for node in &mut nodes {
        // Before the roll-out began.
        node.samples = (0..3).map(|at| sample(0, FROM, usual, at, 0)).collect();
        for (at, sample) in (1..).zip(&mut node.samples) {
            (sample.at, sample.failed) = (UnixTime::from_secs(1_000_000 - 40 + at * 10), 0);
        }
    }
    let (rollout, counts) = play(&mut nodes, 200, |at, _, nodes| {
        for node in nodes {
            let took_it_up = node.running.revision == TO
                && node.samples.iter().all(|sample| sample.revision != TO);
            if at % 10 != 9 && !took_it_up {
                continue;
            }
            let requests = match node.running.revision {
                _ if took_it_up => usual,
                TO => with,
                _ => without,
            };
            node.reported_at = second(at);
            // As it is where there is nothing to tell.
            if requests > 0 {
                let now = sample(at, node.running.revision, requests, 0, 0);
                node.samples.push(now);
            }
        }
    });
    if rollout.state == State::Halted {
        assert_eq!(counts.iter().max(), Some(&1));
    }
    rollout.reason
}

#[test]
fn a_node_whose_requests_hang_halts_it() {
    for with in [0, 2, 60] {
        let reason = halted_by_pace(300, with, 300).unwrap_or_default();
        assert!(reason.contains("the others go on"), "{with}: {reason}");
    }
    // Less is no silence, all are asked less, and of few nothing is said.
    assert_eq!(halted_by_pace(300, 80, 300), None);
    assert_eq!(halted_by_pace(300, 2, 120), None);
    assert_eq!(halted_by_pace(30, 0, 30), None);
}

/// What hangs ends as its clients give up, after some seconds: that is no answer.
#[test]
fn a_node_whose_clients_give_up_halts_it() {
    let left = |left, before, elsewhere| {
        let mut nodes = fleet(5);
        let (rollout, _) = play(&mut nodes, 200, |at, _, nodes| {
            for node in nodes {
                let of = |revision, left| Sample {
                    left,
                    ..sample(at, revision, 300, 0, 9_000)
                };
                node.samples = match node.running.revision {
                    TO => vec![of(FROM, before), of(TO, left)],
                    // Before anybody is given it, all do as those who are.
                    revision => vec![of(revision, if at == 0 { before } else { elsewhere })],
                };
            }
        });
        rollout.reason
    };
    for many in [300, 75, 20] {
        let reason = left(Some(many), Some(0), Some(0)).unwrap_or_default();
        assert!(reason.contains("the clients leave"), "{many}: {reason}");
    }
    // Some always do, or did before, or do elsewhere.
    assert_eq!(left(Some(10), Some(0), Some(0)), None);
    assert_eq!(left(Some(100), Some(90), Some(0)), None);
    assert_eq!(left(Some(100), Some(0), Some(90)), None);
    // Nodes of earlier versions do not tell.
    assert_eq!(left(Some(100), None, None), None);
    assert!(left(Some(100), None, Some(0)).is_some());
}

#[test]
fn what_all_suffer_is_not_blamed_on_the_change() {
    let mut nodes = fleet(20);
    let (rollout, _) = play(&mut nodes, 200, |at, _, nodes| {
        for node in nodes {
            node.samples = vec![sample(at, node.running.revision, 1_000, 500, 9_000)];
        }
    });
    assert_eq!(rollout.state, State::Completed);
}

#[test]
fn a_node_that_cannot_have_it_is_passed_over_and_one_that_comes_back_is_waited_for() {
    let mut nodes = fleet(4);
    let (rollout, _) = play(&mut nodes, 200, |_, rollout, nodes| {
        for node in nodes.iter_mut().take(2) {
            node.blocked = rollout.members.contains_key(&node.name);
        }
    });
    assert_eq!(rollout.state, State::Completed);
    let mut nodes = fleet(20);
    let (rollout, counts) = play(&mut nodes, 300, |at, rollout, nodes| {
        for node in nodes.iter_mut() {
            let first = rollout.members.contains_key(&node.name) && rollout.members.len() == 1;
            node.connected = !(first && (20..70).contains(&at));
        }
    });
    assert_eq!(rollout.state, State::Completed);
    assert_eq!(counts[65], 1);
}

#[test]
fn an_operator_who_resumes_has_seen_what_happened() {
    let mut nodes = fleet(20);
    let refuse = |_: u64, rollout: &Rollout, nodes: &mut [View]| {
        if let Some(first) = rollout.members.keys().next()
            && let Some(node) = nodes.iter_mut().find(|node| node.name == *first)
            && rollout.members.len() == 1
        {
            node.crash_restarts = 1;
        }
    };
    let (mut rollout, _) = play(&mut nodes, 50, refuse);
    assert_eq!(rollout.state, State::Halted);
    rollout.resume(&nodes, second(100));
    for at in 100..400 {
        while turn(&mut rollout, &mut nodes, second(at)) != Action::Wait {}
    }
    assert_eq!(
        (rollout.state, rollout.reason.as_deref()),
        (State::Completed, None)
    );
}

#[test]
fn the_file_holds_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rollouts.json");
    // Each process reads it once.
    let keeper = || Keeper::file(path.clone());
    assert_eq!(keeper().newer().unwrap(), None);
    let mut journal = Journal {
        generation: 3,
        released: FROM,
        conductor: uuid::Uuid::from_u128(7),
        rollouts: Vec::new(),
    };
    let mut rollout = Rollout::new(FROM, TO, second(0));
    rollout.apply(
        &Action::Admit(Stage::Canary, vec!["a".to_owned()]),
        &[],
        second(1),
    );
    journal.begin(rollout);
    assert!(keeper().write(&journal).unwrap());
    let mut reads = keeper();
    assert_eq!(reads.newer().unwrap().as_ref(), Some(&journal));
    assert_eq!(reads.newer().unwrap(), None);
    assert!(journal.open().is_some());
    std::fs::write(&path, "{").unwrap();
    let damaged = keeper().newer().unwrap_err();
    assert!(matches!(damaged, JournalError::Content { .. }));
    let told = damaged.to_string();
    assert!(
        told.contains("rollouts.json is damaged: put it back") && told.contains("move it away"),
        "{told}"
    );
    keeper().forget().unwrap();
    keeper().forget().unwrap();
}

proptest! {
    /// Whatever nodes do and whenever: nobody is given a change beyond what its stage allows, it ends or is
    /// halted, and once it is halted nobody else is given it.
    #[test]
    fn no_stage_reaches_further_than_it_may(
        count in 0usize..40,
        events in prop::collection::vec((0usize..40, 0u8..6, 1u64..40), 0..60),
    ) {
        let mut nodes = fleet(count);
        let mut rollout = Rollout::new(FROM, TO, second(0));
        let mut at = 0;
        for (which, what, pause) in events {
            at += pause;
            if let Some(node) = nodes.get_mut(which) {
                match what {
                    0 => node.connected = false,
                    1 => node.connected = true,
                    2 => node.blocked = !node.blocked,
                    3 if pause > 35 => node.crash_restarts += 1,
                    4 if pause > 35 => node.refusal = Some(Refused { revision: TO, reason: String::new() }),
                    _ => {}
                }
            }
            loop {
                let connected = nodes.iter().filter(|node| node.connected);
                let able = connected.clone().filter(|node| !node.blocked && rollout.members.contains_key(&node.name));
                let able = able.count();
                let lately = |node: &&View| node.connected || second(at).saturating_since(node.last_seen) < LATELY;
                let fleet = nodes.iter().filter(lately).count();
                match turn(&mut rollout, &mut nodes, second(at)) {
                    Action::Wait => break,
                    Action::Admit(stage, names) => {
                        let most = match stage {
                            Stage::Canary => 1,
                            Stage::Share => fleet.div_ceil(10).max(1),
                            Stage::All => fleet,
                        };
                        prop_assert!(able + names.len() <= most, "{:?} {} {:?}", stage, able, names);
                    }
                    Action::Watch | Action::Complete | Action::Halt(_) => {}
                }
            }
        }
        // Left alone, with nodes that are there and able, it comes to an end.
        for node in &mut nodes {
            node.connected = true;
            node.blocked = false;
        }
        for _ in 0..2_000 {
            at += 1;
            while turn(&mut rollout, &mut nodes, second(at)) != Action::Wait {}
        }
        prop_assert!(rollout.state != State::Running, "{:?}", rollout);
    }
}
