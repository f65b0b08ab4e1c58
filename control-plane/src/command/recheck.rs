//! Whether records of an earlier state may be restored. Each was accepted once, but the rules may have changed since,
//! and so may the records that it would join.

use std::collections::{BTreeMap, HashSet};

use shared::entity::{Entity, Workspace, definitions};
use shared::snapshot::Key;

use super::{Action, Body, Command, Context, Rejection, cascade, collision, decide_alone};
use crate::config::{Change, Config};

/// A record that may not come back, or one that may not go, and why.
pub type Fault = (Key, Rejection);

/// Holds `change` against `config`, of all workspaces: each record that comes back is decided like a new one,
/// and nothing may point to what goes. Gives what has to go along.
///
/// # Errors
///
/// Everything that stands in the way.
pub fn recheck(
    config: &Config,
    change: &Change,
    context: &Context,
) -> Result<Vec<Key>, Vec<Fault>> {
    let coming: HashSet<Key> = change.puts.iter().map(|(key, _)| *key).collect();
    let going = change.removes.iter().filter(|key| !coming.contains(*key));
    let going: Vec<Key> = going.copied().collect();
    let mut next = config.clone();
    let emptied = Change {
        puts: Vec::new(),
        removes: coming
            .iter()
            .chain(&change.removes)
            .filter(|key| config.is_used(**key))
            .copied()
            .collect(),
    };
    next.apply(&emptied, config.revision());
    let rank = |kind: &str| definitions().iter().position(|entity| entity.kind == kind);
    let mut puts: Vec<_> = change.puts.iter().collect();
    puts.sort_by_cached_key(|(key, _)| rank(key.kind));
    let mut faults = Vec::new();
    for (at, (key, record)) in puts.into_iter().enumerate() {
        let command = Command {
            entity: key.kind,
            action: Action::Create(Body::Json(record.fields())),
            parents: Vec::new(),
        };
        let place = next.within(record.workspace());
        if let Err(rejection) = decide_alone(&place, &command, &context.child(at)) {
            faults.push((*key, rejection));
        }
        // What depends on it is judged for itself.
        let put = Change {
            puts: vec![(*key, record.clone())],
            removes: Vec::new(),
        };
        next.apply(&put, config.revision());
    }
    let mut places: BTreeMap<_, Change> = BTreeMap::new();
    for put in &change.puts {
        let place = places.entry(put.1.workspace()).or_default();
        place.puts.push(put.clone());
    }
    for (workspace, change) in places {
        let (before, after) = (config.within(workspace), next.within(workspace));
        let colliding = collision::colliding(&before, &after, &change);
        faults.extend(colliding.into_iter().map(|key| (key, Rejection::Collides)));
    }
    let mut along = Vec::new();
    for key in going {
        match cascade::removal(&next, key) {
            Ok(taken) => along.extend(taken.into_iter().filter(|taken| *taken != key)),
            Err(rejection) => faults.push((key, rejection)),
        }
        if key.kind == Workspace::KIND {
            along.extend(cascade::permissions(config, key));
        }
    }
    if faults.is_empty() {
        along.sort();
        along.dedup();
        Ok(along)
    } else {
        Err(faults)
    }
}
