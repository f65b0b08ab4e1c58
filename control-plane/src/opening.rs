//! Opening whichever store is set, and following what others write to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::data_directory::{export_path, nodes_path, store_path};
use crate::fleet::{self, Fleet, Had};
use crate::publisher::{Journal, JournalFault, Publisher};
use crate::settings::Settings;
use crate::store::etcd::{Board, Claims, EtcdSettings, EtcdStore, Server, Version};
use crate::store::{Chains, Found, SecretsKey, Store, StoreError, export, is_missing};

/// How often the store is asked for what other control planes have committed.
const LOOK: Duration = Duration::from_millis(100);

/// The key of the store that `settings` name, which is made if there is no store yet: see [`judge`](crate::judge::judge) for one
/// on this machine.
pub(crate) async fn key(settings: &Settings) -> Result<SecretsKey, StoreError> {
    let path = settings.secrets_key_path();
    if let Some(etcd) = settings.etcd.used().cloned() {
        let path = path.clone();
        let checked = tokio::task::spawn_blocking(move || check_key(&etcd, &path)).await;
        checked.expect("asking etcd does not panic")?;
    }
    SecretsKey::read_or_create(&path)
}

/// Refuses a store in `etcd` whose key is not there, in `path`. A new one in its place would open nothing, and look like it.
fn check_key(etcd: &EtcdSettings, path: &Path) -> Result<(), StoreError> {
    if is_missing(path) && EtcdStore::is_begun(etcd)? {
        return Err(StoreError::NoKey {
            path: path.display().to_string(),
            store: "etcd".to_owned(),
        });
    }
    Ok(())
}

/// Why a start with `settings` would not open the store in `etcd`, as far as its head and its log tell.
pub(crate) fn check_etcd(settings: &Settings, etcd: &EtcdSettings) -> Result<(), StoreError> {
    let path = settings.secrets_key_path();
    check_key(etcd, &path)?;
    if is_missing(&path) {
        return Ok(());
    }
    let known = Known::of(&settings.data_directory, None)?;
    try_open(etcd, &SecretsKey::read(&path)?, &known)
}

/// Opens the store that `settings` name, whichever it is.
pub(crate) async fn open(settings: &Settings, key: SecretsKey) -> Result<Publisher, StoreError> {
    let data = settings.data_directory.clone();
    let etcd = settings.etcd.used().cloned();
    let revisions = settings.history_revisions;
    let opening = move || {
        let (config, generation, journal): (_, _, Box<dyn Journal>) = match etcd {
            None => {
                let (store, config) = Store::open(&store_path(&data), &key)?;
                let found = Found::at(store.generation(), config.revision());
                export::check_not_behind(&export_path(&data), &found)?;
                (
                    config,
                    store.generation(),
                    Box::new(store.keeping(revisions)),
                )
            }
            Some(etcd) => {
                let known = Known::of(&data, None)?;
                let permits = |found: &Found, past: &Chains<'_>| known.check(found, past);
                let (store, config) = EtcdStore::open(&etcd, &key, permits)?;
                (
                    config,
                    store.generation(),
                    Box::new(store.keeping(revisions)),
                )
            }
        };
        Ok(Publisher::new(config, generation, journal))
    };
    let opened = tokio::task::spawn_blocking(opening).await;
    opened.expect("opening the store does not panic")
}

/// What was known here of a store in etcd before that is asked. What it holds then can only be newer: others, and this process as well,
/// go on writing to it, to the list of nodes and to the exports while it answers.
pub(crate) struct Known {
    /// The list of nodes.
    nodes: PathBuf,
    had: Vec<Had>,
    exports: Vec<PathBuf>,
}

impl Known {
    /// What this control plane `had`, and had when it wrote the list of nodes and the exports in `data`. What nodes say that they
    /// run counts for nothing: one that is wrong would keep every control plane from starting.
    pub(crate) fn of(data: &Path, had: Option<Had>) -> Result<Self, StoreError> {
        let nodes = nodes_path(data);
        Ok(Self {
            had: [had, fleet::had(&nodes)].into_iter().flatten().collect(),
            exports: export::all(&export_path(data))?,
            nodes,
        })
    }

    /// Refuses an etcd that lacks any of it, or has a `past` without it: it was put back to an earlier state or begun anew, and
    /// what is written there would be of revisions that nodes have otherwise.
    fn check(&self, found: &Found, past: &Chains<'_>) -> Result<(), StoreError> {
        let lacks = |had: &&Had| found.lacks(had.generation, had.revision);
        if let Some(had) = self.had.iter().find(lacks) {
            return Err(StoreError::WasAhead {
                generation: found.generation,
                revision: found.revision,
                had: had.revision,
                of: had.generation,
                path: self.nodes.display().to_string(),
            });
        }
        for had in &self.had {
            let is_comparable = had.generation == found.generation;
            let there = had
                .chain
                .filter(|_| is_comparable)
                .map(|_| past(had.revision));
            if let Some(Some(there)) = there.transpose()?
                && Some(there) != had.chain
            {
                return Err(StoreError::Parted {
                    generation: found.generation,
                    revision: found.revision,
                    had: had.revision,
                    path: self.nodes.display().to_string(),
                });
            }
        }
        export::check_none_ahead(&self.exports, found)
    }
}

/// Why what is in etcd cannot be opened with `key`, or not where this is `known`, as far as its head and its log tell.
pub(crate) async fn try_etcd(
    settings: EtcdSettings,
    key: SecretsKey,
    known: Known,
) -> Result<(), StoreError> {
    let tried = tokio::task::spawn_blocking(move || try_open(&settings, &key, &known)).await;
    tried.expect("asking etcd does not panic")
}

fn try_open(settings: &EtcdSettings, key: &SecretsKey, known: &Known) -> Result<(), StoreError> {
    let permits = |found: &Found, past: &Chains<'_>| known.check(found, past);
    EtcdStore::try_open(settings, key, permits).map(drop)
}

/// What control planes over one store share besides the configuration.
pub(crate) struct Shared {
    /// The way to tell others of the nodes here.
    pub(crate) board: Board,
    /// Where they agree on whose node does what.
    pub(crate) claims: Claims,
}

/// The fleet, and what is shared with other control planes if the store is one of several.
pub(crate) fn fleet(
    settings: &Settings,
    key: &SecretsKey,
) -> Result<(Fleet, Option<Shared>), StoreError> {
    let forgotten = Duration::from_secs(settings.cluster_data_plane_purge_delay);
    let Some(etcd) = settings.etcd.used() else {
        return Ok((Fleet::default().purging_after(forgotten), None));
    };
    let shared = Shared {
        board: Board::new(etcd, key)?,
        claims: Claims::new(etcd, key)?,
    };
    Ok((Fleet::shared().purging_after(forgotten), Some(shared)))
}

/// What is known of etcd, and the tasks that look.
type Following = (watch::Receiver<Option<Version>>, Vec<JoinHandle<()>>);

/// The version of etcd as soon as it is known, if the store is there, and the tasks that look at that and at what other control
/// planes commit.
pub(crate) fn follow(settings: &Settings, publisher: &Publisher) -> Result<Following, StoreError> {
    let (known, version) = watch::channel(None);
    let Some(etcd) = settings.etcd.used() else {
        return Ok((version, Vec::new()));
    };
    let server = Server::new(etcd)?.follow(known);
    let tasks = vec![
        tokio::spawn(catch_up(publisher.clone())),
        tokio::spawn(server),
    ];
    Ok((version, tasks))
}

/// Takes in what other control planes commit, for as long as the process lives.
async fn catch_up(publisher: Publisher) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let publisher = publisher.clone();
        let looked = tokio::task::spawn_blocking(move || publisher.catch_up()).await;
        let outcome = looked.unwrap_or_else(|error| Err(JournalFault::Broken(error.to_string())));
        match &outcome {
            Ok(()) if failing => tracing::info!("the store is reached again"),
            Err(error) if !failing => {
                tracing::error!(%error, "the store is not reached; what is known goes on");
            }
            _ => {}
        }
        failing = outcome.is_err();
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::UnixTime;
    use shared::snapshot::{Hash, Position, Revision};

    use super::*;
    use crate::fleet::tests::{at, introduction};
    use crate::fleet::{Had, Kept};
    use crate::store::suite::Subject as _;
    use crate::store::suite::etcd::InEtcd;

    /// Holds `found` against what is known in `data` and `had`.
    fn check_found(found: &Found, data: &Path, had: Option<Had>) -> Result<(), StoreError> {
        Known::of(data, had)?.check(found, &|_| Ok(None))
    }

    #[tokio::test]
    async fn an_etcd_that_is_older_than_what_was_known_here_is_not_written_on() {
        let directory = tempfile::tempdir().unwrap();
        let nodes = nodes_path(directory.path());
        let check = |generation, revision| {
            let found = Found::at(generation, Revision(revision));
            check_found(&found, directory.path(), None)
        };
        check(3, 1).unwrap();
        let fleet = Fleet::default();
        // What a node claims stops nobody.
        let absurd = Position {
            generation: 3,
            revision: Revision(u64::MAX),
            ..at(1)
        };
        let _member = fleet.join(introduction("a", absurd), UnixTime::from_secs(10_000));
        let had = Had {
            generation: 3,
            revision: Revision(34),
            chain: None,
        };
        Kept::start(fleet, nodes.clone(), move || had).stop();
        for revision in [34, 35] {
            check(3, revision).unwrap();
        }
        // One that was restored as another generation is meant to be.
        check(4, 2).unwrap();
        let began = |generation, revision| Found {
            begun: true,
            ..Found::at(generation, Revision(revision))
        };
        check_found(&began(3, 34), directory.path(), None).unwrap();
        for found in [
            Found::at(3, Revision(19)),
            Found::at(2, Revision(40)),
            // Nothing at all, or what somebody else has begun.
            Found::at(0, Revision(0)),
            began(4, 40),
        ] {
            let refused = check_found(&found, directory.path(), None).unwrap_err();
            let told = refused.to_string();
            let parts = [
                "had revision 34 of generation 3",
                "nodes.json and the exports beside it away",
            ];
            for part in parts {
                assert!(told.contains(part), "{told}");
            }
        }
        // What is known in memory counts as well.
        let had = Some(Had {
            generation: 3,
            revision: Revision(36),
            chain: None,
        });
        check_found(&Found::at(3, Revision(35)), directory.path(), had).unwrap_err();
    }

    #[tokio::test]
    async fn a_store_in_etcd_whose_key_is_gone_gets_no_other() {
        let Some(subject) = InEtcd::start() else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new.key");
        let settings = Settings {
            etcd: subject.settings(),
            secrets_key_file: Some(path.clone()),
            ..Settings::default()
        };
        let made = key(&settings).await.unwrap();
        let opening = move || {
            let opened = EtcdStore::open(&subject.settings(), &made, |_, _| Ok(()));
            (subject, opened.map(drop))
        };
        let (_subject, opened) = tokio::task::spawn_blocking(opening).await.unwrap();
        opened.unwrap();
        key(&settings).await.unwrap();
        // As `--check` says.
        let check = || check_etcd(&settings, &settings.etcd);
        check().unwrap();
        let own = std::fs::read(&path).unwrap();
        std::fs::write(&path, [7; 32]).unwrap();
        check().unwrap_err();
        std::fs::write(&path, own).unwrap();
        std::fs::remove_file(&path).unwrap();
        let missing = |error: StoreError| {
            let told = error.to_string();
            assert!(told.contains("new.key is missing while"), "{told}");
            assert!(!path.exists(), "none is made");
        };
        missing(key(&settings).await.unwrap_err());
        missing(check().unwrap_err());
    }

    #[test]
    fn an_etcd_that_went_on_in_another_way_is_not_written_on() {
        let directory = tempfile::tempdir().unwrap();
        let had = Had {
            generation: 3,
            revision: Revision(34),
            chain: Some([1; 32]),
        };
        let known = Known::of(directory.path(), Some(had)).unwrap();
        let check = |generation, there: Option<Hash>| {
            let found = Found::at(generation, Revision(40));
            known.check(&found, &|revision| {
                assert_eq!(revision, Revision(34));
                Ok(there)
            })
        };
        check(3, Some([1; 32])).unwrap();
        // It is not kept, or was restored as another generation.
        check(3, None).unwrap();
        check(4, Some([2; 32])).unwrap();
        let told = check(3, Some([2; 32])).unwrap_err().to_string();
        for part in [
            "revision 34 is another than this control plane had",
            "nodes.json and the exports beside it away",
        ] {
            assert!(told.contains(part), "{told}");
        }
        // An etcd that does not answer is no proof.
        let silent = || StoreError::Key("silent".to_owned());
        let found = Found::at(3, Revision(40));
        known.check(&found, &|_| Err(silent())).unwrap_err();
    }

    #[tokio::test]
    async fn what_is_written_while_etcd_is_asked_is_not_held_against_it() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let at = |revision| Had {
            generation: 3,
            revision: Revision(revision),
            chain: None,
        };
        let keep = |revision| {
            Kept::start(Fleet::default(), nodes_path(data), move || at(revision)).stop();
        };
        keep(34);
        let exports = export_path(data);
        std::fs::create_dir(&exports).unwrap();
        let known = Known::of(data, Some(at(35))).unwrap();
        let found = Found::at(3, Revision(35));
        keep(36);
        std::fs::write(exports.join("3-36.export"), "").unwrap();
        let nothing: &Chains<'_> = &|_| Ok(None);
        known.check(&found, nothing).unwrap();
        let older = Found::at(3, Revision(34));
        known.check(&older, nothing).unwrap_err();
        // Who asks from now on is told of both.
        check_found(&found, data, None).unwrap_err();
        std::fs::remove_file(nodes_path(data)).unwrap();
        check_found(&found, data, None).unwrap_err();
    }
}
