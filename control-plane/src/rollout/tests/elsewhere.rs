//! What all nodes suffer while some of them have a change.

use super::*;

/// Why a change is halted whose share begins in the second 31, if all nodes suffer alike in the ten seconds before each of the
/// reports `ill`. There are reports of each node until `now`.
fn halted_where_all_suffer(
    ill: &[u64],
    now: u64,
    taken_over: bool,
    worsen: impl Fn(&mut Sample),
) -> Option<String> {
    let mut nodes = fleet(50);
    let mut rollout = Rollout::new(FROM, TO, second(1));
    let first = Action::Admit(Stage::Canary, vec![nodes[0].name.clone()]);
    rollout.apply(&first, &nodes, second(1));
    let share = nodes[1..5].iter().map(|node| node.name.clone());
    let share = Action::Admit(Stage::Share, share.collect());
    rollout.apply(&share, &nodes, second(31));
    for node in &mut nodes {
        let member = rollout.members.get_mut(&node.name);
        let given = member.as_ref().map(|member| member.since);
        let reports = [0, 10, 20, 30, 40, 50, 60];
        let reports = reports.into_iter().filter(|at| *at <= now).map(|at| {
            let has_it = given.is_some_and(|given| given < second(at));
            let mut report = sample(at, if has_it { TO } else { FROM }, 1_000, 0, 1_000);
            if ill.contains(&at) {
                worsen(&mut report);
            }
            report
        });
        node.samples = reports.collect();
        if let Some(member) = member {
            // That is what was before the change.
            member.usual = vec![sample(0, FROM, 1_000, 0, 1_000)];
            node.samples.retain(|sample| sample.revision == TO);
        }
    }
    // Who takes it over begins its times anew.
    if taken_over {
        rollout.stage_since = second(now);
        rollout
            .members
            .values_mut()
            .for_each(|member| member.since = second(now));
    }
    gate::verdict(&rollout, &nodes, second(31))
}

#[test]
fn what_all_suffer_in_any_stage_is_not_blamed_on_the_change() {
    for (ill, now) in [
        // While the first node is watched: as the share begins, and later.
        (&[10, 20, 30][..], 30),
        (&[10, 20, 30], 40),
        (&[10, 20, 30], 60),
        (&[10, 20, 30, 40, 50, 60], 60),
        // Only since the share has it.
        (&[40], 40),
        (&[40, 50, 60], 60),
    ] {
        let ways: [fn(&mut Sample); 3] = [
            |sample| sample.failed = 500,
            |sample| sample.left = Some(500),
            |sample| sample.p99_us = 50_000,
        ];
        for worsen in ways {
            for taken_over in [false, true] {
                let reason = halted_where_all_suffer(ill, now, taken_over, worsen);
                assert_eq!(reason, None, "{ill:?} by {now}, {taken_over}");
            }
        }
    }
}
