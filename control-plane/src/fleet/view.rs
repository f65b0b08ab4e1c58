//! A node as roll-outs judge it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::snapshot::{Position, Revision};

use super::{Report, Row};

/// The label by which an operator chooses who is given a change first: `canary=true`.
const CANARY: (&str, &str) = ("canary", "true");

/// Reports of a node that are remembered: five minutes at one in ten seconds.
const REMEMBERED: usize = 30;

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
    /// When it was heard last.
    pub last_seen: UnixTime,
    /// When it reported last; the start of all times before it has.
    pub reported_at: UnixTime,
    /// What it runs.
    pub running: Position,
    /// What it refused last.
    pub refusal: Option<Refused>,
    /// What it will not run again.
    pub quarantined: Vec<Revision>,
    /// How often it started after a crash that followed a change.
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
    }

    /// Remembers what happened since the last report. How slow it was is not said of a change that the node has taken up
    /// meanwhile: it reports at once, and of requests that were served without.
    pub(super) fn take(&mut self, report: &Report, now: UnixTime) {
        let counted = (report.requests, report.failed);
        let running = report.running.revision;
        let before = std::mem::replace(&mut self.revision, running);
        self.reported_at = now;
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
        if self.last.len() >= REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(sample);
    }
}

impl Row {
    pub(super) fn view(&self) -> View {
        let introduction = &self.introduction;
        let (label, value) = CANARY;
        let refusal = self.last_refusal.as_ref().map(|refusal| {
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
            last_seen: self.last_seen,
            reported_at: self.samples.reported_at,
            running: self.running,
            refusal,
            quarantined: introduction
                .quarantined
                .iter()
                .map(|position| position.revision)
                .collect(),
            crash_restarts: self.report.crash_restarts,
            blocked: !self.missing.is_empty()
                || !introduction.features.contains(proto::features::URGENT),
            samples: self.samples.last.iter().copied().collect(),
        }
    }
}
