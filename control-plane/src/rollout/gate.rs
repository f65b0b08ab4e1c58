//! Whether the nodes that have a change do well with it.
//!
//! Requests are judged by what the nodes report: against what these nodes did before, and against what the
//! others do meanwhile. A change is blamed only for what neither explains.

use shared::clock::UnixTime;

use super::{GONE, Member, PATIENCE, Rollout};
use crate::fleet::{Sample, View};

/// Requests without which nothing is said of failures.
const REQUESTS: u64 = 100;

/// By how many of 1,000 requests more may fail than before and elsewhere.
const MORE_FAILURES: u64 = 5;

/// Requests of a report whose slowest say something.
const OF_A_REPORT: u64 = 50;

/// Reports that have to agree that it is slower.
const REPORTS: usize = 3;

/// What a member does wrong, whatever its requests come to.
pub(super) fn fault(
    rollout: &Rollout,
    name: &str,
    member: &Member,
    node: Option<&View>,
    now: UnixTime,
) -> Option<String> {
    let since = now.saturating_since(member.since);
    let Some(node) = node else {
        return (since > GONE).then(|| format!("{name} is gone since it was given it"));
    };
    if let Some(refusal) = &node.refusal
        && refusal.revision == rollout.to
    {
        return Some(format!("{name} refused it: {}", refusal.reason));
    }
    if node.quarantined.contains(&rollout.to) {
        return Some(format!("{name} crashed with it, and will not run it again"));
    }
    if node.crash_restarts > member.crash_restarts {
        return Some(format!("{name} crashed soon after it was given it"));
    }
    let silent = now.saturating_since(node.last_seen).min(since);
    if !node.connected && silent > GONE {
        return Some(format!("{name} is gone since it was given it"));
    }
    let late = node.running.revision != rollout.to && !node.blocked && since > PATIENCE;
    late.then(|| format!("{name} neither serves nor refuses it"))
}

/// Why the members do worse with it, if they do.
pub(super) fn verdict(rollout: &Rollout, nodes: &[View]) -> Option<String> {
    let (mut with, mut before, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
    for node in nodes {
        let is_member = rollout.members.contains_key(&node.name);
        if is_member && rollout.excused.contains(&node.name) {
            continue;
        }
        for sample in &node.samples {
            if !is_member {
                elsewhere.extend((sample.at >= rollout.stage_since).then_some(sample));
            } else if sample.revision == rollout.to {
                with.push(sample);
            } else {
                before.push(sample);
            }
        }
    }
    failures(&with, &before, &elsewhere).or_else(|| slowness(&with, &before, &elsewhere))
}

/// Failed requests of 1,000, if there were enough to tell.
fn rate(samples: &[&Sample]) -> Option<u64> {
    let requests: u64 = samples.iter().map(|sample| sample.requests).sum();
    let failed: u64 = samples.iter().map(|sample| sample.failed).sum();
    (requests >= REQUESTS).then(|| failed.saturating_mul(1000) / requests)
}

fn failures(with: &[&Sample], before: &[&Sample], elsewhere: &[&Sample]) -> Option<String> {
    let now = rate(with)?;
    let usual = rate(before).max(rate(elsewhere)).unwrap_or_default();
    let more = now > usual + MORE_FAILURES;
    more.then(|| {
        format!(
            "{now} of 1,000 requests fail on the nodes that have it, {usual} before or elsewhere"
        )
    })
}

/// What nine of ten of `values` stay within: one slow moment is not what is usual.
fn most(mut values: Vec<u32>) -> Option<u32> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    values.get(last * 9 / 10).copied()
}

fn slowness(with: &[&Sample], before: &[&Sample], elsewhere: &[&Sample]) -> Option<String> {
    let telling = |samples: &[&Sample]| -> Vec<u32> {
        let telling = samples
            .iter()
            .filter(|sample| sample.requests >= OF_A_REPORT && sample.p99_us > 0);
        telling.map(|sample| sample.p99_us).collect()
    };
    let with = telling(with);
    let usual = most(telling(before)).max(most(telling(elsewhere)))?;
    // The best of several: one slow moment is no verdict.
    let best = with
        .iter()
        .copied()
        .min()
        .filter(|_| with.len() >= REPORTS)?;
    // More than half as slow again.
    let slower = u64::from(best) * 2 > u64::from(usual) * 3;
    slower.then(|| {
        format!("one request of 100 takes {best} us or more on the nodes that have it, {usual} us before or elsewhere")
    })
}
