//! `?wait=`: an answer to a write that waits until the data planes serve it.
//!
//! The status stays what it is if every connected node serves the revision in time, and is 202 if not, or if it was taken
//! back: the write is committed either way. `X-Wardgate-Serving`, `X-Wardgate-Refused` and `X-Wardgate-Waiting` name the nodes.

use std::time::Duration;

use http::StatusCode;
use shared::clock::monotonic;
use shared::snapshot::Revision;

use super::Answer;
use super::error::Refusal;
use crate::config_sync::Rollouts;
use crate::fleet::{Fleet, Progress};
use crate::publisher::Publisher;

/// The longest wait, in seconds.
const LONGEST: u64 = 300;

/// How long a query asks to wait.
pub(super) fn parse(query: Option<&str>) -> Result<Option<Duration>, Refusal> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let Some((_, value)) = pairs.find(|(name, _)| name == "wait") else {
        return Ok(None);
    };
    match value.parse() {
        Ok(seconds) if seconds <= LONGEST => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(Refusal::Wait),
    }
}

/// Adds to `answer` who serves it, once all do or `longest` is over.
pub(super) async fn until_served(
    fleet: &Fleet,
    publisher: &Publisher,
    rollouts: Option<&Rollouts>,
    longest: Duration,
    answer: Answer,
) -> Answer {
    let Some(revision) = answer.revision else {
        return answer;
    };
    let mut progress = settled(fleet, publisher, revision, longest).await;
    // Who serves what came after a change that was taken back serves what was before it.
    let taken_back = rollouts.is_some_and(|rollouts| rollouts.journal().took_back(revision));
    if taken_back {
        progress = Progress {
            refused: fleet.refusing(revision),
            waiting: progress.serving,
            serving: Vec::new(),
        };
        let refused = &progress.refused;
        progress.waiting.retain(|node| !refused.contains(node));
    }
    let complete = progress.refused.is_empty() && progress.waiting.is_empty() && !taken_back;
    let status = if complete || !answer.status.is_success() {
        answer.status
    } else {
        StatusCode::ACCEPTED
    };
    Answer {
        status,
        rollout: Some(progress),
        ..answer
    }
}

/// The headers that name the nodes.
pub(super) fn headers(progress: &Progress) -> impl Iterator<Item = (&'static str, String)> {
    [
        ("x-wardgate-serving", &progress.serving),
        ("x-wardgate-refused", &progress.refused),
        ("x-wardgate-waiting", &progress.waiting),
    ]
    .into_iter()
    .filter(|(_, nodes)| !nodes.is_empty())
    .map(|(name, nodes)| (name, nodes.join(", ")))
}

/// Where the nodes are once none is on its way any more, or when the time is over.
async fn settled(
    fleet: &Fleet,
    publisher: &Publisher,
    revision: Revision,
    longest: Duration,
) -> Progress {
    let (mut answers, newest) = (fleet.changes(), publisher.watch());
    // What another control plane has committed since may be known to nodes before it is here.
    let mut known = publisher.watch();
    // Who comes back after a restart of this control plane is waited for, too.
    let mut asked = fleet.connected();
    asked.extend(fleet.awaited(monotonic()));
    // Who is cut off meanwhile has not answered.
    let progress = || {
        let mut progress = fleet.progress_of(publisher.generation(), revision..=*newest.borrow());
        progress.waiting.extend(fleet.lost(&asked));
        progress
    };
    let all_have_answered = async {
        loop {
            answers.mark_unchanged();
            known.mark_unchanged();
            let progress = progress();
            // If nobody is left it is this control plane that stops.
            let nobody = || fleet.connected().is_empty() && fleet.awaited(monotonic()).is_empty();
            if progress.waiting.is_empty() || nobody() {
                return progress;
            }
            let ended = tokio::select! {
                changed = answers.changed() => changed.is_err(),
                changed = known.changed() => changed.is_err(),
            };
            if ended {
                return progress;
            }
        }
    };
    match tokio::time::timeout(longest, all_have_answered).await {
        Ok(progress) => progress,
        Err(_) => progress(),
    }
}
