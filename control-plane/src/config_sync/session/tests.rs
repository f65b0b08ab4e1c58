//! What is offered to a node, whatever it answers.

use proptest::prelude::*;
use shared::snapshot::Revision;

use super::*;

const ALL: Abilities = Abilities {
    delta: true,
    buckets: true,
};

fn at(generation: u64, revision: u64, content: u8) -> Position {
    Position {
        generation,
        revision: Revision(revision),
        urgent: Revision::default(),
        root: [content; 32],
    }
}

fn session(running: Position) -> Session {
    Session::new(running, Vec::new(), ALL)
}

/// A goal that everything is known of.
fn goal(position: Position) -> Goal {
    Goal {
        position,
        configuration: position.root,
        reachable: true,
        small: false,
        bare: false,
    }
}

/// The node answers that it runs what it was sent.
fn ack(session: &mut Session, nonce: u64) -> Result<Position, Unexpected> {
    let sent = session.in_flight.map(|sent| sent.target);
    session.acked(nonce, &sent.unwrap_or_default())
}

fn send(nonce: u64, way: Way) -> Step {
    Step::Send(Offer {
        nonce,
        way,
        ordered: false,
    })
}

#[test]
fn one_update_at_a_time_and_the_newest_next() {
    let mut session = session(Position::default());
    let offer = session.offer(&goal(at(1, 1, 1)));
    assert_eq!(offer, Some(send(1, Way::Everything)));
    assert_eq!(session.offer(&goal(at(1, 2, 2))), None);
    assert_eq!(session.offer(&goal(at(1, 3, 3))), None);
    assert_eq!(ack(&mut session, 1), Ok(at(1, 1, 1)));
    let offer = session.offer(&goal(at(1, 3, 3)));
    assert_eq!(offer, Some(send(2, Way::Since([1; 32]))));
    assert!(ack(&mut session, 1).is_err());
    assert_eq!(ack(&mut session, 2), Ok(at(1, 3, 3)));
    assert_eq!(session.offer(&goal(at(1, 3, 3))), None);
}

#[test]
fn who_acknowledges_an_update_and_runs_something_else_breaks_the_protocol() {
    for other in [
        at(1, 2, 9),
        at(1, 1, 2),
        at(1, 7, 2),
        at(2, 2, 2),
        Position::default(),
    ] {
        let mut session = session(at(1, 1, 1));
        session.offer(&goal(at(1, 2, 2))).unwrap();
        let acked = session.acked(1, &other);
        assert_eq!(acked, Err(Unexpected::Elsewhere(1)), "{other:?}");
        assert_eq!(*session.running(), at(1, 1, 1));
    }
}

#[test]
fn equal_content_moves_without_records() {
    let mut session = session(at(1, 1, 7));
    assert_eq!(session.offer(&goal(at(1, 4, 7))), Some(send(1, Way::Same)));
}

#[test]
fn a_node_is_sent_no_more_than_it_lacks_and_can_take() {
    let unknown = |small| Goal {
        reachable: false,
        small,
        ..goal(at(1, 2, 2))
    };
    let with = |abilities| Session::new(at(1, 1, 1), Vec::new(), abilities);
    let first = |abilities, goal| with(abilities).offer(&goal);
    let none = Abilities::default();
    assert_eq!(
        first(none, goal(at(1, 2, 2))),
        Some(send(1, Way::Everything))
    );
    assert_eq!(first(none, unknown(false)), Some(send(1, Way::Everything)));
    assert_eq!(first(ALL, unknown(true)), Some(send(1, Way::Everything)));
    let mut asks = with(ALL);
    assert_eq!(asks.told(Vec::new()), Err(Unexpected::Digests));
    assert_eq!(asks.offer(&unknown(false)), Some(Step::Ask));
    assert!(asks.is_waiting());
    assert_eq!(asks.offer(&goal(at(1, 3, 3))), None);
    asks.told(vec![[5; 32]]).unwrap();
    let repair = Some(send(1, Way::Repair(vec![[5; 32]])));
    assert_eq!(asks.offer(&unknown(false)), repair);
    // What it has is not what it should be.
    asks.nacked(1).unwrap();
    assert!(asks.lacks_everything());
    assert_eq!(asks.offer(&unknown(false)), Some(send(2, Way::Everything)));
    ack(&mut asks, 2).unwrap();
    let next = asks.offer(&goal(at(1, 3, 3)));
    assert_eq!(next, Some(send(3, Way::Since([2; 32]))));
    // Everything it is not sent again, however often it asks for that, but what is new.
    asks.nacked(3).unwrap();
    assert!(asks.lacks_everything());
    let everything = |nonce| Some(send(nonce, Way::Everything));
    assert_eq!(asks.offer(&goal(at(1, 3, 3))), everything(4));
    asks.nacked(4).unwrap();
    for _ in 0..3 {
        assert!(!asks.lacks_everything());
        assert_eq!(asks.offer(&goal(at(1, 3, 3))), None);
    }
    assert_eq!(asks.offer(&goal(at(1, 4, 4))), everything(5));
}

#[test]
fn what_was_refused_is_not_sent_again_unless_an_operator_says_so() {
    let mut refusing = session(at(1, 1, 1));
    refusing.offer(&goal(at(1, 2, 2))).unwrap();
    let shunned = refusing.nacked(1).unwrap();
    assert_eq!(shunned.position, at(1, 2, 2));
    assert_eq!(refusing.offer(&goal(at(1, 2, 2))), None);
    assert!(refusing.offer(&goal(at(1, 3, 3))).is_some());
    let mut again = Session::new(at(1, 1, 1), vec![at(1, 2, 2).into()], ALL);
    assert_eq!(again.offer(&goal(at(1, 2, 2))), None);
    again.retry();
    assert!(again.offer(&goal(at(1, 2, 2))).is_some());
    // What it has crashed with it runs on order alone, and the order is for one update.
    let mut ordered = Session::new(at(1, 1, 1), vec![at(1, 2, 2).into()], ALL);
    ordered.order();
    let mut is_ordered = |target| match ordered.offer(&goal(target)) {
        Some(Step::Send(offer)) => {
            ack(&mut ordered, offer.nonce).unwrap();
            offer.ordered
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [at(1, 2, 2), at(1, 3, 3)].map(&mut is_ordered),
        [true, false]
    );
}

#[test]
fn a_configuration_that_was_refused_is_not_sent_again_with_other_keys() {
    let with_keys = |revision, content| Goal {
        configuration: [9; 32],
        ..goal(at(1, revision, content))
    };
    let mut first = session(at(1, 1, 1));
    first.offer(&with_keys(2, 2)).unwrap();
    let shunned = first.nacked(1).unwrap();
    // It is known also to the next stream.
    let next = Session::new(at(1, 1, 1), vec![shunned], ALL);
    for mut session in [first, next] {
        assert!(session.has_refused(&with_keys(3, 3)));
        assert_eq!(session.offer(&with_keys(3, 3)), None);
        // What the node runs is not what it has refused, even if the same is configured.
        let mut same = with_keys(1, 4);
        same.position.urgent = Revision(3);
        let Some(Step::Send(offer)) = session.offer(&same) else {
            panic!("it hears of no keys")
        };
        session.nacked(offer.nonce).unwrap();
        assert_eq!(session.offer(&same), None);
        same.position.urgent = Revision(4);
        let Some(Step::Send(offer)) = session.offer(&same) else {
            panic!("it hears of no more keys")
        };
        ack(&mut session, offer.nonce).unwrap();
        assert_eq!(session.offer(&with_keys(5, 5)), None);
        // Once it has gone on it is asked again.
        let Some(Step::Send(offer)) = session.offer(&goal(at(1, 6, 6))) else {
            panic!("it is not led on")
        };
        ack(&mut session, offer.nonce).unwrap();
        assert!(session.offer(&with_keys(7, 7)).is_some());
    }
}

#[test]
fn a_store_begun_anew_leads_nobody_away_before_it_holds_something() {
    let bare = Goal {
        bare: true,
        ..goal(at(9, 1, 9))
    };
    let mut session = Session::new(at(1, 24, 1), Vec::new(), ALL);
    assert_eq!(session.offer(&bare), None);
    assert!(session.offer(&goal(at(9, 2, 8))).is_some());
    // Who has nothing is no worse off.
    let mut new = Session::new(Position::default(), Vec::new(), ALL);
    assert!(new.offer(&bare).is_some());
}

#[test]
fn a_node_ahead_is_left_alone_until_the_generation_grows() {
    let mut session = session(at(1, 9, 9));
    assert_eq!(session.offer(&goal(at(1, 3, 3))), None);
    assert!(session.is_ahead_of(&at(1, 3, 3)) && !session.is_ahead_of(&at(1, 9, 9)));
    let led = [at(1, 3, 3), at(1, 9, 8), at(1, 9, 9), at(2, 1, 3)]
        .map(|to| session.is_led_to(&to, false));
    assert_eq!(led, [false, true, true, true]);
    assert!(!session.is_led_to(&at(2, 1, 3), true));
    assert_eq!(session.offer(&goal(at(1, 9, 8))), None);
    assert!(session.offer(&goal(at(2, 1, 3))).is_some());
}

proptest! {
    /// Whatever happens in whatever order, a node that answers ends at the last target or at a refusal of it.
    #[test]
    fn every_node_ends_at_the_newest(
        events in prop::collection::vec((0u8..3, any::<bool>(), any::<bool>()), 0..60),
    ) {
        let mut session = session(Position::default());
        let mut target = at(1, 1, 1);
        let mut sent = None;
        let offer = |session: &mut Session, target: Position, reachable: bool| {
            let goal = Goal { reachable, ..goal(target) };
            match session.offer(&goal)? {
                Step::Ask => {
                    session.told(Vec::new()).unwrap();
                    match session.offer(&goal)? {
                        Step::Send(offer) => Some(offer.nonce),
                        Step::Ask => panic!("asked twice"),
                    }
                }
                Step::Send(offer) => Some(offer.nonce),
            }
        };
        for (event, good, reachable) in events {
            match event {
                0 => target = at(1, target.revision.0 + 1, u8::try_from(target.revision.0 % 250).unwrap()),
                1 => if let Some(nonce) = offer(&mut session, target, reachable) {
                    prop_assert!(sent.is_none());
                    sent = Some((nonce, target));
                },
                _ => if let Some((nonce, position)) = sent.take() {
                    let refused = |session: &mut Session| session.nacked(nonce).map(|one| one.position);
                    let answered = if good { ack(&mut session, nonce) } else { refused(&mut session) };
                    prop_assert_eq!(answered, Ok(position));
                    if !good && reachable {
                        session.lacks_everything();
                    }
                },
            }
        }
        if let Some((nonce, _)) = sent.take() {
            ack(&mut session, nonce).unwrap();
        }
        if let Some(nonce) = offer(&mut session, target, true) {
            ack(&mut session, nonce).unwrap();
        }
        prop_assert!(session.running == target || session.has_refused(&goal(target)));
    }
}
