//! Counts in Redis, for all nodes together, with every request.

use std::sync::Arc;

use shared::clock::UnixTime;
use uuid::Uuid;

use super::counters::Usage;
use super::{Limit, Period};
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
        command = command.arg(key(instance, client, limit.period, limit.period.start(now)));
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
pub(super) fn broken(server: &RedisServer, reason: String) -> RedisError {
    RedisError::Broken {
        address: format!("{:?}", server.endpoint),
        reason,
    }
}

/// What a count is called there.
pub(super) fn key(instance: Uuid, client: &str, period: Period, start: u64) -> String {
    let period = period.name();
    format!("ratelimit:{instance}:{client}:{start}:{period}")
}
