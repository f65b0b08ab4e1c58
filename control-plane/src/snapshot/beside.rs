//! What has been revoked since an earlier state, and the session keys that are others by now: told beside an update to nodes that are
//! not done with that yet.

use std::sync::{Arc, PoisonError};

use prost::Message as _;
use prost::bytes::Bytes;
use proto::v1::control_message::Kind;
use proto::v1::{self, KeyRing, Revoke, SessionKeys};
use shared::clock::UnixTime;
use shared::entity::{Entity as _, Revocation, SessionKey};
use shared::signature::Subject;
use shared::snapshot::{Inventory, Key};
use uuid::Uuid;

use super::{DIFFERENCES, Frame, Published, frame};

/// Revocations of one message: few, since it stands before others.
const OF_A_MESSAGE: usize = 64;

/// What nodes are told beside updates.
#[derive(Debug, Default)]
pub struct Beside {
    /// All session keys, if some have changed.
    pub keys: Option<Frame>,
    /// What has been revoked.
    pub revoked: Vec<Frame>,
}

impl Published {
    /// The messages that tell what has changed since `before` and cannot wait, none if nothing has: made once for all nodes that
    /// are led there.
    pub async fn beside_since(self: &Arc<Self>, before: Inventory) -> Arc<Beside> {
        let once = {
            let mut known = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= DIFFERENCES && !known.contains_key(&before.root()) {
                known.clear();
            }
            Arc::clone(known.entry(before.root()).or_default())
        };
        let now = Arc::clone(self);
        let made = once.get_or_init(|| async move {
            // Between two states there may be a hundred thousand records.
            let made = tokio::task::spawn_blocking(move || Arc::new(now.tell_since(&before)));
            made.await.unwrap_or_else(|error| {
                tracing::error!(%error, "nodes hear of logouts only after what is on its way to them");
                Arc::default()
            })
        });
        Arc::clone(made.await)
    }

    fn tell_since(&self, before: &Inventory) -> Beside {
        let difference = self.inventory.since(before);
        let mut changed = difference.puts.iter().chain(&difference.removes);
        let keys = changed.any(|key| key.kind == SessionKey::KIND);
        Beside {
            keys: keys.then(|| self.session_keys()).flatten(),
            revoked: tell_of(
                &self.revocations(&difference.puts),
                self.position.revision.0,
            ),
        }
    }

    /// All session keys, as a message. Signed: who could tell a node of others could make sessions. None where nobody vouches.
    fn session_keys(&self) -> Option<Frame> {
        let signer = self.signer.read().unwrap_or_else(PoisonError::into_inner);
        let signer = signer.as_ref()?;
        let keys = self.config.keys(SessionKey::KIND, Uuid::nil());
        let record = |key: Key| {
            let stored = self.config.stored(key)?;
            Some(v1::Record {
                kind: key.kind.to_owned(),
                id: Bytes::copy_from_slice(key.id.as_bytes()),
                json: Bytes::copy_from_slice(stored.json()),
            })
        };
        let ring = KeyRing {
            target: Some((&self.position).into()),
            created_ms: UnixTime::now().as_millis(),
            keys: keys.filter_map(record).collect(),
            chain: signer.chain().map(Bytes::copy_from_slice).collect(),
        };
        let ring = ring.encode_to_vec();
        let signature = signer.sign(Subject::SessionKeys, &ring).ok()?;
        Some(frame(Kind::SessionKeys(SessionKeys {
            ring: ring.into(),
            signature: signature.into(),
        })))
    }

    /// What has been revoked with `puts`, and what operators have said of targets.
    fn revocations(&self, puts: &[Key]) -> Vec<Revocation> {
        let keys = puts.iter().filter(|key| key.kind == Revocation::KIND);
        let records = keys.filter_map(|key| self.config.stored(*key));
        let revocations = records.filter_map(|stored| serde_json::from_slice(stored.json()).ok());
        revocations.collect()
    }
}

/// The messages that tell of `revocations`, after which nothing is missing up to `revision`; 0: they are of none.
pub(crate) fn tell_of(revocations: &[Revocation], revision: u64) -> Vec<Frame> {
    let messages = revocations.chunks(OF_A_MESSAGE);
    let last = messages.len();
    let frames = (1..).zip(messages).map(|(number, some)| {
        let is_last = number == last;
        frame(Kind::Revoke(Revoke {
            revision: if is_last { revision } else { 0 },
            revocations: serde_json::to_vec(some).unwrap_or_default().into(),
        }))
    });
    frames.collect()
}
