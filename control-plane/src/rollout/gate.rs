//! Whether the nodes that have a change do well with it.
//!
//! Requests are judged by what the nodes report: against what these nodes did before, and against what the
//! others do meanwhile. A change is blamed only for what neither explains.

use std::time::Duration;

use shared::clock::UnixTime;

use super::{GONE, Judged, LATELY, Member, PATIENCE, Rollout};
use crate::fleet::{Sample, View};

/// Requests without which nothing is said of failures, unless most fail, or of how many are answered.
const REQUESTS: u64 = 100;

/// By how many of 1,000 requests more may fail than before and elsewhere.
const MORE_FAILURES: u64 = 5;

/// Requests without which nothing is said of failures, and by how many of 1,000 more of so few may fail.
const FEW_REQUESTS: u64 = 10;
const MORE_OF_FEW: u64 = 500;

/// Of how many of 1,000 requests more the clients may leave before an answer: some always do, and when is theirs to say.
const MORE_LEFT: u64 = 50;

/// Time without which nothing is said of how many requests are answered.
const TELLING: Duration = Duration::from_secs(10);

/// How many times less a node may answer than before: requests that hang have not ended, and say nothing else.
const LESS: u64 = 4;

/// Requests of a report whose slowest say something.
const OF_A_REPORT: u64 = 50;

/// Reports that have to agree that it is slower; and where it is that many times as slow, which no moment explains.
const REPORTS: usize = 3;
const OF_MUCH: usize = 2;
const MUCH: u64 = 20;

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
        return Some(format!("{name} crashed since it was given it"));
    }
    let silent = now.saturating_since(node.last_seen).min(since);
    if !node.connected && silent > GONE {
        return Some(format!("{name} is gone since it was given it"));
    }
    let late = node.running.revision != rollout.to && !node.blocked && since > PATIENCE;
    late.then(|| format!("{name} neither serves nor refuses it"))
}

/// Why the members, which all serve it since `since`, do worse with it, if they do.
pub(super) fn verdict(rollout: &Rollout, nodes: &[View], since: UnixTime) -> Option<String> {
    let [mut with, mut before, mut others]: [Vec<&Sample>; 3] = Default::default();
    let mut given = rollout.stage_since;
    for node in nodes {
        let member = rollout.members.get(&node.name);
        if member.is_some() && rollout.excused.contains(&node.name) {
            continue;
        }
        if let Some(member) = member {
            given = given.min(member.since);
            let is_anew = matches!(rollout.judged, Judged::Since(_));
            // The first report after an operator has had it go on is of what was before that, too.
            with.extend(with_it(rollout, node).skip(usize::from(is_anew)));
            before.extend(member.before(node, rollout));
        } else {
            // One that has what was replaced is no measure.
            let is_usual = |sample: &&Sample| sample.revision <= rollout.from;
            others.extend(node.samples.iter().filter(is_usual));
        }
    }
    // Who takes the roll-out over begins its times anew, but not what is known of the nodes.
    let given = with.iter().map(|sample| sample.at).fold(given, Ord::min);
    let others_since = |time| {
        let since = others.iter().filter(|sample| sample.at >= time);
        since.copied().collect()
    };
    // What all suffered in an earlier stage is in what the first did, and what they suffer in this one is not to drown in that.
    let usual = [
        before,
        others_since(given),
        others_since(rollout.stage_since),
    ];
    failures(&with, &usual)
        .or_else(|| departures(&with, &usual))
        .or_else(|| slowness(&with, &usual))
        .or_else(|| silence(rollout, nodes, since))
}

/// What those that have a change are measured by, by the worst of them: what these did before, what the others do since the first was
/// given it, and what they do in this stage.
type Usual<'a> = [Vec<&'a Sample>; 3];

/// What a member reports of what it does with the change, as far as that is judged.
fn with_it<'a>(rollout: &Rollout, node: &'a View) -> impl Iterator<Item = &'a Sample> {
    let since = match rollout.judged {
        Judged::Since(since) => Some(since),
        Judged::FromBegin | Judged::Anew => None,
    };
    let to = rollout.to;
    node.samples
        .iter()
        .filter(move |sample| sample.revision == to && since.is_none_or(|since| sample.at > since))
}

/// Requests that `samples` tell of.
fn requests(samples: &[&Sample]) -> u64 {
    samples.iter().map(|sample| sample.requests).sum()
}

/// Those among 1,000 requests that `bad` counts, if there were `least` to tell by.
fn rate(samples: &[&Sample], least: u64, bad: fn(&Sample) -> u64) -> Option<u64> {
    let requests = requests(samples);
    let bad: u64 = samples.iter().map(|sample| bad(sample)).sum();
    (requests >= least).then(|| bad.saturating_mul(1000) / requests.max(1))
}

/// How many of 1,000 are `bad` now, and at most before and elsewhere, as far as that is known, if these are more by the `margin` or
/// of few by most.
fn worse(
    with: &[&Sample],
    usual: &Usual<'_>,
    margin: u64,
    bad: fn(&Sample) -> u64,
) -> Option<(u64, Option<u64>)> {
    let (least, margin) = if requests(with) < REQUESTS {
        (FEW_REQUESTS, MORE_OF_FEW)
    } else {
        (REQUESTS, margin)
    };
    let now = rate(with, least, bad)?;
    let usual = usual.iter().filter_map(|samples| rate(samples, least, bad));
    let usual = usual.max();
    (now > usual.unwrap_or_default() + margin).then_some((now, usual))
}

fn failures(with: &[&Sample], usual: &Usual<'_>) -> Option<String> {
    let (now, usual) = worse(with, usual, MORE_FAILURES, |sample| sample.failed)?;
    let usual = usual.unwrap_or_default();
    Some(format!(
        "{now} of 1,000 requests fail on the nodes that have it, {usual} before or elsewhere"
    ))
}

/// Those of `samples` that say of how many requests the clients went away.
fn that_tell<'a>(samples: &[&'a Sample]) -> Vec<&'a Sample> {
    let telling = samples.iter().filter(|sample| sample.left.is_some());
    telling.copied().collect()
}

/// Where requests hang, clients give up.
fn departures(with: &[&Sample], usual: &Usual<'_>) -> Option<String> {
    let left = |sample: &Sample| sample.left.unwrap_or_default();
    let usual = usual.each_ref().map(|samples| that_tell(samples));
    let (now, usual) = worse(&that_tell(with), &usual, MORE_LEFT, left)?;
    // Nodes of earlier versions do not tell, and what is usual may be much.
    let usual = usual?;
    Some(format!(
        "of {now} of 1,000 requests the clients leave before an answer on the nodes that have it, of {usual} before or elsewhere"
    ))
}

/// What nine of ten of `values` stay within: one slow moment is not what is usual.
fn most(mut values: Vec<u32>) -> Option<u32> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    values.get(last * 9 / 10).copied()
}

/// The p99 of reports that are of enough requests to tell one.
fn telling(samples: &[&Sample]) -> Vec<u32> {
    let telling = samples
        .iter()
        .filter(|sample| sample.requests >= OF_A_REPORT && sample.p99_us > 0);
    telling.map(|sample| sample.p99_us).collect()
}

/// What the p99 usually is, as `samples` tell.
pub(super) fn usual_p99(samples: &[&Sample]) -> Option<u32> {
    most(telling(samples))
}

fn slowness(with: &[&Sample], usual: &Usual<'_>) -> Option<String> {
    let with = telling(with);
    let usual = usual.iter().filter_map(|samples| usual_p99(samples));
    let usual = usual.max()?;
    // The best of several: one slow moment is no verdict.
    let best = with.iter().copied().min()?;
    let is_much = u64::from(best) >= u64::from(usual) * MUCH;
    let reports = if is_much { OF_MUCH } else { REPORTS };
    // More than half as slow again.
    let slower = u64::from(best) * 2 > u64::from(usual) * 3 && with.len() >= reports;
    slower.then(|| {
        format!("one request of 100 takes {best} us or more on the nodes that have it, {usual} us before or elsewhere")
    })
}

/// Requests that were answered in 1,000 seconds, as `samples` tell, one after the other, up to `end`. What the first counted was before it.
fn pace(samples: &[&Sample], end: UnixTime) -> Option<u64> {
    let (first, rest) = samples.split_first()?;
    let span = end.saturating_since(first.at);
    let millis = u64::try_from(span.as_millis()).ok()?;
    let answered = rest.iter().map(|sample| {
        let left = sample.left.unwrap_or_default();
        sample.requests.saturating_sub(left)
    });
    (span >= TELLING).then(|| answered.sum::<u64>().saturating_mul(1_000_000) / millis)
}

/// Whether a member answers far less than before while the others go on: its requests hang, or nobody gets through to it.
fn silence(rollout: &Rollout, nodes: &[View], since: UnixTime) -> Option<String> {
    // A balancer asks nothing of one that stops.
    let is_there = |node: &&View| node.connected && !node.draining && !node.blocked;
    let mut judged = nodes.iter().filter(is_there).filter_map(|node| {
        let member = rollout.members.get(&node.name)?;
        (!rollout.excused.contains(&node.name)).then_some((node, member))
    });
    judged.find_map(|(node, member)| {
        // The first says when those after it began: nothing is to be passed over here.
        let mut with: Vec<&Sample> = with_it(rollout, node).collect();
        let before = member.before(node, rollout);
        // As it takes it up it reports what it answered without.
        let start = Sample {
            at: with.first().map_or(since, |first| first.at),
            ..Sample::default()
        };
        if with.is_empty() {
            with.push(&start);
        }
        let now = pace(&with, node.reported_at)?;
        let end = before.last()?.at;
        // How much is asked of a node is another matter some time later.
        let usual = pace(&before, end).filter(|_| start.at.saturating_since(end) < LATELY)?;
        let span = node.reported_at.saturating_since(start.at).as_secs();
        let expected = usual.saturating_mul(span) / 1000;
        let less = expected >= REQUESTS && now.saturating_mul(LESS) < usual;
        (less && others_go_on(rollout, nodes, &start)).then(|| {
            let answered = now.saturating_mul(span) / 1000;
            let name = &node.name;
            format!("{name} answers {answered} requests in {span} s with it, {expected} before, and the others go on")
        })
    })
}

/// Whether the nodes that have not been given it answer at least half of what they did before `start`.
fn others_go_on(rollout: &Rollout, nodes: &[View], start: &Sample) -> bool {
    let others = nodes
        .iter()
        .filter(|node| !rollout.members.contains_key(&node.name));
    let (mut now, mut before) = (0u64, 0u64);
    for node in others {
        let (earlier, mut later): (Vec<&Sample>, Vec<&Sample>) = node
            .samples
            .iter()
            .partition(|sample| sample.at <= start.at);
        later.insert(0, start);
        let usual = earlier.last().and_then(|last| pace(&earlier, last.at));
        if let (Some(usual), Some(paced)) = (usual, pace(&later, node.reported_at)) {
            before = before.saturating_add(usual);
            now = now.saturating_add(paced);
        }
    }
    before > 0 && now.saturating_mul(2) >= before
}
