//! Puts an export in the place of the store.
//!
//! The restored store is a later *generation*. Data planes compare generation before revision, so they
//! take its older revisions once, and never again anything from before.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use shared::clock::UnixTime;
use shared::snapshot::Revision;
use shared::telemetry::chain;

use super::etcd::{EtcdSettings, EtcdStore};
use super::{SecretsKey, Store, StoreError, export, file_error, files, generation_after, witness};
use crate::history::Entry;
use crate::publisher::Journal as _;
use crate::settings::{export_path, key_path, store_path};

/// Restores the configuration from an export while the control plane is stopped.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RestoreCommand {
    /// The export: a file of `exports` in the data directory, of `exports/on-demand`, or a copy of one.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Directory of the store and its exports.
    #[arg(
        long,
        env = "WARDGATE_DATA_DIRECTORY",
        default_value = "/var/lib/wardgate/control-plane",
        value_name = "DIRECTORY"
    )]
    pub data_directory: PathBuf,
    /// File with the key that sealed the export. [default: `data_directory` with `.key` appended]
    #[arg(long, env = "WARDGATE_SECRETS_KEY_FILE", value_name = "FILE")]
    pub secrets_key_file: Option<PathBuf>,
    /// Where etcd is, to put the export there instead of on this machine.
    #[command(flatten)]
    pub etcd: EtcdSettings,
}

/// What a restore came to.
#[derive(Debug)]
pub struct Restored {
    /// The generation that the store has now.
    pub generation: u64,
    /// The revision that the store has now.
    pub revision: Revision,
    /// How many records it holds.
    pub records: usize,
    /// When the export was written.
    pub exported_at: UnixTime,
    /// Where the store from before is, if there was one.
    pub replaced: Option<PathBuf>,
}

/// Carries the command out: the new store is whole and on disk before it takes the place of the old
/// one, which is kept.
pub fn restore(command: &RestoreCommand, now: UnixTime) -> Result<Restored, StoreError> {
    let data = &command.data_directory;
    let key = SecretsKey::read(&key_path(data, command.secrets_key_file.as_deref()))?;
    let export = export::read(&command.from, &key)?;
    let entry = Entry::restored(export.config.revision().next(), now, &command.from);
    if let Some(etcd) = command.etcd.used() {
        let exported = export::newest_generation(&export_path(data))?;
        let known = exported.max(export.generation);
        return Ok(Restored {
            generation: EtcdStore::replace(etcd, &key, known, &export.config, &entry, now)?,
            revision: entry.revision,
            records: export.config.len(),
            exported_at: export.at,
            replaced: None,
        });
    }
    let store = store_path(data);
    let known = generation(data, &store, &key)?.max(export.generation);
    let generation = generation_after(known, now);

    let fresh = data.join("store.restoring");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(|source| file_error("removing", &fresh, source))?;
    }
    let (mut filling, _) = Store::open(&fresh, &key)?;
    filling
        .fill(generation, &export.config)
        .map_err(|reason| file_error("filling", &fresh, std::io::Error::other(reason)))?;
    filling
        .commit(&entry)
        .map_err(|fault| file_error("filling", &fresh, std::io::Error::other(fault)))?;
    filling.close()?;
    // What a start will read is proved before it counts.
    let (proved, config) = Store::open(&fresh, &key)?;
    proved.close()?;

    let mut replaced = None;
    if store.exists() {
        let aside = data.join(format!("store.replaced-{}", now.as_millis()));
        fs::rename(&store, &aside).map_err(|source| file_error("moving", &store, source))?;
        replaced = Some(aside);
    }
    if let Err(source) = fs::rename(&fresh, &store) {
        // What was there is still good.
        if let Some(aside) = &replaced {
            fs::rename(aside, &store).map_err(|source| file_error("moving back", aside, source))?;
        }
        return Err(file_error("moving", &fresh, source));
    }
    File::open(data)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| file_error("syncing", data, source))?;
    Ok(Restored {
        generation,
        revision: config.revision(),
        records: config.len(),
        exported_at: export.at,
        replaced,
    })
}

/// The highest generation known here: the store's own, or, of one that does not open any more, what
/// its witness and the names of its exports say.
fn generation(data: &Path, store: &Path, key: &SecretsKey) -> Result<u64, StoreError> {
    let exported = export::newest_generation(&export_path(data))?;
    if !store.exists() {
        return Ok(exported);
    }
    refuse_if_in_use(store)?;
    match Store::open(store, key) {
        Ok((store, _)) => {
            let newest = store.generation().max(exported);
            store.close()?;
            Ok(newest)
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the store to be replaced does not open");
            let seen = witness::seen(store).unwrap_or_default();
            Ok(exported.max(seen.generation))
        }
    }
}

/// A running control plane holds sled's lock.
fn refuse_if_in_use(store: &Path) -> Result<(), StoreError> {
    let Ok(file) = File::open(store.join("db")) else {
        return Ok(());
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(StoreError::Open {
            path: store.display().to_string(),
            reason: files::IN_USE.to_owned(),
        }),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}
