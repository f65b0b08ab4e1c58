//! What clients have used of their quotas: on this node, or in Redis for all.

use std::sync::Arc;

use shared::clock::UnixTime;

use super::{CompiledQuota, Limit, ResponseRatelimitingFilter, Used};
use crate::bundled::rate_limiting::Counters;
use crate::host::Host;
use crate::host::redis::{Command, RedisError, Reply};
use crate::logs::queue::Sending;

/// What `client` has used, by quota and limit.
pub(super) async fn read(
    filter: &ResponseRatelimitingFilter,
    host: &impl Host,
    client: &str,
    now: UnixTime,
) -> Result<Vec<Vec<u64>>, RedisError> {
    let Some(server) = &filter.remote else {
        let counters = Counters::of(host);
        let used = |quota: &CompiledQuota| {
            let place = format!("{client}:{}", quota.name);
            let periods = quota.limits.iter().map(|limit| limit.period);
            counters.with(filter.instance, &place, periods, now, |windows| {
                windows.iter().map(|window| window.count).collect()
            })
        };
        return Ok(filter.quotas.iter().map(used).collect());
    };
    let keys = filter.quotas.iter().flat_map(|quota| {
        let limits = quota.limits.iter();
        limits.map(|limit| key(filter, client, quota, limit, now))
    });
    let commands = keys.map(|key| Command::new("GET").arg(key)).collect();
    let mut replies = host.redis(server, commands).await?.into_iter();
    let mut used = Vec::new();
    for quota in &filter.quotas {
        let mut counts = Vec::new();
        for _ in &quota.limits {
            let reply = replies.next().unwrap_or(Reply::Nil);
            if let Reply::Error(reason) = reply {
                let address = format!("{:?}", server.endpoint);
                return Err(RedisError::Broken { address, reason });
            }
            let count = reply.integer().and_then(|count| u64::try_from(count).ok());
            counts.push(count.unwrap_or_default());
        }
        used.push(counts);
    }
    Ok(used)
}

/// Counts what a response has cost.
pub(super) fn add(
    filter: &ResponseRatelimitingFilter,
    host: &impl Host,
    used: &Used,
    costs: &[u64],
) {
    let paid = filter.quotas.iter().zip(costs);
    let paid = paid.filter(|(_, cost)| **cost > 0);
    let Some(server) = &filter.remote else {
        let counters = Counters::of(host);
        for (quota, cost) in paid {
            let place = format!("{}:{}", used.client, quota.name);
            let periods = quota.limits.iter().map(|limit| limit.period);
            counters.with(filter.instance, &place, periods, used.now, |windows| {
                for window in windows {
                    window.count = window.count.saturating_add(*cost);
                }
            });
        }
        return;
    };
    let mut commands = Vec::new();
    for (quota, cost) in paid {
        for limit in &quota.limits {
            let key = key(filter, &used.client, quota, limit, used.now);
            let lifetime = limit.period.seconds().to_string();
            commands.push(
                Command::new("INCRBY")
                    .arg(key.clone())
                    .arg(cost.to_string()),
            );
            commands.push(Command::new("EXPIRE").arg(key).arg(lifetime));
        }
    }
    if commands.is_empty() {
        return;
    }
    let (task_host, server) = (host.clone(), Arc::clone(server));
    let sending = Sending::begin(host);
    host.spawn(Box::pin(async move {
        if let Err(error) = task_host.redis(&server, commands).await {
            tracing::error!(%error, "the cost of a response could not be counted");
        }
        drop(sending);
    }));
}

fn key(
    filter: &ResponseRatelimitingFilter,
    client: &str,
    quota: &CompiledQuota,
    limit: &Limit,
    now: UnixTime,
) -> String {
    let (instance, name) = (filter.instance, &quota.name);
    let (start, period) = (limit.period.start(now), limit.period.name());
    format!("ratelimit:{instance}:{client}:{start}:{name}:{period}")
}
