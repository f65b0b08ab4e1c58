//! Session keys: made here, sealed in the store like every record, never typed by anyone.
//!
//! The first key seals at once, since no session can be older. A later one is distributed first and
//! seals only after a while, so that every node can open what any node seals; the key before it goes
//! on opening until the last session that it may have sealed has ended.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::entity::{Entity, KeyState, SessionKey};
use uuid::Uuid;

use crate::command::{Action, Body, Command, Selector};
use crate::config::Config;
use crate::publisher::{ExecuteError, Publisher};

/// Time between the distribution of a key and its first use.
const SETTLE: Duration = Duration::from_mins(2);

/// The longest that a session may live, beyond which nobody needs the key that sealed it: 30 days, the
/// default absolute limit of a remembered session, and five minutes for clocks that differ.
const LONGEST_SESSION: Duration = Duration::from_mins(30 * 24 * 60 + 5);

/// What is to be done about the keys of `config` at `now`, if each seals for `rotation`. `id` and
/// `secret` are for the key that may have to be made.
pub fn due(
    config: &Config,
    now: UnixTime,
    rotation: Duration,
    id: Uuid,
    secret: [u8; 32],
) -> Vec<Command> {
    let mut keys: Vec<SessionKey> = config
        .collection(SessionKey::KIND, Uuid::nil())
        .filter_map(|(_, fields)| serde_json::from_value(Value::Object((**fields).clone())).ok())
        .collect();
    keys.sort_by_key(|key| key.activate_at);
    let usable = |key: &&SessionKey| key.state == KeyState::Ready && key.decrypt_until.is_none();
    let newest = keys.iter().rev().find(usable);
    let mut commands = Vec::new();
    let after = |duration| now.saturating_add(duration).as_secs();
    let activate_at = match newest {
        None => Some(now.as_secs()),
        Some(key) if key.activate_at.saturating_add(rotation.as_secs()) <= now.as_secs() => {
            Some(after(SETTLE))
        }
        Some(_) => None,
    };
    if let Some(activate_at) = activate_at {
        let made = json!({
            "id": id,
            "secret": STANDARD.encode(secret),
            "created_at": now.as_secs(),
            "activate_at": activate_at,
            "decrypt_until": null,
            "state": KeyState::Ready,
        });
        // The new key first: a crash in between leaves two that open, not none.
        commands.push(command(Action::Create(body(made))));
        let until = after(SETTLE.saturating_add(LONGEST_SESSION));
        for key in keys.iter().filter(usable) {
            let patch = body(json!({ "decrypt_until": until }));
            commands.push(command(Action::Patch(Selector::Id(key.id), patch)));
        }
    }
    let ended = |key: &&SessionKey| key.decrypt_until.is_some_and(|end| end <= now.as_secs());
    for key in keys.iter().filter(ended) {
        commands.push(command(Action::Delete(Selector::Id(key.id))));
    }
    commands
}

fn command(action: Action) -> Command {
    Command {
        entity: SessionKey::KIND,
        action,
        parents: Vec::new(),
    }
}

fn body(value: Value) -> Body {
    match value {
        Value::Object(fields) => Body::Json(fields),
        _ => Body::Json(serde_json::Map::new()),
    }
}

/// Whether there is no key at all.
pub fn none(config: &Config) -> bool {
    config
        .collection(SessionKey::KIND, Uuid::nil())
        .next()
        .is_none()
}

/// Does what is due. Blocks on the store.
pub fn keep(publisher: &Publisher, now: UnixTime, rotation: Duration) -> Result<(), ExecuteError> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).expect("the system's random source works");
    for command in due(&publisher.config(), now, rotation, Uuid::new_v4(), secret) {
        publisher.execute(&command, now)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use shared::snapshot::Revision;

    use super::*;
    use crate::command::{Context, decide};

    const DAY: Duration = Duration::from_hours(24);

    /// The keys after what was due at `seconds`: when each activates and until when it opens.
    fn step(config: &mut Config, seconds: u64) -> Vec<(u64, Option<u64>)> {
        let id = Uuid::from_u128(u128::from(seconds) + 1);
        for command in due(config, UnixTime::from_secs(seconds), DAY, id, [7; 32]) {
            let decision = decide(config, &command, &Context { now: seconds, id }).unwrap();
            *config = config.evolve(&decision.change, Revision(config.revision().0 + 1));
        }
        let mut keys: Vec<_> = config
            .collection("session_keys", Uuid::nil())
            .map(|(_, key)| {
                (
                    key["activate_at"].as_u64().unwrap(),
                    key["decrypt_until"].as_u64(),
                )
            })
            .collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_key_is_there_from_the_start_and_no_session_outlives_its_key() {
        let mut config = Config::default();
        assert_eq!(step(&mut config, 1000), [(1000, None)]);
        assert_eq!(step(&mut config, 1001), [(1000, None)]);
        let rotated = 1000 + DAY.as_secs();
        let activates = rotated + SETTLE.as_secs();
        let ends = activates + LONGEST_SESSION.as_secs();
        assert_eq!(
            step(&mut config, rotated),
            [(1000, Some(ends)), (activates, None)]
        );
        assert_eq!(step(&mut config, rotated + 1).len(), 2);
        let keys = step(&mut config, ends);
        assert!(
            keys.iter().all(|(activate_at, _)| *activate_at != 1000),
            "{keys:?}"
        );
    }
}
