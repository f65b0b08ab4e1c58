//! How a roll-out goes on that was halted, once an operator says so.

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;

use super::{GONE, Member, Rollout, State};
use crate::fleet::View;

/// Since when those that have a change are judged by what they do with it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// Since they were given it.
    #[default]
    FromBegin,
    /// From the next turn on: an operator has it go on.
    Anew,
    /// Since an operator had it go on.
    Since(UnixTime),
}

impl Rollout {
    /// Has it go on: what `nodes` did so far is not held against it, nor, where it was halted for that, what they do from now on. Those
    /// that will not run it are given it with all others, and not before.
    pub fn resume(&mut self, nodes: &[View], now: UnixTime) {
        let refuses = |node: &&View| {
            let refused = node.refusal.iter().map(|refusal| refusal.revision);
            let mut shunned = refused.chain(node.quarantined.iter().copied());
            shunned.any(|revision| revision == self.to)
        };
        let refusing = nodes.iter().filter(refuses).map(|node| node.name.clone());
        self.excused.extend(refusing);
        self.state = State::Running;
        self.ended_at = None;
        self.reason = None;
        self.rolls_back = false;
        // Versions before this one do not say so.
        let is_at_fault = std::mem::take(&mut self.is_at_fault) || !self.by_operator;
        self.by_operator = false;
        self.stage_since = now;
        self.serving_since = None;
        if is_at_fault {
            self.excused.extend(self.members.keys().cloned());
        } else {
            self.judged = Judged::Anew;
        }
    }

    /// Judges those that have it from `now` on, if an operator has it go on: by the clock of whoever looks after it. In the place of
    /// who is gone there will be others.
    pub fn judge_anew(&mut self, nodes: &[View], now: UnixTime) {
        if self.judged != Judged::Anew {
            return;
        }
        self.judged = Judged::Since(now);
        let is_there = |node: &&View| node.connected || now.saturating_since(node.last_seen) < GONE;
        self.members.retain(|name, member| {
            let node = nodes.iter().find(|node| node.name == *name);
            let Some(node) = node.filter(is_there) else {
                return false;
            };
            let usual = std::mem::take(&mut member.usual);
            *member = Member {
                usual,
                ..Member::new(Some(node), self.from, now)
            };
            true
        });
    }
}
