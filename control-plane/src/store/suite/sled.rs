//! The suite on the store of one control plane.

use std::path::{Path, PathBuf};

use super::Subject;
use crate::config::Config;
use crate::history::Entry;
use crate::publisher::Journal as _;
use crate::store::room::Room;
use crate::store::{SecretsKey, Store, StoreError};

struct OnDisk(tempfile::TempDir);

impl Subject for OnDisk {
    type Journal = Store;

    fn start() -> Option<Self> {
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn open(&self, key: &SecretsKey) -> Result<(Store, Config, u64), StoreError> {
        // sled lets go of its lock a little after it was dropped.
        let database = self.files().join("db");
        if database.exists() {
            crate::store::files::wait_until_unlocked(&database, crate::store::CLOSED)?;
        }
        let (store, config) = Store::open(&self.files(), key)?;
        let generation = store.generation();
        Ok((store, config, generation))
    }

    fn place(&self) -> &Path {
        self.0.path()
    }

    fn files(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn replace(&self, key: &SecretsKey, config: &Config, entry: &Entry) -> u64 {
        let (_, _, generation) = self.open(key).unwrap();
        std::fs::remove_dir_all(self.files()).unwrap();
        let (mut store, _, _) = self.open(key).unwrap();
        store.fill(generation + 1, config).unwrap();
        store.commit(entry).unwrap();
        store.close().unwrap();
        generation + 1
    }

    fn obstruct(&mut self, store: &mut Store) {
        store.room = |_| Ok(Room { free: 1, total: 1 });
    }

    fn clear(&mut self, store: &mut Store) {
        store.room = Room::of;
    }
}

super::suite!(OnDisk);
