//! What nodes get that are not to have the newest change yet: the state before it, with the keys and
//! revocations of now. Who was logged out stays logged out on every node, however a roll-out goes.

use std::sync::Arc;

use shared::snapshot::Key;

use super::{Follower, Published, is_distributed};
use crate::config::{Change, Config};

/// Whether a change of such a record has to be rolled out.
pub(crate) fn is_rolled_out(key: &Key) -> bool {
    is_distributed(key) && !key.is_urgent()
}

impl Follower {
    /// `base` with the keys and revocations of the newest. The same as before, if these are the same.
    pub(crate) fn hold(&self, base: &Arc<Published>) -> Arc<Published> {
        let Change {
            mut puts,
            mut removes,
        } = self.newest.config.since(&base.config);
        puts.retain(|(key, _)| key.is_urgent());
        removes.retain(Key::is_urgent);
        if puts.is_empty() && removes.is_empty() {
            return Arc::clone(base);
        }
        let change = Change { puts, removes };
        let config = base.config.evolve(&change, base.config.revision());
        let (content, count) = base.followed_by(config, change);
        // What nodes are led away from has to be known, and this is in nobody's past but their own.
        self.history.ring.push(base.inventory.clone(), count);
        let held = self.published(content, self.newest.position.revision);
        self.history.ring.push(held.inventory.clone(), count);
        held
    }

    /// The earlier state `config`, with the keys and revocations of the newest.
    pub(crate) fn held_at(&self, config: Config) -> Arc<Published> {
        let change = config.since(&self.newest.config);
        let (content, count) = self.newest.followed_by(config, change);
        self.history.ring.push(content.inventory.clone(), count);
        // Whatever a node was led to before this process started stands before this.
        let past = self.published(content, self.newest.position.revision);
        self.hold(&past)
    }
}
