//! Who does a piece of work, and who follows.

use shared::clock::monotonic;

use super::*;

/// The only stream of a process.
const fn by(number: u64) -> By {
    By {
        process: number,
        stream: number,
    }
}

const A: Key = Bytes::from_static(b"a");
const RESULT_OF_A: Bytes = Bytes::from_static(b"sealed");

#[test]
fn one_does_it_and_all_get_what_it_brings() {
    let now = monotonic();
    let mut flights = Flights::new(false);
    assert_eq!(
        flights.join(A, by(1), false, "first", now),
        Joined::Yours("first", true)
    );
    assert_eq!(flights.join(A, by(2), false, "second", now), Joined::Waits);
    assert_eq!(flights.join(A, by(3), false, "third", now), Joined::Waits);
    // Only who does it can say that it is done.
    assert_eq!(flights.land(A, 2, RESULT_OF_A, now), None);
    let landed = flights.land(A, 1, RESULT_OF_A, now);
    assert_eq!(landed, Some((vec!["second", "third"], 0)));
    let late = now + KEPT / 2;
    let joined = flights.join(A, by(4), false, "late", late);
    assert_eq!(joined, Joined::Done("late", RESULT_OF_A));
    let much_later = now + KEPT;
    let joined = flights.join(A, by(4), false, "again", much_later);
    assert_eq!(joined, Joined::Yours("again", true));
}

#[test]
fn who_fails_or_leaves_or_hangs_is_followed_by_the_next() {
    let now = monotonic();
    let mut flights = Flights::new(false);
    flights.join(A, by(1), false, 1, now);
    flights.join(A, by(2), false, 2, now);
    flights.join(A, by(3), false, 3, now);
    assert_eq!(flights.abandon(&A, 2, now), None);
    assert_eq!(flights.abandon(&A, 1, now), Some(Next::Yours(2, true)));
    flights.leave(2);
    assert_eq!(flights.end(2, now), [Next::Yours(3, true)]);
    assert_eq!(flights.join(A, by(4), false, 4, now), Joined::Waits);
    flights.leave(4);
    assert_eq!(flights.end(4, now), []);
    let slow = now + PATIENCE;
    assert_eq!(
        flights.join(A, by(5), false, 5, slow),
        Joined::Yours(5, true)
    );
    assert_eq!(flights.land(A, 3, RESULT_OF_A, slow), None);
    assert_eq!(flights.abandon(&A, 5, slow), Some(Next::Free(A, 0)));
    assert!(flights.known.is_empty());
}

#[test]
fn work_is_a_processes_whatever_stream_it_has() {
    let now = monotonic();
    let on = |process, stream| By { process, stream };
    let mut flights = Flights::new(false);
    assert_eq!(
        flights.join(A, on(1, 1), false, 1, now),
        Joined::Yours(1, true)
    );
    assert_eq!(flights.join(A, on(2, 2), false, 2, now), Joined::Waits);
    // Both have new streams: the one that does it may not know that it does, the other one waits once.
    flights.leave(1);
    assert_eq!(
        flights.join(A, on(1, 3), false, 3, now),
        Joined::Yours(3, true)
    );
    assert_eq!(flights.join(A, on(2, 4), false, 4, now), Joined::Waits);
    flights.leave(2);
    let landed = flights.land(A, 1, RESULT_OF_A, now);
    assert_eq!(landed, Some((vec![4], 0)));
    // What it never did it is not given again without a claim.
    let mut flights = Flights::new(true);
    assert_eq!(flights.join(A, on(1, 1), false, 1, now), Joined::Claim(0));
    assert_eq!(flights.granted(&A, (7, true), now), Some(1));
    let slow = now + PATIENCE;
    assert_eq!(flights.join(A, on(1, 2), false, 2, slow), Joined::Claim(7));
}

#[test]
fn work_goes_on_that_a_control_plane_did_not_know_of() {
    let now = monotonic();
    let mut flights = Flights::new(false);
    assert!(flights.goes_on(A, 1, now));
    assert!(!flights.goes_on(A, 1, now) && !flights.goes_on(A, 2, now));
    assert_eq!(flights.join(A, by(2), false, 2, now), Joined::Waits);
    let landed = flights.land(A, 1, RESULT_OF_A, now);
    assert_eq!(landed, Some((vec![2], 0)));
    assert!(!flights.goes_on(A, 1, now), "it is done");
    // Who waits for what another control plane has done waits for this one.
    let mut flights = Flights::new(true);
    assert_eq!(flights.join(A, by(2), false, 2, now), Joined::Claim(0));
    assert!(flights.goes_on(A, 1, now));
    assert_eq!(flights.granted(&A, (7, true), now), None);
    assert!(flights.lacks_claim(&A));
    assert_eq!(flights.claimed(&A, 8), Ok(()));
    assert!(!flights.lacks_claim(&A));
    assert_eq!(flights.claimed(&A, 9), Err(None), "it has one");
    let landed = flights.land(A, 1, RESULT_OF_A, now);
    assert_eq!(landed, Some((vec![2], 8)));
    assert_eq!(flights.claimed(&A, 9), Err(Some(RESULT_OF_A)));
    // Whoever is at it by then does it under the claim: what is released another control plane gives to its own.
    let mut flights = Flights::new(true);
    assert!(flights.goes_on(A, 1, now));
    assert_eq!(flights.join(A, by(2), false, 2, now), Joined::Waits);
    assert_eq!(flights.abandon(&A, 1, now), Some(Next::Yours(2, false)));
    assert_eq!(flights.claimed(&A, 8), Ok(()));
    let landed = flights.land(A, 2, RESULT_OF_A, now);
    assert_eq!(landed, Some((vec![], 8)));
    // Nobody is at it any more.
    let mut flights = Flights::<u8>::new(true);
    assert!(flights.goes_on(A, 1, now));
    assert_eq!(flights.abandon(&A, 1, now), Some(Next::Free(A, 0)));
    assert!(!flights.lacks_claim(&A));
    assert_eq!(flights.claimed(&A, 8), Err(None));
}

#[test]
fn work_of_a_process_that_is_gone_is_claimed_before_another_does_it() {
    let now = monotonic();
    let mut flights = Flights::new(true);
    assert_eq!(flights.join(A, by(1), false, 1, now), Joined::Claim(0));
    assert_eq!(flights.granted(&A, (7, true), now), Some(1));
    assert_eq!(flights.join(A, by(2), false, 2, now), Joined::Waits);
    // It may be at another control plane by now.
    assert_eq!(flights.end(1, now), [Next::Claim(A, 7)]);
    assert_eq!(flights.granted(&A, (8, true), now), Some(2));
    assert_eq!(flights.end(2, now), [Next::Free(A, 8)]);
}

#[test]
fn what_was_not_agreed_on_is_sure_for_nobody_that_does_it() {
    let now = monotonic();
    let on = |process, stream| By { process, stream };
    // Without a claim, and with one that does not tell all.
    for claim in [0, 7] {
        let mut flights = Flights::new(true);
        assert_eq!(flights.join(A, on(1, 1), false, 1, now), Joined::Claim(0));
        assert_eq!(flights.join(A, by(2), false, 2, now), Joined::Waits);
        assert_eq!(flights.granted(&A, (claim, false), now), Some(1));
        let again = flights.join(A, on(1, 3), false, 3, now);
        assert_eq!(again, Joined::Yours(3, false));
        let next = flights.abandon(&A, 1, now);
        assert_eq!(next, Some(Next::Yours(2, false)));
    }
}

#[test]
fn there_is_room_for_a_bounded_number() {
    let now = monotonic();
    let mut flights = Flights::new(false);
    let key = |number: usize| Key::from(number.to_be_bytes().to_vec());
    for number in 0..MOST {
        assert_eq!(
            flights.join(key(number), by(1), false, (), now),
            Joined::Yours((), true)
        );
    }
    assert_eq!(
        flights.join(key(MOST), by(1), false, (), now),
        Joined::Full(())
    );
    // Work that yields has had to stop before.
    let mut flights = Flights::new(false);
    for number in 0..MOST_THAT_YIELD {
        assert_eq!(
            flights.join(key(number), by(1), true, (), now),
            Joined::Yours((), true)
        );
    }
    let next = || key(MOST_THAT_YIELD);
    assert_eq!(flights.join(next(), by(1), true, (), now), Joined::Full(()));
    assert_eq!(
        flights.join(next(), by(1), false, (), now),
        Joined::Yours((), true)
    );
    let later = now + PATIENCE;
    assert_eq!(
        flights.join(key(MOST), by(1), false, (), later),
        Joined::Yours((), true)
    );
    let vast = vec![0; LONGEST_RESULT + 1].into();
    assert_eq!(flights.land(key(MOST), 1, vast, later), None);
}

#[test]
fn among_several_control_planes_work_is_claimed_before_anyone_does_it() {
    let now = monotonic();
    let mut flights = Flights::new(true);
    assert_eq!(
        flights.join(A, by(1), false, "first", now),
        Joined::Claim(0)
    );
    assert_eq!(flights.join(A, by(2), false, "second", now), Joined::Waits);
    assert_eq!(flights.join(A, by(3), false, "third", now), Joined::Waits);
    // Nobody does it yet, so nobody can have done it.
    assert_eq!(flights.land(A, 1, RESULT_OF_A, now), None);
    // The first of those that are still there does it, under the claim.
    flights.leave(1);
    assert_eq!(flights.granted(&A, (7, true), now), Some("second"));
    assert_eq!(
        flights.abandon(&A, 2, now),
        Some(Next::Yours("third", true))
    );
    assert_eq!(flights.abandon(&A, 3, now), Some(Next::Free(A, 7)));

    // What another brings is for all that wait, and for who comes late.
    assert_eq!(
        flights.join(A, by(1), false, "first", now),
        Joined::Claim(0)
    );
    assert_eq!(flights.join(A, by(2), false, "second", now), Joined::Waits);
    let told = flights.landed_elsewhere(A, RESULT_OF_A, now);
    assert_eq!(told, ["first", "second"]);
    assert_eq!(flights.granted(&A, (8, true), now), None);
    let joined = flights.join(A, by(3), false, "late", now);
    assert_eq!(joined, Joined::Done("late", RESULT_OF_A));

    // One that hangs is followed under a claim over its own.
    let later = now + KEPT;
    assert_eq!(
        flights.join(A, by(1), false, "first", later),
        Joined::Claim(0)
    );
    assert_eq!(flights.granted(&A, (9, true), later), Some("first"));
    let slow = later + PATIENCE;
    assert_eq!(
        flights.join(A, by(2), false, "second", slow),
        Joined::Claim(9)
    );
    // Work that nobody waits for any more is not looked after.
    assert!(flights.is_awaited(&A));
    flights.leave(2);
    assert!(!flights.is_awaited(&A) && flights.known.is_empty());
}
