//! Puts an export in the place of the store.
//!
//! The restored store is a later *generation*. Data planes compare generation before revision, so they
//! take its older revisions once, and never again anything from before.
//!
//! Who was logged out since, and which session keys were made or revoked, is no configuration to go back to: of that
//! the store which is replaced counts, if it can be read.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use shared::clock::UnixTime;
use shared::entity::{ClientKey, Entity, Revocation, SessionKey};
use shared::snapshot::{Key, Revision};
use shared::telemetry::chain;
use uuid::Uuid;

use super::etcd::{EtcdSettings, EtcdStore};
use super::export::Export;
use super::reserve::Reserve;
use super::room::check_room_to_begin;
use super::{
    Fault, SecretsKey, Store, StoreError, export, file_error, files, generation_after, witness,
};
use crate::config::{Change, Config};
use crate::data_directory::{export_path, key_path, nodes_path, store_path};
use crate::fleet::generation_told;
use crate::history::Entry;
use crate::publisher::Journal as _;

/// Restores the configuration from an export while the control plane is stopped.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RestoreCommand {
    /// The export: a file of `exports` in the data directory, of `exports/on-demand`, or a copy of one.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The control plane's TOML file, for its `data_directory`, `secrets_key_file` and etcd.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the store and its exports.
    #[arg(
        long,
        default_value = "/var/lib/wardgate/control-plane",
        value_name = "DIRECTORY"
    )]
    pub data_directory: PathBuf,
    /// File with the key that sealed the export. [default: `data_directory` with `.key` appended]
    #[arg(long, value_name = "FILE")]
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
    /// Whether all that was ended since the export is known, and stays so.
    pub carried: bool,
}

/// Carries the command out: the new store is whole and on disk before it takes the place of the old
/// one, which is kept.
pub fn restore(command: &RestoreCommand, now: UnixTime) -> Result<Restored, StoreError> {
    let data = &command.data_directory;
    let key = SecretsKey::read(&key_path(data, command.secrets_key_file.as_deref()))?;
    let export = export::read(&command.from, &key)?;
    let entry = Entry::restored(export.config.revision().next(), now, &command.from);
    let exported = export::newest_generation(&export_path(data))?.max(export.generation);
    // Nodes may run what a store told them that is not known here, on a machine whose clock was ahead of this one's.
    let seen = exported.max(generation_told(&nodes_path(data), now));
    if let Some(etcd) = command.etcd.used() {
        let before = EtcdStore::to_be_replaced(etcd, &key)?;
        let (config, carried) = carried_over(&export, before.generation, before.config.as_ref());
        let generation = generation_after(seen.max(before.generation), now);
        before.store.replace(generation, &config, &entry)?;
        return Ok(Restored {
            generation,
            revision: entry.revision,
            records: config.len(),
            exported_at: export.at,
            replaced: None,
            carried,
        });
    }
    let store = store_path(data);
    let (known, before) = to_be_replaced(&store, &key)?;
    let generation = generation_after(known.max(seen), now);
    let (config, carried) = carried_over(&export, known, before.as_ref());

    let fresh = data.join("store.restoring");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(|source| file_error("removing", &fresh, source))?;
    }
    let made = make(&fresh, &key, (generation, &config, &entry)).and_then(|config| {
        give(&fresh, data)?;
        Ok(config)
    });
    let config = made.inspect_err(|_| {
        // What is half there would only take room. Why it is half there is what there is to say.
        let _ = fs::remove_dir_all(&fresh);
    })?;

    let mut replaced = None;
    if store.exists() {
        let aside = data.join(format!("store.replaced-{}", now.as_millis()));
        fs::rename(&store, &aside).map_err(|source| file_error("moving", &store, source))?;
        Reserve::remove(&aside);
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
        carried,
    })
}

/// Makes a store of what it is to hold in `fresh`; what a start will read of it.
fn make(
    fresh: &Path,
    key: &SecretsKey,
    (generation, config, entry): (u64, &Config, &Entry),
) -> Result<Config, StoreError> {
    check_room_to_begin(fresh)?;
    let (mut filling, _) = Store::open(fresh, key)?;
    filling.fill(generation, config)?;
    filling
        .commit(entry)
        .map_err(|fault| file_error("filling", fresh, std::io::Error::other(fault)))?;
    filling.close()?;
    // What a start will read is proved before it counts.
    let (proved, config) = Store::open(fresh, key)?;
    proved.close()?;
    Ok(config)
}

/// What a restore puts there, and whether that has all that was ended since the export.
///
/// The revocations, session keys and client keys of `before`, of `generation`, are what they are, whatever the configuration was, if it went
/// on from the export: an older state of them would let sessions live again that were ended. Another store, such as an
/// empty one that the configuration is moved to, has none of them to tell, but for logouts.
fn carried_over(export: &Export, generation: u64, before: Option<&Config>) -> (Config, bool) {
    let config = &export.config;
    let Some(current) = before else {
        return (config.clone(), false);
    };
    let mut keys = current.keys(SessionKey::KIND, Uuid::nil());
    let later = (generation, current.revision()) >= (export.generation, config.revision());
    let goes_on = later && keys.any(|key| config.contains(key));
    let kept = |key: &Key| {
        if goes_on {
            [Revocation::KIND, SessionKey::KIND, ClientKey::KIND].contains(&key.kind)
        } else {
            key.kind == Revocation::KIND && !config.contains(*key)
        }
    };
    let gone = |key: &Key| goes_on && kept(key) && !current.contains(*key);
    let records = current.records();
    let change = Change {
        puts: records
            .filter(|(key, _)| kept(key))
            .map(|(key, stored)| (*key, stored.clone()))
            .collect(),
        removes: config.records().map(|(key, _)| *key).filter(gone).collect(),
    };
    (config.evolve(&change, config.revision()), goes_on)
}

/// Makes what is in `path` belong to whom `like` belongs: this may be run by root, the control plane is not.
fn give(path: &Path, like: &Path) -> Result<(), StoreError> {
    let failed = |source| file_error("giving away", path, source);
    let owner = fs::metadata(like).map_err(failed)?;
    // No link is followed, and what is in a directory comes first: who owns that could put a link there.
    let own = fs::symlink_metadata(path).map_err(failed)?;
    if own.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            give(&entry.map_err(failed)?.path(), like)?;
        }
    }
    if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
        lchown(path, Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
    }
    Ok(())
}

/// The generation of a store, and what it holds; of one that does not open any more, the generation that its witness says.
fn to_be_replaced(store: &Path, key: &SecretsKey) -> Result<(u64, Option<Config>), StoreError> {
    if !store.exists() {
        return Ok((0, None));
    }
    if files::is_in_use(store) {
        return Err(Fault::InUse.at(store));
    }
    match Store::open(store, key) {
        Ok((store, config)) => {
            let generation = store.generation();
            store.close()?;
            Ok((generation, Some(config)))
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the store to be replaced does not open");
            let seen = witness::seen(store).unwrap_or_default();
            Ok((seen.generation, None))
        }
    }
}
