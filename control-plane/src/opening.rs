//! Opening whichever store is set, and following what others write to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::snapshot::Revision;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::data_directory::{nodes_path, store_path};
use crate::fleet::{Fleet, had};
use crate::publisher::{Journal, JournalFault, Publisher};
use crate::settings::Settings;
use crate::store::etcd::{Board, Claims, EtcdSettings, EtcdStore, Server, Version};
use crate::store::{SecretsKey, Store, StoreError, export};

/// How often the store is asked for what other control planes have committed.
const LOOK: Duration = Duration::from_millis(100);

/// Opens the store that `settings` name, whichever it is.
pub(crate) async fn open(
    settings: &Settings,
    key: SecretsKey,
    exports: PathBuf,
) -> Result<Publisher, StoreError> {
    let nodes = nodes_path(&settings.data_directory);
    let directory = store_path(&settings.data_directory);
    let etcd = settings.etcd.used().cloned();
    let revisions = settings.history_revisions;
    let opening = move || {
        let (config, generation, journal): (_, _, Box<dyn Journal>) = match etcd {
            None => {
                let (store, config) = Store::open(&directory, &key)?;
                (
                    config,
                    store.generation(),
                    Box::new(store.keeping(revisions)),
                )
            }
            Some(etcd) => {
                let (store, config) = EtcdStore::open(&etcd, &key)?;
                check_not_behind(&nodes, store.generation(), config.revision())?;
                (
                    config,
                    store.generation(),
                    Box::new(store.keeping(revisions)),
                )
            }
        };
        export::check_not_behind(&exports, generation, config.revision())?;
        Ok(Publisher::new(config, generation, journal))
    };
    let opened = tokio::task::spawn_blocking(opening).await;
    opened.expect("opening the store does not panic")
}

/// Refuses an etcd that is older than what this control plane had when it wrote the list `nodes`: it was put back to an earlier
/// state, and what is written there would be of revisions that nodes have otherwise. What nodes say that they run counts for
/// nothing: one that is wrong would keep every control plane from starting.
fn check_not_behind(nodes: &Path, generation: u64, revision: Revision) -> Result<(), StoreError> {
    match had(nodes) {
        Some(had) if had.generation == generation && had.revision > revision => {
            Err(StoreError::WasAhead {
                generation,
                revision,
                had: had.revision,
                path: nodes.display().to_string(),
            })
        }
        _ => Ok(()),
    }
}

/// Says why the store in etcd cannot be opened with `key`, if it cannot, without reading more than its head.
pub(crate) async fn try_etcd(settings: EtcdSettings, key: SecretsKey) -> Result<(), StoreError> {
    let tried = tokio::task::spawn_blocking(move || EtcdStore::try_open(&settings, &key)).await;
    Ok(tried.expect("asking etcd does not panic")?)
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
    use shared::snapshot::Position;

    use super::*;
    use crate::fleet::tests::{at, introduction};
    use crate::fleet::{Had, Kept};

    #[tokio::test]
    async fn an_etcd_that_is_older_than_what_was_known_here_is_not_written_on() {
        let directory = tempfile::tempdir().unwrap();
        let nodes = nodes_path(directory.path());
        let check = |generation, revision| check_not_behind(&nodes, generation, Revision(revision));
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
        };
        Kept::start(fleet, nodes.clone(), move || had).stop();
        for revision in [34, 35] {
            check(3, revision).unwrap();
        }
        // A store of another generation says nothing of that one.
        check(4, 2).unwrap();
        let told = check(3, 19).unwrap_err().to_string();
        for part in ["revision 19 of", "had revision 34", "nodes.json away"] {
            assert!(told.contains(part), "{told}");
        }
    }
}
