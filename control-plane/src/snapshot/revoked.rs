//! What has been revoked since an earlier state: told beside an update to nodes that are not done with that yet.

use std::sync::{Arc, PoisonError};

use proto::v1::Revoke;
use proto::v1::control_message::Kind;
use shared::entity::{Entity as _, Revocation};
use shared::snapshot::Inventory;

use super::{DIFFERENCES, Frame, Published, frame};

/// Revocations of one message: few, since it stands before others.
const OF_A_MESSAGE: usize = 64;

impl Published {
    /// The messages that tell what has been revoked since `before`, none if nothing has: made once for all nodes that are led
    /// there.
    pub async fn revoked_since(self: &Arc<Self>, before: Inventory) -> Arc<[Frame]> {
        let once = {
            let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
            if revoked.len() >= DIFFERENCES && !revoked.contains_key(&before.root()) {
                revoked.clear();
            }
            Arc::clone(revoked.entry(before.root()).or_default())
        };
        let now = Arc::clone(self);
        let made = once.get_or_init(|| async move {
            // Between two states there may be a hundred thousand records.
            let made = tokio::task::spawn_blocking(move || now.tell_of(&now.revocations(&before)));
            made.await.unwrap_or_else(|error| {
                tracing::error!(%error, "nodes hear of logouts only after what is on its way to them");
                Arc::default()
            })
        });
        Arc::clone(made.await)
    }

    /// What has been revoked since `before`, and what operators have said of targets.
    fn revocations(&self, before: &Inventory) -> Vec<Revocation> {
        let puts = self.inventory.since(before).puts.into_iter();
        let keys = puts.filter(|key| key.kind == Revocation::KIND);
        let records = keys.filter_map(|key| self.config.stored(key));
        let revocations = records.filter_map(|stored| serde_json::from_slice(stored.json()).ok());
        revocations.collect()
    }

    fn tell_of(&self, revocations: &[Revocation]) -> Arc<[Frame]> {
        let messages = revocations.chunks(OF_A_MESSAGE);
        let last = messages.len();
        let frames = (1..).zip(messages).map(|(number, some)| {
            let is_last = number == last;
            frame(Kind::Revoke(Revoke {
                revision: if is_last { self.position.revision.0 } else { 0 },
                revocations: serde_json::to_vec(some).unwrap_or_default().into(),
            }))
        });
        frames.collect()
    }
}
