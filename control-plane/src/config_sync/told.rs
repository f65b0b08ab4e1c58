//! What nodes are told of logouts and session keys beside an update, which may take its time, and where there is none.

use std::sync::Arc;
use std::time::Duration;

use shared::snapshot::{Hash, Position};
use tokio::time::Instant;

use crate::snapshot::{Frame, Published};

/// How long an update may take until the node is told beside it of what has been revoked since, and between two such words.
/// Most are done by then, and the next one tells all.
const BESIDE: Duration = Duration::from_millis(100);

/// Messages that tell what the update itself revokes, at most: more of them would hold it up, and come packed with it.
const MOST: usize = 16;

/// What a node knows of that has been told of nothing yet.
#[derive(Clone, Copy, Debug)]
enum Base {
    /// What the state with this root holds: it ran that as an update began.
    At(Hash),
    /// Nobody knows.
    Unknown,
}

/// What a node has been told beside updates, or in place of one.
#[derive(Debug)]
pub(super) struct Told {
    /// What it knows of already, until it has been told of what it lacks.
    base: Option<Base>,
    /// It knows, or is being led to, what was revoked up to this.
    at: Arc<Published>,
    /// Whether it has been told of all that it lacks.
    whole: bool,
    /// Whether no update goes beside it.
    is_without_way: bool,
    /// When it may be told of more.
    next: Instant,
}

impl Told {
    /// An update begins that leads from what has the root `base` to `target`.
    pub(super) fn of(base: Hash, target: &Arc<Published>) -> Self {
        let base = target.knows(&base).then_some(Base::At(base));
        Self {
            base,
            whole: base.is_some(),
            is_without_way: false,
            at: Arc::clone(target),
            next: Instant::now() + BESIDE,
        }
    }

    /// There is no way from what the node runs, which nobody remembers: it is told all that there is at `newest`.
    fn without_way(newest: &Arc<Published>) -> Self {
        Self {
            base: Some(Base::Unknown),
            at: Arc::clone(newest),
            whole: true,
            is_without_way: true,
            next: Instant::now(),
        }
    }

    /// What the node runs is newer than what it is led to, and stays so: it is told of what came since that if it is known. If it is not,
    /// of all that there is, or, where it is newer than all there is, of what comes from now on: that each is for a moment which
    /// changes control planes.
    fn of_one_ahead(runs: &Position, newest: &Arc<Published>) -> Self {
        let place = &newest.position;
        let is_held = runs.generation == place.generation && runs.revision <= place.revision;
        let base = if newest.knows(&runs.root) {
            Some(Base::At(runs.root))
        } else {
            is_held.then_some(Base::Unknown)
        };
        Self {
            base,
            whole: base.is_some(),
            ..Self::without_way(newest)
        }
    }

    /// What a node is told that no update goes to, `before` and from now on: all where it does not find a way, and what is new where
    /// it is ahead.
    pub(super) fn instead(
        before: Option<Self>,
        [finds_way, is_ahead]: [bool; 2],
        runs: &Position,
        newest: &Arc<Published>,
    ) -> Option<Self> {
        let before = before.filter(Self::is_without_way);
        if !finds_way {
            let all = before.filter(|told| told.whole);
            return Some(all.unwrap_or_else(|| Self::without_way(newest)));
        }
        is_ahead.then(|| before.unwrap_or_else(|| Self::of_one_ahead(runs, newest)))
    }

    /// Whether that is all that the node is sent.
    pub(super) const fn is_without_way(&self) -> bool {
        self.is_without_way
    }

    /// When the node is to be told what `newest` may say beyond that.
    pub(super) fn due(&self, newest: &Published) -> Option<Instant> {
        let is_news = self.base.is_some() || self.at.position != newest.position;
        is_news.then_some(self.next)
    }

    /// Up to where the node lacks nothing once it has what it was told; none if some of that comes with the update alone.
    pub(super) fn whole(&self) -> Option<Position> {
        (self.whole && self.base.is_none()).then_some(self.at.position)
    }

    /// The messages that tell it: who is logged out first, which takes no time, then the keys, for which the node compiles.
    pub(super) async fn go_on(&mut self, newest: &Arc<Published>) -> Vec<Frame> {
        let before = std::mem::replace(&mut self.at, Arc::clone(newest));
        self.next = Instant::now() + BESIDE;
        let had_base = self.base.is_some();
        let known = match self.base.take() {
            Some(Base::At(root)) => newest.before(&root),
            Some(Base::Unknown) | None => None,
        };
        let (base, most) = if had_base && self.is_without_way {
            // No update brings it: where nobody knows, or remembers any more, what it ran, it is told of all.
            (Some(known.unwrap_or_default()), usize::MAX)
        } else {
            (known, MOST)
        };
        // What it ran may be forgotten by now.
        self.whole &= base.is_some() || !had_base;
        let mut keys = None;
        if let Some(base) = base {
            let told = newest.beside_since(base).await;
            keys.clone_from(&told.keys);
            if told.revoked.len() <= most {
                return told.revoked.iter().cloned().chain(keys).collect();
            }
            self.whole = false;
        }
        let told = newest.beside_since(before.inventory().clone()).await;
        let keys = keys.or_else(|| told.keys.clone());
        told.revoked.iter().cloned().chain(keys).collect()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::v1::control_message::Kind;
    use proto::v1::{ControlMessage, KeyRing};
    use serde_json::json;
    use shared::entity::Revocation;
    use shared::snapshot::{Key, Revision};
    use uuid::Uuid;

    use super::*;
    use crate::config::{Change, Config, Stored};
    use crate::snapshot::tests::shared_signer;
    use crate::snapshot::{Follower, SharedSigner};

    /// `config` after the sessions of these numbers have ended.
    fn without(config: &Config, ended: std::ops::Range<u128>) -> Config {
        let puts = ended.map(|number| {
            let id = Uuid::from_u128(number);
            let kind = "revocations";
            let record = json!({ "id": id, "before": 253_402_300_799_999_u64, "expires_at": 9 });
            (Key { kind, id }, Stored::of(record.as_object().unwrap()))
        });
        let change = Change {
            puts: puts.collect(),
            removes: Vec::new(),
        };
        config.evolve(&change, config.revision().next())
    }

    /// How many sessions `messages` end, and the revision that the last of them names.
    fn told(messages: &[Frame]) -> (usize, u64) {
        let revokes = messages.iter().map(|frame| {
            let message = ControlMessage::decode(&frame.concat()[5..]).unwrap();
            let Some(Kind::Revoke(revoke)) = message.kind else {
                panic!("it tells something else")
            };
            revoke
        });
        let revokes: Vec<_> = revokes.collect();
        let ended = revokes.iter().map(|revoke| {
            let ended: Vec<serde_json::Value> =
                serde_json::from_slice(&revoke.revocations).unwrap();
            ended.len()
        });
        (ended.sum(), revokes.last().map_or(0, |last| last.revision))
    }

    #[tokio::test]
    async fn logouts_do_not_wait_for_the_update_that_brings_them() {
        let config = Config::default().evolve(&Change::default(), Revision(7));
        let mut follower = Follower::new(config.clone(), 1, SharedSigner::default());
        let base = Arc::clone(follower.newest());
        let few = without(&config, 0..100);
        let target = Arc::clone(follower.publish(few.clone()));
        let root = base.position.root;
        let mut node = Told::of(root, &target);
        assert!(node.due(&target).is_some() && node.whole().is_none());
        assert_eq!(told(&node.go_on(&target).await), (100, 8));
        assert!(node.due(&target).is_none());
        assert_eq!(node.whole(), Some(target.position));
        // What comes after that is told once.
        let more = without(&few, 100..101);
        let newest = Arc::clone(follower.publish(more.clone()));
        assert!(node.due(&newest).is_some());
        assert_eq!(told(&node.go_on(&newest).await), (1, 9));
        // All at once, if it is due only by then.
        let mut late = Told::of(root, &target);
        assert_eq!(told(&late.go_on(&newest).await), (101, 9));
        // What an operator says of a target is over in a minute.
        let mark = Revocation::mark(Uuid::nil(), None, false).as_u128();
        let more = without(&more, mark..mark + 1);
        let newest = Arc::clone(follower.publish(more.clone()));
        assert_eq!(told(&late.go_on(&newest).await), (1, 10));
        // Of what a node runs that is not remembered nobody knows what it lacks.
        let mut unknown = Told::of([9; 32], &target);
        assert!(unknown.due(&target).is_none());
        assert_eq!(told(&unknown.go_on(&newest).await), (2, 10));
        assert_eq!(unknown.whole(), None);
        // Very many come with the update, which they would hold up.
        let many = without(&more, 1_000..3_000);
        let target = Arc::clone(follower.publish(many.clone()));
        let newest = Arc::clone(follower.publish(without(&many, 3_000..3_002)));
        let mut node = Told::of(root, &target);
        assert_eq!(told(&node.go_on(&newest).await), (2, 12));
        assert!(node.due(&newest).is_none() && node.whole().is_none());
    }

    #[tokio::test]
    async fn who_cannot_be_led_anywhere_hears_of_all_logouts_and_keys() {
        let config = Config::default().evolve(&Change::default(), Revision(7));
        let many = without(&config, 0..2_000);
        let id = Uuid::from_u128(1);
        let (kind, record) = ("session_keys", json!({ "id": id }));
        let change = Change {
            puts: vec![(Key { kind, id }, Stored::of(record.as_object().unwrap()))],
            removes: Vec::new(),
        };
        let many = many.evolve(&change, many.revision().next());
        let mut follower = Follower::new(many.clone(), 1, shared_signer());
        let newest = Arc::clone(follower.newest());
        let mut node = Told::without_way(&newest);
        assert!(node.due(&newest).is_some() && node.whole().is_none());
        let messages = node.go_on(&newest).await;
        let (last, before) = messages.split_last().unwrap();
        assert_eq!(keys(last), (9, vec![id]));
        assert_eq!(told(before), (2_000, 9));
        assert_eq!(node.whole(), Some(newest.position));
        // Then of what comes, which is all that one hears of that is ahead.
        let nowhere = |revision| Position {
            revision: Revision(revision),
            root: [9; 32],
            ..newest.position
        };
        let mut ahead = Told::of_one_ahead(&nowhere(100), &newest);
        // Of one that is ahead of what it is held at alone nobody knows what it was told.
        let mut held = Told::of_one_ahead(&nowhere(8), &newest);
        assert_eq!(held.go_on(&newest).await.len(), messages.len());
        let runs = newest.position;
        assert!(node.due(&newest).is_none() && ahead.due(&newest).is_none());
        let newest = Arc::clone(follower.publish(without(&many, 2_000..2_001)));
        assert_eq!(told(&node.go_on(&newest).await), (1, 10));
        assert_eq!(node.whole(), Some(newest.position));
        assert_eq!(told(&ahead.go_on(&newest).await), (1, 10));
        assert!(ahead.whole().is_none());
        // Of what is known it hears what came since.
        let mut ahead = Told::of_one_ahead(&runs, &newest);
        assert_eq!(told(&ahead.go_on(&newest).await), (1, 10));
        assert_eq!(ahead.whole(), Some(newest.position));
        // Unless that is forgotten before the word: then of all.
        let mut forgotten = Told {
            base: Some(Base::At([9; 32])),
            ..Told::of_one_ahead(&runs, &newest)
        };
        let messages = forgotten.go_on(&newest).await;
        let (last, before) = messages.split_last().unwrap();
        assert_eq!((keys(last).0, told(before)), (10, (2_001, 10)));
        assert_eq!(forgotten.whole(), Some(newest.position));
    }

    /// The session keys in `message`, and the revision that they are of.
    fn keys(message: &Frame) -> (u64, Vec<Uuid>) {
        let message = ControlMessage::decode(&message.concat()[5..]).unwrap();
        let Some(Kind::SessionKeys(told)) = message.kind else {
            panic!("it tells something else")
        };
        assert!(!told.signature.is_empty());
        let ring = KeyRing::decode(told.ring).unwrap();
        let keys = ring.keys.iter();
        let keys = keys.map(|key| Uuid::from_slice(&key.id).unwrap());
        (ring.target.unwrap().revision, keys.collect())
    }

    #[tokio::test]
    async fn session_keys_do_not_wait_for_the_update_that_brings_them() {
        let put = |config: &Config, kind: &'static str, number: u128| {
            let id = Uuid::from_u128(number);
            let record = json!({ "id": id });
            let change = Change {
                puts: vec![(Key { kind, id }, Stored::of(record.as_object().unwrap()))],
                removes: Vec::new(),
            };
            config.evolve(&change, config.revision().next())
        };
        let first = put(&Config::default(), "session_keys", 1);
        let mut follower = Follower::new(first.clone(), 1, shared_signer());
        let base = follower.newest().position.root;
        let config = put(&first, "services", 7);
        let target = Arc::clone(follower.publish(config.clone()));
        let mut node = Told::of(base, &target);
        assert!(node.go_on(&target).await.is_empty());
        // Another takes the place of one that was revoked, and somebody is logged out.
        let config = put(&config, "session_keys", 2);
        let newest = Arc::clone(follower.publish(without(&config, 0..1)));
        let messages = node.go_on(&newest).await;
        let ids = [1, 2].map(Uuid::from_u128);
        // Who is logged out does not wait for a node to compile the keys.
        let (last, before) = messages.split_last().unwrap();
        assert_eq!(keys(last), (4, ids.to_vec()));
        assert_eq!(told(before), (1, 4));
        // Also beside so many logouts that these come with the update, and once.
        let many = without(newest.config(), 1_000..3_000);
        let target = Arc::clone(follower.publish(many.clone()));
        let newest = Arc::clone(follower.publish(put(&many, "session_keys", 3)));
        let mut node = Told::of(base, &target);
        let messages = node.go_on(&newest).await;
        let ids = [1, 2, 3].map(Uuid::from_u128);
        assert_eq!(keys(&messages[0]), (6, ids.to_vec()));
        assert_eq!(messages.len(), 1);
        // Where nobody signs they come with the update.
        let mut follower = Follower::new(first.clone(), 1, SharedSigner::default());
        let base = follower.newest().position.root;
        let target = Arc::clone(follower.publish(put(&first, "session_keys", 2)));
        assert!(Told::of(base, &target).go_on(&target).await.is_empty());
    }
}
