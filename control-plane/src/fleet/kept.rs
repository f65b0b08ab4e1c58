//! The nodes in a file: a control plane that starts again shows those that are away, and knows what each has refused.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shared::clock::{UnixTime, monotonic};
use shared::machine::{read_bounded, write_whole};
use shared::snapshot::{Hash, Revision};
use shared::telemetry::Trouble;
use tokio::task::JoinHandle;

use super::clocks::on_the_wall;
use super::{Fleet, Introduction, Row};
use crate::publisher::Publisher;

/// How often the file is written. What happens in between a crash loses, but for who is there.
const WRITE: Duration = Duration::from_mins(1);

/// How long after it was written it is written again for a node that nobody knew: many come at once.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after a start a node that had a stream before is taken to be on its way back.
const RETURN: Duration = Duration::from_mins(1);

/// Bytes of the largest file that is read.
const LARGEST: usize = 64 * 1024 * 1024;

/// Up to where the control plane had the configuration that it told its nodes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Had {
    /// The store's generation.
    pub generation: u64,
    /// The revision.
    pub revision: Revision,
    /// Hash of what led there, where others write to the store as well; none in files of earlier versions.
    #[serde(default)]
    pub chain: Option<Hash>,
}

impl Had {
    /// Up to where `publisher` has it.
    pub(crate) fn of(publisher: &Publisher) -> Self {
        let generation = publisher.generation();
        let place = publisher.place();
        Self {
            generation,
            revision: place.map_or_else(|| publisher.config().revision(), |place| place.revision),
            chain: place.map(|place| place.chain),
        }
    }
}

/// What the file holds.
#[derive(Deserialize, Serialize)]
struct Nodes {
    rows: Vec<Row>,
    /// When that was so. Absent in files of earlier versions.
    #[serde(default)]
    at: Option<UnixTime>,
    /// Absent in files of earlier versions.
    #[serde(default)]
    had: Option<Had>,
    /// Those with a stream, or on their way back, besides the ones in `rows` that are connected.
    #[serde(default)]
    processes: BTreeSet<Process>,
}

/// A process of a node: while one gives way to its successor there are two.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Process {
    /// The node's name.
    pub node: String,
    /// Differs after a restart of the node.
    pub run: String,
}

impl Process {
    fn of(introduction: &Introduction) -> Self {
        Self {
            node: introduction.name.clone(),
            run: introduction.boot.clone(),
        }
    }
}

/// Who had a stream when the process before this one ended and has not come back yet, and until when they are expected.
#[derive(Debug, Default)]
pub(super) struct Awaited(Option<(BTreeSet<Process>, Instant)>);

impl Awaited {
    /// The process that introduces itself so is back.
    pub(super) fn is_back(&mut self, introduction: &Introduction) {
        if let Some((processes, _)) = &mut self.0 {
            processes.remove(&Process::of(introduction));
        }
    }

    /// Who is expected at `clock`.
    fn all(&mut self, clock: Instant) -> BTreeSet<Process> {
        self.0.take_if(|(_, until)| clock >= *until);
        let awaited = self.0.as_ref();
        awaited.map_or_else(BTreeSet::new, |(processes, _)| processes.clone())
    }
}

/// A generation that no store has, in seconds after the present: a node that tells of it is wrong.
const ABSURD: Duration = Duration::from_hours(24 * 366 * 100);

/// The latest generation that a node in `file` runs; 0 if there is none. A store that is to lead them all comes after it,
/// whatever the clock says.
pub(crate) fn generation_told(file: &Path, now: UnixTime) -> u64 {
    let nodes = read(file).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "what data planes run is not known");
        None
    });
    let rows = nodes.into_iter().flat_map(|nodes| nodes.rows);
    let told = rows.map(|row| row.running.generation);
    let told = told.filter(|told| is_generation(*told, now));
    told.max().unwrap_or(0)
}

/// What the control plane that wrote `file` had then, if it says so.
pub(crate) fn had(file: &Path) -> Option<Had> {
    read(file).ok().flatten()?.had
}

/// Whether a store may be of the generation that a node tells at `now`.
pub(crate) fn is_generation(told: u64, now: UnixTime) -> bool {
    told < now.saturating_add(ABSURD).as_secs()
}

/// What `file` holds, if it is there.
fn read(file: &Path) -> io::Result<Option<Nodes>> {
    let bytes = read_bounded(file, LARGEST)?;
    let nodes = bytes.map(|bytes| serde_json::from_slice(&bytes));
    Ok(nodes.transpose()?)
}

/// Keeps a fleet in a file.
pub(crate) struct Kept {
    fleet: Fleet,
    file: PathBuf,
    had: Tell,
    writing: JoinHandle<()>,
}

/// Tells up to where the configuration is known.
type Tell = Arc<dyn Fn() -> Had + Send + Sync>;

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Kept {
    /// Has `fleet` know what `file` says, and keeps it there from now on, with what `had` says. Call on the runtime that is to
    /// do so.
    pub(crate) fn start(
        fleet: Fleet,
        file: PathBuf,
        had: impl Fn() -> Had + Send + Sync + 'static,
    ) -> Self {
        if let Err(error) = fleet.recall(&file, monotonic(), UnixTime::now()) {
            tracing::warn!(
                file = %file.display(), %error,
                "data planes that are away are not known: the file is passed over"
            );
        }
        let had: Tell = Arc::new(had);
        let writing = tokio::spawn(write(fleet.clone(), file.clone(), Arc::clone(&had)));
        Self {
            fleet,
            file,
            had,
            writing,
        }
    }

    /// Writes the file once more.
    pub(crate) fn stop(self) {
        self.writing.abort();
        let had = (self.had)();
        if let Err(error) = self
            .fleet
            .keep(&self.file, had, monotonic(), UnixTime::now())
        {
            tracing::warn!(file = %self.file.display(), %error, "the list of data planes is not kept");
        }
    }
}

async fn write(fleet: Fleet, file: PathBuf, had: Tell) {
    let mut trouble = Trouble::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        // Whoever came meanwhile is told of at once.
        _ = tokio::time::timeout(WRITE, fleet.news.notified()).await;
        let (fleet, path, had) = (fleet.clone(), file.clone(), had());
        let writing = move || fleet.keep(&path, had, monotonic(), UnixTime::now());
        let written = tokio::task::spawn_blocking(writing).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => trouble.ends(),
            Err(error) if trouble.is_news(&error.to_string(), monotonic()) => {
                tracing::warn!(file = %file.display(), %error, "the list of data planes is not kept");
            }
            Err(_) => {}
        }
    }
}

impl Fleet {
    /// Writes every node to `file`, `now`, without what roll-outs are judged by, who is on its way back at `clock`, and what the
    /// control plane `had`.
    fn keep(&self, file: &Path, had: Had, clock: Instant, now: UnixTime) -> io::Result<()> {
        let mut nodes = self.nodes();
        let mut rows: Vec<Row> = nodes.rows().into_iter().cloned().collect();
        // Who was not back yet from the restart before is on its way still.
        let mut processes = nodes.awaited.all(clock);
        let leaving = nodes.leaving.processes();
        processes.extend(leaving.map(|(node, run)| Process { node, run }));
        drop(nodes);
        for row in &mut rows {
            row.shift(on_the_wall);
            row.samples.clear();
            // Each node tells them anew, and they are many.
            row.report.targets = Arc::default();
        }
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        let nodes = Nodes {
            rows,
            at: Some(now),
            had: Some(had),
            processes,
        };
        write_whole(file, &serde_json::to_string(&nodes)?)
    }

    /// The processes that had a stream before this one of the control plane started and have none yet, as long as they may
    /// come back at `clock`.
    pub fn awaited_processes(&self, clock: Instant) -> BTreeSet<Process> {
        self.nodes().awaited.all(clock)
    }

    /// The nodes of which none has a stream, but of which one may come back at `clock`: they are not to be taken for gone.
    pub fn awaited(&self, clock: Instant) -> BTreeSet<String> {
        let mut nodes = self.nodes();
        let processes = nodes.awaited.all(clock).into_iter();
        let names: BTreeSet<String> = processes.map(|process| process.node).collect();
        let away = nodes.rows().into_iter();
        let away = away.filter(|row| !row.connected && !row.report.draining);
        let away = away.map(|row| row.introduction.name.clone());
        away.filter(|name| names.contains(name)).collect()
    }

    /// Takes in the nodes of `file`, if there is one: they are away until they come.
    fn recall(&self, file: &Path, clock: Instant, now: UnixTime) -> io::Result<()> {
        let Some(Nodes {
            mut rows,
            at,
            processes,
            ..
        }) = read(file)?
        else {
            return Ok(());
        };
        let mut awaited = processes;
        let connected = rows.iter().filter(|row| row.connected);
        awaited.extend(connected.map(|row| Process::of(&row.introduction)));
        let unheard = at.map_or(Duration::ZERO, |at| now.saturating_since(at));
        for row in &mut rows {
            // The clock may have been wrong at an earlier start: nobody is heard later than now.
            row.last_seen = row.last_seen.min(now);
            let most = now.saturating_since(row.last_seen);
            row.unheard = row.unheard.saturating_add(unheard).min(most);
        }
        let mut nodes = self.nodes();
        nodes.elsewhere.leave(rows);
        nodes.awaited = Awaited(Some((awaited, clock + RETURN)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shared::snapshot::Position;
    use uuid::Uuid;

    use super::*;
    use crate::fleet::tests::{at, fault, introduction};
    use crate::fleet::{Introduction, Shunned};

    const NOW: UnixTime = UnixTime::from_secs(10_000);
    const LATER: UnixTime = UnixTime::from_secs(20_000);
    const HAD: Had = Had {
        generation: 7,
        revision: Revision(34),
        chain: Some([7; 32]),
    };

    #[test]
    fn a_store_that_is_to_lead_the_nodes_comes_after_what_they_run() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes.json");
        assert_eq!((generation_told(&file, NOW), had(&file)), (0, None));
        let fleet = Fleet::default();
        let mut members = Vec::new();
        for (name, generation) in [("a", 7), ("b", 20_000), ("c", u64::MAX)] {
            let runs = Position {
                generation,
                ..at(1)
            };
            let mut joins = introduction("a", runs);
            name.clone_into(&mut joins.name);
            members.push(fleet.join(joins, NOW).unwrap());
        }
        fleet.keep(&file, HAD, monotonic(), NOW).unwrap();
        assert_eq!(generation_told(&file, NOW), 20_000);
        assert_eq!(had(&file), Some(HAD));
        // An earlier version says nothing of that.
        fs::write(&file, r#"{"rows":[]}"#).unwrap();
        assert_eq!(had(&file), None);
        let before = r#"{"rows":[],"had":{"generation":7,"revision":34}}"#;
        fs::write(&file, before).unwrap();
        assert_eq!(had(&file), Some(Had { chain: None, ..HAD }));
        fs::write(&file, "damaged").unwrap();
        assert_eq!((generation_told(&file, NOW), had(&file)), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_nobody_knew_is_written_down_at_once_and_so_is_what_it_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes.json");
        let fleet = Fleet::default();
        let _kept = Kept::start(fleet.clone(), file.clone(), || HAD);
        // Who comes to another control plane is known here, too: all may be killed before the next minute.
        let (other, id) = (Fleet::shared(), Uuid::from_u128(1));
        let hears = || {
            for part in other.parts() {
                let told = other.tell(part.number, true, NOW).unwrap();
                fleet.take(id, part.number, &told, NOW).unwrap();
            }
        };
        let mut members = Vec::new();
        for (name, is_here) in [("a", true), ("b", true), ("c", false), ("d", false)] {
            tokio::time::sleep(WRITE * 3 / 2).await;
            let joins = Introduction {
                name: name.to_owned(),
                ..introduction("a", at(1))
            };
            let joined = tokio::time::Instant::now();
            let joined_by = if is_here { &fleet } else { &other };
            members.push(joined_by.join(joins, NOW).unwrap());
            hears();
            let known = || {
                let rows = read(&file).unwrap().map(|nodes| nodes.rows);
                let mut rows = rows.into_iter().flatten();
                rows.any(|row| row.introduction.name == name)
            };
            while !known() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(joined.elapsed() <= PAUSE * 2, "{name}");
        }
        // So is what it refuses: an operator may have it go on with others.
        tokio::time::sleep(WRITE * 3 / 2).await;
        let refused = tokio::time::Instant::now();
        members[0].0.refused(at(2), vec![fault("no")], NOW);
        let is_kept = || {
            let rows = read(&file).unwrap().map(|nodes| nodes.rows);
            let mut rows = rows.into_iter().flatten();
            rows.any(|row| row.last_refusal.is_some())
        };
        while !is_kept() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(refused.elapsed() <= PAUSE * 2);
        // What is told again is nothing new.
        tokio::time::sleep(PAUSE * 2).await;
        fs::remove_file(&file).unwrap();
        hears();
        tokio::time::sleep(WRITE / 2).await;
        assert!(!file.exists());
    }

    #[test]
    fn nodes_that_are_away_are_known_after_a_restart_with_what_they_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes.json");
        let start = monotonic();
        let before = Fleet::default();
        before.recall(&file, start, LATER).unwrap();
        let (member, _) = before.join(introduction("a", at(1)), NOW).unwrap();
        member.refused(at(2), vec![fault("no")], NOW);
        before.keep(&file, HAD, start, NOW).unwrap();

        let after = Fleet::default();
        after.recall(&file, start, LATER).unwrap();
        let rows = after.list(|_| at(2), LATER);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["connected"], false);
        assert_eq!(rows[0]["last_seen"], NOW.as_secs());
        assert_eq!(rows[0]["progress"], "refused");
        assert!(after.refusing(at(2).revision).is_empty(), "it is away");
        // For roll-outs it is one of the fleet, however long nobody could hear it, and however often that was so.
        let view = after.views(1).remove(0);
        assert_eq!((view.connected, view.last_seen), (false, LATER));
        let away = Duration::from_secs(7);
        let (written, started) = (LATER.saturating_add(away), LATER.saturating_add(away * 3));
        after.keep(&file, HAD, start, written).unwrap();
        let again = Fleet::default();
        again.recall(&file, start, started).unwrap();
        let heard = again.views(1).remove(0).last_seen;
        assert_eq!(started.saturating_since(heard), away);
        let wrong = UnixTime::from_secs(1_000_000);
        again.recall(&file, start, wrong).unwrap();
        again.keep(&file, HAD, start, started).unwrap();
        let right = Fleet::default();
        right.recall(&file, start, started).unwrap();
        assert_eq!(right.views(1).remove(0).last_seen, started);
        assert_eq!(after.awaited(start), BTreeSet::from(["node-1".to_owned()]));
        // The same run of it comes back.
        let (_member, refused) = after.join(introduction("a", at(1)), LATER).unwrap();
        assert_eq!(refused, [Shunned::from(at(2))]);
        assert!(after.awaited(start).is_empty(), "it is here");
        let rows = after.list(|_| at(2), LATER);
        assert_eq!((rows.len(), &rows[0]["connected"]), (1, &true.into()));
        assert!(after.nodes().elsewhere.is_empty());
        let later = Fleet::default();
        later.recall(&file, start, LATER).unwrap();
        assert!(later.awaited(start + RETURN).is_empty(), "it does not come");

        for damaged in ["", "[]", "{\"rows\":[{}]}"] {
            fs::write(&file, damaged).unwrap();
            let fleet = Fleet::default();
            assert!(fleet.recall(&file, start, LATER).is_err(), "{damaged}");
            assert!(fleet.list(|_| at(2), LATER).is_empty());
        }
    }

    #[test]
    fn processes_that_are_on_their_way_back_are_awaited_over_further_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes.json");
        let start = monotonic();
        let named = |name: &str, run: &str, handed_over: bool| Introduction {
            name: name.to_owned(),
            handed_over,
            ..introduction(run, at(1))
        };
        let process = |node: &str, run: &str| Process {
            node: node.to_owned(),
            run: run.to_owned(),
        };
        let first = Fleet::default();
        let joined = [
            named("node-1", "old", true),
            named("node-1", "new", false),
            named("node-2", "a", false),
        ];
        let members = joined.map(|joins| first.join(joins, NOW).unwrap());
        first.keep(&file, HAD, start, NOW).unwrap();

        // One is back as the second ends; of the other node neither process is.
        let second = Fleet::default();
        second.recall(&file, start, LATER).unwrap();
        let all = [
            process("node-1", "new"),
            process("node-1", "old"),
            process("node-2", "a"),
        ];
        assert_eq!(second.awaited_processes(start), all.clone().into());
        let (_member, _) = second.join(named("node-2", "a", false), LATER).unwrap();
        assert_eq!(
            second.awaited_processes(start),
            all[..2].iter().cloned().collect()
        );
        second.keep(&file, HAD, start + RETURN / 2, NOW).unwrap();

        let third = Fleet::default();
        third.recall(&file, start, LATER).unwrap();
        assert_eq!(third.awaited_processes(start), all.into());
        let both = ["node-1", "node-2"].map(str::to_owned);
        assert_eq!(third.awaited(start), both.into());

        // Who has not come for long is not awaited for ever.
        second.keep(&file, HAD, start + RETURN, NOW).unwrap();
        let later = Fleet::default();
        later.recall(&file, start, LATER).unwrap();
        assert_eq!(
            later.awaited_processes(start),
            [process("node-2", "a")].into()
        );

        // A process that has ended is not awaited.
        drop(members);
        first.keep(&file, HAD, start, NOW).unwrap();
        let later = Fleet::default();
        later.recall(&file, start, LATER).unwrap();
        assert!(later.awaited_processes(start).is_empty());
    }
}
