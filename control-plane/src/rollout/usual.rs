//! What nodes did before they were given a change. Their reports are remembered for some minutes alone, but a change may stay halted for
//! longer, and what takes its place is to be judged by the time before both: so it is kept with the roll-out, in few figures.

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::gate::usual_p99;
use super::{Member, Rollout};
use crate::fleet::{Sample, View};

impl Member {
    /// A node that is given at `now` what comes after `from`.
    pub(super) fn new(node: Option<&View>, from: Revision, now: UnixTime) -> Self {
        let before = node.iter().flat_map(|node| &node.samples);
        let before = before.filter(|sample| sample.revision <= from);
        Self {
            since: now,
            crash_restarts: node.map_or(0, crashes),
            usual: in_short(&before.collect::<Vec<_>>()),
        }
    }

    /// What the `node` did before, and where it went back to that. What it did with a change that `rollout` took the place of is no
    /// measure.
    pub(super) fn before<'a>(&'a self, node: &'a View, rollout: &Rollout) -> Vec<&'a Sample> {
        let end = self.usual.last().map(|last| last.at);
        let later = node.samples.iter().filter(|sample| {
            sample.revision <= rollout.from && end.is_none_or(|end| sample.at > end)
        });
        self.usual.iter().chain(later).collect()
    }
}

impl Rollout {
    /// Takes the place of `replaced`, which has the same nodes first: what they did before that is what is usual.
    pub(crate) fn inherit(&mut self, replaced: &Self) {
        for (name, member) in &mut self.members {
            let before = replaced.members.get(name).map(|before| &before.usual);
            if let Some(usual) = before.filter(|usual| !usual.is_empty()) {
                member.usual.clone_from(usual);
            }
        }
    }
}

/// How often a node had crashed by now: who is away may come back from a crash with what it had before.
fn crashes(node: &View) -> u32 {
    node.crash_restarts + u32::from(!node.connected)
}

/// What `samples` tell, one after the other: the first, which says when they began, and all others in one.
fn in_short(samples: &[&Sample]) -> Vec<Sample> {
    let p99_us = usual_p99(samples).unwrap_or_default();
    let mut short: Vec<Sample> = Vec::new();
    for sample in samples {
        match short.as_mut_slice() {
            [_, sum] => sum.add(sample),
            _ => short.push(**sample),
        }
    }
    for sample in &mut short {
        sample.p99_us = p99_us;
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_figures_tell_of_many_reports() {
        let sample = |at, requests, failed, p99_us| Sample {
            at: UnixTime::from_secs(at),
            revision: Revision(1),
            requests,
            failed,
            left: Some(failed),
            p99_us,
        };
        let many = [
            sample(10, 100, 1, 7),
            sample(20, 200, 0, 8),
            // Too few to say how slow they were.
            sample(30, 10, 9, 99),
            sample(40, 300, 2, 9),
        ];
        let many: Vec<&Sample> = many.iter().collect();
        let short = [sample(10, 100, 1, 8), sample(40, 510, 11, 8)];
        assert_eq!(in_short(&many), short);
        assert_eq!(in_short(&many[..1]), [sample(10, 100, 1, 7)]);
        assert_eq!(in_short(&[]), []);
    }
}
