//! Whose turn it is to use something that only one may use at a time. A wait for a turn can be cancelled.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is used in turns.
#[derive(Debug)]
pub(super) struct Turns<T> {
    place: Mutex<Place<T>>,
    /// Told whenever a turn ends.
    ended: Condvar,
}

#[derive(Debug)]
enum Place<T> {
    Free(T),
    Taken,
    /// A panic ended a turn: nobody knows what state it is in.
    Lost,
}

/// Why there is no turn.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum NoTurn<E> {
    /// A panic ended an earlier one.
    Lost,
    /// Whoever waited was told not to.
    Refused(E),
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a, T> {
    turns: &'a Turns<T>,
    /// There until the turn ends.
    used: Option<T>,
}

impl<T> Turns<T> {
    pub(super) const fn new(used: T) -> Self {
        Self {
            place: Mutex::new(Place::Free(used)),
            ended: Condvar::new(),
        }
    }

    /// A turn, once it is free. `waits` is asked before, and after each turn of others: an error is for whoever asks.
    pub(super) fn take<E>(
        &self,
        waits: impl Fn() -> Result<(), E>,
    ) -> Result<Turn<'_, T>, NoTurn<E>> {
        let mut place = self.place();
        loop {
            waits().map_err(NoTurn::Refused)?;
            match std::mem::replace(&mut *place, Place::Taken) {
                Place::Free(used) => {
                    return Ok(Turn {
                        turns: self,
                        used: Some(used),
                    });
                }
                Place::Taken => {}
                Place::Lost => {
                    *place = Place::Lost;
                    return Err(NoTurn::Lost);
                }
            }
            let woken = self.ended.wait(place);
            place = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn place(&self) -> MutexGuard<'_, Place<T>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.used.as_ref().expect("it is there until the turn ends")
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.used.as_mut().expect("it is there until the turn ends")
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        let used = self.used.take();
        *self.turns.place() = match used {
            Some(used) if !std::thread::panicking() => Place::Free(used),
            _ => Place::Lost,
        };
        // Those who are not to wait any more are among the others.
        self.turns.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn who_waits_for_a_turn_is_told_when_not_to() {
        let turns = Turns::new(0);
        let (refused, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let waits = || {
            asked.fetch_add(1, Ordering::SeqCst);
            let refused = refused.load(Ordering::SeqCst);
            if refused { Err("no more") } else { Ok(()) }
        };
        let mut first = turns.take(waits).unwrap();
        *first += 1;
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| turns.take(waits).map(|turn| *turn)))
                .collect();
            // Each of them waits.
            while asked.load(Ordering::SeqCst) < 5 {
                std::thread::yield_now();
            }
            refused.store(true, Ordering::SeqCst);
            drop(first);
            for waited in waiting {
                assert_eq!(waited.join().unwrap(), Err(NoTurn::Refused("no more")));
            }
        });
        refused.store(false, Ordering::SeqCst);
        assert_eq!(*turns.take(waits).unwrap(), 1);
    }

    #[test]
    fn after_a_panic_there_are_no_turns() {
        let turns = Turns::new(0);
        let always = || Ok::<(), ()>(());
        std::thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let _turn = turns.take(always).unwrap();
                panic!("in the middle of it");
            });
            panics.join().unwrap_err();
        });
        for _ in 0..2 {
            assert_eq!(turns.take(always).err(), Some(NoTurn::Lost));
        }
    }
}
