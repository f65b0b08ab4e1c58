//! When a node knows who was logged out while it heard nobody.

use shared::snapshot::Position;

use super::Following;

/// After how many words of a control plane, the heartbeats that follow its Welcome, nothing comes that it would have to tell first: a node
/// that cannot run the newest is not sent it. Over a slow link, or from a busy control plane, the way to that takes its time.
const WORDS: u32 = 4;

impl Following<'_> {
    /// What runs is as new as a control plane says: who is logged out is known.
    pub(super) fn settle(&self) {
        if self.gateway.sessions_max_silence.is_some() {
            self.gateway.contact.catches_up();
            self.gateway.revocations.lose(false);
        }
        self.gateway.contact.settle();
    }

    /// The control plane says that this node is led to `target`: whether that tells it something is not known before it is there, or
    /// nothing comes.
    pub(super) fn settle_at(&mut self, target: Option<Position>) {
        let (running, contact) = (self.applier.running(), &self.gateway.contact);
        self.idle = if contact.has_missed() && !self.receiver.is_receiving() {
            self.idle.saturating_add(1)
        } else {
            0
        };
        if is_all_told(target, &running, self.idle) {
            self.settle();
        } else if target.is_none_or(|target| !target.is_after(&running)) {
            contact.settle();
        }
    }
}

/// Whether a node that runs `running` and is led to `target` knows all that it is told of, where it has missed something and was spoken
/// to `idle` times in a row since while nothing was on its way. Who is led nowhere, or to less, is told of it behind that word.
fn is_all_told(target: Option<Position>, running: &Position, idle: u32) -> bool {
    target.is_some_and(|target| target.is_same(running)) || idle >= WORDS
}

#[cfg(test)]
mod tests {
    use shared::snapshot::Revision;

    use super::*;

    #[test]
    fn a_heartbeat_alone_does_not_say_that_all_is_told() {
        let at = |revision| Position {
            generation: 1,
            revision: Revision(revision),
            ..Position::default()
        };
        let running = at(7);
        for (target, idle, expected) in [
            (None, 1, false),
            (None, WORDS, true),
            (Some(at(7)), 1, true),
            (Some(at(6)), 0, false),
            (Some(at(6)), WORDS, true),
            (Some(at(8)), 1, false),
            (Some(at(8)), 2, false),
            (Some(at(8)), 0, false),
            (Some(at(8)), WORDS, true),
        ] {
            assert_eq!(is_all_told(target, &running, idle), expected, "{idle}");
        }
    }
}
