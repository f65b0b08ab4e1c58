//! What filters look things up in: consumers, groups, session keys.

use std::sync::Arc;

use plugins::environment::{Consumers, Environment};
use plugins::session_keys::{KeyRing, SessionKey as RingKey};
use shared::entity::{Acl, Consumer, KeyState, SessionKey};
use shared::secret::Secret;

use super::CompileFault;

pub(super) fn compile(
    all: Vec<Consumer>,
    acls: &[Acl],
    keys: &[SessionKey],
    faults: &mut Vec<CompileFault>,
) -> Environment {
    let mut consumers = Consumers::default();
    for consumer in all.into_iter().map(Arc::new) {
        consumers.by_id.insert(consumer.id, Arc::clone(&consumer));
        if let Some(name) = &consumer.username {
            consumers
                .by_username_lower
                .insert(name.to_lowercase(), Arc::clone(&consumer));
            consumers
                .by_username
                .insert(name.clone(), Arc::clone(&consumer));
        }
        if let Some(name) = &consumer.custom_id {
            consumers
                .by_custom_id
                .insert(name.clone(), Arc::clone(&consumer));
        }
    }
    for acl in acls {
        consumers
            .groups
            .entry(acl.consumer.id)
            .or_default()
            .push(acl.group.clone());
    }
    let mut ring: Vec<RingKey> = Vec::new();
    for key in keys.iter().filter(|key| key.state == KeyState::Ready) {
        match ring_key(key) {
            Some(key) => ring.push(key),
            None => faults.push(CompileFault {
                kind: "session_keys",
                id: key.id,
                field: "secret".to_owned(),
                message: "expected 32 bytes in Base64".to_owned(),
            }),
        }
    }
    ring.sort_by_key(|key| std::cmp::Reverse(key.activate_at));
    Environment {
        consumers,
        session_keys: KeyRing { keys: ring },
    }
}

fn ring_key(key: &SessionKey) -> Option<RingKey> {
    use base64::Engine as _;
    let secret = base64::engine::general_purpose::STANDARD
        .decode(&key.secret)
        .ok()?;
    let (id, _) = key.id.as_bytes().split_first_chunk::<8>()?;
    Some(RingKey {
        id: *id,
        secret: Secret::new(secret.try_into().ok()?),
        activate_at: key.activate_at,
        decrypt_until: key.decrypt_until,
    })
}
