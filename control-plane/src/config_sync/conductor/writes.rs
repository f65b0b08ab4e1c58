//! Which revisions changed the configuration: what would be undone with a change that goes wrong.

use shared::snapshot::Revision;

use crate::difference::Difference;
use crate::history::{History, HistoryFault};

/// Revisions that are read in a turn: nodes wait for it, each logout is one, and over etcd each takes its time.
const TURN: u64 = 200;

/// Writes that are named. Nobody undoes so many as one.
const NAMED: usize = 50;

/// What has been read of the history since a revision: each is read once.
#[derive(Debug, Default)]
pub(super) struct Writes {
    generation: u64,
    since: Revision,
    read: Revision,
    found: Vec<Revision>,
}

impl Writes {
    /// Begins anew, unless it is of these already.
    pub(super) fn begin(&mut self, generation: u64, since: Revision) {
        if (self.generation, self.since) != (generation, since) {
            *self = Self {
                generation,
                since,
                read: since,
                found: Vec::new(),
            };
        }
    }

    /// Reads on, up to `last` or as far as a turn may. What is not kept, or is damaged, counts as a write.
    ///
    /// # Errors
    ///
    /// If the store does not answer. It goes on there the next time.
    pub(super) fn read_on(
        &mut self,
        history: &dyn History,
        last: Revision,
    ) -> Result<(), HistoryFault> {
        let until = last.0.min(self.read.0.saturating_add(TURN));
        while self.read.0 < until && self.found.len() < NAMED {
            let next = self.read.next();
            let is_write = match history.entry(next) {
                Ok(Some(entry)) => !Difference::of_entry(&entry).of_configuration().is_empty(),
                Err(fault @ HistoryFault::Unreachable(_)) => return Err(fault),
                Ok(None) | Err(_) => true,
            };
            self.found.extend(is_write.then_some(next));
            self.read = next;
        }
        Ok(())
    }

    /// The first of those up to `last`, as far as has been read.
    pub(super) fn up_to(&self, last: Revision) -> Vec<Revision> {
        let found = self.found.iter().copied();
        found.filter(|revision| *revision <= last).collect()
    }

    /// Whether there is one alone after `since` and up to `last`; none if that is not known yet.
    pub(super) fn is_one(&self, since: Revision, last: Revision) -> Option<bool> {
        let several = self.found.len() > 1;
        let is_known = self.since == since && (several || self.read >= last);
        is_known.then_some(self.found.len() == 1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use shared::entity::{Entity, Revocation, Service};
    use shared::snapshot::Key;
    use uuid::Uuid;

    use super::*;
    use crate::config::Stored;
    use crate::history::{Edit, Entry, Origin};

    /// Of logouts alone, but for one write; and what has been read.
    struct Logouts(Revision, Mutex<Vec<u64>>);

    impl History for Logouts {
        fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
            self.1.lock().unwrap().push(revision.0);
            let is_write = revision == self.0;
            let kind = if is_write {
                Service::KIND
            } else {
                Revocation::KIND
            };
            let record = serde_json::json!({ "id": Uuid::nil(), "host": "h" });
            let edit = Edit {
                key: Key {
                    kind,
                    id: Uuid::nil(),
                },
                before: None,
                after: Some(Stored::of(record.as_object().unwrap())),
            };
            Ok(Some(Entry {
                revision,
                at: shared::clock::UnixTime::default(),
                origin: Origin::system(),
                edits: vec![edit],
            }))
        }
    }

    #[test]
    fn each_revision_is_read_once_and_only_so_many_in_a_turn() {
        let (since, last) = (Revision(7), Revision(7 + TURN * 5 / 2));
        let history = Logouts(Revision(8), Mutex::default());
        let mut writes = Writes::default();
        let mut turns = 0;
        while writes.is_one(since, last).is_none() {
            let before = history.1.lock().unwrap().len();
            writes.begin(1, since);
            writes.read_on(&history, last).unwrap();
            let read = history.1.lock().unwrap().len() - before;
            assert!(read <= usize::try_from(TURN).unwrap());
            turns += 1;
        }
        assert_eq!(turns, 3);
        assert_eq!(writes.is_one(since, last), Some(true));
        assert_eq!(writes.is_one(Revision(6), last), None);
        assert_eq!(writes.up_to(last), [Revision(8)]);
        writes.read_on(&history, last.next()).unwrap();
        let read = history.1.lock().unwrap().clone();
        assert_eq!(read, (since.0 + 1..=last.0 + 1).collect::<Vec<_>>());
        // Of another generation nothing is known.
        writes.begin(2, since);
        assert_eq!(writes.is_one(since, last), None);
    }
}
