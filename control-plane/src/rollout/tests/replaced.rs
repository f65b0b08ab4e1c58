//! A roll-out that takes the place of another.

use super::*;

#[test]
fn what_a_node_did_with_the_change_before_is_no_measure() {
    let (replaced, to) = (TO, Revision(TO.0 + 1));
    let mut rollout = Rollout::new(FROM, to, second(100));
    let mut nodes = fleet(5);
    let first = Action::Admit(Stage::Canary, vec!["node-0".to_owned()]);
    rollout.apply(&first, &nodes, second(100));
    for node in &mut nodes {
        let is_member = rollout.members.contains_key(&node.name);
        // The change before failed for so long that nothing else is remembered; what is new does not mend it.
        let (before, now) = if is_member {
            (replaced, to)
        } else {
            (FROM, FROM)
        };
        let failed = if is_member { 1_000 } else { 0 };
        let samples = [(80, before), (90, before), (110, now), (120, now)];
        let samples = samples.map(|(at, revision)| sample(at, revision, 1_000, failed, 1_000));
        node.samples = samples.to_vec();
        node.reported_at = second(120);
        node.running = running(now);
        node.last_seen = second(120);
    }
    let reason = gate::verdict(&rollout, &nodes, second(101));
    assert!(reason.is_some_and(|reason| reason.contains("1000 of 1,000 requests fail")));
}

/// Has a change begin in the place of another after so many `seconds`, with which the first node answers next to nothing. Why it is
/// halted.
fn replaced_after(seconds: u64, inherits: bool) -> Option<String> {
    let mut nodes = fleet(5);
    let report = |node: &mut View, at, revision, requests| {
        node.samples.push(sample(at, revision, requests, 0, 0));
        node.reported_at = second(at);
        node.running = running(revision);
    };
    for at in [0, 10, 20, 30] {
        for node in &mut nodes {
            report(node, at, FROM, 1_000);
        }
    }
    let first = Action::Admit(Stage::Canary, vec!["node-0".to_owned()]);
    let mut replaced = Rollout::new(FROM, TO, second(40));
    replaced.apply(&first, &nodes, second(40));
    // What was before is not remembered any more.
    let at = 40 + seconds;
    for node in &mut nodes {
        node.samples.clear();
    }
    for at in [at - 20, at - 10] {
        for node in &mut nodes {
            let revision = if node.name == "node-0" { TO } else { FROM };
            report(node, at, revision, 1_000);
        }
    }
    let to = Revision(TO.0 + 1);
    let mut rollout = Rollout::new(FROM, to, second(at));
    rollout.apply(&first, &nodes, second(at));
    if inherits {
        rollout.inherit(&replaced);
    }
    for at in [at + 10, at + 20, at + 30] {
        for node in &mut nodes {
            let (revision, requests) = if node.name == "node-0" {
                (to, 5)
            } else {
                (FROM, 1_000)
            };
            report(node, at, revision, requests);
        }
    }
    gate::verdict(&rollout, &nodes, second(at))
}

#[test]
fn what_a_node_answered_before_a_change_is_known_for_a_while() {
    let halts = replaced_after(300, true);
    assert!(halts.is_some_and(|reason| reason.contains("answers 10 requests")));
    assert_eq!(replaced_after(300, false), None);
    // In the night less is asked of it.
    assert_eq!(replaced_after(LATELY.as_secs() + 60, true), None);
}
