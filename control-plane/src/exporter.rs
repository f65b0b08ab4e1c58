//! Exports the store while the control plane runs: at intervals, and on an operator's request.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use shared::clock::UnixTime;

use crate::publisher::Publisher;
use crate::store::export::{self, KEPT, KEPT_ON_DEMAND, ON_DEMAND};
use crate::store::{SecretsKey, StoreError};

/// Writes exports and knows those that there are.
#[derive(Clone, Debug)]
pub struct Exporter {
    publisher: Publisher,
    key: SecretsKey,
    directory: PathBuf,
    /// One is written at a time: two of one state would write to one file.
    writing: Arc<Mutex<()>>,
}

/// A file that holds the whole configuration, sealed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exported {
    /// Where it is.
    pub path: PathBuf,
    /// The generation and the revision that it holds.
    pub position: (u64, u64),
    /// Its size.
    pub bytes: u64,
    /// Whether an operator asked for it.
    pub on_demand: bool,
}

impl Exporter {
    /// Exports what `publisher` has, sealed under `key`, to `directory`.
    pub fn new(publisher: Publisher, key: SecretsKey, directory: PathBuf) -> Self {
        Self {
            publisher,
            key,
            directory,
            writing: Arc::default(),
        }
    }

    /// Exports the present state, unless that is there already.
    pub fn regularly(&self, now: UnixTime) -> Result<Option<PathBuf>, StoreError> {
        let (path, is_new) = self.write((&self.directory, KEPT), now)?;
        Ok(is_new.then_some(path))
    }

    /// Exports the present state to where the regular ones do not push it out.
    pub fn on_demand(&self, now: UnixTime) -> Result<Exported, StoreError> {
        let directory = self.directory.join(ON_DEMAND);
        let (path, _) = self.write((&directory, KEPT_ON_DEMAND), now)?;
        exported(path, true)
    }

    /// The exports that there are, oldest first, those last that were asked for.
    pub fn list(&self) -> Result<Vec<Exported>, StoreError> {
        let mut all = Vec::new();
        for (directory, on_demand) in [
            (self.directory.clone(), false),
            (self.directory.join(ON_DEMAND), true),
        ] {
            let found = export::list(&directory)?.into_iter();
            // One that has made room for another meanwhile is none any more.
            all.extend(found.filter_map(|path| exported(path, on_demand).ok()));
        }
        Ok(all)
    }

    fn write(&self, into: (&Path, usize), now: UnixTime) -> Result<(PathBuf, bool), StoreError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, config) = (self.publisher.generation(), self.publisher.config());
        export::write(into, &self.key, generation, &config, now)
    }
}

fn exported(path: PathBuf, on_demand: bool) -> Result<Exported, StoreError> {
    let bytes = export::size(&path)?;
    Ok(Exported {
        position: export::position(&path).unwrap_or_default(),
        path,
        bytes,
        on_demand,
    })
}
