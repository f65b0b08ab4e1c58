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
