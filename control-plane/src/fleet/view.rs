//! A node as roll-outs judge it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::snapshot::{Position, Revision};

use super::{Fleet, Report, Row};

/// The label by which an operator chooses who is given a change first: `canary=true`.
const CANARY: (&str, &str) = ("canary", "true");

/// Reports of a node that are remembered: five minutes at one in ten seconds.
const REMEMBERED: usize = 30;

/// Reports that follow each other this soon make one sample: nodes report at once what changes of targets, and may go on doing so.
const SHORT: Duration = Duration::from_secs(8);

/// What there is to know of a node to give it a change, or to judge one by it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that have nothing to do with each other"
)]
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Whether its operator wants it to be first.
    pub canary: bool,
    /// Whether it has a stream.
    pub connected: bool,
    /// Whether it has said that it stops.
    pub draining: bool,
    /// When it was heard last, or would have been had a control plane always been there.
    pub last_seen: UnixTime,
    /// When it reported last; the start of all times before it has.
    pub reported_at: UnixTime,
    /// When another control plane, which it is connected to, last vouched for all this. None of a node that is known first-hand.
    pub told_at: Option<UnixTime>,
    /// What it runs; the default where that is of another generation.
    pub running: Position,
    /// What it refused last.
    pub refusal: Option<Refused>,
    /// What it will not run again.
    pub quarantined: Vec<Revision>,
    /// How often it started after a crash.
    pub crash_restarts: u32,
    /// Whether it lacks what it would have to know to run what it is led to, or to be held back.
    pub blocked: bool,
    /// What it reported lately, oldest first.
    pub samples: Vec<Sample>,
}

/// A revision that a node refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Which one.
    pub revision: Revision,
    /// The first of its reasons.
    pub reason: String,
}

/// What a node did between two reports.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sample {
    /// When it reported.
    pub at: UnixTime,
    /// What it ran then.
    pub revision: Revision,
    /// Requests that it answered.
    pub requests: u64,
    /// Of these, those that failed by its own fault.
    pub failed: u64,
    /// Of these, those whose clients waited in vain. None of a node that does not tell.
    #[serde(default)]
    pub left: Option<u64>,
    /// What the slowest of a hundred took, in microseconds; 0: no requests.
    pub p99_us: u32,
}

/// The last reports of a node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Samples {
    /// What it had counted by the last: requests, and failed ones. None before the first.
    counted: Option<(u64, u64)>,
    /// And those whose clients waited in vain, which nodes of earlier versions do not tell.
    #[serde(default)]
    left: Option<u64>,
    /// When that was.
    #[serde(default)]
    reported_at: UnixTime,
    /// What it ran then.
    #[serde(skip)]
    revision: Revision,
    /// When the last sample began, if more may be added to it.
    #[serde(skip)]
    open_since: Option<UnixTime>,
    #[serde(rename = "samples")]
    last: VecDeque<Sample>,
}

impl Samples {
    /// Tells when they were taken by another clock.
    pub(super) fn shift(&mut self, by: impl Fn(&mut UnixTime)) {
        by(&mut self.reported_at);
        self.last.iter_mut().for_each(|sample| by(&mut sample.at));
    }

    /// Forgets them, but not what was counted.
    pub(super) fn clear(&mut self) {
        self.last.clear();
    }

    /// Keeps the newest.
    pub(super) fn keep(&mut self, count: usize) {
        let surplus = self.last.len().saturating_sub(count);
        self.last.drain(..surplus);
    }

    /// The node's process is another one, which counts from nothing.
    pub(super) fn restart(&mut self) {
        (self.counted, self.left) = (Some((0, 0)), Some(0));
        self.open_since = None;
    }

    /// Remembers what happened since the last report. How slow it was is not said of a change that the node has taken up
    /// meanwhile: it reports at once, and of requests that were served without.
    pub(super) fn take(&mut self, report: &Report, now: UnixTime) {
        let counted = (report.requests, report.failed);
        let running = report.running.revision;
        let before = std::mem::replace(&mut self.revision, running);
        let since = std::mem::replace(&mut self.reported_at, now);
        let left = std::mem::replace(&mut self.left, report.left);
        // The first says nothing of when its requests were.
        let Some((requests, failed)) = self.counted.replace(counted) else {
            return;
        };
        let sample = Sample {
            at: now,
            revision: running,
            requests: report.requests.saturating_sub(requests),
            failed: report.failed.saturating_sub(failed),
            left: report
                .left
                .zip(left)
                .map(|(now, before)| now.saturating_sub(before)),
            p99_us: if before == running { report.p99_us } else { 0 },
        };
        if sample.requests == 0 {
            return;
        }
        let is_of_one = before == running;
        let is_open = |began: UnixTime| is_of_one && now.saturating_since(began) <= SHORT;
        let last = self.last.back_mut().filter(|last| last.revision == running);
        if let (true, Some(last)) = (self.open_since.is_some_and(is_open), last) {
            last.add(&sample);
            return;
        }
        if self.last.len() >= REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(sample);
        self.open_since = is_of_one.then_some(since);
    }
}

impl Sample {
    /// Makes it one with the `next`.
    pub(crate) fn add(&mut self, next: &Self) {
        let slow = |sample: &Self| u128::from(sample.p99_us) * u128::from(sample.requests);
        let requests = self.requests.saturating_add(next.requests);
        let p99 = (slow(self) + slow(next))
            .checked_div(requests.into())
            .unwrap_or(0);
        *self = Self {
            at: next.at,
            revision: self.revision,
            requests,
            failed: self.failed.saturating_add(next.failed),
            left: self
                .left
                .zip(next.left)
                .map(|(before, now)| before.saturating_add(now)),
            p99_us: u32::try_from(p99).unwrap_or(u32::MAX),
        };
    }
}

impl Fleet {
    /// Every node, as roll-outs of `generation` judge it.
    pub fn views(&self, generation: u64) -> Vec<View> {
        let nodes = self.nodes();
        let rows = nodes.rows().into_iter();
        rows.map(|row| row.view(generation)).collect()
    }
}

impl Row {
    /// What it did with another `generation` says nothing: a restored store gives the same numbers to other states.
    fn view(&self, generation: u64) -> View {
        let introduction = &self.introduction;
        let (label, value) = CANARY;
        let is_of_it = |position: &Position| position.generation == generation;
        let refusal = self.last_refusal.as_ref();
        let refusal = refusal.filter(|refusal| is_of_it(&refusal.position));
        let refusal = refusal.map(|refusal| {
            let reason = refusal.faults.first().map_or_else(String::new, |fault| {
                let parts = [&fault.entity_type, &fault.entity_id, &fault.field];
                let parts = parts.into_iter().filter(|part| !part.is_empty());
                let place = parts.map(String::as_str).collect::<Vec<_>>().join(" ");
                let colon = if place.is_empty() { "" } else { ": " };
                format!("{place}{colon}{}", fault.message)
            });
            Refused {
                revision: refusal.position.revision,
                reason,
            }
        });
        View {
            name: introduction.name.clone(),
            canary: introduction.labels.get(label).is_some_and(|is| is == value),
            connected: self.connected,
            draining: self.report.draining,
            last_seen: self.last_seen.saturating_add(self.unheard),
            reported_at: self.samples.reported_at,
            told_at: self.told_at,
            running: Some(self.running).filter(is_of_it).unwrap_or_default(),
            refusal,
            quarantined: introduction
                .quarantined
                .iter()
                .filter(|position| is_of_it(position))
                .map(|position| position.revision)
                .collect(),
            crash_restarts: self.crashes,
            blocked: !self.missing.is_empty()
                || !introduction.features.contains(proto::features::URGENT),
            samples: if is_of_it(&self.running) {
                self.samples.last.iter().copied().collect()
            } else {
                Vec::new()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::{at, introduction};
    use crate::fleet::{Fleet, Introduction};

    #[test]
    fn each_start_after_a_crash_counts_and_no_other() {
        let fleet = Fleet::default();
        let mut members = Vec::new();
        // Whoever comes again has not started again.
        for (boot, crash_restarts, expected) in [
            ("a", 0, 0),
            ("b", 1, 1),
            ("b", 1, 1),
            ("c", 1, 2),
            ("d", 0, 2),
            ("e", 2, 3),
            // Nor has one of two that take turns.
            ("d", 0, 3),
            ("e", 2, 3),
            ("d", 0, 3),
            ("f", 1, 4),
        ] {
            let joins = Introduction {
                crash_restarts,
                ..introduction(boot, at(1))
            };
            members.push(fleet.join(joins, UnixTime::from_secs(1)).unwrap());
            assert_eq!(fleet.views(1)[0].crash_restarts, expected, "{boot}");
            let shown = &fleet.list(|_| at(1), UnixTime::from_secs(1))[0];
            assert_eq!(shown["crash_restarts"], expected, "{boot}");
        }
    }

    #[test]
    fn what_a_node_did_before_a_restore_says_nothing_of_the_numbers_after_it() {
        let fleet = Fleet::default();
        let now = UnixTime::from_secs(1_000);
        let crashed = Introduction {
            quarantined: vec![at(3)],
            ..introduction("a", at(1))
        };
        let (member, _) = fleet.join(crashed, now).unwrap();
        member.refused(at(4), Vec::new(), now);
        for (generation, runs, quarantined, refused) in [
            (
                at(1).generation,
                at(1),
                vec![Revision(3)],
                Some(Revision(4)),
            ),
            (at(1).generation + 1, Position::default(), Vec::new(), None),
        ] {
            let view = fleet.views(generation).remove(0);
            let refusal = view.refusal.map(|refusal| refusal.revision);
            assert_eq!(
                (view.running, view.quarantined, refusal),
                (runs, quarantined, refused)
            );
        }
    }

    #[test]
    fn reports_in_quick_succession_make_one_sample() {
        let mut samples = Samples::default();
        let mut requests = 0;
        let mut report = |at, revision, more, p99_us| {
            requests += more;
            let report = Report {
                running: Position {
                    generation: 1,
                    revision: Revision(revision),
                    ..Position::default()
                },
                requests,
                failed: requests / 10,
                left: Some(requests / 10),
                p99_us,
                ..Report::default()
            };
            samples.take(&report, UnixTime::from_secs(at));
            let told = samples.last.iter();
            let told = told.map(|sample| {
                assert_eq!(Some(sample.failed), sample.left);
                let (at, revision) = (sample.at.as_secs(), sample.revision.0);
                (at, revision, sample.requests, sample.failed, sample.p99_us)
            });
            told.collect::<Vec<_>>()
        };
        report(100, 1, 0, 0);
        report(110, 1, 100, 40);
        // Each two seconds: four of these are as long as one is otherwise.
        for (at, requests, p99) in [(112, 30, 20), (114, 10, 40), (116, 0, 0), (118, 10, 20)] {
            report(at, 1, requests, p99);
        }
        let told = report(120, 1, 10, 7);
        assert_eq!(
            told,
            [
                (110, 1, 100, 10, 40),
                (118, 1, 50, 5, 24),
                (120, 1, 10, 1, 7)
            ]
        );
        // What was served in part without the change is one of its own, and says nothing of how slow it was.
        report(121, 2, 10, 7);
        report(122, 2, 10, 8);
        let told = report(123, 2, 10, 10);
        assert_eq!(told[3..], [(121, 2, 10, 1, 0), (123, 2, 20, 2, 9)]);
        // Many of them push nothing out.
        for at in 124..200 {
            report(at, 2, 10, 10);
        }
        assert_eq!(report(200, 2, 10, 10)[..3], told[..3]);
    }
}
