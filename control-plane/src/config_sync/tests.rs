//! A node's stream without a network: in whatever order things happen, the node ends at the newest content.

use proptest::prelude::*;
use serde_json::json;
use shared::properties::cases;
use shared::snapshot::{BucketSet, Inventory, Key, Position, Revision, Snapshot};
use uuid::Uuid;

use super::session::{Abilities, Goal, Offer, Session, Step, Way};
use crate::config::{Change, Config, Stored};
use crate::fleet::Shunned;
use crate::snapshot::tests::unpack;
use crate::snapshot::{Follower, Published, SharedSigner};

/// What is under way to the node, as the node sees it.
enum Content {
    Same,
    Full(proto::Changes),
    Changes(Position, proto::Changes),
    Buckets(Position, BucketSet, proto::Changes),
}

/// A node and the control plane's end of its stream.
struct Stream {
    config: Config,
    follower: Follower,
    session: Session,
    /// What the node runs.
    node: Snapshot,
    refused: Vec<Shunned>,
    under_way: Option<(u64, Position, Content)>,
}

fn follower(config: &Config) -> Follower {
    Follower::new(config.clone(), 1, SharedSigner::default())
}

fn session(running: Position, refused: Vec<Shunned>) -> Session {
    let abilities = Abilities {
        delta: true,
        buckets: true,
    };
    Session::new(running, refused, abilities)
}

fn nothing() -> Snapshot {
    let mut nothing = Snapshot::new(0, Revision(0), Vec::new());
    nothing.position = Position::default();
    nothing
}

impl Stream {
    fn new() -> Self {
        let config = Config::default();
        Self {
            follower: follower(&config),
            session: session(Position::default(), Vec::new()),
            node: nothing(),
            refused: Vec::new(),
            under_way: None,
            config,
        }
    }

    fn change(&mut self, number: u128, content: u8) {
        let key = Key {
            kind: "services",
            id: Uuid::from_u128(number),
        };
        let fields = json!({ "id": key.id, "name": format!("s{number}"), "port": content });
        let mut change = Change::default();
        if content == 0 && self.config.contains(key) {
            change.removes.push(key);
        } else {
            let stored = Stored::of(fields.as_object().unwrap());
            change.puts.push((key, stored));
        }
        let revision = self.config.revision().next();
        self.config = self.config.evolve(&change, revision);
        self.follower.publish(self.config.clone());
    }

    /// Sends what is due, as a stream does.
    async fn lead(&mut self) {
        let newest = std::sync::Arc::clone(self.follower.newest());
        loop {
            let goal = Goal {
                position: newest.position,
                configuration: newest.configuration(),
                reachable: newest.knows(&self.session.running().root),
                small: false,
                bare: false,
            };
            match self.session.offer(&goal) {
                None => return,
                Some(Step::Ask) => {
                    let digests = self.node.inventory.digests().copied().collect();
                    self.session.told(digests).unwrap();
                }
                Some(Step::Send(offer)) => {
                    assert!(self.under_way.is_none(), "two updates at a time");
                    let nonce = offer.nonce;
                    let content = self.content(&newest, offer).await;
                    self.under_way = Some((nonce, newest.position, content));
                }
            }
        }
    }

    async fn content(&self, target: &std::sync::Arc<Published>, offer: Offer) -> Content {
        let base = *self.session.running();
        match offer.way {
            Way::Same => return Content::Same,
            Way::Since(root) => {
                if let Some(encoded) = target.since(root).await {
                    return Content::Changes(base, unpack(&encoded));
                }
            }
            Way::Repair(digests) => {
                let (buckets, encoded) = target.repair(&digests).await.unwrap();
                return Content::Buckets(base, buckets, unpack(&encoded));
            }
            Way::Everything => {}
        }
        Content::Full(unpack(&target.everything().await.unwrap()))
    }

    /// The node takes what is under way, if it can: its answer is whether it serves it.
    fn take(&self, target: Position, content: Content) -> Option<Snapshot> {
        let (generation, revision) = (target.generation, target.revision);
        let on = |base: Position| (base.root == self.node.position.root).then_some(&self.node);
        let mut next = match content {
            Content::Same => self.node.clone(),
            Content::Full(changes) => Snapshot::new(generation, revision, changes.puts),
            Content::Changes(base, changes) => {
                let base = on(base)?;
                let patched = base.patched(generation, revision, changes.puts, &changes.removes);
                patched.ok()?
            }
            Content::Buckets(base, buckets, changes) => {
                let base = on(base)?;
                let patched = base.with_buckets(generation, revision, &buckets, changes.puts);
                patched.ok()?
            }
        };
        if next.position.root != target.root {
            return None;
        }
        next.position = target;
        Some(next)
    }

    /// What is under way arrives. `spoiled`: not as it was sent. `refused`: the node cannot run it.
    fn arrives(&mut self, spoiled: bool, refused: bool) {
        let Some((nonce, target, content)) = self.under_way.take() else {
            return;
        };
        if refused {
            self.refused.push(self.session.nacked(nonce).unwrap());
            return;
        }
        if let Some(next) = self.take(target, content).filter(|_| !spoiled) {
            assert!(target.is_after(&self.node.position), "the node went back");
            self.node = next;
            self.session.acked(nonce, &target).unwrap();
        } else {
            self.session.nacked(nonce).unwrap();
            self.session.lacks_everything();
        }
    }

    /// The stream breaks, and another begins.
    fn reconnects(&mut self) {
        self.under_way = None;
        self.session = session(self.node.position, self.refused.clone());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(96)))]

    #[test]
    fn any_order_of_updates_answers_and_breaks_ends_at_the_newest_root(
        events in prop::collection::vec((0u8..10, 0u128..40, 0u8..4), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut stream = Stream::new();
        for (event, number, content) in events {
            match event {
                0..=2 => stream.change(number, content),
                3 | 4 => stream.arrives(false, false),
                5 => stream.arrives(true, false),
                6 => stream.arrives(false, true),
                7 => stream.reconnects(),
                8 => {
                    // The node starts again with an empty disk.
                    stream.node = nothing();
                    stream.refused.clear();
                    stream.reconnects();
                }
                // The control plane starts again, and knows nothing of what was before.
                _ => {
                    stream.follower = follower(&stream.config);
                    stream.reconnects();
                }
            }
            runtime.block_on(stream.lead());
        }
        stream.change(99, 1);
        for _ in 0..4 {
            runtime.block_on(stream.lead());
            stream.arrives(false, false);
        }
        prop_assert_eq!(stream.node.position, stream.follower.newest().position);
        let rebuilt = Inventory::new(
            stream.node.records().map(|record| (record.key, record.content_hash())),
        );
        prop_assert_eq!(rebuilt.root(), stream.follower.newest().position.root);
    }
}
