//! Clients that take what they asked for, or leave it lying.

use std::convert::Infallible;
use std::task::Waker;

use super::*;
use crate::timer::Timers;

/// A body that has more whenever it is asked, or has not yet.
struct Endless(bool);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        } else {
            Poll::Pending
        }
    }
}

fn take(answer: &mut Answer<Endless>) {
    let mut cx = Context::from_waker(Waker::noop());
    let _ = Pin::new(answer).poll_frame(&mut cx);
}

fn answers(taking: &Rc<Taking>, count: usize) -> Vec<Answer<Endless>> {
    let answer = |_| taking.begin().answered(Endless(true));
    (0..count).map(answer).collect()
}

#[test]
fn who_asks_for_nothing_is_to_leave_and_then_cut_off_later_if_much_may_be_on_its_way() {
    let timers = Rc::new(Timers::default());
    let limits = Limits::default();
    let mut patience = Patience::new(timers.timer(), &limits);
    for (idle, little, much) in [
        (74, None, None),
        (75, Some(Word::Leave), Some(Word::Leave)),
        (149, Some(Word::Leave), Some(Word::Leave)),
        (150, Some(Word::Gone), Some(Word::Leave)),
        (749, Some(Word::Gone), Some(Word::Leave)),
        (750, Some(Word::Gone), Some(Word::Gone)),
    ] {
        patience.idle = Duration::from_secs(idle);
        let words = [0, 1 << 20].map(|sent| patience.word(sent));
        assert_eq!(words, [little, much], "{idle}");
    }
}

#[test]
fn who_takes_nothing_for_two_turns_has_left_it() {
    let taking = Rc::<Taking>::default();
    assert!(!taking.turns(2), "there is nothing");
    let mut all = answers(&taking, 2);
    assert!(
        !taking.turns(2) && !taking.turns(2),
        "it was there just now"
    );
    take(&mut all[0]);
    assert!(!taking.turns(2), "one of them is taken");
    assert!(!taking.turns(2));
    assert!(taking.turns(2));
    take(&mut all[1]);
    assert!(!taking.turns(2));
    for _ in 0..5 {
        let mut other = answers(&taking, 1);
        take(&mut other[0]);
        drop(other);
        assert!(!taking.turns(2), "others were taken to their end");
    }
    drop(all);
    assert!(!taking.is_open() && !taking.turns(2) && !taking.turns(2) && !taking.turns(2));
}

#[test]
fn who_has_taken_much_is_waited_for_longer() {
    let taking = Rc::<Taking>::default();
    let mut all = answers(&taking, 2);
    for _ in 0..2 {
        take(&mut all[0]);
        for _ in 0..4 {
            assert!(!taking.turns(4));
        }
    }
    assert!(taking.turns(4));
    assert_eq!(taking.sent(), 0);
    taking.sends(7);
    taking.sends(8);
    assert_eq!(taking.sent(), 15);
}

#[test]
fn who_takes_what_its_way_carries_has_left_nothing() {
    let taking = Rc::<Taking>::default();
    let all = answers(&taking, 2);
    for _ in 0..5 {
        taking.is_blocked();
        taking.goes_on();
        assert!(!taking.turns(2), "bytes were taken, if of no whole frame");
    }
    for _ in 0..5 {
        taking.is_blocked();
        assert!(!taking.turns(2), "how long that may last is seen elsewhere");
    }
    assert!(!taking.turns(2));
    assert!(taking.turns(2), "none were, and none had to wait");
    drop(all);
}

#[test]
fn who_waits_for_a_server_has_left_nothing() {
    let taking = Rc::<Taking>::default();
    let waits = taking.begin();
    for _ in 0..5 {
        assert!(taking.is_open() && !taking.turns(2), "it has no answer yet");
    }
    let mut waits = waits.answered(Endless(false));
    take(&mut waits);
    for _ in 0..5 {
        assert!(!taking.turns(2));
    }
    waits.body.0 = true;
    take(&mut waits);
    assert!(!taking.turns(2) && !taking.turns(2));
    assert!(taking.turns(2));
}

/// Runs an exchange of whose answer something is taken whenever `takes` says so.
fn run(taking: &Rc<Taking>, takes: &Rc<Cell<bool>>) -> AbortHandle {
    let (exchange, takes) = (taking.begin(), Rc::clone(takes));
    let mut answer = exchange.answered(Endless(true));
    let running = tokio::task::spawn_local(async move {
        loop {
            if takes.get() {
                take(&mut answer);
            }
            tokio::task::yield_now().await;
        }
    });
    let handle = running.abort_handle();
    taking.runs(handle.clone());
    handle
}

#[tokio::test]
async fn of_too_many_that_are_left_beside_others_the_longest_left_end_and_nothing_else() {
    let local = tokio::task::LocalSet::new();
    let test = async {
        let taking = Rc::<Taking>::default();
        let waits = taking.begin();
        let (not, always) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(true)));
        let taken = run(&taking, &always);
        let first: Vec<_> = (0..3).map(|_| run(&taking, &not)).collect();
        let turn = async || {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            assert!(!taking.turns(2), "others go on");
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        };
        turn().await;
        let later: Vec<_> = (0..MOST_LEFT - 1).map(|_| run(&taking, &not)).collect();
        turn().await;
        turn().await;
        let ended = |all: &[AbortHandle]| all.iter().filter(|one| one.is_finished()).count();
        assert_eq!(ended(&first), 0, "so few may lie");
        // Which of them go on may be up to the connection.
        taking.is_blocked();
        turn().await;
        turn().await;
        assert_eq!(ended(&first) + ended(&later), 0);
        turn().await;
        assert_eq!((ended(&first), ended(&later)), (2, 0));
        for _ in 0..3 {
            turn().await;
        }
        assert_eq!((ended(&first), ended(&later)), (2, 0), "the rest may lie");
        assert!(!taken.is_finished());
        drop(waits);
    };
    local.run_until(test).await;
}
