//! What becomes of a change that is halted while others write.

use super::*;

/// Has a change go to a first node, which crashes with it before that is seen.
fn fail(stage: &mut Stage) {
    stage.commit(Service::KIND, 1, 80);
    stage.pass(100);
    stage.commit(Service::KIND, 1, 81);
    assert_eq!(stage.state(), Some(State::Running));
    let members = stage.members();
    for node in &mut stage.nodes {
        if members.contains(&node.name) {
            node.crash_restarts += 1;
        }
    }
}

#[test]
fn what_was_written_beside_a_change_that_fails_goes_on_in_its_place() {
    let mut stage = Stage::new(4);
    fail(&mut stage);
    stage.commit(Service::KIND, 2, 82);
    let rollouts = &stage.conductor.journal().rollouts;
    let states = [State::Running, State::Superseded];
    assert_eq!([rollouts[0].state, rollouts[1].state], states);
    stage.pass(200);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
}

#[test]
fn what_takes_the_place_of_a_change_goes_first_to_the_nodes_that_have_it() {
    for by_operator in [true, false] {
        let mut stage = Stage::new(10);
        fail(&mut stage);
        let (first, given) = (stage.rollout().clone(), stage.members());
        assert_eq!(given.len(), 1);
        if by_operator {
            stage.order(first.to, Order::Halt).unwrap();
        }
        // Everybody writes, and what is wrong with the first change stays so.
        for number in 2..8 {
            stage.commit(Service::KIND, number, 82);
            if by_operator {
                let open = stage.rollout().to;
                stage.order(open, Order::Resume).unwrap();
                stage.turn();
            }
            assert_eq!(stage.rollout().to, stage.newest().revision);
            assert_eq!(stage.members(), given, "{number}");
            let runs = stage
                .nodes
                .iter()
                .filter(|node| node.running.revision > first.from);
            let runs: BTreeSet<_> = runs.map(|node| node.name.clone()).collect();
            assert_eq!(runs, given, "{number}");
            for node in &mut stage.nodes {
                node.crash_restarts += u32::from(given.contains(&node.name));
            }
        }
    }
}

#[test]
fn who_crashed_with_a_change_is_the_first_to_have_what_takes_its_place() {
    let mut stage = Stage::new(10);
    fail(&mut stage);
    let given = stage.members();
    let before = stage.nodes.iter().find(|node| !given.contains(&node.name));
    let before = before.unwrap().running;
    for number in 2..8 {
        // It runs what was before, and will not run that again.
        let to = stage.rollout().to;
        for node in &mut stage.nodes {
            if given.contains(&node.name) {
                node.running = before;
                node.crash_restarts += 1;
                node.quarantined = vec![to];
            }
        }
        stage.commit(Service::KIND, number, 82);
        assert_eq!(stage.rollout().to, stage.newest().revision);
        assert_eq!(stage.members(), given, "{number}");
    }
}

#[test]
fn of_many_that_have_crashed_with_a_change_one_is_the_first_to_have_what_takes_its_place() {
    let mut stage = Stage::new(10);
    fail(&mut stage);
    let rollout = stage.rollout().clone();
    let other = |node: &&View| !rollout.members.contains_key(&node.name);
    let before = stage.nodes.iter().find(other).unwrap().running;
    for node in stage.nodes.iter_mut().take(5) {
        node.crash_restarts += 1;
        node.quarantined = vec![rollout.to];
    }
    for node in &mut stage.nodes {
        node.running = before;
    }
    stage.commit(Service::KIND, 2, 82);
    let members = stage.members();
    assert_eq!(members.len(), 1);
    let crashed = |node: &View| !node.quarantined.is_empty() && members.contains(&node.name);
    assert!(stage.nodes.iter().any(crashed));
}

#[test]
fn what_a_control_plane_finds_as_it_starts_begins_once_the_nodes_are_known() {
    let mut stage = Stage::new(10);
    fail(&mut stage);
    let given = stage.members();
    // Halted with what two wrote, as it crashes once more. A third writes while no control plane runs.
    stage.commit(Service::KIND, 2, 82);
    for node in &mut stage.nodes {
        node.crash_restarts += u32::from(given.contains(&node.name));
    }
    stage.turn();
    assert_eq!(stage.state(), Some(State::Halted));
    commit(&stage.publisher, Service::KIND, 4, 82);
    stage.restart();
    let rollout = stage.rollout();
    assert_eq!(rollout.to, stage.newest().revision);
    assert_eq!(rollout.state, State::Running, "{:?}", rollout.reason);
    assert_eq!(stage.members(), given);
}

#[test]
fn who_comes_back_from_a_crash_has_not_crashed_with_what_mends_that() {
    let mut stage = Stage::new(10);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(100);
    stage.commit(Service::KIND, 1, 81);
    let (id, given) = (stage.rollout().to, stage.members());
    stage.order(id, Order::Halt).unwrap();
    let first = |stage: &mut Stage, change: fn(&mut View)| {
        let nodes = stage.nodes.iter_mut();
        nodes
            .filter(|node| given.contains(&node.name))
            .for_each(change);
    };
    // It crashes, the mend is written, and it is back, still with what it had.
    first(&mut stage, |node| node.connected = false);
    stage.commit(Service::KIND, 1, 82);
    stage.order(id, Order::Resume).unwrap();
    stage.pass(5);
    assert_eq!(stage.members(), given);
    first(&mut stage, |node| {
        node.connected = true;
        node.crash_restarts += 1;
    });
    stage.pass(5);
    assert_eq!(stage.state(), Some(State::Running));
    // Once more it is with that.
    first(&mut stage, |node| node.crash_restarts += 1);
    stage.turn();
    assert_eq!(stage.state(), Some(State::Halted));
}

#[test]
fn what_is_usual_is_known_however_long_a_change_stays_halted() {
    let mut stage = Stage::new(1);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(100);
    // One request of a hundred fails, whatever is configured.
    let report = |stage: &mut Stage| {
        let at = stage.now();
        for node in &mut stage.nodes {
            let revision = node.running.revision;
            let (requests, failed, left, p99_us) = (1_000, 10, Some(0), 7);
            let sample = Sample {
                at,
                revision,
                requests,
                failed,
                left,
                p99_us,
            };
            node.samples.push(sample);
            node.reported_at = at;
        }
    };
    report(&mut stage);
    // The node crashes with one change, and with what takes the place of that.
    for number in [1, 2, 3] {
        stage.commit(Service::KIND, number, 81);
        stage.nodes[0].crash_restarts += 1;
    }
    stage.turn();
    assert_eq!(stage.state(), Some(State::Halted));
    // Nothing else is remembered than what it did with that.
    stage.nodes[0].samples.clear();
    for _ in 0..30 {
        stage.pass(10);
        report(&mut stage);
    }
    stage.restart();
    stage.commit(Service::KIND, 4, 81);
    report(&mut stage);
    stage.pass(10);
    let reason = &stage.rollout().reason;
    assert_eq!(stage.state(), Some(State::Completed), "{reason:?}");
}

#[test]
fn a_share_that_has_what_is_replaced_is_watched_for_its_time() {
    let mut stage = Stage::new(10);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(100);
    stage.commit(Service::KIND, 1, 81);
    stage.pass(40);
    let share = stage.members();
    assert_eq!(share.len(), 5);
    let id = stage.rollout().to;
    stage.order(id, Order::Halt).unwrap();
    stage.commit(Service::KIND, 2, 80);
    stage.order(id, Order::Resume).unwrap();
    stage.turn();
    for expected in [State::Running, State::Completed] {
        stage.pass(35);
        assert_eq!(
            (stage.state(), stage.members()),
            (Some(expected), share.clone())
        );
    }
}

#[test]
fn a_node_that_is_lost_with_a_change_keeps_nobody_from_what_follows() {
    let mut stage = Stage::new(10);
    fail(&mut stage);
    let given = stage.members();
    for node in &mut stage.nodes {
        node.connected = !given.contains(&node.name);
    }
    stage.commit(Service::KIND, 2, 82);
    stage.pass(1_000);
    stage.commit(Service::KIND, 3, 82);
    stage.pass(200);
    assert_eq!(stage.state(), Some(State::Completed));
    // Nor does one that nobody knows any more, and nobody is given anything before the nodes are known.
    stage.restart();
    assert_eq!(stage.state(), Some(State::Completed));
}

#[test]
fn what_was_written_beside_a_change_that_fails_is_not_undone_with_it() {
    let mut stage = Stage::new(4);
    fail(&mut stage);
    // No node takes what both come to.
    refuse(&mut stage);
    stage.commit(Service::KIND, 2, 82);
    stage.pass(100);
    let both = stage.newest();
    let rollout = stage.rollout().clone();
    assert_eq!((rollout.state, rollout.to), (State::Halted, both.revision));
    undo_all(&mut stage);
}

/// Has whoever looks at what several wrote undo all of it: that is not done by itself, nor as one of them.
fn undo_all(stage: &mut Stage) {
    let newest = stage.newest();
    let rollout = stage.rollout().clone();
    assert_eq!(
        (rollout.state, rollout.to),
        (State::Halted, newest.revision)
    );
    assert!(rollout.revisions.len() > 1);
    let reason = rollout.reason.clone().unwrap();
    let named = format!("(revisions {})", rollout.writes());
    let way = format!("/revisions/{}/rollback", rollout.from);
    assert!(reason.contains(&named) && reason.contains(&way), "{reason}");
    let refused = stage.order(rollout.to, Order::RollBack);
    assert_eq!(refused, Err(OrderError::Several));
    stage.pass(100);
    assert_eq!(stage.newest(), newest);
    rollback::carry_out(&stage.publisher, newest.revision, rollout.from).unwrap();
    stage.publish();
    assert_eq!(stage.state(), Some(State::RolledBack));
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
}

#[test]
fn what_was_written_by_others_is_not_undone_with_what_is_wrong() {
    // Both wait behind the same change, or are published as one.
    for waits in [true, false] {
        let mut stage = Stage::new(4);
        stage.commit(Service::KIND, 1, 80);
        if !waits {
            stage.pass(400);
        }
        commit(&stage.publisher, Service::KIND, 2, 80);
        refuse(&mut stage);
        stage.commit(Service::KIND, 3, 80);
        stage.pass(400);
        let expected = [2, 3].map(Revision);
        assert_eq!(stage.rollout().revisions, expected);
        undo_all(&mut stage);
    }
}

#[test]
fn keys_and_revocations_make_no_other_write_of_a_change() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(400);
    commit(&stage.publisher, Service::KIND, 2, 80);
    refuse(&mut stage);
    for number in 8..=1_100 {
        commit(&stage.publisher, Revocation::KIND, number, 7);
    }
    refuse(&mut stage);
    stage.commit(Revocation::KIND, 7, 7);
    stage.pass(100);
    let rollout = stage.rollout().clone();
    assert_eq!(rollout.revisions, [Revision(2)]);
    assert_eq!(rollout.state, State::RolledBack);
}

#[test]
fn what_cannot_be_read_is_no_write_of_others() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(400);
    let good = stage.newest();
    // A node refuses it, and who is logged out beside it, while etcd chooses its leader.
    stage.memory.1.store(true, Ordering::Relaxed);
    commit(&stage.publisher, Service::KIND, 1, 81);
    refuse(&mut stage);
    stage.commit(Revocation::KIND, 7, 7);
    let newest = stage.newest();
    let id = newest.revision;
    stage.pass(10);
    assert_eq!(stage.state(), Some(State::Halted));
    assert_eq!(stage.order(id, Order::RollBack), Err(OrderError::Unkept));
    assert_eq!(stage.newest(), newest, "nothing is undone yet");
    stage.memory.1.store(false, Ordering::Relaxed);
    stage.conduct();
    // It is undone, and what does that is no write of others while it is not published.
    let (to, from) = stage.conductor.rollback().unwrap();
    rollback::carry_out(&stage.publisher, from, to).unwrap();
    stage.conduct();
    stage.publish();
    let rollout = stage.rollout().clone();
    assert_eq!(rollout.state, State::RolledBack);
    assert_eq!(rollout.revisions, [good.revision.next()]);
    let reason = rollout.reason.unwrap();
    assert!(!reason.contains("not rolled back"), "{reason}");
    let services = |config: &Config| {
        let keys = config.keys(Service::KIND, Uuid::nil());
        keys.filter_map(|key| config.stored(key).cloned())
            .collect::<Vec<_>>()
    };
    let before = stage.memory.entry(good.revision).unwrap().unwrap();
    let service = before.edits[0].after.clone().unwrap();
    assert_eq!(services(&stage.publisher.config()), [service]);
}

#[test]
fn what_an_operator_halts_stays_halted_whatever_is_written() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(400);
    let good = stage.newest();
    stage.commit(Service::KIND, 1, 81);
    let id = stage.newest().revision;
    let runs = |stage: &Stage| -> Vec<Hash> {
        let running = stage.running().into_iter();
        running.map(|position| position.root).collect()
    };
    let given = runs(&stage);
    // One waits already, one comes after the order.
    stage.commit(Service::KIND, 2, 80);
    stage.order(id, Order::Halt).unwrap();
    stage.pass(100);
    stage.commit(Service::KIND, 3, 80);
    stage.restart();
    stage.pass(100);
    assert_eq!(stage.state(), Some(State::Halted));
    assert_eq!(runs(&stage), given);
    // Neither is undone with it.
    assert_eq!(stage.order(id, Order::RollBack), Err(OrderError::Several));
    // It is changed back, and the rest goes on in its place.
    stage.commit(Service::KIND, 1, 80);
    assert_eq!(runs(&stage), given);
    stage.order(id, Order::Resume).unwrap();
    stage.turn();
    let rollout = stage.rollout().clone();
    let newest = stage.newest().revision;
    let expected = (State::Running, good.revision, newest);
    assert_eq!((rollout.state, rollout.from, rollout.to), expected);
    stage.pass(200);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
}

#[test]
fn what_comes_after_an_order_to_roll_back_is_not_undone_by_it() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    let id = stage.newest().revision;
    stage.order(id, Order::RollBack).unwrap();
    commit(&stage.publisher, Service::KIND, 2, 80);
    let newest = stage.publisher.config().revision();
    stage.publish();
    stage.pass(100);
    assert_eq!(stage.newest().revision, newest, "nothing is undone");
    assert_eq!(stage.state(), Some(State::Halted));
    let rollout = stage.rollout().clone();
    assert!(!rollout.rolls_back);
    assert!(rollout.reason.unwrap().contains("not rolled back"));
    stage.order(id, Order::Resume).unwrap();
    stage.pass(200);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
}

#[test]
fn where_everything_is_undone_nothing_stays_halted() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(400);
    let good = stage.newest();
    stage.commit(Service::KIND, 1, 81);
    let id = stage.newest().revision;
    stage.order(id, Order::Halt).unwrap();
    stage.commit(Service::KIND, 1, 80);
    assert_eq!(stage.state(), Some(State::RolledBack));
    assert_eq!(stage.newest().root, good.root);
    stage.turn();
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
}

#[test]
fn what_is_halted_stays_so_where_the_history_does_not_reach_back_to_it() {
    for order in [Order::Resume, Order::Release] {
        for by_operator in [true, false] {
            let mut stage = Stage::new(4);
            stage.commit(Service::KIND, 1, 80);
            stage.pass(400);
            if by_operator {
                stage.commit(Service::KIND, 1, 81);
                let id = stage.newest().revision;
                stage.order(id, Order::Halt).unwrap();
            } else {
                commit(&stage.publisher, Service::KIND, 1, 81);
                refuse(&mut stage);
                stage.commit(Service::KIND, 2, 80);
            }
            let id = stage.newest().revision;
            let on = |stage: &Stage| {
                let running = stage.running().into_iter();
                running.map(|one| one.revision).collect::<Vec<_>>()
            };
            stage.turn();
            let runs = on(&stage);
            stage.commit(Revocation::KIND, 7, 7);
            stage.commit(Revocation::KIND, 8, 7);
            let newest = stage.newest().revision;
            stage
                .memory
                .0
                .lock()
                .unwrap()
                .retain(|revision, _| *revision == newest);
            stage.restart();
            stage.pass(400);
            assert_eq!(stage.state(), Some(State::Halted));
            assert_eq!(on(&stage), runs, "nobody else is given it");
            let refused = stage.order(id, Order::RollBack);
            assert_eq!(refused, Err(OrderError::Forgotten));
            stage.order(id, order).unwrap();
            stage.pass(400);
            let root = stage.newest().root;
            assert_eq!(roots(&stage.running()), BTreeSet::from([root]), "{order:?}");
        }
    }
}
