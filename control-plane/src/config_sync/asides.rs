//! What nodes keep here for whichever node needs it next: forms, while their users sign in. In memory, within bounds, and
//! taken once. What lies here is sealed by the node; this control plane cannot read it.
//!
//! Anybody on the network can have a node keep a form, so what is kept the longest makes room: first that of the same node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plugins::host::LONGEST_ASIDE;
use prost::bytes::Bytes;

use super::flights::Key;

/// How long something is kept: as long as a node keeps it.
const KEPT: Duration = Duration::from_mins(10);

/// Most bytes that are kept for one node: as many as a node keeps itself.
const MOST_OF_NODE: usize = 16 * 1024 * 1024;

/// Most bytes that are kept.
const MOST: usize = 64 * 1024 * 1024;

/// What each counts besides its content, so that there are not too many of the small ones.
const AROUND: usize = 1024;

/// Most of what is too old that one call looks after: whoever waits for the others is not to wait for all of it.
const SWEPT: usize = 64;

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Asides {
    /// By age.
    kept: BTreeMap<u64, Aside>,
    places: HashMap<Key, u64>,
    shares: HashMap<Arc<str>, Share>,
    bytes: usize,
    next: u64,
}

/// What is kept for one node.
#[derive(Debug, Default)]
struct Share {
    /// By age.
    kept: BTreeSet<u64>,
    bytes: usize,
}

#[derive(Debug)]
struct Aside {
    key: Key,
    node: Arc<str>,
    sealed: Bytes,
    at: Instant,
}

impl Aside {
    fn size(&self) -> usize {
        self.sealed.len() + AROUND
    }
}

impl Asides {
    /// Keeps `sealed` as `key` for the node called `node`; whether it does.
    pub(super) fn keep(&mut self, key: Key, node: &str, sealed: Bytes, now: Instant) -> bool {
        if sealed.len() > LONGEST_ASIDE {
            return false;
        }
        self.sweep(now);
        self.forget(&key);
        let known = self.shares.get_key_value(node);
        let aside = Aside {
            key,
            node: known.map_or_else(|| node.into(), |(node, _)| Arc::clone(node)),
            sealed,
            at: now,
        };
        let size = aside.size();
        while let Some(share) = self.shares.get(&aside.node)
            && share.bytes + size > MOST_OF_NODE
            && let Some(oldest) = share.kept.first().copied()
        {
            self.remove(oldest);
        }
        while self.bytes + size > MOST
            && let Some(oldest) = self.kept.keys().next().copied()
        {
            self.remove(oldest);
        }
        self.next += 1;
        let share = self.shares.entry(Arc::clone(&aside.node)).or_default();
        share.bytes += size;
        share.kept.insert(self.next);
        self.bytes += size;
        self.places.insert(aside.key.clone(), self.next);
        self.kept.insert(self.next, aside);
        true
    }

    /// Gives out what is kept as `key`, once.
    pub(super) fn take(&mut self, key: &Key, now: Instant) -> Option<Bytes> {
        let number = *self.places.get(key)?;
        let taken = self.remove(number)?;
        is_fresh(&taken, now).then_some(taken.sealed)
    }

    /// Keeps no more what is kept as `key`.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(number) = self.places.get(key).copied() {
            self.remove(number);
        }
    }

    /// Whether nothing is kept.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.sweep(now);
        self.kept.is_empty()
    }

    /// Keeps no more what is too old, some of it.
    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEPT {
            match self.kept.first_key_value() {
                Some((number, oldest)) if !is_fresh(oldest, now) => _ = self.remove(*number),
                _ => return,
            }
        }
    }

    fn remove(&mut self, number: u64) -> Option<Aside> {
        let gone = self.kept.remove(&number)?;
        self.places.remove(&gone.key);
        self.bytes = self.bytes.saturating_sub(gone.size());
        if let Some(share) = self.shares.get_mut(&gone.node) {
            share.bytes = share.bytes.saturating_sub(gone.size());
            share.kept.remove(&number);
            if share.kept.is_empty() {
                self.shares.remove(&gone.node);
            }
        }
        Some(gone)
    }
}

fn is_fresh(aside: &Aside, now: Instant) -> bool {
    now.saturating_duration_since(aside.at) < KEPT
}

#[cfg(test)]
mod tests {
    use shared::clock::monotonic;

    use super::*;

    fn key(number: usize) -> Key {
        number.to_be_bytes().to_vec().into()
    }

    fn form(length: usize) -> Bytes {
        vec![7; length].into()
    }

    fn take(asides: &mut Asides, number: usize, now: Instant) -> Option<Bytes> {
        asides.take(&key(number), now)
    }

    fn bytes_of(asides: &Asides, node: &str) -> usize {
        asides.shares.get(node).map_or(0, |share| share.bytes)
    }

    fn is_kept(asides: &Asides, number: usize) -> bool {
        asides.places.contains_key(&key(number))
    }

    /// What is counted is what there is.
    fn check(asides: &Asides) {
        let sum = |asides: Vec<&Aside>| asides.into_iter().map(Aside::size).sum::<usize>();
        assert_eq!(sum(asides.kept.values().collect()), asides.bytes);
        assert_eq!(asides.kept.len(), asides.places.len());
        for (node, share) in &asides.shares {
            let its = asides.kept.iter().filter(|(_, kept)| kept.node == *node);
            let (numbers, its): (BTreeSet<u64>, Vec<_>) = its.unzip();
            assert_eq!((sum(its), &numbers), (share.bytes, &share.kept), "{node}");
            assert!(!numbers.is_empty());
        }
        let shares = asides.shares.values().map(|share| share.bytes);
        assert_eq!(shares.sum::<usize>(), asides.bytes);
    }

    #[test]
    fn what_is_put_aside_is_given_out_once_and_not_too_late() {
        let now = monotonic();
        let mut asides = Asides::default();
        assert!(asides.keep(key(1), "one", form(1), now));
        assert_eq!(take(&mut asides, 1, now), Some(form(1)));
        assert_eq!(take(&mut asides, 1, now), None);
        assert!(asides.keep(key(2), "one", form(1), now));
        assert!(asides.keep(key(2), "two", form(2), now));
        assert_eq!(take(&mut asides, 2, now + KEPT), None);
        assert!(asides.keep(key(2), "one", form(2), now));
        check(&asides);
        assert!(asides.keep(key(3), "one", form(1), now + KEPT / 2));
        assert!(!asides.is_empty(now + KEPT));
        assert_eq!(asides.kept.len(), 1);
        asides.forget(&key(3));
        assert!(asides.is_empty(now) && asides.places.is_empty() && asides.shares.is_empty());
        assert!(!asides.keep(key(4), "one", form(LONGEST_ASIDE + 1), now));
    }

    #[test]
    fn a_node_makes_room_for_its_own_and_only_all_of_them_for_each_other() {
        let now = monotonic();
        let mut asides = Asides::default();
        let long = LONGEST_ASIDE - AROUND;
        let fit = MOST_OF_NODE / (long + AROUND);
        asides.keep(key(0), "quiet", form(long), now);
        for number in 1..=2 * fit {
            assert!(asides.keep(key(number), "loud", form(long), now));
            assert!(bytes_of(&asides, "loud") <= MOST_OF_NODE);
        }
        assert!(is_kept(&asides, 0));
        assert!(!is_kept(&asides, fit));
        assert!(is_kept(&asides, fit + 1));
        check(&asides);
        // Empty ones count as well.
        for number in 1..=2 * MOST_OF_NODE / AROUND {
            asides.keep(key(number), "loud", Bytes::new(), now);
        }
        assert_eq!(bytes_of(&asides, "loud"), MOST_OF_NODE);
        for node in 0..10 {
            let name = format!("node-{node}");
            for number in 0..fit {
                asides.keep(key((node + 3) * 100_000 + number), &name, form(long), now);
                assert!(asides.bytes <= MOST);
            }
        }
        assert!(!is_kept(&asides, 0));
        check(&asides);
    }

    #[test]
    fn what_is_too_old_goes_little_by_little() {
        let now = monotonic();
        let mut asides = Asides::default();
        for number in 0..3 * SWEPT {
            asides.keep(key(number), "one", form(1), now);
        }
        let late = now + KEPT;
        assert!(asides.keep(key(3 * SWEPT), "one", form(1), late));
        assert_eq!(asides.kept.len(), 2 * SWEPT + 1);
        assert_eq!(take(&mut asides, 3 * SWEPT - 1, late), None);
        assert_eq!(take(&mut asides, 3 * SWEPT, late), Some(form(1)));
        assert!(!asides.is_empty(late));
        assert!(asides.is_empty(late) && asides.bytes == 0);
    }
}
