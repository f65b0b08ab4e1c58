//! `/rollouts`: changes on their way through the fleet.

use http::Method;
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::error::Refusal;
use super::{Admin, Answer, Clustering};
use crate::config_sync::{Order, OrderError, Rollouts};
use crate::fleet::steady;
use crate::publisher::JournalFault;
use crate::rollout::{Rollout, State, waits_for};

/// What is asked of roll-outs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Page {
    /// `/rollouts`
    List,
    /// `/rollouts/{id}`
    One(Revision),
    /// `/rollouts/{id}/halt`, `…/resume`, `…/release`, `…/rollback`
    Order(Revision, Order),
}

pub(super) fn parse(segments: &[&str]) -> Option<Result<Page, Refusal>> {
    let (first, rest) = segments.split_first()?;
    if *first != "rollouts" {
        return None;
    }
    let number = |text: &str| text.parse().map(Revision).map_err(|_| Refusal::NotFound);
    let order = match rest {
        [] => return Some(Ok(Page::List)),
        [id] => return Some(number(id).map(Page::One)),
        [_, "halt"] => Order::Halt,
        [_, "resume"] => Order::Resume,
        [_, "release"] => Order::Release,
        [_, "rollback"] => Order::RollBack,
        _ => return Some(Err(Refusal::NotFound)),
    };
    let id = rest.first().copied().unwrap_or_default();
    Some(number(id).map(|id| Page::Order(id, order)))
}

impl Page {
    pub(super) const fn methods(&self) -> &'static [Method] {
        match self {
            Self::List | Self::One(_) => &[Method::GET, Method::HEAD, Method::OPTIONS],
            Self::Order(..) => &[Method::OPTIONS, Method::POST],
        }
    }
}

/// Shows roll-outs.
pub(super) fn read(admin: &Admin, page: Page) -> Result<Answer, Refusal> {
    let rollouts = admin.rollouts.as_ref().ok_or(Refusal::NotFound)?;
    let journal = rollouts.journal();
    let clustering = admin.clustering.as_ref();
    match page {
        Page::List => {
            let shown = journal
                .rollouts
                .iter()
                .map(|rollout| show(rollout, rollouts, clustering));
            Ok(Answer::ok(json!({
                "data": shown.collect::<Vec<_>>(),
                "next": null,
                "settings": settings(rollouts),
            })))
        }
        Page::One(id) => {
            let mut found = journal.rollouts.iter().filter(|rollout| rollout.to == id);
            let rollout = found.next().ok_or(Refusal::NotFound)?;
            Ok(Answer::ok(show(rollout, rollouts, clustering)))
        }
        Page::Order(..) => Err(Refusal::Method(page.methods())),
    }
}

/// Commands a roll-out, and shows what it is then.
pub(super) async fn write(admin: &Admin, page: Page) -> Result<Answer, Refusal> {
    let rollouts = admin.rollouts.as_ref().ok_or(Refusal::NotFound)?;
    let Page::Order(id, order) = page else {
        return Err(Refusal::Method(page.methods()));
    };
    match rollouts.order(id, order).await {
        Ok(()) => read(admin, Page::One(id)),
        Err(OrderError::Unknown) => Err(Refusal::NotFound),
        Err(OrderError::Ended) => Err(Refusal::Argument(format!(
            "roll-out {id} has ended; the newest is the first of /rollouts"
        ))),
        Err(OrderError::Several) => {
            let journal = rollouts.journal();
            let found = journal.rollouts.iter().find(|rollout| rollout.to == id);
            let from = found.map_or(id, |rollout| rollout.from);
            Err(Refusal::Argument(format!(
                "several writes would be undone with roll-out {id}: what is in its `revisions`, and what waits behind it. To undo all of \
                 that, `POST /revisions/{from}/rollback`; to undo some of it, `POST /rollouts/{id}/halt`, change it back, then \
                 `POST /rollouts/{id}/resume`"
            )))
        }
        Err(OrderError::Forgotten) => Err(Refusal::Argument(format!(
            "the history does not reach back to what was before roll-out {id}: change back what it changed, then \
             `POST /rollouts/{id}/resume` has the newest rolled out"
        ))),
        Err(OrderError::Unkept) => Err(Refusal::of_journal(&JournalFault::Unreachable(
            "the order was not carried out; see the control plane's log".to_owned(),
        ))),
        Err(OrderError::Stopping) => Err(Refusal::Unexpected),
    }
}

fn settings(rollouts: &Rollouts) -> Value {
    match &rollouts.plan {
        None => json!({ "rollout": "immediate" }),
        Some(plan) => json!({
            "rollout": "staged",
            "rollout_canary_time": plan.canary.as_secs(),
            "rollout_share": plan.share,
            "rollout_share_time": plan.share_bake.as_secs(),
            "rollout_rollback": plan.rollback,
        }),
    }
}

fn show(rollout: &Rollout, rollouts: &Rollouts, clustering: Option<&Clustering>) -> Value {
    // What happened to each node that was given it is asked of the fleet while it matters.
    let progress = clustering.filter(|_| rollout.is_open()).map(|clustering| {
        let targets = clustering.target.borrow().clone();
        let fleet = &clustering.fleet;
        fleet.progress_of(|node, position| targets.has(rollout.to, node, position))
    });
    let progress = progress.map(|progress| {
        json!({
            "serving": progress.serving,
            "refused": progress.refused,
            "waiting": progress.waiting,
        })
    });
    let running = clustering.filter(|_| rollout.state == State::Running);
    let waits = running.zip(rollouts.plan.as_ref());
    let waits = waits.and_then(|(clustering, plan)| {
        let nodes = clustering.fleet.views(rollouts.journal().generation);
        waits_for(rollout, plan, &nodes, steady())
    });
    json!({
        "id": rollout.to,
        "from": rollout.from,
        "to": rollout.to,
        "revisions": rollout.revisions,
        "state": rollout.state,
        "stage": rollout.stage,
        "started_at": rollout.started_at.as_secs(),
        "stage_since": rollout.stage_since.as_secs(),
        "serving_since": rollout.serving_since.map(UnixTime::as_secs),
        "ended_at": rollout.ended_at.map(UnixTime::as_secs),
        "reason": rollout.reason.clone().or(waits),
        "nodes": rollout.members.keys().collect::<Vec<_>>(),
        "excused": rollout.excused,
        "progress": progress,
    })
}
