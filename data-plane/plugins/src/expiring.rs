//! A bounded collection of values that expire.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use shared::clock::UnixTime;

/// How often what has ended is let go of while there is room.
const SWEPT: Duration = Duration::from_mins(1);

/// How often it is when there is none: a full map of what lives is not walked by each who comes.
const SWEPT_IF_FULL: Duration = Duration::from_secs(1);

/// A map whose entries end, each at a time of its own. It has room for `MOST`: who comes when it is full is not kept, so
/// that nobody can push out what others rely on.
pub(crate) struct Expiring<K, V, const MOST: usize> {
    entries: HashMap<K, (UnixTime, V)>,
    swept: UnixTime,
}

impl<K, V, const MOST: usize> Default for Expiring<K, V, MOST> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            swept: UnixTime::default(),
        }
    }
}

/// Says nothing of what it holds.
impl<K, V, const MOST: usize> fmt::Debug for Expiring<K, V, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Expiring");
        shown.field("len", &self.entries.len());
        shown.finish_non_exhaustive()
    }
}

impl<K: Eq + Hash, V, const MOST: usize> Expiring<K, V, MOST> {
    /// What is kept under `key`, unless it has ended.
    pub(crate) fn get<Q>(&self, key: &Q, now: UnixTime) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (until, value) = self.entries.get(key)?;
        (now < *until).then_some(value)
    }

    /// The same, to be changed; its end stays as it is.
    pub(crate) fn get_mut<Q>(&mut self, key: &Q, now: UnixTime) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (until, value) = self.entries.get_mut(key)?;
        (now < *until).then_some(value)
    }

    /// Keeps `value` until the moment `until`, in the place of what was under `key`. `false`: there is no room, or it has
    /// ended already; then there is nothing under `key`.
    pub(crate) fn keep(&mut self, key: K, value: V, until: UnixTime, now: UnixTime) -> bool {
        let room = self.is_below(MOST, now) || self.entries.contains_key(&key);
        let is_kept = room && now < until;
        if is_kept {
            self.entries.insert(key, (until, value));
        } else {
            self.entries.remove(&key);
        }
        is_kept
    }

    /// All that have not ended, each with its end.
    pub(crate) fn iter(&self, now: UnixTime) -> impl Iterator<Item = (&K, UnixTime, &V)> {
        let entries = self.entries.iter();
        let entries = entries.map(|(key, (until, value))| (key, *until, value));
        entries.filter(move |(_, until, _)| now < *until)
    }

    /// Lets go of what is kept under `key`.
    pub(crate) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.remove(key);
    }

    /// Whether there are less than `most`, once those that have ended are gone.
    pub(crate) fn is_below(&mut self, most: usize, now: UnixTime) -> bool {
        let is_below = self.entries.len() < most;
        let pause = if is_below { SWEPT } else { SWEPT_IF_FULL };
        // A clock that was put back is no reason to wait until it is here again.
        if now < self.swept || now.saturating_since(self.swept) >= pause {
            self.entries.retain(|_, (until, _)| now < *until);
            self.swept = now;
        }
        self.entries.len() < most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> UnixTime {
        UnixTime::from_millis(1_000_000 + milliseconds)
    }

    #[test]
    fn a_value_serves_until_it_ends() {
        let mut map = Expiring::<&str, u8, 2>::default();
        assert!(map.keep("a", 1, at(10), at(0)));
        *map.get_mut("a", at(9)).expect("it lives") = 3;
        assert_eq!(map.get("a", at(9)), Some(&3));
        assert_eq!(map.get_mut("a", at(10)), None);
        assert_eq!(map.get("a", at(10)), None);
        assert!(map.keep("b", 1, at(10), at(5)) && map.get("b", at(5)).is_some());
        assert!(!map.keep("a", 2, at(5), at(5)), "it has ended");
        assert_eq!(map.get("a", at(5)), None);
        let all: Vec<_> = map.iter(at(9)).collect();
        assert_eq!(all, [(&"b", at(10), &1)]);
        assert_eq!(map.iter(at(10)).count(), 0);
        map.remove("b");
        assert_eq!(map.get("b", at(5)), None);
    }

    #[test]
    fn what_lives_is_not_pushed_out_and_may_be_replaced() {
        let mut map = Expiring::<&str, u8, 2>::default();
        assert!(map.keep("a", 1, at(5_000), at(0)) && map.keep("b", 1, at(1_500), at(0)));
        assert!(!map.keep("c", 1, at(5_000), at(1_000)));
        assert!(map.keep("a", 2, at(6_000), at(1_000)));
        assert_eq!(map.get("a", at(1_000)), Some(&2));
        assert!(
            map.keep("c", 1, at(5_000), at(2_000)),
            "that of b has ended"
        );
        assert_eq!(map.get("a", at(2_000)), Some(&2));
    }

    #[test]
    fn a_full_map_is_walked_once_a_second_and_one_with_room_once_a_minute() {
        let mut map = Expiring::<u32, u8, 2>::default();
        assert!(map.keep(1, 1, at(100), at(0)) && map.keep(2, 1, at(100), at(0)));
        assert!(!map.keep(3, 1, at(5_000), at(999)), "not yet");
        assert!(map.keep(3, 1, at(5_000), at(1_000)));
        assert_eq!(map.entries.len(), 1);
        assert!(map.keep(4, 1, at(70_000), at(60_999)));
        assert_eq!(map.entries.len(), 2);
        assert!(map.keep(4, 1, at(70_000), at(61_000)));
        assert_eq!(map.entries.len(), 1);
    }

    #[test]
    fn a_clock_that_was_put_back_frees_what_there_is_no_room_beside() {
        let mut map = Expiring::<u32, u8, 1>::default();
        assert!(map.keep(1, 1, at(90_000), at(80_000)));
        assert!(!map.keep(2, 1, at(90_000), at(0)));
        assert_eq!(map.get(&1, at(0)), Some(&1));
        assert_eq!(map.swept, at(0));
    }

    #[test]
    fn it_does_not_say_what_it_holds() {
        let mut map = Expiring::<&str, &str, 1>::default();
        assert!(map.keep("a name", "a secret", at(10), at(0)));
        assert_eq!(format!("{map:?}"), "Expiring { len: 1, .. }");
    }
}
