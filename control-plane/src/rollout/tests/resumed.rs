//! A roll-out that goes on as an operator says so.

use super::*;
use crate::rollout::Judged;

/// An operator has it go on: what counts begins with the first report after that, however late it comes.
#[test]
fn who_has_not_reported_twice_since_an_operator_had_it_go_on_is_not_taken_for_silent() {
    let mut nodes = fleet(5);
    let first = Action::Admit(Stage::Canary, vec!["node-0".to_owned()]);
    let mut rollout = Rollout::new(FROM, TO, second(40));
    rollout.apply(&first, &nodes, second(40));
    rollout.judged = Judged::Since(second(100));
    let judged = |nodes: &mut [View], requests: u64, times: &[u64]| {
        for node in nodes.iter_mut() {
            let is_member = node.name == "node-0";
            let (now, answered) = if is_member {
                (TO, requests)
            } else {
                (FROM, 1_000)
            };
            let before = [(20, FROM), (30, FROM), (80, now), (90, now), (100, now)];
            let before = before.map(|(at, revision)| sample(at, revision, 1_000, 0, 0));
            let later = times.iter().map(|at| sample(*at, now, answered, 0, 0));
            node.samples = before.into_iter().chain(later).collect();
            node.reported_at = second(*times.last().unwrap());
            node.running = running(now);
        }
        gate::verdict(&rollout, nodes, second(100))
    };
    assert_eq!(judged(&mut nodes, 1_000, &[111]), None);
    assert_eq!(judged(&mut nodes, 1_000, &[111, 122]), None);
    let reason = judged(&mut nodes, 2, &[111, 122]).unwrap_or_default();
    assert!(reason.contains("the others go on"), "{reason}");
}
