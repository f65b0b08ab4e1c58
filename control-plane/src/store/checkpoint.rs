//! The whole configuration at one revision, in a file of the store's directory.
//!
//! A file is `magic, chain, sealed(packed records)`; the seal is bound to all of that and to the file's name, which
//! says generation and revision. Nothing points to it: it counts if the log goes on from its chain to the head.
//! It is written in the background from an unchanging value, so that no commit waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use shared::clock::UnixTime;
use shared::snapshot::Hash;
use shared::telemetry::chain as chain_of;

use super::seal::Sealer;
use super::{Fault, StoreError, export, files, past};
use crate::config::Config;

/// What a file begins with.
const MAGIC: &[u8] = b"wardgate checkpoint 1\n";

/// The ending of a file's name.
const ENDING: &str = "checkpoint";

/// How many files are kept: the newest, and the one to go back to if it is damaged.
const KEPT: usize = 2;

/// After how many commits another one is due, at least and at most. A large configuration takes longer to write,
/// and reading another few commits does not weigh against reading it.
const LEAST: u64 = 500;
const MOST: u64 = past::REVISIONS / 4;

/// Records that make it one commit more.
const RECORDS: u64 = 50;

/// Bytes of the log that make it due whatever the number of commits, at least: else what the last one took.
const BYTES: usize = 4 * 1024 * 1024;

/// A configuration, and the hash of the log entry that led to it.
pub(super) struct Checkpoint {
    pub(super) config: Config,
    pub(super) chain: Hash,
}

/// The checkpoints of a store.
pub(super) struct Checkpoints {
    directory: PathBuf,
    sealer: Arc<Sealer>,
    /// The revision of the newest that is on disk; 0: there is none.
    newest: u64,
    /// What the newest took on disk.
    size: usize,
    /// The revision that the last attempt began at, and the bytes of the log since.
    begun: u64,
    grown: usize,
    running: Option<JoinHandle<Result<Written, StoreError>>>,
}

/// What an attempt came to.
struct Written {
    revision: u64,
    size: usize,
}

impl Checkpoints {
    pub(super) fn new(directory: &Path, sealer: Arc<Sealer>) -> Self {
        Self {
            directory: directory.to_path_buf(),
            sealer,
            newest: 0,
            size: 0,
            begun: 0,
            grown: 0,
            running: None,
        }
    }

    /// The revision of the newest one that is on disk: what is older in the log no start needs.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// The files of `generation`, newest first.
    pub(super) fn candidates(&self, generation: u64) -> Vec<PathBuf> {
        let mut paths = list(&self.directory);
        paths.retain(|path| position(path).is_some_and(|(own, _)| own == generation));
        paths.reverse();
        paths
    }

    /// Reads one of the files.
    pub(super) fn read(&self, path: &Path) -> Result<Checkpoint, Fault> {
        let bytes = std::fs::read(path)?;
        let content = bytes.strip_prefix(MAGIC).and_then(|rest| {
            let (chain, sealed) = rest.split_first_chunk::<32>()?;
            let opened = self.sealer.open(&bound(position(path)?, chain), sealed)?;
            Some((*chain, opened))
        });
        let (chain, packed) = content.ok_or_else(|| Fault::damaged("it is not as written"))?;
        drop(bytes);
        let export = export::unpack(&packed)
            .map_err(|error| Fault::Damaged(chain_of(&error).to_string()))?;
        if position(path) != Some((export.generation, export.config.revision().0)) {
            return Err(Fault::damaged("it is not what its name says"));
        }
        Ok(Checkpoint {
            config: export.config,
            chain,
        })
    }

    /// The store was opened with the file at `path`, of `revision`, and `bytes` of the log.
    pub(super) fn opened(&mut self, revision: u64, path: &Path, bytes: usize) {
        let size = if revision == 0 {
            0
        } else {
            std::fs::metadata(path).map_or(0, |found| found.len())
        };
        self.newest = revision;
        self.begun = revision;
        self.size = usize::try_from(size).unwrap_or(usize::MAX);
        self.grown = bytes;
    }

    /// The log has grown by `bytes`.
    pub(super) const fn grow(&mut self, bytes: usize) {
        self.grown = self.grown.saturating_add(bytes);
    }

    /// Begins to write `config`, which the log entry with the hash `chain` led to, if it is time to.
    pub(super) fn consider(&mut self, generation: u64, config: &Config, chain: Hash) {
        if let Some(finished) = self.running.take_if(|running| running.is_finished()) {
            self.take(finished);
        }
        if self.running.is_some() || !self.is_due(config) {
            return;
        }
        self.begun = config.revision().0;
        self.grown = 0;
        let (directory, sealer) = (self.directory.clone(), Arc::clone(&self.sealer));
        let config = config.clone();
        let work = move || write(&directory, &sealer, generation, &config, chain);
        match std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(work)
        {
            Ok(running) => self.running = Some(running),
            Err(error) => tracing::error!(%error, "no checkpoint of the store is written"),
        }
    }

    fn is_due(&self, config: &Config) -> bool {
        let commits = config.revision().0.saturating_sub(self.begun);
        let records = u64::try_from(config.len()).unwrap_or(u64::MAX);
        commits >= (records / RECORDS).clamp(LEAST, MOST) || self.grown >= self.size.max(BYTES)
    }

    /// Writes `config` at once.
    pub(super) fn write_now(
        &mut self,
        generation: u64,
        config: &Config,
        chain: Hash,
    ) -> Result<(), StoreError> {
        let written = write(&self.directory, &self.sealer, generation, config, chain)?;
        self.begun = written.revision;
        self.grown = 0;
        self.count(&written);
        Ok(())
    }

    /// Waits for the one that is being written.
    pub(super) fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            self.take(running);
        }
    }

    fn take(&mut self, finished: JoinHandle<Result<Written, StoreError>>) {
        match finished.join() {
            Ok(Ok(written)) => self.count(&written),
            Ok(Err(error)) => {
                tracing::error!(error = %chain_of(&error), "no checkpoint of the store is written");
            }
            Err(_) => tracing::error!("writing a checkpoint of the store panicked"),
        }
    }

    const fn count(&mut self, written: &Written) {
        self.newest = written.revision;
        self.size = written.size;
    }
}

fn write(
    directory: &Path,
    sealer: &Sealer,
    generation: u64,
    config: &Config,
    chain: Hash,
) -> Result<Written, StoreError> {
    let revision = config.revision().0;
    let path = directory.join(format!("{generation:06}-{revision:012}.{ENDING}"));
    let failed = |source| files::file_error("writing", &path, source);
    let packed = export::pack(generation, config, UnixTime::now()).map_err(failed)?;
    let content = sealer.seal(&bound((generation, revision), &chain), &packed);
    drop(packed);
    files::write_whole(&path, &[MAGIC, &chain, &content]).map_err(failed)?;
    let old = list(directory);
    for path in old.iter().take(old.len().saturating_sub(KEPT)) {
        // One more than needed does no harm.
        let _ = std::fs::remove_file(path);
    }
    Ok(Written {
        revision,
        size: content.len(),
    })
}

/// What a file's seal is bound to.
fn bound((generation, revision): (u64, u64), chain: &Hash) -> Vec<u8> {
    [
        MAGIC,
        &generation.to_be_bytes(),
        &revision.to_be_bytes(),
        chain,
    ]
    .concat()
}

/// The files of a directory, oldest first.
fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.extension().is_some_and(|ending| ending == ENDING) && position(path).is_some()
    });
    paths.sort();
    paths
}

/// Generation and revision, as a file's name has them.
fn position(path: &Path) -> Option<(u64, u64)> {
    let (generation, revision) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((generation.parse().ok()?, revision.parse().ok()?))
}
