//! Counts that a node keeps for itself, and brings together with Redis every so often. Its cores count together.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::join_all;
use shared::clock::UnixTime;
use uuid::Uuid;

use super::Limit;
use super::counters::Usage;
use super::remote::{broken, key};
use crate::host::Host;
use crate::host::redis::{Command, RedisError, RedisServer, Reply};

/// What a node has counted for one plugin since it last told Redis, and what Redis said then.
struct Unsynced(Mutex<State>);

struct State {
    counts: HashMap<String, Count>,
    /// What Redis is being asked for.
    asked: HashMap<String, Waiting>,
    /// Whether a task tells Redis every so often.
    running: bool,
    /// Whether Redis is being told: what it is told then is still among the counts.
    telling: bool,
    /// Where and how often they are told, as the newest configuration has it.
    server: Arc<RedisServer>,
    rate: Duration,
    /// When the last count expires, in seconds since 1970.
    expires_at: u64,
    /// Whether the server was out of reach when it was last told.
    failing: bool,
    /// When room was last made.
    swept: UnixTime,
}

#[derive(Clone, Copy, Default)]
struct Count {
    /// What all nodes had counted at the last exchange with Redis.
    known: u64,
    /// When that was.
    known_at: UnixTime,
    /// What this node has counted since.
    since: u64,
    /// Whether somebody has asked since.
    asked: bool,
    expires_at: u64,
    lifetime: u64,
}

/// Who waits for what is asked of Redis, and what they are told.
type Waiting = Vec<oneshot::Sender<Result<(), RedisError>>>;
type Told = oneshot::Receiver<Result<(), RedisError>>;

/// How long a server that is out of reach is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most counts that a node keeps for a plugin between two exchanges with Redis. Beyond, those that Redis knows make room, and are
/// read there again; whose request finds no room is not counted.
const MOST: usize = 100_000;

/// How often room is made: it takes a walk over all.
const SWEPT: Duration = Duration::from_secs(1);

/// How often a core that ends looks whether Redis has answered.
const LOOK: Duration = Duration::from_millis(5);

/// The counts of a node, by plugin.
#[derive(Default)]
struct States(Mutex<HashMap<Uuid, Arc<Unsynced>>>);

/// The same, as one core holds them.
#[derive(Default)]
struct Held(OnceCell<Arc<States>>);

impl States {
    /// Those of the node that `host` belongs to.
    fn of(host: &impl Host) -> Arc<Self> {
        let held = host.core_state::<Held>();
        Arc::clone(held.0.get_or_init(|| host.node_state()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Unsynced>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of the plugin `instance`, as the newest configuration has it.
    fn counts(&self, server: &Arc<RedisServer>, instance: Uuid, rate: Duration) -> Arc<Unsynced> {
        let mut all = self.lock();
        let known = all.entry(instance).or_insert_with(|| {
            Arc::new(Unsynced(Mutex::new(State {
                counts: HashMap::default(),
                asked: HashMap::default(),
                running: false,
                telling: false,
                server: Arc::clone(server),
                rate,
                expires_at: 0,
                failing: false,
                swept: UnixTime::default(),
            })))
        });
        let mut state = known.lock();
        if !Arc::ptr_eq(&state.server, server) {
            state.server = Arc::clone(server);
        }
        state.rate = rate;
        drop(state);
        Arc::clone(known)
    }

    /// Forgets plugins that are gone, once none of their counts would last.
    fn sweep(&self, now: UnixTime) {
        self.lock().retain(|_, counts| {
            // Requests that wait for Redis have theirs, and are to count where others find it.
            let is_held = Arc::strong_count(counts) > 1;
            let state = counts.lock();
            is_held || state.running || state.expires_at > now.as_secs()
        });
    }
}

/// Counts a request of a client on this node, and tells Redis within `rate`.
///
/// # Errors
///
/// Where that is `strict`, that Redis cannot be asked for what others have counted.
pub(super) async fn count(
    host: &impl Host,
    server: &Arc<RedisServer>,
    (instance, client): (Uuid, &str),
    limits: &[Limit],
    (rate, strict): (Duration, bool),
) -> Result<Usage, RedisError> {
    let now = host.now();
    let keys: Vec<String> = limits
        .iter()
        .map(|limit| key(instance, client, limit, now))
        .collect();
    let states = States::of(host);
    let counts = states.counts(server, instance, rate);
    counts.refresh(host, &keys, strict).await?;
    let mut state = counts.lock();
    let usage = state.count(keys, limits, now);
    let begins = !std::mem::replace(&mut state.running, true);
    drop(state);
    if begins {
        states.sweep(now);
        let task_host = host.clone();
        host.spawn(Box::pin(async move {
            counts.tell_until_idle(&task_host).await;
        }));
    }
    Ok(usage)
}

/// Tells Redis what the node of `host`, a core that ends, has counted since it was last told. A server that does not take it
/// is not asked again.
pub(super) async fn flush(host: &impl Host) {
    let all: Vec<_> = States::of(host).lock().values().cloned().collect();
    join_all(all.iter().map(|counts| async {
        while counts.lock().telling {
            host.sleep(LOOK).await;
        }
        let pending = counts.lock().pending(host.now(), |count| count.since > 0);
        if !pending.is_empty() {
            counts.exchange(host, pending).await;
        }
    }))
    .await;
}

impl State {
    /// Those of `keys` of which nothing is known at `now`, or nothing recent. Unless that is `strict`, others go by what
    /// is known while those are asked for of which something is.
    fn stale<'a>(&mut self, keys: &'a [String], now: UnixTime, strict: bool) -> Vec<&'a String> {
        let is_stale = |key: &&String| match self.counts.get_mut(*key) {
            None => true,
            Some(count) => {
                let stale = now.saturating_since(count.known_at) >= self.rate;
                if stale && !strict {
                    count.known_at = now;
                }
                stale
            }
        };
        keys.iter().filter(is_stale).collect()
    }

    /// Which of `keys` the caller is to ask Redis for, and what it hears of those that others ask for.
    fn divide<'a>(
        &mut self,
        keys: &'a [String],
        now: UnixTime,
        strict: bool,
    ) -> (Vec<&'a String>, Vec<Told>) {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        let stale = self.stale(keys, now, strict);
        if self.failing && !strict {
            return (own, others);
        }
        for key in stale {
            match self.asked.entry(key.clone()) {
                Entry::Occupied(mut asked) => {
                    let (tell, told) = oneshot::channel();
                    asked.get_mut().push(tell);
                    others.push(told);
                }
                Entry::Vacant(place) => {
                    place.insert(Vec::new());
                    own.push(key);
                }
            }
        }
        (own, others)
    }

    /// Notes whether the server could be reached.
    fn tell(&mut self, outcome: Result<(), &RedisError>) {
        if std::mem::replace(&mut self.failing, outcome.is_err()) != outcome.is_err() {
            match outcome {
                Ok(()) => tracing::info!("rate limits are synchronised again"),
                // What was not told is told later; it is said once.
                Err(error) => tracing::error!(%error, "rate limits are not synchronised"),
            }
        }
    }

    /// Whether `key` may be among the counts. Of a full map those go that have ended, or that Redis has been told of.
    fn has_room(&mut self, key: &str, now: UnixTime) -> bool {
        if self.counts.len() < MOST || self.counts.contains_key(key) {
            return true;
        }
        if now < self.swept || now.saturating_since(self.swept) >= SWEPT {
            self.swept = now;
            let is_needed = |count: &Count| count.asked || count.since > 0;
            self.counts
                .retain(|_, count| count.expires_at > now.as_secs() && is_needed(count));
        }
        self.counts.len() < MOST
    }

    /// Counts a request under `keys`, one for each of `limits`, unless one is reached.
    fn count(&mut self, keys: Vec<String>, limits: &[Limit], now: UnixTime) -> Usage {
        let used = |key| {
            let count: Option<&Count> = self.counts.get(key);
            count.map_or(0, |count| count.known + count.since)
        };
        let usage = Usage::new(limits, keys.iter().map(used).collect());
        for (key, limit) in keys.into_iter().zip(limits) {
            if !self.has_room(&key, now) {
                continue;
            }
            let count = self.counts.entry(key).or_default();
            count.since += u64::from(usage.exceeded.is_none());
            count.asked = true;
            count.lifetime = limit.period.seconds();
            count.expires_at = limit.period.start(now) + limit.period.seconds();
            self.expires_at = self.expires_at.max(count.expires_at);
        }
        usage
    }

    /// The `wanted` counts that still last at `now`, to be told to Redis, unless that is being told already.
    fn pending(&mut self, now: UnixTime, wanted: impl Fn(&Count) -> bool) -> Vec<(String, Count)> {
        if self.telling {
            return Vec::new();
        }
        self.counts
            .retain(|_, count| count.expires_at > now.as_secs());
        let wanted = self.counts.iter_mut().filter(|(_, count)| wanted(count));
        let pending: Vec<_> = wanted
            .map(|(key, count)| {
                count.asked = false;
                (key.clone(), *count)
            })
            .collect();
        self.telling = !pending.is_empty();
        pending
    }
}

impl Unsynced {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks Redis for those counts of `keys` of which it has not been heard within the rate (Kong 3.9: a count that a
    /// node does not have is read). One request asks, and those that come meanwhile wait for it.
    ///
    /// # Errors
    ///
    /// Where that is `strict`, that it could not be asked; else the node counts for itself meanwhile.
    async fn refresh(
        &self,
        host: &impl Host,
        keys: &[String],
        strict: bool,
    ) -> Result<(), RedisError> {
        loop {
            let (own, others) = self.lock().divide(keys, host.now(), strict);
            if !own.is_empty() {
                let asking = Asking { counts: self, own };
                let asked = self.ask(host, &asking.own).await;
                asking.tell(&asked);
                if strict {
                    asked?;
                }
            }
            let mut given_up = false;
            for told in others {
                match told.await {
                    Ok(Err(error)) if strict => return Err(error),
                    Ok(_) => {}
                    // Whoever asked has left.
                    Err(oneshot::Canceled) => given_up = true,
                }
            }
            if !given_up {
                return Ok(());
            }
        }
    }

    async fn ask(&self, host: &impl Host, keys: &[&String]) -> Result<(), RedisError> {
        let now = host.now();
        let server = Arc::clone(&self.lock().server);
        let commands = keys
            .iter()
            .map(|key| Command::new("GET").arg((*key).clone()));
        let replies = host.redis(&server, commands.collect()).await;
        let replies = replies.and_then(|replies| match refused(&replies) {
            Some(reason) => Err(broken(&server, reason.clone())),
            None => Ok(replies),
        });
        let mut state = self.lock();
        state.tell(replies.as_ref().map(drop));
        for (key, reply) in keys.iter().zip(replies?) {
            if !state.has_room(key, now) {
                continue;
            }
            let count = state.counts.entry((*key).clone()).or_default();
            // Another core may have told Redis, and heard more, meanwhile.
            if count.known_at <= now {
                count.known = number(&reply).unwrap_or_default();
                count.known_at = now;
            }
        }
        Ok(())
    }

    /// Tells Redis of what is asked for here, until nothing is any more.
    async fn tell_until_idle(&self, host: &impl Host) {
        loop {
            let pause = {
                let state = self.lock();
                let least = if state.failing {
                    PATIENCE
                } else {
                    Duration::ZERO
                };
                state.rate.max(least)
            };
            host.sleep(pause).await;
            let pending = {
                let mut state = self.lock();
                let pending = state.pending(host.now(), |count| count.asked);
                // Whoever counts from here on begins anew.
                state.running = !pending.is_empty();
                pending
            };
            if pending.is_empty() {
                return;
            }
            self.exchange(host, pending).await;
        }
    }

    /// Tells Redis of `pending`, and hears what all nodes have counted.
    async fn exchange(&self, host: &impl Host, pending: Vec<(String, Count)>) {
        let commands = pending.iter().flat_map(|(key, count)| {
            let add = Command::new("INCRBY")
                .arg(key.clone())
                .arg(count.since.to_string());
            let expire = Command::new("EXPIRE")
                .arg(key.clone())
                .arg(count.lifetime.to_string());
            [add, expire]
        });
        let server = Arc::clone(&self.lock().server);
        let told = host.redis(&server, commands.collect()).await;
        let heard_at = host.now();
        let mut state = self.lock();
        state.telling = false;
        state.tell(told.as_ref().map(drop));
        let replies = told.unwrap_or_default();
        let mut replies = replies.iter().step_by(2);
        for (key, sent) in pending {
            let Some(count) = state.counts.get_mut(&key) else {
                continue;
            };
            match replies.next().and_then(number) {
                Some(total) => {
                    count.known = total;
                    count.known_at = heard_at;
                    count.since -= sent.since;
                }
                None => count.asked = true,
            }
        }
    }
}

/// One request asks for what others wait for, and may be given up meanwhile.
struct Asking<'a> {
    counts: &'a Unsynced,
    own: Vec<&'a String>,
}

impl Asking<'_> {
    /// Tells those who wait how it went.
    fn tell(mut self, asked: &Result<(), RedisError>) {
        let mut state = self.counts.lock();
        // From here on others may ask for the same.
        for key in self.own.drain(..) {
            for tell in state.asked.remove(key).into_iter().flatten() {
                // Some have left meanwhile.
                let _ = tell.send(asked.clone());
            }
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.counts.lock();
        for key in &self.own {
            state.asked.remove(*key);
        }
    }
}

/// Why the server has refused one of several commands, if it has.
fn refused(replies: &[Reply]) -> Option<&String> {
    replies.iter().find_map(|reply| match reply {
        Reply::Error(reason) => Some(reason),
        _ => None,
    })
}

/// A count, as Redis tells it.
fn number(reply: &Reply) -> Option<u64> {
    u64::try_from(reply.integer()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::*;
    use super::*;

    #[test]
    fn counts_that_redis_knows_make_room_for_others() {
        let config = json!({ "year": 9, "policy": "redis", "redis": { "host": "redis" } });
        let config: RateLimiting = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let (server, limits) = (filter.remote.unwrap(), filter.limits);
        let counts = States::default().counts(&server, Uuid::nil(), SWEPT);
        let at = UnixTime::from_secs;
        let start = at(1_000_000);
        let count = |client: &str, now| {
            let keys = vec![key(Uuid::nil(), client, &limits[0], now)];
            counts.lock().count(keys, &limits, now).before
        };
        for number in 0..MOST {
            count(&number.to_string(), start);
        }
        // None of these has been told: they stay, and no other comes among them.
        assert_eq!(count("new", start), [0]);
        assert_eq!(count("new", start), [0]);
        assert_eq!(
            (count("0", start), counts.lock().counts.len()),
            (vec![1], MOST)
        );
        for count in counts.lock().counts.values_mut().skip(1) {
            (count.asked, count.since) = (false, 0);
        }
        assert_eq!(count("new", start), [0], "not walked twice in a second");
        let later = at(1_000_001);
        assert_eq!(
            (count("new", later), count("new", later)),
            (vec![0], vec![1])
        );
        assert_eq!(counts.lock().counts.len(), 2);
    }
}
