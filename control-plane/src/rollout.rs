//! Changes that go to a few nodes first, and to the others once those have done well with them.
//!
//! ```text
//!  canary ── bake ──► share ── bake ──► all
//!     │                 │
//!     └── a node refuses it, crashes, is gone, fails more, is slower or silent: halted ──► rolled back
//! ```
//!
//! [`step`] decides from values alone. `config_sync/conductor.rs` carries out what it says.

mod gate;
mod journal;
mod resumed;
pub(crate) mod rollback;
#[cfg(test)]
mod tests;
mod usual;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::snapshot::Revision;

use crate::fleet::{Sample, View};
pub(crate) use journal::{Agreed, Journal, JournalError, Keeper, Unagreed};
pub(crate) use resumed::Judged;

/// How long a node may be gone after it was given a change, and how long after the start nobody may be there.
pub(crate) const GONE: Duration = Duration::from_mins(1);

/// How long a node may take to serve what it was given, or to refuse it. A stream ends before.
const PATIENCE: Duration = Duration::from_mins(4);

/// How long a node that is away is waited for: it may be back any moment, and then takes what it is led to.
pub(crate) const LATELY: Duration = Duration::from_mins(15);

/// How long it counts as one of the fleet: one of which few are left for now is no small one.
const COUNTED: Duration = Duration::from_hours(24);

/// A fleet of at most so many nodes is small: what one node has done well with, all get.
const SMALL: usize = 3;

/// How long the first node of a small fleet is watched, at most.
const SMALL_BAKE: Duration = Duration::from_secs(2);

/// How a roll-out goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// How long the first nodes are watched.
    pub canary: Duration,
    /// How many of a hundred nodes are next.
    pub share: u8,
    /// How long these are watched.
    pub share_bake: Duration,
    /// Whether what was halted is rolled back without being asked.
    pub rollback: bool,
}

/// How far a roll-out is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// One node has it, or those that are labelled as canaries.
    Canary,
    /// A share of the nodes has it.
    Share,
    /// Every node is given it.
    All,
}

impl Stage {
    /// The word for it.
    const fn word(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Share => "share",
            Self::All => "all",
        }
    }
}

/// What has become of a roll-out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It goes on.
    Running,
    /// It went wrong, or an operator stopped it: nobody else is given it.
    Halted,
    /// Every node is led to it.
    Completed,
    /// The state before it is a new revision.
    RolledBack,
    /// A later change took its place before it was done.
    Superseded,
}

/// A change on its way through the fleet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Rollout {
    /// The state that all others stay at.
    pub from: Revision,
    /// The state that it leads to; names the roll-out.
    pub to: Revision,
    /// Which revisions after `from` changed the configuration, the first of them if they are many.
    #[serde(default)]
    pub revisions: Vec<Revision>,
    /// How far it is.
    pub stage: Stage,
    /// What has become of it.
    pub state: State,
    /// When it began.
    pub started_at: UnixTime,
    /// When its stage began.
    pub stage_since: UnixTime,
    /// Since when all nodes that were given it serve it.
    pub serving_since: Option<UnixTime>,
    /// When it ended or was halted.
    pub ended_at: Option<UnixTime>,
    /// Who was given it.
    pub members: BTreeMap<String, Member>,
    /// Who is not judged any more: an operator has seen what they did, and went on.
    pub excused: BTreeSet<String>,
    /// Why it was halted.
    pub reason: Option<String>,
    /// Whether, being halted, it is to be rolled back.
    pub rolls_back: bool,
    /// Whether an operator halted it: it stays so, whatever comes after it, until an operator has it go on.
    #[serde(default)]
    pub by_operator: bool,
    /// Whether it was halted for what nodes did.
    #[serde(default)]
    pub is_at_fault: bool,
    /// Since when it is judged.
    #[serde(default)]
    pub judged: Judged,
}

/// What is known of a node from when it was given a change.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Member {
    /// When that was.
    pub since: UnixTime,
    /// How often it had started after a crash by then.
    pub crash_restarts: u32,
    /// What it did before, or before what that took the place of, in few figures. Empty where nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usual: Vec<Sample>,
}

/// What is to be done about a roll-out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Nothing yet.
    Wait,
    /// These nodes, too, are given it, in this stage.
    Admit(Stage, Vec<String>),
    /// All that were given it serve it: they are watched from now on.
    Watch,
    /// It is done: every node is led to it.
    Complete,
    /// It goes wrong, and this is why.
    Halt(String),
}

impl Rollout {
    /// A roll-out that begins.
    pub const fn new(from: Revision, to: Revision, now: UnixTime) -> Self {
        Self {
            from,
            to,
            revisions: Vec::new(),
            stage: Stage::Canary,
            state: State::Running,
            started_at: now,
            stage_since: now,
            serving_since: None,
            ended_at: None,
            members: BTreeMap::new(),
            excused: BTreeSet::new(),
            reason: None,
            rolls_back: false,
            by_operator: false,
            is_at_fault: false,
            judged: Judged::FromBegin,
        }
    }

    /// Whether it still decides who gets what.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Running | State::Halted)
    }

    /// Its revisions, as operators read them.
    pub fn writes(&self) -> String {
        let numbers = self.revisions.iter().map(Revision::to_string);
        numbers.collect::<Vec<_>>().join(", ")
    }

    /// Says why it stays halted: others wrote what would be undone with what is wrong in it.
    pub fn is_not_undone(&mut self) {
        let (from, revisions) = (self.from, self.writes());
        tracing::warn!(
            revision = %self.to, %from, revisions,
            "not rolled back: that would undo several writes, or what was written since"
        );
        let told = format!(
            "; not rolled back, as that would undo several writes (revisions {revisions}), or what was written since: change back \
             what is wrong, or all of it by `POST /revisions/{from}/rollback`"
        );
        self.reason.get_or_insert_default().push_str(&told);
    }

    /// Does what [`step`] said, as far as it is about the roll-out itself.
    pub fn apply(&mut self, action: &Action, nodes: &[View], now: UnixTime) {
        match action {
            Action::Wait => {}
            Action::Watch => self.serving_since = Some(now),
            Action::Admit(stage, names) => {
                if self.stage != *stage {
                    self.stage = *stage;
                    self.stage_since = now;
                }
                self.serving_since = None;
                for name in names {
                    let node = nodes.iter().find(|node| node.name == *name);
                    let member = Member::new(node, self.from, now);
                    self.members.insert(name.clone(), member);
                }
            }
            Action::Complete => {
                self.stage = Stage::All;
                self.end(State::Completed, None, now);
            }
            Action::Halt(reason) => {
                self.end(State::Halted, Some(reason.clone()), now);
                self.is_at_fault = true;
                // Who does not serve it gets what the others have: also a revocation, which it would refuse
                // along with the change.
                let serves = |name: &String| {
                    let mut found = nodes.iter().filter(|node| node.name == *name);
                    found.any(|node| node.running.revision == self.to)
                };
                self.members.retain(|name, _| serves(name));
            }
        }
    }

    /// Ends or halts it.
    pub fn end(&mut self, state: State, reason: Option<String>, now: UnixTime) {
        self.state = state;
        self.reason = reason.or_else(|| self.reason.take());
        self.ended_at = Some(now);
    }
}

/// What is to be done about `rollout` at `now`, as the nodes do.
pub(crate) fn step(rollout: &Rollout, plan: &Plan, nodes: &[View], now: UnixTime) -> Action {
    if rollout.state != State::Running {
        return Action::Wait;
    }
    let fleet = Fleet::of(nodes, now);
    if fleet.connected.is_empty() && rollout.members.is_empty() {
        let since_start = now.saturating_since(rollout.started_at);
        let alone = fleet.size() == 0 && since_start >= GONE;
        return if alone {
            Action::Complete
        } else {
            Action::Wait
        };
    }
    let judged = |name: &String| !rollout.excused.contains(name) && !fleet.leaves(name);
    let mut members = rollout.members.keys();
    let all_leave = !rollout.members.is_empty() && members.all(|name| fleet.leaves(name));
    if fleet.connected.is_empty() && all_leave {
        return Action::Wait;
    }
    for (name, member) in rollout.members.iter().filter(|(name, _)| judged(name)) {
        if let Some(reason) = gate::fault(rollout, name, member, fleet.find(name), now) {
            return Action::Halt(reason);
        }
    }
    let wanted = fleet.wanted(rollout, rollout.stage, plan);
    if !wanted.names.is_empty() {
        return Action::Admit(rollout.stage, wanted.names);
    }
    let members = rollout.members.keys().filter(|name| judged(name));
    let members = members.filter_map(|name| fleet.find(name));
    let members: Vec<&View> = members.filter(|node| !node.blocked).collect();
    let serves = |node: &&View| node.connected && node.running.revision == rollout.to;
    if !members.iter().all(serves) {
        return Action::Wait;
    }
    let Some(since) = rollout.serving_since else {
        return Action::Watch;
    };
    if let Some(reason) = gate::verdict(rollout, nodes, since) {
        return Action::Halt(reason);
    }
    let small = fleet.is_small();
    let bake = match rollout.stage {
        Stage::Canary if small => plan.canary.min(SMALL_BAKE),
        Stage::Canary => plan.canary,
        Stage::Share => plan.share_bake,
        Stage::All => Duration::ZERO,
    };
    // What was last told of a node whose control plane is lost since then says that all is well for as long as that one's lease.
    let end = since.saturating_add(bake);
    let is_known = |node: &&View| node.told_at.is_none_or(|at| at >= end);
    if now < end || wanted.lacking > 0 || !members.iter().all(is_known) {
        return Action::Wait;
    }
    if small || rollout.stage != Stage::Canary {
        return Action::Complete;
    }
    let share = fleet.wanted(rollout, Stage::Share, plan);
    if share.names.is_empty() && share.lacking > 0 {
        Action::Wait
    } else if share.names.is_empty() && fleet.are_first(&rollout.members) {
        Action::Complete
    } else {
        Action::Admit(Stage::Share, share.names)
    }
}

/// Why `rollout`, which is under way at `now`, waits for nodes that are away, if it does: too few are connected.
pub(crate) fn waits_for(
    rollout: &Rollout,
    plan: &Plan,
    nodes: &[View],
    now: UnixTime,
) -> Option<String> {
    let fleet = Fleet::of(nodes, now);
    let next = (rollout.stage == Stage::Canary && !fleet.is_small()).then_some(Stage::Share);
    let mut stages = [rollout.stage].into_iter().chain(next);
    stages.find_map(|stage| {
        let Wanted { names, lacking } = fleet.wanted(rollout, stage, plan);
        (names.is_empty() && lacking > 0).then(|| {
            let (connected, all) = (fleet.connected.len(), fleet.size());
            let lately = !fleet.away.is_empty();
            let minutes = if lately { LATELY } else { COUNTED }.as_secs() / 60;
            format!(
                "{connected} of {all} data planes are connected, {lacking} too few for the stage {}: it waits for those that were heard \
                 within {minutes} minutes",
                stage.word()
            )
        })
    })
}

/// The nodes that a change is for. Who stops in order says nothing of it, and another takes its place.
struct Fleet<'a> {
    nodes: &'a [View],
    connected: Vec<&'a View>,
    /// Those that were heard lately.
    away: Vec<&'a View>,
    /// How many more were heard within the time that they count.
    gone: usize,
}

/// Who is to be given a change in a stage, and has not been yet.
struct Wanted {
    names: Vec<String>,
    /// How many more it takes, of those that are away.
    lacking: usize,
}

impl<'a> Fleet<'a> {
    fn of(nodes: &'a [View], now: UnixTime) -> Self {
        let stay = nodes.iter().filter(|node| !node.draining);
        let (connected, mut away): (Vec<_>, Vec<_>) = stay.partition(|node| node.connected);
        let silence = |node: &View| now.saturating_since(node.last_seen);
        away.retain(|node| silence(node) < COUNTED);
        let counted = away.len();
        away.retain(|node| silence(node) < LATELY);
        Self {
            nodes,
            connected,
            gone: counted - away.len(),
            away,
        }
    }

    const fn size(&self) -> usize {
        self.there() + self.gone
    }

    /// Those that are there, or may be any moment.
    const fn there(&self) -> usize {
        self.connected.len() + self.away.len()
    }

    const fn is_small(&self) -> bool {
        self.size() <= SMALL
    }

    fn find(&self, name: &String) -> Option<&'a View> {
        self.nodes.iter().find(|node| node.name == *name)
    }

    fn leaves(&self, name: &String) -> bool {
        self.find(name).is_some_and(|node| node.draining)
    }

    /// Whether nobody else has it than who is chosen to be first. Others may have had what it takes the place of.
    fn are_first(&self, members: &BTreeMap<String, Member>) -> bool {
        let is_labelled = |name| self.find(name).is_none_or(|node| node.canary);
        members.len() <= 1 || members.keys().all(is_labelled)
    }

    /// Who is to be given it in `stage`.
    fn wanted(&self, rollout: &Rollout, stage: Stage, plan: &Plan) -> Wanted {
        let able = |node: &&&View| !node.blocked && !rollout.excused.contains(&node.name);
        let is_member = |node: &&&View| rollout.members.contains_key(&node.name);
        let serving = self.connected.iter().filter(able).filter(is_member);
        // One that is away counts for as long as it may be.
        let gone = rollout.members.keys().filter(|name| {
            let connected = self.connected.iter().any(|node| node.name == **name);
            !connected && !rollout.excused.contains(*name) && !self.leaves(name)
        });
        let given = serving.count() + gone.count();
        let (_, mut others): (Vec<&&View>, Vec<&&View>) =
            self.connected.iter().filter(able).partition(is_member);
        let labelled: Vec<&&&View> = others.iter().filter(|node| node.canary).collect();
        if stage == Stage::Canary && !labelled.is_empty() {
            let names = labelled.iter().map(|node| node.name.clone());
            return Wanted {
                names: names.collect(),
                lacking: 0,
            };
        }
        let most = match stage {
            Stage::Canary => 1,
            Stage::Share => {
                let of_all = self.there().saturating_mul(plan.share.into());
                of_all.div_ceil(100).max(1)
            }
            Stage::All => self.there(),
        };
        // Another order each time, so that it is not always the same node that is first.
        others.sort_by_cached_key(|node| turn(&node.name, rollout.to));
        let missing = most.saturating_sub(given);
        let away = self.away.iter().filter(able);
        let may_come = away.filter(|node| !is_member(node)).count();
        // Where nobody is there, whoever comes is first.
        let is_empty = self.connected.is_empty();
        let may_come = may_come + if is_empty { self.gone } else { 0 };
        Wanted {
            lacking: missing.saturating_sub(others.len()).min(may_come),
            names: others
                .into_iter()
                .take(missing)
                .map(|node| node.name.clone())
                .collect(),
        }
    }
}

/// A node's place in the order of one roll-out.
fn turn(name: &str, to: Revision) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&to.0.to_be_bytes()).update(name.as_bytes());
    *hasher.finalize().as_bytes()
}
