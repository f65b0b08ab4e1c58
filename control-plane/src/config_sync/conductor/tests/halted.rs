//! What becomes of a change that is halted while others write.

use super::*;

#[test]
fn what_was_written_beside_a_change_that_fails_is_not_undone_with_it() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(100);
    stage.commit(Service::KIND, 1, 81);
    stage.turn();
    assert_eq!(stage.state(), Some(State::Running));
    // Another writes while the first is on its way, and no node takes what both come to.
    refuse(&mut stage);
    stage.commit(Service::KIND, 2, 82);
    let both = stage.newest();
    let id = stage.conductor.journal().rollouts[0].to;
    stage.order(id, Order::Halt).unwrap();
    stage.turn();
    stage.pass(100);
    let rollout = stage.conductor.journal().rollouts[0].clone();
    assert_eq!((rollout.state, rollout.to), (State::Halted, both.revision));
    assert!(rollout.reason.unwrap().contains("others wrote"));
    assert_eq!(stage.newest(), both);
    // Whoever looks at it may still have all of it undone.
    stage.order(both.revision, Order::RollBack).unwrap();
    stage.turn();
    assert_eq!(stage.state(), Some(State::RolledBack));
}

#[test]
fn a_change_that_comes_after_a_halted_one_takes_its_place() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    let id = stage.newest().revision;
    stage.order(id, Order::Halt).unwrap();
    stage.pass(100);
    assert_eq!(stage.state(), Some(State::Halted));
    stage.commit(Service::KIND, 1, 81);
    assert_eq!(stage.state(), Some(State::Running));
    assert_eq!(
        stage.conductor.journal().rollouts[1].state,
        State::Superseded
    );
    stage.pass(200);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
}
