//! `?wait=`: an answer to a write that waits until the data planes serve it.
//!
//! The status stays what it is if every connected node serves the revision in time, and is 202 if not, or if it was taken
//! back: the write is committed either way. `X-Wardgate-Serving`, `X-Wardgate-Refused` and `X-Wardgate-Waiting` name the nodes.
//!
//! What changes keys and revocations alone waits a little without being asked to.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;
use shared::clock::monotonic;
use shared::snapshot::Revision;

use super::Answer;
use super::error::Refusal;
use crate::config_sync::{Rollouts, Target};
use crate::fleet::{Fleet, Progress};

/// The longest wait, in seconds.
const LONGEST: u64 = 300;

/// How long a change of keys and revocations alone waits by itself: as long as control planes take to hear of each other's nodes.
const UNASKED: Duration = Duration::from_secs(2);

/// What an answer waits for.
#[derive(Debug)]
pub(super) struct Wait {
    longest: Duration,
    /// The nodes that are to answer: those that were there when it was asked for, or are expected back. Who goes between the
    /// commit and the wait has not answered either.
    asked: BTreeSet<String>,
}

impl Wait {
    /// A wait for the nodes that are there now.
    pub(super) fn begin(fleet: &Fleet, longest: Duration) -> Self {
        let mut asked = fleet.connected();
        // Who comes back after a restart of this control plane is waited for, too.
        asked.extend(fleet.awaited(monotonic()));
        Self { longest, asked }
    }
}

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

/// Adds to `answer` who serves it, once all do or the longest wait is over. Without a `wait` nothing is added, and what changes
/// keys and revocations alone waits a little: whoever takes a target out counts on that from the answer on.
pub(super) async fn until_served(
    fleet: &Fleet,
    target: Target,
    rollouts: Option<&Rollouts>,
    wait: Option<Wait>,
    answer: Answer,
) -> Answer {
    let Some(revision) = answer.revision else {
        return answer;
    };
    let Some(wait) = wait else {
        if answer.urgent {
            let (longest, asked) = (UNASKED, BTreeSet::new());
            settled(fleet, target, (revision, true), Wait { longest, asked }).await;
        }
        return answer;
    };
    let mut progress = settled(fleet, target, (revision, answer.urgent), wait).await;
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

/// Where the nodes are once none is on its way to `revision` any more, or when the time is over. `urgent`: it changed keys and
/// revocations alone.
async fn settled(
    fleet: &Fleet,
    mut target: Target,
    (revision, urgent): (Revision, bool),
    Wait { longest, mut asked }: Wait,
) -> Progress {
    let (mut answers, targets) = (fleet.changes(), target.clone());
    // Who has come since is told of the change as well.
    asked.extend(fleet.connected());
    // Who is cut off meanwhile has not answered; if nobody is led any more, this process stops, and nobody will.
    let progress = || {
        let targets = targets.borrow().clone();
        let mut progress = if urgent {
            let has = |node: &_, at: &_| targets.has_urgent(revision, node, at);
            fleet.urgent_progress_of(has, |at| targets.has_lost(at))
        } else {
            fleet.progress_of(|node, at| targets.has(revision, node, at))
        };
        progress.waiting.extend(fleet.lost(&asked));
        progress
    };
    let all_have_answered = async {
        let (mut served, mut ended) = (BTreeSet::new(), false);
        loop {
            answers.mark_unchanged();
            // Nodes may know what another control plane has committed since before it is published here.
            target.mark_unchanged();
            let mut progress = progress();
            if progress.waiting.is_empty() {
                return progress;
            }
            let nobody = || fleet.connected().is_empty() && fleet.awaited(monotonic()).is_empty();
            if ended || nobody() {
                // It is this control plane that stops: who has served it is cut off for no other reason.
                let (cut_off, waiting) = progress
                    .waiting
                    .into_iter()
                    .partition(|node| served.contains(node));
                progress.waiting = waiting;
                progress.serving.extend::<Vec<_>>(cut_off);
                return progress;
            }
            served.extend(progress.serving);
            ended = tokio::select! {
                changed = answers.changed() => changed.is_err(),
                changed = target.changed() => changed.is_err(),
            };
        }
    };
    match tokio::time::timeout(longest, all_have_answered).await {
        Ok(progress) => progress,
        Err(_) => progress(),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use futures::poll;
    use serde_json::json;
    use shared::clock::UnixTime;
    use shared::snapshot::{Key, Position};
    use tokio::sync::watch;
    use uuid::Uuid;

    use super::*;
    use crate::config::{Change, Config, Stored};
    use crate::config_sync::Targets;
    use crate::fleet::Introduction;
    use crate::fleet::tests::introduction;
    use crate::snapshot::{Follower, Published, SharedSigner};

    const LONG: Duration = Duration::from_secs(LONGEST);

    /// Every node is led to an empty configuration at `revision`.
    fn led_to(revision: u64) -> Targets {
        let config = Config::default().evolve(&Change::default(), Revision(revision));
        let follower = Follower::new(config, 1, SharedSigner::default());
        Targets::all_to(Arc::clone(follower.newest()))
    }

    #[tokio::test]
    async fn who_is_at_the_number_of_a_change_with_other_content_has_not_got_it() {
        let (leads, target) = watch::channel(led_to(7));
        let elsewhere = Position {
            root: [9; 32],
            ..led_to(7).newest().position
        };
        let fleet = Fleet::default();
        let joins = introduction("a", elsewhere);
        let (member, _) = fleet.join(joins, UnixTime::default()).unwrap();
        let wait = Wait::begin(&fleet, LONG);
        let mut waiting = pin!(settled(&fleet, target, (Revision(7), false), wait));
        assert!(poll!(waiting.as_mut()).is_pending());
        // It has what another control plane has committed since, which is not known here yet.
        member.runs(led_to(8).newest().position, UnixTime::default());
        assert!(poll!(waiting.as_mut()).is_pending());
        leads.send_replace(led_to(8));
        let progress = waiting.await;
        assert_eq!(progress.serving, ["node-1"]);
        assert_eq!((progress.refused.len(), progress.waiting.len()), (0, 0));
    }

    /// Somewhere, what comes after it, and the same followed by a change of keys, which is also given to who stays at the first.
    struct Changed {
        base: Arc<Published>,
        newest: Arc<Published>,
        kept: Arc<Published>,
    }

    fn changed() -> Changed {
        let first = Config::default().evolve(&Change::default(), Revision(7));
        let mut follower = Follower::new(first.clone(), 1, SharedSigner::default());
        let base = Arc::clone(follower.newest());
        let id = Uuid::from_u128(1);
        let mut put = |kind, config: &Config| {
            let record = json!({ "id": id, "before": 5, "expires_at": 9 });
            let change = Change {
                puts: vec![(Key { kind, id }, Stored::of(record.as_object().unwrap()))],
                removes: Vec::new(),
            };
            let next = config.evolve(&change, config.revision().next());
            follower.publish(next.clone());
            next
        };
        let changed = put("services", &first);
        put("session_keys", &changed);
        let newest = Arc::clone(follower.newest());
        let kept = follower.hold(&base);
        Changed { base, newest, kept }
    }

    fn joins_at(position: Position) -> Introduction {
        let mut joins = introduction("a", position);
        joins.features.insert(proto::features::URGENT.to_owned());
        joins
    }

    #[tokio::test]
    async fn a_change_of_keys_is_served_where_nodes_are_held_with_them() {
        let Changed { newest, kept, .. } = changed();
        let joins = joins_at(kept.position);
        let (_leads, target) = watch::channel(Targets::all_held_at(newest, kept));
        let fleet = Fleet::default();
        let _member = fleet.join(joins, UnixTime::default()).unwrap();
        for (urgent, status) in [(true, StatusCode::OK), (false, StatusCode::ACCEPTED)] {
            let answer = Answer {
                revision: Some(Revision(9)),
                urgent,
                ..Answer::ok(json!({}))
            };
            let wait = Wait::begin(&fleet, Duration::ZERO);
            let answer = until_served(&fleet, target.clone(), None, Some(wait), answer).await;
            assert_eq!(answer.status, status, "{urgent}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_keys_waits_a_little_for_nodes_though_nobody_asks_for_that() {
        let Changed { base, newest, .. } = changed();
        let (_leads, target) = watch::channel(Targets::all_to(Arc::clone(&newest)));
        let fleet = Fleet::default();
        let (member, _) = fleet
            .join(joins_at(base.position), UnixTime::default())
            .unwrap();
        let answered = |urgent| {
            let answer = Answer {
                revision: Some(Revision(9)),
                urgent,
                ..Answer::without_body(StatusCode::NO_CONTENT)
            };
            until_served(&fleet, target.clone(), None, None, answer)
        };
        answered(false).await;
        let mut waiting = pin!(answered(true));
        assert!(poll!(waiting.as_mut()).is_pending());
        member.runs(newest.position, UnixTime::default());
        let answer = waiting.await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        assert_eq!(answer.rollout, None);
        // One that stands still keeps nobody waiting for long.
        member.runs(base.position, UnixTime::default());
        let asked = tokio::time::Instant::now();
        assert_eq!(answered(true).await.status, StatusCode::NO_CONTENT);
        assert_eq!(asked.elapsed(), UNASKED);
    }

    #[tokio::test]
    async fn who_goes_before_the_wait_begins_has_not_answered() {
        let (_leads, target) = watch::channel(led_to(7));
        let fleet = Fleet::default();
        let joins = introduction("a", led_to(6).newest().position);
        let member = fleet.join(joins, UnixTime::default()).unwrap();
        let wait = Wait::begin(&fleet, LONG);
        // The change is committed, and the thread that waits for it has not begun to.
        drop(member);
        let progress = settled(&fleet, target, (Revision(7), false), wait).await;
        assert_eq!(progress.waiting, ["node-1"]);
    }

    #[tokio::test]
    async fn a_change_of_keys_is_served_where_nodes_refuse_what_comes_with_them() {
        let Changed { base, newest, kept } = changed();
        let (leads, target) = watch::channel(Targets::all_to(Arc::clone(&newest)));
        let fleet = Fleet::default();
        let joins = joins_at(base.position);
        let (member, _) = fleet.join(joins, UnixTime::default()).unwrap();
        let wait = |urgent| {
            let wait = Wait::begin(&fleet, LONG);
            settled(&fleet, target.clone(), (Revision(9), urgent), wait)
        };
        let mut waiting = pin!(wait(true));
        assert!(poll!(waiting.as_mut()).is_pending());
        member.refused(newest.position, Vec::new(), UnixTime::default());
        assert_eq!(wait(false).await.refused, ["node-1"]);
        assert!(poll!(waiting.as_mut()).is_pending());
        let given = kept.position;
        leads.send_replace(Targets::giving_strays(newest, kept));
        assert!(poll!(waiting.as_mut()).is_pending());
        member.runs(given, UnixTime::default());
        assert_eq!(waiting.await.serving, ["node-1"]);
        assert_eq!(wait(false).await.refused, ["node-1"]);
    }

    #[tokio::test]
    async fn nobody_waits_for_keys_with_a_state_that_is_not_known_any_more() {
        let Changed { base, newest, .. } = changed();
        let (leads, target) = watch::channel(Targets::all_to(Arc::clone(&newest)));
        let fleet = Fleet::default();
        let (member, _) = fleet
            .join(joins_at(base.position), UnixTime::default())
            .unwrap();
        member.refused(newest.position, Vec::new(), UnixTime::default());
        let wait = Wait::begin(&fleet, LONG);
        let mut waiting = pin!(settled(&fleet, target, (Revision(9), true), wait));
        // It may be looked for still.
        assert!(poll!(waiting.as_mut()).is_pending());
        leads.send_replace(Targets::lacking_stray(newest, base.position.revision));
        assert_eq!(waiting.await.refused, ["node-1"]);
    }

    #[tokio::test]
    async fn who_cannot_be_given_keys_apart_refuses_them_with_what_comes_with_them() {
        let Changed { base, newest, .. } = changed();
        let (_leads, target) = watch::channel(Targets::all_to(Arc::clone(&newest)));
        let fleet = Fleet::default();
        let joins = introduction("a", base.position);
        let (member, _) = fleet.join(joins, UnixTime::default()).unwrap();
        member.refused(newest.position, Vec::new(), UnixTime::default());
        let progress = settled(
            &fleet,
            target,
            (Revision(9), true),
            Wait::begin(&fleet, LONG),
        )
        .await;
        assert_eq!(progress.refused, ["node-1"]);
    }

    #[tokio::test]
    async fn nobody_is_waited_for_once_the_process_stops() {
        let (leads, target) = watch::channel(led_to(7));
        let fleet = Fleet::default();
        let joins = introduction("a", led_to(6).newest().position);
        let _member = fleet.join(joins, UnixTime::default()).unwrap();
        let wait = Wait::begin(&fleet, LONG);
        let mut waiting = pin!(settled(&fleet, target, (Revision(7), false), wait));
        assert!(poll!(waiting.as_mut()).is_pending());
        drop(leads);
        assert_eq!(waiting.await.waiting, ["node-1"]);
    }

    #[tokio::test]
    async fn who_served_it_before_the_process_stops_is_named_as_serving() {
        let (_leads, target) = watch::channel(led_to(7));
        let fleet = Fleet::default();
        let joins = introduction("a", led_to(6).newest().position);
        let other = Introduction {
            name: "node-2".to_owned(),
            ..joins.clone()
        };
        let (member, _) = fleet.join(joins, UnixTime::default()).unwrap();
        let (frozen, _) = fleet.join(other, UnixTime::default()).unwrap();
        let wait = Wait::begin(&fleet, LONG);
        let mut waiting = pin!(settled(&fleet, target, (Revision(7), false), wait));
        assert!(poll!(waiting.as_mut()).is_pending());
        member.runs(led_to(7).newest().position, UnixTime::default());
        assert!(poll!(waiting.as_mut()).is_pending());
        // The streams end one after the other.
        drop(member);
        assert!(poll!(waiting.as_mut()).is_pending());
        drop(frozen);
        let progress = waiting.await;
        assert_eq!(progress.serving, ["node-1"]);
        assert_eq!(progress.waiting, ["node-2"]);
    }
}
