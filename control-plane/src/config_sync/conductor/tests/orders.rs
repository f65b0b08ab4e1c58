//! What operators want of a roll-out, and what they do not.

use super::*;

#[test]
fn what_waits_behind_a_change_is_not_undone_with_it() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    let id = stage.newest().revision;
    stage.commit(Service::KIND, 2, 80);
    assert_eq!(stage.order(id, Order::RollBack), Err(OrderError::Several));
    stage.turn();
    let running = Some(State::Running);
    assert_eq!(stage.state(), running, "nothing was rolled back");
    stage.pass(400);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
    // Where nothing waits, it is the change that is undone.
    let good = stage.newest();
    stage.commit(Service::KIND, 1, 81);
    let id = stage.newest().revision;
    assert_eq!(stage.order(id, Order::RollBack), Ok(()));
    stage.turn();
    assert_eq!(stage.newest().root, good.root);
}

#[test]
fn what_cannot_be_rolled_back_yet_goes_no_further() {
    let mut stage = Stage::new(10);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(400);
    stage.memory.1.store(true, Ordering::Relaxed);
    stage.commit(Service::KIND, 1, 81);
    let id = stage.newest().revision;
    let given = stage.members();
    assert_eq!(stage.order(id, Order::RollBack), Err(OrderError::Unkept));
    stage.pass(400);
    assert_eq!(stage.state(), Some(State::Halted));
    assert_eq!(stage.members(), given);
    // Once it can be told what else was written, the order is carried out where it is given again.
    stage.memory.1.store(false, Ordering::Relaxed);
    stage.conduct();
    assert_eq!(stage.order(id, Order::RollBack), Ok(()));
    stage.turn();
    assert_eq!(stage.state(), Some(State::RolledBack));
}

#[test]
fn what_was_halted_as_a_precaution_is_judged_by_the_same_nodes_as_it_goes_on() {
    let mut stage = Stage::new(8);
    stage.nodes[3].canary = true;
    stage.commit(Service::KIND, 1, 80);
    stage.pass(100);
    let report = |stage: &mut Stage| {
        let (at, node) = (stage.now(), &mut stage.nodes[3]);
        let revision = node.running.revision;
        let (requests, failed, left, p99_us) = (1_000, 1_000, Some(0), 7);
        node.samples.push(Sample {
            at,
            revision,
            requests,
            failed,
            left,
            p99_us,
        });
    };
    stage.commit(Service::KIND, 1, 81);
    let (id, given) = (stage.rollout().to, stage.members());
    assert_eq!(given, BTreeSet::from(["node-3".to_owned()]));
    // All its requests fail for something that is mended while nothing goes on; the first report after that is of both times.
    report(&mut stage);
    stage.order(id, Order::Halt).unwrap();
    stage.pass(10);
    stage.nodes[3].crash_restarts += 1;
    stage.order(id, Order::Resume).unwrap();
    stage.pass(10);
    report(&mut stage);
    stage.pass(10);
    let reason = stage.rollout().reason.clone();
    assert_eq!(
        (stage.state(), stage.members(), reason),
        (Some(State::Running), given, None)
    );
    // Then for the change.
    report(&mut stage);
    stage.turn();
    assert_eq!(stage.state(), Some(State::RolledBack));
    assert_eq!(stage.rollout().stage, crate::rollout::Stage::Canary);
}

#[test]
fn who_is_lost_while_nothing_goes_on_is_no_reason_and_another_takes_its_place() {
    let mut stage = Stage::new(8);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(100);
    stage.commit(Service::KIND, 1, 81);
    let (id, given) = (stage.rollout().to, stage.members());
    stage.order(id, Order::Halt).unwrap();
    for node in &mut stage.nodes {
        node.connected = !given.contains(&node.name);
    }
    stage.pass(100);
    stage.order(id, Order::Resume).unwrap();
    stage.pass(1);
    let members = stage.members();
    assert_eq!((stage.state(), members.len()), (Some(State::Running), 1));
    assert!(members.is_disjoint(&given));
    stage.pass(200);
    assert_eq!(stage.state(), Some(State::Completed));
}

#[test]
fn what_is_halted_by_itself_gives_way_though_it_could_not_be_rolled_back() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(400);
    stage.memory.1.store(true, Ordering::Relaxed);
    commit(&stage.publisher, Service::KIND, 1, 81);
    refuse(&mut stage);
    stage.commit(Revocation::KIND, 7, 7);
    stage.pass(10);
    assert_eq!(stage.state(), Some(State::Halted));
    let id = stage.rollout().to;
    assert_eq!(stage.order(id, Order::RollBack), Err(OrderError::Unkept));
    stage.commit(Service::KIND, 1, 82);
    assert_ne!(stage.rollout().to, id);
}

#[test]
fn a_roll_out_that_is_resumed_goes_on_with_others_than_those_that_refused_it() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(400);
    let to = stage.publisher.config().revision().next();
    // Whichever is first refuses it.
    commit(&stage.publisher, Service::KIND, 1, 81);
    stage.conductor.publish(stage.publisher.config());
    stage.conduct();
    let first = stage.members();
    let refused = Some(Refused {
        revision: to,
        reason: "no".to_owned(),
    });
    for node in &mut stage.nodes {
        if first.contains(&node.name) {
            node.refusal = refused.clone();
        }
    }
    stage.conduct();
    assert_eq!(stage.state(), Some(State::Halted));
    assert_eq!(stage.order(to, Order::Halt), Ok(()));
    assert_eq!(stage.order(to, Order::Resume), Ok(()));
    stage.turn();
    assert_eq!(stage.rollout().excused, first);
    let members = stage.members();
    assert!(!members.is_empty() && members.is_disjoint(&first));
    stage.pass(400);
    assert_eq!(stage.state(), Some(State::Completed));
}
