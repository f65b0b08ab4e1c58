//! An update on its way to a node: made while its stream goes on, and sent piece by piece.

use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use proto::v1::control_message::Kind;
use proto::v1::{Begin, Commit};
use shared::snapshot::{BucketSet, Position};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use super::session::Way;
use crate::snapshot::{Frame, Published, chunk_frame, frame, parts};

/// How long whoever is sent everything has its turn at most: over a slow link it goes on without, and holds up nobody who would be
/// done sooner. It costs little then, since no more of it is under way than the link takes in a moment.
const TURN: Duration = Duration::from_secs(2);

/// How far an update is.
pub(super) enum Update {
    /// There is none, or all of it is on its way.
    Sent,
    /// It is made, by one task of its own: other nodes may wait for the same, whatever this stream is busy with.
    Making(JoinSet<Option<Pieces>>),
    /// It is sent.
    Sending(Pieces),
}

type Frames = Box<dyn Iterator<Item = Frame> + Send>;

/// What is still to be sent.
pub(super) struct Pieces {
    frames: Peekable<Frames>,
    /// Its place among those that are sent everything.
    _turn: Option<Turn>,
}

/// A place among those that are sent everything, until this is dropped or has lasted for long.
struct Turn {
    _held: oneshot::Sender<()>,
}

impl Turn {
    /// Begins now.
    fn of(permit: OwnedSemaphorePermit) -> Self {
        let (held, over) = oneshot::channel();
        tokio::spawn(async move {
            _ = tokio::time::timeout(TURN, over).await;
            drop(permit);
        });
        Self { _held: held }
    }
}

impl Update {
    /// Begins to make what is planned.
    pub(super) fn of(plan: Plan) -> Self {
        let mut making = JoinSet::new();
        making.spawn(plan.make());
        Self::Making(making)
    }

    /// One message, which comes in the place of an update.
    pub(super) fn of_one(message: Frame) -> Self {
        let frames: Frames = Box::new(std::iter::once(message));
        Self::Sending(Pieces {
            frames: frames.peekable(),
            _turn: None,
        })
    }

    /// Whether nothing of it is left to be sent.
    pub(super) const fn is_sent(&self) -> bool {
        matches!(self, Self::Sent)
    }

    /// Whether there is something to send now.
    pub(super) const fn is_sending(&self) -> bool {
        matches!(self, Self::Sending(_))
    }

    /// Waits until it is made; none if it cannot be.
    pub(super) async fn made(&mut self) -> Option<Pieces> {
        match self {
            Self::Making(making) => making.join_next().await?.ok()?,
            Self::Sent | Self::Sending(_) => std::future::pending().await,
        }
    }

    /// The next piece.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let Self::Sending(pieces) = self else {
            return None;
        };
        let next = pieces.frames.next();
        if pieces.frames.peek().is_none() {
            *self = Self::Sent;
        }
        next
    }
}

/// What is made of an update.
pub(super) struct Plan {
    /// Where it leads.
    pub(super) target: Arc<Published>,
    pub(super) way: Way,
    /// How it begins, but for what its records say.
    pub(super) begin: Begin,
    /// What the node runs.
    pub(super) running: Position,
    /// Who is sent everything waits for a turn among these.
    pub(super) transfers: Arc<Semaphore>,
    /// Whether the node takes chunks in parts.
    pub(super) in_parts: bool,
}

impl Plan {
    /// The pieces of it; none if the snapshot cannot be encoded.
    async fn make(self) -> Option<Pieces> {
        let Self {
            target,
            way,
            mut begin,
            running,
            transfers,
            in_parts,
        } = self;
        let mut turn = None;
        let encoded = match way {
            Way::Same => None,
            Way::Repair(digests) => {
                let (buckets, encoded) = target.repair(&digests).await?;
                begin.base = Some((&running).into());
                begin.buckets = BucketSet::as_bytes(&buckets).to_vec().into();
                Some(encoded)
            }
            Way::Since(_) | Way::Everything => {
                let since = match way {
                    Way::Since(root) => target.since(root).await,
                    _ => None,
                };
                if since.is_some() {
                    begin.base = Some((&running).into());
                    since
                } else {
                    // The limit is never closed.
                    turn = transfers.acquire_owned().await.ok();
                    begin.full = true;
                    Some(target.everything().await?)
                }
            }
        };
        if let Some(encoded) = &encoded {
            begin.update = encoded.update;
            begin.records = encoded.records;
            begin.raw_bytes = encoded.raw_bytes;
        }
        let count = encoded.as_ref().map_or(0, |encoded| encoded.chunks.len());
        let commit = Commit {
            nonce: begin.nonce,
            chunks: u32::try_from(count).unwrap_or(u32::MAX),
            root: target.position.root.to_vec().into(),
        };
        // One chunk after the other is put into frames, as the link takes them.
        let chunks = (0..count).filter_map(move |at| encoded.as_ref()?.chunks.get(at).cloned());
        let frames = chunks.flat_map(move |chunk| {
            if in_parts {
                parts(&chunk)
            } else {
                vec![chunk_frame(&chunk)]
            }
        });
        let begin = std::iter::once(frame(Kind::Begin(begin)));
        let commit = std::iter::once(frame(Kind::Commit(commit)));
        let frames: Frames = Box::new(begin.chain(frames).chain(commit));
        Some(Pieces {
            frames: frames.peekable(),
            _turn: turn.map(Turn::of),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use prost::Message as _;
    use proto::v1::{Chunk, ControlMessage};
    use serde_json::json;
    use shared::snapshot::{Key, Revision};
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::*;
    use crate::config::{Change, Config, Stored};
    use crate::snapshot::{Follower, SharedSigner};

    /// The plan to send everything that there is at `target`.
    fn plan(target: &Arc<Published>) -> Plan {
        Plan {
            target: Arc::clone(target),
            way: Way::Everything,
            begin: Begin::default(),
            running: Position::default(),
            transfers: Arc::new(Semaphore::new(1)),
            in_parts: true,
        }
    }

    #[tokio::test]
    async fn what_one_stream_has_begun_to_make_others_get_while_it_is_busy() {
        let config = Config::default().evolve(&Change::default(), Revision(7));
        let follower = Follower::new(config, 1, SharedSigner::default());
        let target = follower.newest();
        let plan = plan(target);
        let transfers = Arc::clone(&plan.transfers);
        let mut update = Update::of(plan);
        // From now on its stream does something else.
        assert!(update.made().now_or_never().is_none());
        assert!(target.everything().await.is_some());
        update = Update::Sending(update.made().await.unwrap());
        let mut sent = 0;
        assert_eq!(transfers.available_permits(), 0);
        while update.next().is_some() {
            sent += 1;
        }
        assert!(sent >= 2 && update.is_sent());
        // Whoever waits has the next turn.
        drop(transfers.acquire().await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_long_has_no_turn_for_long() {
        let follower = Follower::new(Config::default(), 1, SharedSigner::default());
        let plan = plan(follower.newest());
        let transfers = Arc::clone(&plan.transfers);
        let mut update = Update::of(plan);
        update = Update::Sending(update.made().await.unwrap());
        let began = Instant::now();
        assert!(update.next().is_some());
        drop(transfers.acquire().await.unwrap());
        assert!(began.elapsed() >= TURN && !update.is_sent());
        assert!(update.next().is_some());
        // One that is broken off has none.
        let plan = self::plan(follower.newest());
        let transfers = Arc::clone(&plan.transfers);
        let mut update = Update::of(plan);
        update = Update::Sending(update.made().await.unwrap());
        let began = Instant::now();
        drop(update);
        drop(transfers.acquire().await.unwrap());
        assert!(began.elapsed() < TURN);
    }

    #[tokio::test]
    async fn an_update_is_its_begin_all_parts_of_its_chunks_and_its_commit() {
        let records = |count: u128| {
            let puts = (0..count).map(|number| {
                let id = Uuid::from_u128(number);
                // Nothing packs them.
                let tags: Vec<Uuid> = (0..8).map(|_| Uuid::new_v4()).collect();
                let record = json!({ "id": id, "username": id, "tags": tags });
                let kind = "consumers";
                (Key { kind, id }, Stored::of(record.as_object().unwrap()))
            });
            Change {
                puts: puts.collect(),
                removes: Vec::new(),
            }
        };
        let mut most = 0;
        for count in [0, 1, 30, 100, 1_000, 3_000] {
            let config = Config::default().evolve(&records(count), Revision(7));
            let follower = Follower::new(config, 1, SharedSigner::default());
            let target = follower.newest();
            let mut update = Update::of(plan(target));
            update = Update::Sending(update.made().await.unwrap());
            let mut kinds = Vec::new();
            while let Some(piece) = update.next() {
                kinds.push(ControlMessage::decode(&piece.concat()[5..]).unwrap().kind);
                // The last one is not waited for, nor is one asked for after it.
                let is_last = matches!(kinds.last(), Some(Some(Kind::Commit(_))));
                assert_eq!(update.is_sent(), is_last);
            }
            assert!(matches!(kinds.first(), Some(Some(Kind::Begin(_)))));
            let (mut chunks, mut open) = (Vec::new(), Vec::new());
            for kind in &kinds[1..kinds.len() - 1] {
                match kind.as_ref().unwrap() {
                    Kind::Chunk(chunk) => chunks.push(chunk.clone()),
                    Kind::Part(part) => {
                        open.extend_from_slice(&part.data);
                        if part.last {
                            chunks.push(Chunk::decode(open.as_slice()).unwrap());
                            open.clear();
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(open.is_empty());
            let encoded = target.everything().await.unwrap();
            assert_eq!(chunks, encoded.chunks);
            most = most.max(chunks.len());
        }
        assert!(most > 1, "{most} chunks");
    }

    #[tokio::test]
    async fn what_is_made_for_nobody_any_more_takes_no_turn() {
        let follower = Follower::new(Config::default(), 1, SharedSigner::default());
        let plan = plan(follower.newest());
        let transfers = Arc::clone(&plan.transfers);
        let turn = transfers.acquire().await.unwrap();
        let mut update = Update::of(plan);
        tokio::task::yield_now().await;
        assert!(update.made().now_or_never().is_none());
        drop(update);
        drop(turn);
        tokio::task::yield_now().await;
        assert_eq!(transfers.available_permits(), 1);
    }
}
