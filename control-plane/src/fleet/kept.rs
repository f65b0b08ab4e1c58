//! The nodes in a file: a control plane that starts again shows those that are away, and knows what each has refused.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shared::clock::{UnixTime, monotonic};
use shared::machine::write_whole;
use shared::telemetry::Trouble;
use tokio::task::JoinHandle;

use super::{Fleet, Row};

/// How often the file is written. What happens in between a crash loses, but for who is there.
const WRITE: Duration = Duration::from_mins(1);

/// How long after it was written it is written again for a node that nobody knew: many come at once.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after a start a node that had a stream before is taken to be on its way back.
const RETURN: Duration = Duration::from_mins(1);

/// Bytes of the largest file that is read.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What the file holds.
#[derive(Deserialize, Serialize)]
struct Nodes {
    rows: Vec<Row>,
}

/// Nodes that had a stream when the process before this one ended, and until when they are expected.
#[derive(Debug, Default)]
pub(super) struct Awaited(Option<(BTreeSet<String>, Instant)>);

/// A generation that no store has, in seconds after the present: a node that tells of it is wrong.
const ABSURD: Duration = Duration::from_hours(24 * 366 * 100);

/// The latest generation that a node in `file` runs; 0 if there is none. A store that is to lead them all comes after it,
/// whatever the clock says.
pub fn generation_told(file: &Path, now: UnixTime) -> u64 {
    let nodes = read(file).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "what data planes run is not known");
        None
    });
    let rows = nodes.into_iter().flat_map(|nodes| nodes.rows);
    let told = rows.map(|row| row.running.generation);
    let told = told.filter(|told| is_generation(*told, now));
    told.max().unwrap_or(0)
}

/// Whether a store may be of the generation that a node tells at `now`.
pub fn is_generation(told: u64, now: UnixTime) -> bool {
    told < now.saturating_add(ABSURD).as_secs()
}

/// What `file` holds, if it is there.
fn read(file: &Path) -> io::Result<Option<Nodes>> {
    match fs::metadata(file) {
        Ok(found) if found.len() > LARGEST => return Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(Some(serde_json::from_slice(&fs::read(file)?)?))
}

/// Keeps a fleet in a file.
#[derive(Debug)]
pub struct Kept {
    fleet: Fleet,
    file: PathBuf,
    writing: JoinHandle<()>,
}

impl Kept {
    /// Has `fleet` know what `file` says, and keeps it there from now on. Call on the runtime that is to do so.
    pub fn start(fleet: Fleet, file: PathBuf) -> Self {
        if let Err(error) = fleet.recall(&file, monotonic()) {
            tracing::warn!(
                file = %file.display(), %error,
                "data planes that are away are not known: the file is passed over"
            );
        }
        let writing = tokio::spawn(write(fleet.clone(), file.clone()));
        Self {
            fleet,
            file,
            writing,
        }
    }

    /// Writes the file once more.
    pub fn stop(self) {
        self.writing.abort();
        if let Err(error) = self.fleet.keep(&self.file) {
            tracing::warn!(file = %self.file.display(), %error, "the list of data planes is not kept");
        }
    }
}

async fn write(fleet: Fleet, file: PathBuf) {
    let mut trouble = Trouble::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        // Whoever came meanwhile is told of at once.
        _ = tokio::time::timeout(WRITE, fleet.newcomers.notified()).await;
        let (fleet, path) = (fleet.clone(), file.clone());
        let written = tokio::task::spawn_blocking(move || fleet.keep(&path)).await;
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
    /// Writes every node to `file`, without what roll-outs are judged by.
    fn keep(&self, file: &Path) -> io::Result<()> {
        let mut rows: Vec<Row> = self.nodes().rows().into_iter().cloned().collect();
        for row in &mut rows {
            row.samples.clear();
        }
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        write_whole(file, &serde_json::to_string(&Nodes { rows })?)
    }

    /// Those that had a stream before this process started and have none yet, as long as they may come back at `clock`:
    /// they are not to be taken for gone.
    pub fn awaited(&self, clock: Instant) -> BTreeSet<String> {
        let mut nodes = self.nodes();
        let until = nodes.awaited.0.as_ref().map(|(_, until)| *until);
        if until.is_some_and(|until| clock >= until) {
            nodes.awaited.0 = None;
        }
        let Some((names, _)) = &nodes.awaited.0 else {
            return BTreeSet::new();
        };
        let away = nodes.rows().into_iter().filter(|row| !row.connected);
        let away = away.map(|row| row.introduction.name.clone());
        away.filter(|name| names.contains(name)).collect()
    }

    /// Takes in the nodes of `file`, if there is one: they are away until they come.
    fn recall(&self, file: &Path, clock: Instant) -> io::Result<()> {
        let Some(Nodes { rows }) = read(file)? else {
            return Ok(());
        };
        let awaited = rows
            .iter()
            .filter(|row| row.connected && !row.report.draining)
            .map(|row| row.introduction.name.clone());
        let awaited = Awaited(Some((awaited.collect(), clock + RETURN)));
        let mut nodes = self.nodes();
        nodes.elsewhere.leave(rows);
        nodes.awaited = awaited;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shared::snapshot::Position;

    use super::*;
    use crate::fleet::tests::{at, fault, introduction};
    use crate::fleet::{Introduction, Shunned};

    const NOW: UnixTime = UnixTime::from_secs(10_000);
    const LATER: UnixTime = UnixTime::from_secs(20_000);

    #[test]
    fn a_store_that_is_to_lead_the_nodes_comes_after_what_they_run() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes.json");
        assert_eq!(generation_told(&file, NOW), 0);
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
        fleet.keep(&file).unwrap();
        assert_eq!(generation_told(&file, NOW), 20_000);
        fs::write(&file, "damaged").unwrap();
        assert_eq!(generation_told(&file, NOW), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_nobody_knew_is_written_down_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes.json");
        let fleet = Fleet::default();
        let _kept = Kept::start(fleet.clone(), file.clone());
        let mut members = Vec::new();
        for name in ["a", "b"] {
            tokio::time::sleep(WRITE * 3 / 2).await;
            let joins = Introduction {
                name: name.to_owned(),
                ..introduction("a", at(1))
            };
            let joined = tokio::time::Instant::now();
            members.push(fleet.join(joins, NOW).unwrap());
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
    }

    #[test]
    fn nodes_that_are_away_are_known_after_a_restart_with_what_they_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes.json");
        let start = monotonic();
        let before = Fleet::default();
        before.recall(&file, start).unwrap();
        let (member, _) = before.join(introduction("a", at(1)), NOW).unwrap();
        member.refused(at(2), vec![fault("no")], NOW);
        before.keep(&file).unwrap();

        let after = Fleet::default();
        after.recall(&file, start).unwrap();
        let rows = after.list(|_| at(2), LATER);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["connected"], false);
        assert_eq!(rows[0]["last_seen"], NOW.as_secs());
        assert_eq!(rows[0]["progress"], "refused");
        assert!(after.refusing(at(2).revision).is_empty(), "it is away");
        assert_eq!(after.awaited(start), BTreeSet::from(["node-1".to_owned()]));
        // The same run of it comes back.
        let (_member, refused) = after.join(introduction("a", at(1)), LATER).unwrap();
        assert_eq!(refused, [Shunned::from(at(2))]);
        assert!(after.awaited(start).is_empty(), "it is here");
        let rows = after.list(|_| at(2), LATER);
        assert_eq!((rows.len(), &rows[0]["connected"]), (1, &true.into()));
        assert!(after.nodes().elsewhere.is_empty());
        let later = Fleet::default();
        later.recall(&file, start).unwrap();
        assert!(later.awaited(start + RETURN).is_empty(), "it does not come");

        for damaged in ["", "[]", "{\"rows\":[{}]}"] {
            fs::write(&file, damaged).unwrap();
            let fleet = Fleet::default();
            assert!(fleet.recall(&file, start).is_err(), "{damaged}");
            assert!(fleet.list(|_| at(2), LATER).is_empty());
        }
    }
}
