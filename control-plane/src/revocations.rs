//! Revocations: asked for by data planes, kept as records, told to every node like any record, and
//! forgotten once the last session that they concern has ended.
//!
//! What is asked while a commit runs goes into the next one together, if it comes from the same.

mod unkept;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use shared::clock::{UnixTime, monotonic};
use shared::entity::{Entity, Revocation};
use shared::snapshot::{Key, Revision};
use shared::telemetry::Trouble;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use crate::config::{Change, Config, Stored};
use crate::fleet::Fleet;
use crate::history::Origin;
use crate::publisher::{JournalFault, Publisher};
pub(crate) use unkept::Hearing;
use unkept::Unkept;

/// Revocations that are kept: beyond, a logout is refused rather than the cluster burdened.
const MOST: usize = 500_000;

/// Revocations of one request.
const OF_A_REQUEST: usize = 64;

/// Bytes of one request.
const REQUEST: usize = 32 * 1024;

/// How long a revocation may have to be kept: no session lives longer.
const LONGEST: Duration = Duration::from_hours(400 * 24);

/// How far a node's clock may be ahead of most.
const AHEAD: Duration = Duration::from_mins(5);

/// How long an expired revocation is kept, for clocks that differ.
const LEEWAY: Duration = Duration::from_mins(5);

/// Expired revocations that one commit removes.
const SWEPT: usize = 1000;

/// Requests that may wait for a commit.
const WAITING: usize = 10_000;

/// Why revocations are not kept.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The request is not what it should be.
    #[error("not a list of revocations")]
    Malformed,
    /// The store takes no writes.
    #[error("{0}")]
    Store(String),
    /// There are too many.
    #[error("there are {MOST} revocations already")]
    Full,
    /// The process stops.
    #[error("this control plane stops")]
    Stopping,
}

impl From<JournalFault> for Refused {
    fn from(fault: JournalFault) -> Self {
        Self::Store(fault.to_string())
    }
}

/// The way to have revocations kept.
#[derive(Clone, Debug)]
pub struct Revoker {
    queue: mpsc::Sender<Asked>,
    /// Whose clocks tell which times make sense.
    fleet: Fleet,
    /// What nodes have asked for that the store does not take.
    unkept: watch::Sender<Unkept>,
}

#[derive(Debug)]
struct Asked {
    origin: Origin,
    revocations: Vec<Revocation>,
    answer: oneshot::Sender<Result<Revision, Refused>>,
}

impl Revoker {
    /// Keeps what `fleet` asks for in what `publisher` holds, for as long as somebody may ask.
    pub fn start(publisher: Publisher, fleet: Fleet) -> Self {
        let (queue, mut asked) = mpsc::channel::<Asked>(WAITING);
        tokio::spawn(async move {
            let mut trouble = Trouble::default();
            while let Some(first) = asked.recv().await {
                let mut waiting = vec![first];
                while let Ok(next) = asked.try_recv() {
                    waiting.push(next);
                }
                // A commit has one origin. Data planes have all the same.
                while let Some(origin) = waiting.first().map(|asked| asked.origin.clone()) {
                    let (together, others) = waiting
                        .into_iter()
                        .partition(|asked: &Asked| asked.origin == origin);
                    waiting = others;
                    let outcome = commit(&publisher, origin, together).await;
                    tell(&outcome, &mut trouble);
                }
            }
        });
        Self {
            queue,
            fleet,
            unkept: watch::Sender::default(),
        }
    }

    /// Keeps the revocations in `request`, a JSON array, of a node; returns once they are on disk. Where the store does not take
    /// them, other nodes hear of them all the same: who has signed out is to be so.
    pub async fn revoke(&self, request: &[u8]) -> Result<(), Refused> {
        let now = self.fleet.latest_time(UnixTime::now());
        let asked = parse(request, now)?;
        let kept = self.keep(Origin::system(), asked.clone()).await;
        match &kept {
            Ok(_) => {
                self.unkept.send_if_modified(|unkept| {
                    unkept.forget(&asked);
                    // Nobody is told less for it.
                    false
                });
            }
            Err(Refused::Store(_)) => {
                self.unkept.send_if_modified(|unkept| unkept.add(&asked));
            }
            Err(_) => {}
        }
        kept.map(drop)
    }

    /// What the store does not take, for one node.
    pub fn hearing(&self) -> Hearing {
        Hearing::new(self.unkept.subscribe())
    }

    /// Keeps `revocations`, which `origin` asks for; returns once they are on disk, with the revision that nodes have them at.
    pub async fn keep(
        &self,
        origin: Origin,
        revocations: Vec<Revocation>,
    ) -> Result<Revision, Refused> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            origin,
            revocations,
            answer,
        };
        self.queue
            .send(asked)
            .await
            .map_err(|_| Refused::Stopping)?;
        answered.await.unwrap_or(Err(Refused::Stopping))
    }
}

/// Keeps what is asked for `together`, and tells those who wait for it.
async fn commit(
    publisher: &Publisher,
    origin: Origin,
    together: Vec<Asked>,
) -> Result<Revision, Refused> {
    let all: Vec<Revocation> = together
        .iter()
        .flat_map(|asked| asked.revocations.iter().copied())
        .collect();
    let publisher = publisher.clone();
    let kept = tokio::task::spawn_blocking(move || keep(&publisher, &origin, &all));
    let outcome = kept.await.unwrap_or(Err(Refused::Stopping));
    for asked in together {
        // Who no longer waits has gone away.
        let _ = asked.answer.send(outcome.clone());
    }
    outcome
}

/// Logs what has become of revocations. Whoever is refused asks again, each node for itself: that is told once.
fn tell(outcome: &Result<Revision, Refused>, trouble: &mut Trouble) {
    match outcome {
        Ok(_) => trouble.ends(),
        Err(refused) => {
            if trouble.is_news(&refused.to_string(), monotonic()) {
                tracing::error!(error = %refused, "revocations are not kept");
            }
        }
    }
}

/// The revocations of a request, with times that make sense.
fn parse(request: &[u8], now: UnixTime) -> Result<Vec<Revocation>, Refused> {
    if request.len() > REQUEST {
        return Err(Refused::Malformed);
    }
    let revocations: Vec<Revocation> =
        serde_json::from_slice(request).map_err(|_| Refused::Malformed)?;
    // How a target is, operators say.
    let is_theirs = revocations.iter().any(Revocation::is_mark);
    if revocations.is_empty() || revocations.len() > OF_A_REQUEST || is_theirs {
        return Err(Refused::Malformed);
    }
    let latest = now.saturating_add(AHEAD).as_millis();
    let bounded = revocations.into_iter().map(|asked| Revocation {
        before: match asked.before {
            // What never begins anew is over whatever the clocks say.
            Revocation::FOR_GOOD => Revocation::FOR_GOOD,
            before => before.min(latest),
        },
        expires_at: asked.expires_at.min(now.saturating_add(LONGEST).as_secs()),
        ..asked
    });
    Ok(bounded.collect())
}

fn key(id: Uuid) -> Key {
    Key {
        kind: Revocation::KIND,
        id,
    }
}

fn read(config: &Config, id: Uuid) -> Option<Revocation> {
    serde_json::from_slice(config.stored(key(id))?.json()).ok()
}

/// What ends `id` at `now` once more than anything in `config` does, whatever the clock said then. It is kept for as long
/// as what it ends could live.
pub(crate) fn anew(config: &Config, id: Uuid, now: UnixTime, longest: Duration) -> Revocation {
    let later = read(config, id).map_or(0, |known| known.before.saturating_add(1));
    Revocation {
        id,
        before: now.as_millis().max(later),
        expires_at: now.saturating_add(longest).as_secs(),
    }
}

/// Whether operators last called the target `id`, or its only address, healthy, and when; none if they have said nothing.
pub(crate) fn marked(
    config: &Config,
    id: Uuid,
    address: Option<(IpAddr, u16)>,
) -> Option<(bool, UnixTime)> {
    let said = Revocation::marks(id, address)
        .filter_map(|(mark, healthy)| Some((read(config, mark)?.before, healthy)));
    let (before, healthy) = said.max()?;
    Some((healthy, UnixTime::from_millis(before)))
}

/// What keeps `asked` in `config` as well, which has room for `most` in all.
fn change(config: &Config, asked: &[Revocation], most: usize) -> Result<Change, Refused> {
    let mut merged: BTreeMap<Uuid, Revocation> = BTreeMap::new();
    for revocation in asked {
        let known = merged.get(&revocation.id).copied();
        let known = known.or_else(|| read(config, revocation.id));
        let both = known.map_or(*revocation, |known| known.merge(*revocation));
        merged.insert(revocation.id, both);
    }
    merged.retain(|id, revocation| read(config, *id) != Some(*revocation));
    let puts = merged.into_iter().filter_map(|(id, revocation)| {
        let Ok(Value::Object(fields)) = serde_json::to_value(revocation) else {
            return None;
        };
        Some((key(id), Stored::of(&fields)))
    });
    let change = Change {
        puts: puts.collect(),
        removes: Vec::new(),
    };
    let unknown = change.puts.iter().filter(|(key, _)| !config.contains(*key));
    let new = unknown.count();
    // Counting is only worth it where the limit could be near. What takes another's place needs no room.
    if new > 0
        && config.len() + new > most
        && config.keys(Revocation::KIND, Uuid::nil()).count() + new > most
    {
        return Err(Refused::Full);
    }
    Ok(change)
}

fn keep(publisher: &Publisher, origin: &Origin, asked: &[Revocation]) -> Result<Revision, Refused> {
    let outcome = publisher.transact(origin, UnixTime::now(), |config, _| {
        change(config, asked, MOST)
    });
    // Whoever is signed out must not be let in while more changes are waited for.
    publisher.hurry();
    outcome.map(|(revision, _)| revision)
}

/// Removes what has expired at `now`, which more clocks than one should say. Blocks on the store.
pub(crate) fn sweep(publisher: &Publisher, now: UnixTime) -> Result<(), Refused> {
    let expired = |config: &Config| {
        let over = |revocation: &Revocation| {
            UnixTime::from_secs(revocation.expires_at).saturating_add(LEEWAY) <= now
        };
        let keys = config.keys(Revocation::KIND, Uuid::nil());
        let keys = keys.filter(|key| read(config, key.id).as_ref().is_some_and(over));
        Change {
            puts: Vec::new(),
            removes: keys.take(SWEPT).collect(),
        }
    };
    if expired(&publisher.config()).removes.is_empty() {
        return Ok(());
    }
    let swept = publisher.transact(&Origin::system(), now, |config, _| {
        Ok::<_, Refused>(expired(config))
    });
    swept.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Entry;
    use crate::publisher::Journal;

    /// A store without room.
    #[derive(Debug)]
    struct Full;

    impl Journal for Full {
        fn commit(&mut self, _: &Entry) -> Result<(), JournalFault> {
            Err(JournalFault::Broken("disk full".to_owned()))
        }
    }

    #[tokio::test]
    async fn a_full_store_that_has_some_of_it_already_takes_no_more_by_that() {
        let (refused, known) = (revocation(1, 10, 100), revocation(2, 10, 100));
        let config = evolve(&Config::default(), &[known]);
        let publisher = Publisher::new(config, 1, Box::new(Full));
        let revoker = Revoker::start(publisher, Fleet::default());
        let revoke = async |asked: Revocation| {
            let request = serde_json::to_vec(&[asked]).unwrap();
            revoker.revoke(&request).await
        };
        assert!(revoke(refused).await.is_err());
        assert_eq!(revoke(known).await, Ok(()));
        let mut hearing = revoker.hearing();
        let heard = tokio::select! {
            biased;
            heard = hearing.more() => heard,
            () = std::future::ready(()) => Vec::new(),
        };
        assert_eq!(heard, [refused]);
    }

    fn revocation(id: u128, before: u64, expires_at: u64) -> Revocation {
        Revocation {
            id: Uuid::from_u128(id),
            before,
            expires_at,
        }
    }

    fn evolve(config: &Config, asked: &[Revocation]) -> Config {
        let change = change(config, asked, MOST).unwrap();
        config.evolve(&change, config.revision().next())
    }

    #[test]
    fn what_is_kept_is_the_stronger_of_all_that_was_asked() {
        let config = Config::default();
        let asked = [
            revocation(1, 10, 100),
            revocation(1, 20, 50),
            revocation(2, 5, 70),
        ];
        let config = evolve(&config, &asked);
        assert_eq!(config.revision(), Revision(1));
        assert_eq!(
            read(&config, Uuid::from_u128(1)),
            Some(revocation(1, 20, 100))
        );
        // A repeat changes nothing.
        assert_eq!(change(&config, &asked, MOST), Ok(Change::default()));
    }

    #[test]
    fn rule_104_what_there_is_no_room_for_is_refused_whole_and_nothing_makes_way_for_it() {
        let known = [revocation(1, 10, 100), revocation(2, 10, 100)];
        let config = evolve(&Config::default(), &known);
        let further = [revocation(3, 10, 100), revocation(4, 10, 100)];
        assert_eq!(change(&config, &further, 3), Err(Refused::Full));
        assert_eq!(change(&config, &further, 4).unwrap().puts.len(), 2);
        // What is known needs no further room to hold for longer, whatever has expired.
        let longer = [revocation(1, 20, 200), revocation(2, 5, 100)];
        for most in [0, 2, 4] {
            let change = change(&config, &longer, most).unwrap();
            assert_eq!((change.puts.len(), change.removes.len()), (1, 0), "{most}");
        }
    }

    #[test]
    fn what_is_ended_once_more_is_so_by_a_clock_that_was_set_back_too() {
        let mut config = Config::default();
        let mut told = Vec::new();
        for seconds in [5_000, 1_000, 1_000, 6_000] {
            let now = UnixTime::from_secs(seconds);
            let ends = anew(&config, Uuid::from_u128(1), now, Duration::from_secs(9));
            config = evolve(&config, &[ends]);
            told.push(read(&config, ends.id).unwrap().before);
        }
        assert_eq!(told, [5_000_000, 5_000_001, 5_000_002, 6_000_000]);
    }

    #[test]
    fn a_request_is_bounded_in_size_and_in_time() {
        let now = UnixTime::from_secs(1_000_000);
        let parse = |json: &str| parse(json.as_bytes(), now);
        let id = Uuid::nil();
        let far = format!(r#"[{{"id":"{id}","before":9999999999999,"expires_at":99999999999}}]"#);
        let parsed = parse(&far).unwrap();
        assert_eq!(parsed[0].before, (1_000_000 + 300) * 1000);
        assert_eq!(parsed[0].expires_at, 1_000_000 + LONGEST.as_secs());
        let ever = Revocation::FOR_GOOD;
        let ever = far.replace("9999999999999,", &format!("{ever},"));
        assert_eq!(parse(&ever).unwrap()[0].before, Revocation::FOR_GOOD);
        let one = far.trim_matches(['[', ']']);
        let many = format!("[{}]", vec![one; OF_A_REQUEST + 1].join(","));
        // A node tells others of sessions, not of targets.
        let mark = Revocation::mark(id, None, false).to_string();
        let mark = far.replace(&id.to_string(), &mark);
        for bad in [
            "",
            "[]",
            "{}",
            "[1]",
            &many,
            &mark,
            &" ".repeat(REQUEST + 1),
        ] {
            assert_eq!(parse(bad), Err(Refused::Malformed));
        }
    }
}
