//! Counts in Redis, for all nodes together: with every request, or every so often.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::join_all;
use shared::clock::UnixTime;
use uuid::Uuid;

use super::Limit;
use super::counters::Usage;
use crate::host::Host;
use crate::host::redis::{Command, RedisError, RedisServer, Reply};

/// Reads all counts and, if none has reached its limit, adds one to each: in one step, so that nodes
/// together let through exactly as many as the limit says. Answers the counts from before.
const SCRIPT: &str = "local counts, free = {}, true \
    for i, key in ipairs(KEYS) do \
      counts[i] = tonumber(redis.call('GET', key) or '0') \
      if counts[i] >= tonumber(ARGV[2 * i - 1]) then free = false end \
    end \
    if free then for i, key in ipairs(KEYS) do \
      if redis.call('INCR', key) == 1 then redis.call('EXPIRE', key, ARGV[2 * i]) end \
    end end \
    return counts";

/// Counts a request of `client`, unless it has none left.
pub(super) async fn count(
    host: &impl Host,
    server: &Arc<RedisServer>,
    instance: Uuid,
    client: &str,
    limits: &[Limit],
    now: UnixTime,
) -> Result<Usage, RedisError> {
    let count = i64::try_from(limits.len()).unwrap_or(i64::MAX);
    let mut command = Command::new("EVAL").arg(SCRIPT).number(count);
    for limit in limits {
        command = command.arg(key(instance, client, limit, now));
    }
    for limit in limits {
        command = command
            .arg(limit.most.to_string())
            .arg(limit.period.seconds().to_string());
    }
    let mut replies = host.redis(server, vec![command]).await?;
    match replies.pop() {
        Some(Reply::List(counts)) if counts.len() == limits.len() => {
            let used = counts.iter().map(|count| {
                let count = count.integer().unwrap_or_default();
                u64::try_from(count).unwrap_or_default()
            });
            Ok(Usage::new(limits, used.collect()))
        }
        Some(Reply::Error(reason)) => Err(broken(server, reason)),
        _ => Err(broken(server, "an unexpected reply".to_owned())),
    }
}

/// A server that answers, but not what was asked.
fn broken(server: &RedisServer, reason: String) -> RedisError {
    RedisError::Broken {
        address: format!("{:?}", server.endpoint),
        reason,
    }
}

/// Why the server has refused one of several commands, if it has.
fn refused(replies: &[Reply]) -> Option<&String> {
    replies.iter().find_map(|reply| match reply {
        Reply::Error(reason) => Some(reason),
        _ => None,
    })
}

fn key(instance: Uuid, client: &str, limit: &Limit, now: UnixTime) -> String {
    let (start, period) = (limit.period.start(now), limit.period.name());
    format!("ratelimit:{instance}:{client}:{start}:{period}")
}

/// What one core has counted since it last told Redis, and what Redis said then.
struct Unsynced {
    counts: RefCell<HashMap<String, Count>>,
    /// What Redis is being asked for.
    asked: RefCell<HashMap<String, Waiting>>,
    running: Cell<bool>,
    /// Whether Redis is being told: what it is told then is still among the counts.
    telling: Cell<bool>,
    /// Where and how often they are told, as the newest configuration has it.
    server: RefCell<Arc<RedisServer>>,
    rate: Cell<Duration>,
    /// When the last count expires, in seconds since 1970.
    expires_at: Cell<u64>,
    /// Whether the server was out of reach when it was last told.
    failing: Cell<bool>,
    /// When room was last made.
    swept: Cell<UnixTime>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    /// What all nodes had counted at the last exchange with Redis.
    known: u64,
    /// When that was.
    known_at: UnixTime,
    /// What this core has counted since.
    since: u64,
    /// Whether somebody has asked since.
    asked: bool,
    expires_at: u64,
    lifetime: u64,
}

/// How long a server that is out of reach is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most counts that one core keeps between two exchanges with Redis. Beyond, those that Redis knows make room, and are read there
/// again; whose request finds no room is not counted.
const MOST: usize = 100_000;

/// How often room is made: it takes a walk over all.
const SWEPT: Duration = Duration::from_secs(1);

impl Unsynced {
    /// Notes whether the server could be reached.
    fn tell(&self, outcome: Result<(), &RedisError>) {
        if self.failing.replace(outcome.is_err()) != outcome.is_err() {
            match outcome {
                Ok(()) => tracing::info!("rate limits are synchronised again"),
                // What was not told is told later; it is said once.
                Err(error) => tracing::error!(%error, "rate limits are not synchronised"),
            }
        }
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
            let stale = self.stale(keys, host.now(), strict);
            if stale.is_empty() || (self.failing.get() && !strict) {
                return Ok(());
            }
            let (mut own, mut others) = (Vec::new(), Vec::new());
            for key in stale {
                match self.asked.borrow_mut().entry(key.clone()) {
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
            if !own.is_empty() {
                let asking = Asking { state: self, own };
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

    /// Those of `keys` of which nothing is known at `now`, or nothing recent. Unless that is `strict`, others go by what
    /// is known while those are asked for of which something is.
    fn stale<'a>(&self, keys: &'a [String], now: UnixTime, strict: bool) -> Vec<&'a String> {
        let mut counts = self.counts.borrow_mut();
        let is_stale = |key: &&String| match counts.get_mut(*key) {
            None => true,
            Some(count) => {
                let stale = now.saturating_since(count.known_at) >= self.rate.get();
                if stale && !strict {
                    count.known_at = now;
                }
                stale
            }
        };
        keys.iter().filter(is_stale).collect()
    }

    /// Whether `key` may be among the `counts`. Of a full map those go that have ended, or that Redis has been told of.
    fn has_room(&self, counts: &mut HashMap<String, Count>, key: &str, now: UnixTime) -> bool {
        if counts.len() < MOST || counts.contains_key(key) {
            return true;
        }
        let swept = self.swept.get();
        if now < swept || now.saturating_since(swept) >= SWEPT {
            self.swept.set(now);
            let is_needed = |count: &Count| count.asked || count.since > 0;
            counts.retain(|_, count| count.expires_at > now.as_secs() && is_needed(count));
        }
        counts.len() < MOST
    }

    async fn ask(&self, host: &impl Host, keys: &[&String]) -> Result<(), RedisError> {
        let now = host.now();
        let server = Arc::clone(&self.server.borrow());
        let commands = keys
            .iter()
            .map(|key| Command::new("GET").arg((*key).clone()));
        let replies = host.redis(&server, commands.collect()).await;
        let replies = replies.and_then(|replies| match refused(&replies) {
            Some(reason) => Err(broken(&server, reason.clone())),
            None => Ok(replies),
        });
        self.tell(replies.as_ref().map(drop));
        let mut counts = self.counts.borrow_mut();
        for (key, reply) in keys.iter().zip(replies?) {
            if !self.has_room(&mut counts, key, now) {
                continue;
            }
            let count = counts.entry((*key).clone()).or_default();
            count.known = number(&reply).unwrap_or_default();
            count.known_at = now;
        }
        Ok(())
    }
}

/// Who waits for what is asked of Redis.
type Waiting = Vec<oneshot::Sender<Result<(), RedisError>>>;

/// One request asks for what others wait for, and may be given up meanwhile.
struct Asking<'a> {
    state: &'a Unsynced,
    own: Vec<&'a String>,
}

impl Asking<'_> {
    /// Tells those who wait how it went.
    fn tell(&self, asked: &Result<(), RedisError>) {
        for key in &self.own {
            let waiting = self.state.asked.borrow_mut().remove(*key);
            for tell in waiting.into_iter().flatten() {
                // Some have left meanwhile.
                let _ = tell.send(asked.clone());
            }
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut asked = self.state.asked.borrow_mut();
        for key in &self.own {
            asked.remove(*key);
        }
    }
}

/// Counts a request of a client here, and tells Redis within `rate`.
///
/// # Errors
///
/// Where that is `strict`, that Redis cannot be asked for what others have counted.
pub(super) async fn count_later(
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
    let state = unsynced(host, server, instance, rate);
    state.refresh(host, &keys, strict).await?;
    let usage = state.count(keys, limits, now);
    if !state.running.replace(true) {
        // Plugins that are gone leave nothing for longer than their counts would have lasted.
        let states = host.core_state::<States>();
        let lasts = |state: &Rc<Unsynced>| {
            // Requests that wait for Redis have theirs, and are to count where others find it.
            let is_held = Rc::strong_count(state) > 1;
            is_held || state.running.get() || state.expires_at.get() > now.as_secs()
        };
        states.borrow_mut().retain(|_, state| lasts(state));
        let task_host = host.clone();
        host.spawn(Box::pin(async move {
            sync_until_idle(&task_host, &state).await;
        }));
    }
    Ok(usage)
}

/// The counts of one core, by plugin.
type States = RefCell<HashMap<Uuid, Rc<Unsynced>>>;

/// Those of the plugin `instance`, as the newest configuration has it.
fn unsynced(
    host: &impl Host,
    server: &Arc<RedisServer>,
    instance: Uuid,
    rate: Duration,
) -> Rc<Unsynced> {
    let states = host.core_state::<States>();
    let mut all = states.borrow_mut();
    let known = all.entry(instance).or_insert_with(|| {
        Rc::new(Unsynced {
            counts: RefCell::default(),
            asked: RefCell::default(),
            running: Cell::default(),
            telling: Cell::default(),
            server: RefCell::new(Arc::clone(server)),
            rate: Cell::new(rate),
            expires_at: Cell::default(),
            failing: Cell::default(),
            swept: Cell::default(),
        })
    });
    let state = Rc::clone(known);
    if !Arc::ptr_eq(&state.server.borrow(), server) {
        state.server.replace(Arc::clone(server));
    }
    state.rate.set(rate);
    state
}

impl Unsynced {
    /// Counts a request under `keys`, one for each of `limits`, unless one is reached.
    fn count(&self, keys: Vec<String>, limits: &[Limit], now: UnixTime) -> Usage {
        let mut counts = self.counts.borrow_mut();
        let before = keys
            .iter()
            .map(|key| counts.get(key).map_or(0, |count| count.known + count.since));
        let usage = Usage::new(limits, before.collect());
        for (key, limit) in keys.into_iter().zip(limits) {
            if !self.has_room(&mut counts, &key, now) {
                continue;
            }
            let count = counts.entry(key).or_default();
            count.since += u64::from(usage.exceeded.is_none());
            count.asked = true;
            count.lifetime = limit.period.seconds();
            count.expires_at = limit.period.start(now) + limit.period.seconds();
            let last = self.expires_at.get().max(count.expires_at);
            self.expires_at.set(last);
        }
        usage
    }
}

/// A count, as Redis tells it.
fn number(reply: &Reply) -> Option<u64> {
    u64::try_from(reply.integer()?).ok()
}

/// Tells Redis of what is asked for here, until nothing is any more.
async fn sync_until_idle(host: &impl Host, state: &Unsynced) {
    loop {
        let rate = state.rate.get();
        host.sleep(if state.failing.get() {
            rate.max(PATIENCE)
        } else {
            rate
        })
        .await;
        let pending = state.pending(host.now(), |count| count.asked);
        if pending.is_empty() {
            state.running.set(false);
            return;
        }
        state.exchange(host, pending).await;
    }
}

/// How often a core that ends looks whether Redis has answered.
const LOOK: Duration = Duration::from_millis(5);

/// Tells Redis what the core of `host`, which ends, has counted since it was last told. A server that does not take it
/// is not asked again.
pub(super) async fn flush(host: &impl Host) {
    let states = host.core_state::<States>();
    let all: Vec<_> = states.borrow().values().cloned().collect();
    join_all(all.iter().map(|state| async {
        while state.telling.get() {
            host.sleep(LOOK).await;
        }
        let pending = state.pending(host.now(), |count| count.since > 0);
        if !pending.is_empty() {
            state.exchange(host, pending).await;
        }
    }))
    .await;
}

impl Unsynced {
    /// The `wanted` counts that still last at `now`, unless Redis is being told already.
    fn pending(&self, now: UnixTime, wanted: impl Fn(&Count) -> bool) -> Vec<(String, Count)> {
        if self.telling.get() {
            return Vec::new();
        }
        let mut counts = self.counts.borrow_mut();
        counts.retain(|_, count| count.expires_at > now.as_secs());
        let wanted = counts.iter_mut().filter(|(_, count)| wanted(count));
        wanted
            .map(|(key, count)| {
                count.asked = false;
                (key.clone(), *count)
            })
            .collect()
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
        let server = Arc::clone(&self.server.borrow());
        self.telling.set(true);
        let told = host.redis(&server, commands.collect()).await;
        self.telling.set(false);
        self.tell(told.as_ref().map(drop));
        let heard_at = host.now();
        let mut counts = self.counts.borrow_mut();
        let replies = told.unwrap_or_default();
        let mut replies = replies.iter().step_by(2);
        for (key, sent) in pending {
            let Some(count) = counts.get_mut(&key) else {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::*;
    use super::*;
    use crate::testing::FakeHost;

    #[test]
    fn counts_that_redis_knows_make_room_for_others() {
        let config = json!({ "year": 9, "policy": "redis", "redis": { "host": "redis" } });
        let config: RateLimiting = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let (server, limits) = (filter.remote.unwrap(), filter.limits);
        let state = unsynced(&FakeHost::default(), &server, Uuid::nil(), SWEPT);
        let at = UnixTime::from_secs;
        let start = at(1_000_000);
        let count = |client: &str, now| {
            let keys = vec![key(Uuid::nil(), client, &limits[0], now)];
            state.count(keys, &limits, now).before
        };
        for number in 0..MOST {
            count(&number.to_string(), start);
        }
        // None of these has been told: they stay, and no other comes among them.
        assert_eq!(count("new", start), [0]);
        assert_eq!(count("new", start), [0]);
        assert_eq!(
            (count("0", start), state.counts.borrow().len()),
            (vec![1], MOST)
        );
        for count in state.counts.borrow_mut().values_mut().skip(1) {
            (count.asked, count.since) = (false, 0);
        }
        assert_eq!(count("new", start), [0], "not walked twice in a second");
        let later = at(1_000_001);
        assert_eq!(
            (count("new", later), count("new", later)),
            (vec![0], vec![1])
        );
        assert_eq!(state.counts.borrow().len(), 2);
    }
}
