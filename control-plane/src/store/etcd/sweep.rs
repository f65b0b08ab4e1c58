//! Takes away what a control plane left in etcd that ended in the middle of a large write: parts that nothing names.
//!
//! etcd does not tell how old a value is, so each control plane remembers since when it has seen one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::EtcdError;
use super::shelf::{Shelf, Value, log};

/// How often somebody looks.
const LOOK: Duration = Duration::from_mins(10);

/// How long what nothing names is left alone: whoever writes it may be about to name it.
const AGE: Duration = Duration::from_hours(1);

/// Where parts of changes and of checkpoints lie, and how far these names go.
const PARTS: (&str, &str) = ("part/", "part0");
const CHECKPOINTS: (&str, &str) = ("checkpoint/", "checkpoint0");

/// What has been seen of large writes.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    looked: Option<Instant>,
    /// Since when each is known.
    seen: BTreeMap<String, Instant>,
    /// Those that a change of the log names. They go with that.
    named: BTreeSet<String>,
}

impl Sweeper {
    /// Whether it is time to look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let since = self
            .looked
            .map(|looked| now.saturating_duration_since(looked));
        since.is_none_or(|since| since >= LOOK)
    }

    /// Looks, and takes away what has been there for long enough without a name. How much that is.
    pub(super) fn turn(&mut self, store: &Shelf, now: Instant) -> Result<usize, EtcdError> {
        self.looked = Some(now);
        let mut present = BTreeSet::new();
        for (first, end) in [PARTS, CHECKPOINTS] {
            let names = store.client.names(first, end)?.into_iter();
            present.extend(names.filter_map(|(name, _)| write_of(&name)));
        }
        self.seen.retain(|write, _| present.contains(write));
        self.named.retain(|write| present.contains(write));
        for write in present {
            self.seen.entry(write).or_insert(now);
        }
        let old = self.seen.iter().filter(|(write, since)| {
            now.saturating_duration_since(**since) >= AGE && !self.named.contains(*write)
        });
        let mut old: BTreeSet<String> = old.map(|(write, _)| write.clone()).collect();
        if old.is_empty() {
            return Ok(0);
        }
        if let Some(checkpoint) = store.newest_checkpoint()? {
            old.remove(&checkpoint);
        }
        if old.iter().any(|write| write.starts_with(PARTS.0)) {
            let named = named(store)?;
            self.named.extend(old.intersection(&named).cloned());
            old.retain(|write| !named.contains(write));
        }
        for write in &old {
            tracing::info!(
                write,
                "what a control plane had begun to write in etcd is taken away"
            );
            store.delete_parts(write)?;
            self.seen.remove(write);
        }
        Ok(old.len())
    }
}

/// What the parts of one write are named after, if `name` is one of them.
fn write_of(name: &str) -> Option<String> {
    let (write, _) = name.rsplit_once('/')?;
    write.contains('/').then(|| write.to_owned())
}

/// What the log names.
fn named(shelf: &Shelf) -> Result<BTreeSet<String>, EtcdError> {
    let mut named = BTreeSet::new();
    for (name, _) in shelf.client.names(&log(0), "log0")? {
        // One that is gone has taken its parts along.
        let Some(found) = shelf.client.get(&name)? else {
            continue;
        };
        if let Value::Parts { write, .. } = shelf.json(&found.name, &found.value)? {
            named.insert(format!("part/{write}"));
        }
    }
    Ok(named)
}

/// What only tests do.
#[cfg(test)]
impl super::EtcdStore {
    /// Sweeps at once, as at the time `now`: how much is taken away.
    pub(in crate::store) fn sweep(&self, now: Instant) -> Result<usize, EtcdError> {
        super::sweep(&self.shelf, &self.sweeper, now)
    }

    /// Begins a large write that nothing names.
    pub(in crate::store) fn begin(&self, name: &str) -> Result<usize, EtcdError> {
        self.shelf.write_parts(name, b"part")
    }

    /// Has `name` be lost.
    pub(in crate::store) fn forget(&self, name: &str) -> Result<(), EtcdError> {
        self.shelf.client.delete(name, &format!("{name}0"))
    }

    /// Commits something that names the large write `name`: whether it is there to be named.
    pub(in crate::store) fn names(&self, name: &str) -> Result<bool, EtcdError> {
        let unchanged = super::client::Comparison {
            name: "probe",
            version: 0,
        };
        let first = super::shelf::part_name(name, 0);
        let written = self.shelf.client.commit(&unchanged, Some(&first), &[])?;
        Ok(written.is_some())
    }
}
