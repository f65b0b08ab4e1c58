//! What nodes keep here for whichever node needs it next: forms, while their users sign in. In memory, within bounds, and
//! taken once. What lies here is sealed by the node; this control plane cannot read it.
//!
//! Anybody on the network can have a node keep a form, so what is kept the longest makes room: first that of the same node.

use std::collections::{BTreeMap, HashMap};
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

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Asides {
    /// By age.
    kept: BTreeMap<u64, Aside>,
    places: HashMap<Key, u64>,
    bytes: HashMap<Arc<str>, usize>,
    next: u64,
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
        let known = self.bytes.get_key_value(node).map(|(node, _)| node.clone());
        let aside = Aside {
            key,
            node: known.unwrap_or_else(|| node.into()),
            sealed,
            at: now,
        };
        let size = aside.size();
        while self.bytes_of(node) + size > MOST_OF_NODE {
            let oldest = self.kept.iter().find(|(_, kept)| *kept.node == *node);
            let Some(number) = oldest.map(|(number, _)| *number) else {
                break;
            };
            self.remove(number);
        }
        while self.bytes.values().sum::<usize>() + size > MOST {
            let Some(number) = self.kept.keys().next().copied() else {
                break;
            };
            self.remove(number);
        }
        self.next += 1;
        *self.bytes.entry(Arc::clone(&aside.node)).or_default() += size;
        self.places.insert(aside.key.clone(), self.next);
        self.kept.insert(self.next, aside);
        true
    }

    /// What is kept as `key`.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Bytes> {
        let aside = self.kept.get(self.places.get(key)?)?;
        is_fresh(aside, now).then(|| aside.sealed.clone())
    }

    /// Gives out what is kept as `key`, once.
    pub(super) fn take(&mut self, key: &Key, now: Instant) -> Option<Bytes> {
        let found = self.find(key, now);
        self.forget(key);
        found
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

    /// Keeps no more what is too old.
    fn sweep(&mut self, now: Instant) {
        while let Some((number, oldest)) = self.kept.first_key_value()
            && !is_fresh(oldest, now)
        {
            self.remove(*number);
        }
    }

    fn bytes_of(&self, node: &str) -> usize {
        self.bytes.get(node).copied().unwrap_or_default()
    }

    fn remove(&mut self, number: u64) {
        let Some(gone) = self.kept.remove(&number) else {
            return;
        };
        self.places.remove(&gone.key);
        let left = self.bytes_of(&gone.node).saturating_sub(gone.size());
        if left == 0 {
            self.bytes.remove(&gone.node);
        } else {
            self.bytes.insert(gone.node, left);
        }
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

    #[test]
    fn what_is_put_aside_is_given_out_once_and_not_too_late() {
        let now = monotonic();
        let mut asides = Asides::default();
        assert!(asides.keep(key(1), "one", form(1), now));
        assert_eq!(asides.take(&key(1), now), Some(form(1)));
        assert_eq!(asides.take(&key(1), now), None);
        assert!(asides.keep(key(2), "one", form(1), now));
        assert!(asides.keep(key(2), "two", form(2), now));
        assert_eq!(asides.find(&key(2), now), Some(form(2)));
        assert_eq!(asides.find(&key(2), now + KEPT), None);
        assert!(asides.keep(key(3), "one", form(1), now + KEPT / 2));
        assert!(!asides.is_empty(now + KEPT));
        assert_eq!(asides.kept.len(), 1);
        asides.forget(&key(3));
        assert!(asides.is_empty(now) && asides.places.is_empty() && asides.bytes.is_empty());
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
            assert!(asides.bytes_of("loud") <= MOST_OF_NODE);
        }
        assert!(asides.find(&key(0), now).is_some());
        assert!(asides.find(&key(fit), now).is_none());
        assert!(asides.find(&key(fit + 1), now).is_some());
        // Empty ones count as well.
        for number in 1..=2 * MOST_OF_NODE / AROUND {
            asides.keep(key(number), "loud", Bytes::new(), now);
        }
        assert_eq!(asides.bytes_of("loud"), MOST_OF_NODE);
        for node in 0..10 {
            let name = format!("node-{node}");
            for number in 0..fit {
                asides.keep(key((node + 3) * 100_000 + number), &name, form(long), now);
                assert!(asides.bytes.values().sum::<usize>() <= MOST);
            }
        }
        assert!(asides.find(&key(0), now).is_none());
        let kept: usize = asides.kept.values().map(Aside::size).sum();
        assert_eq!(kept, asides.bytes.values().sum::<usize>());
        assert_eq!(asides.kept.len(), asides.places.len());
    }
}
