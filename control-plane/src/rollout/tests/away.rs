//! What roll-outs do while nodes of the fleet are away.

use super::*;

/// Has all nodes but the first `there` be away from the start on, and come back in the second `back`.
fn cut_off(count: usize, there: usize, back: u64) -> (Rollout, Vec<usize>) {
    let mut nodes = fleet(count);
    play(&mut nodes, 1_200, |at, _, nodes| {
        for node in nodes.iter_mut().skip(there) {
            node.connected = at >= back;
        }
    })
}

#[test]
fn who_is_away_counts_for_a_while() {
    // Two of ten are no small fleet, and of the others nobody has it before its time.
    let (rollout, counts) = cut_off(10, 2, 5);
    assert_eq!(rollout.state, State::Completed);
    assert!(counts[..30].iter().all(|count| *count == 1), "{counts:?}");
    assert_eq!(counts.len(), 31, "one of ten is the share, too");
    // Of thirty, three are to have it before all do: two are waited for, and watched.
    let (rollout, counts) = cut_off(30, 1, 500);
    assert_eq!(rollout.state, State::Completed);
    assert!(counts[..500].iter().all(|count| *count == 1), "{counts:?}");
    assert!(
        counts[500..560].iter().all(|count| *count == 3),
        "{counts:?}"
    );
    assert_eq!(counts.len(), 561);
    // Nobody at all is there to try it.
    let (rollout, counts) = cut_off(5, 0, 70);
    assert_eq!(rollout.state, State::Completed);
    assert_eq!(counts[69..100], [&[0][..], &[1; 30]].concat());
    assert_eq!(counts.len(), 101);
    // Who stays away is not waited for any longer, nor is who has said that it stops.
    let (rollout, counts) = cut_off(30, 1, 2_000);
    assert_eq!((rollout.state, counts.len()), (State::Completed, 901));
    let mut nodes = fleet(30);
    for node in nodes.iter_mut().skip(1) {
        (node.connected, node.draining) = (false, true);
    }
    let (rollout, counts) = play(&mut nodes, 100, |_, _, _| {});
    assert_eq!((rollout.state, counts.len()), (State::Completed, 3));
}

#[test]
fn a_fleet_is_no_smaller_for_a_long_outage() {
    let lost = |count, there, back| {
        let mut nodes = fleet(count);
        for node in &mut nodes {
            node.last_seen = UnixTime::from_secs(second(0).as_secs() - 3_600);
        }
        play(&mut nodes, 1_200, |at, _, nodes| {
            for node in nodes.iter_mut().skip(there) {
                node.connected = at >= back;
            }
        })
    };
    // Two of ten are there, and are watched in turn; the others are not waited for.
    let (rollout, counts) = lost(10, 2, 2_000);
    assert_eq!(rollout.state, State::Completed);
    assert!(counts[..30].iter().all(|count| *count == 1), "{counts:?}");
    assert_eq!(counts.len(), 31);
    // Whoever is the first of all to come back is the first to have it.
    let (rollout, counts) = lost(5, 0, 1_000);
    assert_eq!(rollout.state, State::Completed);
    assert!(counts[..1_000].iter().all(|count| *count == 0));
    assert_eq!(counts[1_000..], [1; 31]);
    let mut nodes = fleet(5);
    for node in &mut nodes {
        node.connected = false;
    }
    let rollout = Rollout::new(FROM, TO, second(0));
    let told = |at| waits_for(&rollout, &PLAN, &nodes, second(at)).unwrap_or_default();
    for at in [0, 1_000] {
        assert!(told(at).contains("0 of 5"), "{}", told(at));
    }
    assert_eq!(told(90_000), "");
    let action = step(&rollout, &PLAN, &nodes, second(90_000));
    assert_eq!(action, Action::Complete);
}

#[test]
fn what_is_waited_for_is_told() {
    let mut nodes = fleet(30);
    for node in nodes.iter_mut().skip(1) {
        node.connected = false;
    }
    let mut rollout = Rollout::new(FROM, TO, second(0));
    let told = |rollout: &Rollout, nodes: &[View], at| waits_for(rollout, &PLAN, nodes, second(at));
    let reason = told(&rollout, &nodes[1..], 0).unwrap_or_default();
    assert!(reason.contains("0 of 29"), "{reason}");
    assert!(
        reason.contains("1 too few for the stage canary"),
        "{reason}"
    );
    assert_eq!(told(&rollout, &nodes, 0), None, "one can try it");
    while turn(&mut rollout, &mut nodes, second(0)) != Action::Wait {}
    let reason = told(&rollout, &nodes, 0).unwrap_or_default();
    assert!(reason.contains("1 of 30"), "{reason}");
    assert!(reason.contains("2 too few for the stage share"), "{reason}");
    assert_eq!(told(&rollout, &nodes[..3], 0), None, "a small fleet");
    assert_eq!(told(&rollout, &nodes, 1_000), None, "they are gone");
    nodes[1].connected = true;
    nodes[2].connected = true;
    assert_eq!(told(&rollout, &nodes, 0), None, "enough are there");
}

#[test]
fn a_stage_ends_on_what_is_known_by_then_of_who_has_the_change() {
    // Who has it is connected to another control plane, which tells of it until the second `last`.
    let last_told = |last: u64| {
        let mut nodes = fleet(50);
        play(&mut nodes, 200, |at, _, nodes| {
            for node in nodes {
                node.told_at = Some(second(at.min(last)));
            }
        })
    };
    let (rollout, counts) = last_told(29);
    assert_eq!(rollout.state, State::Running);
    assert_eq!(counts, [1; 200]);
    let (rollout, counts) = last_told(89);
    assert_eq!(rollout.state, State::Running);
    assert_eq!(counts[30..], [5; 170]);
    let (rollout, counts) = last_told(90);
    assert_eq!((rollout.state, counts.len()), (State::Completed, 91));
    // Nobody else has to be told of, nor who stops.
    let mut nodes = fleet(50);
    let (rollout, counts) = play(&mut nodes, 200, |at, rollout, nodes| {
        for node in nodes {
            let is_member = rollout.members.contains_key(&node.name);
            node.told_at = (!is_member || node.draining).then_some(second(0));
            node.draining |= is_member && at == 10;
        }
    });
    assert_eq!((rollout.state, counts.len()), (State::Completed, 101));
}
