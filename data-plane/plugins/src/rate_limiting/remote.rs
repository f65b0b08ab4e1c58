//! Counts in Redis, for all nodes together: with every request, or every so often.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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
    let broken = |reason: String| RedisError::Broken {
        address: format!("{:?}", server.endpoint),
        reason,
    };
    match replies.pop() {
        Some(Reply::List(counts)) if counts.len() == limits.len() => {
            let used = counts.iter().map(|count| {
                let count = count.integer().unwrap_or_default();
                u64::try_from(count).unwrap_or_default()
            });
            Ok(Usage::new(limits, used.collect()))
        }
        Some(Reply::Error(reason)) => Err(broken(reason)),
        _ => Err(broken("an unexpected reply".to_owned())),
    }
}

fn key(instance: Uuid, client: &str, limit: &Limit, now: UnixTime) -> String {
    let (start, period) = (limit.period.start(now), limit.period.name());
    format!("ratelimit:{instance}:{client}:{start}:{period}")
}

/// What one core has counted since it last told Redis, and what Redis said then.
#[derive(Default)]
struct Unsynced {
    counts: RefCell<HashMap<String, Count>>,
    running: Cell<bool>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    /// What all nodes had counted at the last exchange with Redis.
    known: u64,
    /// What this core has counted since.
    since: u64,
    expires_at: u64,
    lifetime: u64,
}

/// Most counts that one core keeps between two exchanges with Redis.
const MOST: usize = 100_000;

/// Counts a request of a client here, and tells Redis within `rate`.
pub(super) fn count_later(
    host: &impl Host,
    server: &Arc<RedisServer>,
    (instance, client): (Uuid, &str),
    limits: &[Limit],
    rate: Duration,
) -> Usage {
    let now = host.now();
    let states = host.core_state::<RefCell<HashMap<Uuid, Rc<Unsynced>>>>();
    let state = Rc::clone(states.borrow_mut().entry(instance).or_default());
    let mut counts = state.counts.borrow_mut();
    let keys: Vec<String> = limits
        .iter()
        .map(|limit| key(instance, client, limit, now))
        .collect();
    let before = keys
        .iter()
        .map(|key| counts.get(key).map_or(0, |count| count.known + count.since));
    let usage = Usage::new(limits, before.collect());
    if usage.exceeded.is_none() && counts.len() < MOST {
        for (key, limit) in keys.into_iter().zip(limits) {
            let count = counts.entry(key).or_default();
            count.since += 1;
            count.lifetime = limit.period.seconds();
            count.expires_at = limit.period.start(now) + limit.period.seconds();
        }
    }
    drop(counts);
    if !state.running.replace(true) {
        let (task_host, server) = (host.clone(), Arc::clone(server));
        host.spawn(Box::pin(async move {
            sync_until_idle(&task_host, &server, &state, rate).await;
        }));
    }
    usage
}

async fn sync_until_idle(
    host: &impl Host,
    server: &Arc<RedisServer>,
    state: &Unsynced,
    rate: Duration,
) {
    loop {
        host.sleep(rate).await;
        let now = host.now().as_secs();
        let pending: Vec<(String, Count)> = {
            let mut counts = state.counts.borrow_mut();
            counts.retain(|_, count| count.expires_at > now);
            counts
                .iter()
                .map(|(key, count)| (key.clone(), *count))
                .collect()
        };
        if pending.is_empty() {
            state.running.set(false);
            return;
        }
        let commands = pending.iter().flat_map(|(key, count)| {
            let add = Command::new("INCRBY")
                .arg(key.clone())
                .arg(count.since.to_string());
            let expire = Command::new("EXPIRE")
                .arg(key.clone())
                .arg(count.lifetime.to_string());
            [add, expire]
        });
        match host.redis(server, commands.collect()).await {
            Ok(replies) => {
                let mut counts = state.counts.borrow_mut();
                for ((key, sent), reply) in pending.into_iter().zip(replies.iter().step_by(2)) {
                    let total = reply.integer().and_then(|total| u64::try_from(total).ok());
                    if let (Some(count), Some(total)) = (counts.get_mut(&key), total) {
                        count.known = total;
                        count.since -= sent.since;
                    }
                }
            }
            // What was not told is told next time.
            Err(error) => tracing::error!(%error, "rate limits are not synchronised"),
        }
    }
}
