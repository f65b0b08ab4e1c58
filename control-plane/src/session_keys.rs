//! Session keys: made here, sealed in the store like every record, never typed by anyone.
//!
//! The first key seals at once, since no session can be older. A later one is distributed first and
//! seals only after a while and once every node that lives has it, so that every node can open what
//! any node seals; the key before it goes on opening until the last session that it may have sealed
//! has ended, by the limits of the plugins that are configured.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plugins::registry::sealed_for;
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::entity::{Entity, KeyState, Plugin, SessionKey};
use shared::snapshot::{Key, Revision};
use uuid::Uuid;

use crate::command::{Action, Body, Command, Selector};
use crate::config::{Change, Config, Stored};
use crate::history::Origin;
use crate::publisher::{ExecuteError, JournalFault, Publisher};

/// Time between the distribution of a key and its first use.
const SETTLE: Duration = Duration::from_mins(2);

/// How much later a key that a node still lacks is used.
const POSTPONED: Duration = Duration::from_mins(1);

/// After this time a key is used whoever lacks it: a node that is away must not hold a fleet back.
const PATIENCE: Duration = Duration::from_mins(15);

/// How long a key opens at least once it seals no more, since plugins may be changed to let sessions live longer: 30 days,
/// the default absolute limit of a remembered session.
const LEAST: Duration = Duration::from_hours(30 * 24);

/// How far the clocks of nodes and control planes may differ.
const LEEWAY: Duration = Duration::from_mins(5);

/// How long a revoked key stays in sight.
const SHOWN: Duration = Duration::from_hours(24);

/// Why keys are not revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokeError {
    /// No key has this id, or it is revoked already.
    #[error("there is no session key with this id to revoke")]
    Unknown,
    /// The store does not take the change.
    #[error("committing the change to the store")]
    Journal(#[from] JournalFault),
}

/// The session keys of `config`, by activation; of one second, what is revoked before what is ready.
pub(crate) fn of(config: &Config) -> Vec<SessionKey> {
    let mut keys: Vec<SessionKey> = config
        .keys(SessionKey::KIND, Uuid::nil())
        .filter_map(|key| serde_json::from_slice(config.stored(key)?.json()).ok())
        .collect();
    keys.sort_by_key(|key| (key.activate_at, key.state == KeyState::Ready));
    keys
}

/// Revokes the key `which`, or all there are, and has a new one seal at once: every session that a revoked
/// key has sealed is over, on each node as soon as it hears of it. Blocks on the store.
pub(crate) fn revoke(
    publisher: &Publisher,
    origin: &Origin,
    which: Option<Uuid>,
    now: UnixTime,
) -> Result<Revision, RevokeError> {
    let new = NewKey::draw();
    let revoked =
        publisher.transact(origin, now, |config, _| revocation(config, which, now, new))?;
    publisher.hurry();
    Ok(revoked.0)
}

fn revocation(
    config: &Config,
    which: Option<Uuid>,
    now: UnixTime,
    new: NewKey,
) -> Result<Change, RevokeError> {
    let mut change = Change::default();
    let mut put = |key: &SessionKey| {
        if let Ok(Value::Object(fields)) = serde_json::to_value(key) {
            let place = Key {
                kind: SessionKey::KIND,
                id: key.id,
            };
            change.puts.push((place, Stored::of(&fields)));
        }
    };
    let keys = of(config);
    let ready = |key: &&SessionKey| key.state == KeyState::Ready;
    let meant = |key: &&SessionKey| which.is_none_or(|id| id == key.id);
    for key in keys.iter().filter(ready).filter(meant) {
        put(&SessionKey {
            state: KeyState::Revoked,
            decrypt_until: Some(now.saturating_add(SHOWN).as_secs()),
            ..key.clone()
        });
    }
    let seals = |key: &SessionKey| ready(&key) && !meant(&key) && key.decrypt_until.is_none();
    if !keys.iter().any(seals) {
        put(&SessionKey {
            id: new.id,
            secret: STANDARD.encode(new.secret),
            created_at: now.as_secs(),
            activate_at: now.as_secs(),
            decrypt_until: None,
            state: KeyState::Ready,
        });
    }
    let revokes = keys.iter().filter(ready).any(|key| meant(&key));
    if revokes {
        Ok(change)
    } else {
        Err(RevokeError::Unknown)
    }
}

/// A key that may have to be made.
#[derive(Clone, Copy)]
pub(crate) struct NewKey {
    id: Uuid,
    /// Its random bytes.
    secret: [u8; 32],
}

shared::unsaid!(NewKey);

impl NewKey {
    fn draw() -> Self {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the system's random source works");
        Self {
            id: Uuid::new_v4(),
            secret,
        }
    }
}

/// How long a key is to open once it seals no more: as long as what some plugin has sealed with it may be good, with the
/// limits that are configured.
fn longest_session(config: &Config) -> Duration {
    let plugins = config.collection(Plugin::KIND, Uuid::nil());
    let sealed = plugins.filter_map(|(_, fields)| {
        let name = fields.get("name")?.as_str()?;
        sealed_for(name, fields.get("config")?)
    });
    sealed.max().unwrap_or(LEAST).max(LEAST) + LEEWAY
}

/// When keys are looked after, and for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occasion {
    /// By our clock.
    pub now: UnixTime,
    /// By the clocks of the data planes as well, if there are any: nothing is taken away by one clock alone.
    pub agreed: Option<UnixTime>,
    /// How long each key seals.
    pub rotation: Duration,
    /// Whether a node that lives does not run the newest configuration yet.
    pub behind: bool,
}

/// What is to be done about the keys of `config`.
fn due(config: &Config, occasion: Occasion, new: NewKey) -> Vec<Command> {
    let Occasion {
        now,
        agreed,
        rotation,
        behind,
    } = occasion;
    let keys = of(config);
    let over = agreed.map(|agreed| agreed.min(now).as_secs());
    let ended = |key: &&SessionKey| key.decrypt_until.is_some_and(|end| Some(end) <= over);
    let ready = |key: &&SessionKey| key.state == KeyState::Ready;
    let usable = |key: &&SessionKey| ready(key) && key.decrypt_until.is_none();
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
            "id": new.id,
            "secret": STANDARD.encode(new.secret),
            "created_at": now.as_secs(),
            "activate_at": activate_at,
            "decrypt_until": null,
            "state": KeyState::Ready,
        });
        // The new key first: a crash in between leaves two that open, not none.
        commands.push(command(Action::Create(body(made))));
        let longest = longest_session(config);
        let mut sealed_until = UnixTime::from_secs(activate_at);
        for key in keys.iter().rev().filter(|key| ready(key) && !ended(key)) {
            let until = match key.decrypt_until {
                // The next one may be postponed.
                None => after(PATIENCE.saturating_add(longest)),
                // Longer than was thought when the next one took its place.
                Some(_) => sealed_until.saturating_add(longest).as_secs(),
            };
            if key.decrypt_until.is_none_or(|end| end < until) {
                let patch = body(json!({ "decrypt_until": until }));
                commands.push(command(Action::Patch(Selector::Id(key.id), patch)));
            }
            sealed_until = UnixTime::from_secs(key.activate_at);
        }
    }
    let soon = after(POSTPONED);
    let waits = |key: &&SessionKey| {
        (now.as_secs()..soon).contains(&key.activate_at)
            && now.as_secs() < key.created_at.saturating_add(PATIENCE.as_secs())
            && key.activate_at > key.created_at
    };
    for key in keys.iter().filter(usable).filter(waits).filter(|_| behind) {
        let later = key.activate_at.saturating_add(POSTPONED.as_secs());
        let latest = key.created_at.saturating_add(PATIENCE.as_secs());
        let patch = body(json!({ "activate_at": later.min(latest) }));
        commands.push(command(Action::Patch(Selector::Id(key.id), patch)));
    }
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
pub(crate) fn none(config: &Config) -> bool {
    config
        .collection(SessionKey::KIND, Uuid::nil())
        .next()
        .is_none()
}

/// Does what is due. Blocks on the store.
pub(crate) fn keep(publisher: &Publisher, occasion: Occasion) -> Result<(), ExecuteError> {
    for command in due(&publisher.config(), occasion, NewKey::draw()) {
        publisher.execute(&command, occasion.now)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Context, decide};

    const DAY: Duration = Duration::from_hours(24);

    /// The keys after what was due at `seconds`: when each activates and until when it opens.
    fn step(config: &mut Config, seconds: u64) -> Vec<(u64, Option<u64>)> {
        step_with(config, seconds, false)
    }

    fn step_with(config: &mut Config, seconds: u64, behind: bool) -> Vec<(u64, Option<u64>)> {
        let id = Uuid::from_u128(u128::from(seconds) + 1);
        let secret = [7; 32];
        let now = UnixTime::from_secs(seconds);
        let occasion = Occasion {
            now,
            agreed: Some(now),
            rotation: DAY,
            behind,
        };
        for command in due(config, occasion, NewKey { id, secret }) {
            let decision = decide(
                config,
                &command,
                &Context {
                    now,
                    id,
                    seed: [id; 2],
                },
            )
            .unwrap();
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
        let ends = rotated + (PATIENCE + LEAST + LEEWAY).as_secs();
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

    #[test]
    fn no_key_is_taken_away_by_one_clock_alone() {
        let mut config = Config::default();
        step(&mut config, 1000);
        step(&mut config, 1000 + DAY.as_secs());
        let ahead = UnixTime::from_secs(1000 + 100 * DAY.as_secs());
        let behind = UnixTime::from_secs(1000 + DAY.as_secs());
        let deletes = |agreed| {
            let occasion = Occasion {
                now: ahead,
                agreed,
                rotation: 1000 * DAY,
                behind: false,
            };
            let commands = due(&config, occasion, NewKey::draw()).into_iter();
            commands
                .filter(|command| matches!(command.action, Action::Delete(_)))
                .count()
        };
        let found = [None, Some(behind), Some(ahead)].map(deletes);
        assert_eq!(found, [0, 0, 1]);
    }

    #[test]
    fn keys_open_for_as_long_as_some_plugin_lets_its_sessions_live() {
        let long = |days: u64| {
            let limits = json!({
                "session_absolute_timeout": days * DAY.as_secs(),
                "session_rolling_timeout": 0, "session_idling_timeout": 0,
                "issuer": "https://idp.example",
            });
            let config = plugins::registry::check("openid-connect", &limits).unwrap();
            let plugin = json!({ "name": "openid-connect", "config": config });
            let key = Key {
                kind: Plugin::KIND,
                id: Uuid::from_u128(1),
            };
            Change {
                puts: vec![(key, Stored::of(plugin.as_object().unwrap()))],
                removes: Vec::new(),
            }
        };
        let mut config = Config::default();
        step(&mut config, 1000);
        let put = |config: &mut Config, days| {
            *config = config.evolve(&long(days), Revision(config.revision().0 + 1));
        };
        let day = |number: u64| 1000 + number * DAY.as_secs();
        let activation = |number| day(number) + SETTLE.as_secs();
        let end = |at: u64, days: u32| Some(at + (days * DAY + LEEWAY).as_secs());
        put(&mut config, 1);
        let keys = step(&mut config, day(1));
        assert_eq!(keys[0].1, end(day(1) + PATIENCE.as_secs(), 30));
        // What is allowed to live longer from now on may have begun before.
        put(&mut config, 40);
        let keys = step(&mut config, activation(2));
        assert_eq!(keys[0].1, end(activation(1), 40));
        assert_eq!(keys[1].1, end(activation(2) + PATIENCE.as_secs(), 40));
        // And nothing is taken back.
        put(&mut config, 1_000);
        let keys = step(&mut config, activation(4));
        assert_eq!(keys[0].1, end(activation(1), 400));
        put(&mut config, 1);
        assert_eq!(step(&mut config, activation(6))[0].1, keys[0].1);
    }

    #[test]
    fn a_key_that_a_node_lacks_waits_but_not_for_ever() {
        let mut config = Config::default();
        // The first key seals at once: there is none that could stand in.
        assert_eq!(step_with(&mut config, 1000, true), [(1000, None)]);
        let rotated = 1000 + DAY.as_secs();
        step_with(&mut config, rotated, true);
        let newest = |keys: &[(u64, Option<u64>)]| keys.last().unwrap().0;
        let mut second = rotated;
        loop {
            second += 30;
            let activates = newest(&step_with(&mut config, second, true));
            assert!(activates <= rotated + PATIENCE.as_secs());
            if activates <= second {
                break;
            }
        }
        assert_eq!(second, rotated + PATIENCE.as_secs());
        // What the key before has sealed opens until the last of it has ended.
        let keys = step(&mut config, second);
        assert_eq!(
            keys.first().unwrap().1,
            Some(second + (LEAST + LEEWAY).as_secs())
        );
        // A node that has caught up holds nothing back.
        let mut config = Config::default();
        step(&mut config, 1000);
        step_with(&mut config, rotated, true);
        let settled = rotated + SETTLE.as_secs();
        assert_eq!(newest(&step(&mut config, settled - 30)), settled);
    }

    #[test]
    fn a_revoked_key_is_replaced_at_once_and_forgotten_later() {
        let mut config = Config::default();
        step(&mut config, 1000);
        step(&mut config, 1000 + DAY.as_secs());
        let now = UnixTime::from_secs(2000 + DAY.as_secs());
        let new = NewKey {
            id: Uuid::from_u128(77),
            secret: [9; 32],
        };
        let keys = of(&config);
        let states = |change: &Change| {
            let after = config.evolve(change, Revision(99));
            let keys = of(&after).into_iter();
            keys.map(|key| (key.id.as_u128(), key.state))
                .collect::<Vec<_>>()
        };
        let all = revocation(&config, None, now, new).unwrap();
        assert!(states(&all).contains(&(77, KeyState::Ready)));
        let ready = states(&all)
            .iter()
            .filter(|(_, state)| *state == KeyState::Ready)
            .count();
        assert_eq!(ready, 1);
        // The key made in the second in which the others are revoked stands last, whatever its id.
        let mut at_once = Config::default();
        step(&mut at_once, now.as_secs());
        for id in [0, u128::MAX] {
            let id = Uuid::from_u128(id);
            let revoked = revocation(&at_once, None, now, NewKey { id, ..new }).unwrap();
            let keys = of(&at_once.evolve(&revoked, Revision(99)));
            assert_eq!(keys.last().unwrap().id, id);
        }
        // The older of two goes without a new one.
        let old = revocation(&config, Some(keys[0].id), now, new).unwrap();
        assert_eq!(old.puts.len(), 1);
        let newest = revocation(&config, Some(keys[1].id), now, new).unwrap();
        assert!(states(&newest).contains(&(77, KeyState::Ready)));
        let unknown = revocation(&config, Some(Uuid::from_u128(5)), now, new);
        assert!(matches!(unknown, Err(RevokeError::Unknown)));
        let mut after = config.evolve(&all, Revision(99));
        let later = now.saturating_add(SHOWN).as_secs();
        step(&mut after, later);
        assert!(of(&after).iter().all(|key| key.state == KeyState::Ready));
    }
}
