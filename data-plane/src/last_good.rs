//! The last good configuration on disk, so that a node starts and serves without a control plane.
//!
//! A file is sealed, since it holds secrets, and holds `position, manifest, signature, zstd(records)`. Three generations are kept; what
//! cannot be opened is passed over, and what is opened must have the root that it tells, a control plane must
//! have vouched for that, and it must not be one that this node crashed with.

pub(crate) mod beside;
pub(crate) mod marker;
mod running;
pub(crate) mod sealing;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use shared::entity::{Entity, Route};
use shared::secret::Secret;
use shared::signature::Verifier;
use shared::snapshot::{Hash, MOST_BYTES, Position, Revision, Snapshot};

use crate::config_sync::Vouched;
use marker::Marker;
use running::Running;
use sealing::{Magic, Sealing, Unopened};

/// What a file begins with: name and format.
const MAGIC: Magic = *b"WARDLG\0\x02";
/// The same, of the format without manifest and signature: what a node has from before its upgrade. It is
/// read, not written.
const UNSIGNED: Magic = *b"WARDLG\0\x01";
/// Bytes of a manifest and of a signature that are read.
const VOUCHED: u64 = 1024 * 1024;
/// Bytes of a file, at most: what cannot be packed takes a little more.
const LONGEST: u64 = MOST_BYTES + MOST_BYTES / 64;
/// Newest first. What else stands under these names is passed over.
pub(crate) const FILES: [&str; 3] = ["last-good", "last-good.1", "last-good.2"];
const UNFINISHED: &str = "last-good.new";

/// The files of one node.
#[derive(Debug)]
pub(crate) struct LastGood {
    directory: PathBuf,
    sealing: Arc<Sealing>,
    /// What this node has crashed with.
    pub(crate) marker: Marker,
    /// Tells whoever starts next that this process runs.
    pub(crate) running: Running,
    /// Whether the process before this one has ended without having been told to.
    crashed: bool,
    /// The names that are used, and which configurations the newest two files hold, once that is known.
    kept: Mutex<Option<(Vec<&'static str>, Newest)>>,
}

/// What the newest two files hold.
type Newest = [Option<Hash>; 2];

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) snapshot: Snapshot,
    /// Who vouched for it; none in a file of the first format.
    pub(crate) vouched: Option<Vouched>,
    /// Whether the newest file that can be used holds it.
    pub(crate) on_disk: bool,
}

impl Kept {
    /// Whether somebody whom `verifier` believes has vouched for it, if anybody has.
    fn believe(&self, verifier: &Verifier) -> Result<(), Unusable> {
        let Some(vouched) = &self.vouched else {
            return Ok(());
        };
        let refused = |fault: proto::v1::Fault| Unusable::Unbelievable(fault.message);
        vouched
            .check(verifier, &self.snapshot.position)
            .map_err(refused)
    }

    /// What the process before this one runs, as [`encode`] has told it.
    ///
    /// # Errors
    ///
    /// Why `content` is not to be run by whom `verifier` belongs to.
    pub(crate) fn given(content: &[u8], verifier: &Verifier) -> Result<Self, String> {
        let read = || {
            let kept = open_signed(content)?;
            kept.believe(verifier)?;
            Ok(Self {
                on_disk: false,
                ..kept
            })
        };
        read().map_err(|reason: Unusable| reason.to_string())
    }
}

/// Why a file is passed over.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is no file, or longer than any that is written")]
    Foreign,
    #[error(transparent)]
    Unopened(#[from] Unopened),
    #[error("its content does not have the root that it tells: {0}")]
    Content(String),
    #[error("no control plane of this cluster vouches for it: {0}")]
    Unbelievable(String),
    #[error("the process crashed with it")]
    Quarantined,
    #[error("it has no route, unlike the one that the process crashed with")]
    Bare,
}

impl LastGood {
    /// Prepares `directory`, made with mode 0700 if absent.
    pub(crate) fn open(directory: &Path, secret: Secret<Vec<u8>>, node: &str) -> io::Result<Self> {
        let mut files = Self::with(directory, secret, node, Marker::open)?;
        files.crashed = files.running.has_crashed();
        if files.crashed {
            tracing::warn!("the process before this one ended without having been told to");
        }
        Ok(files)
    }

    /// Opens the directory in the same way while the process before this one still runs: what it is about to
    /// try it has not crashed with.
    pub(crate) fn open_beside(
        directory: &Path,
        secret: Secret<Vec<u8>>,
        node: &str,
    ) -> io::Result<Self> {
        Self::with(directory, secret, node, Marker::beside)
    }

    fn with(
        directory: &Path,
        secret: Secret<Vec<u8>>,
        node: &str,
        marker: impl FnOnce(&Path) -> Marker,
    ) -> io::Result<Self> {
        make(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            sealing: Arc::new(Sealing::new(secret, node)),
            marker: marker(directory),
            running: Running::of(directory),
            crashed: false,
            kept: Mutex::default(),
        })
    }

    /// How many crashes in a row this start followed: as far as they came soon after a change, or the last, whenever it came.
    pub(crate) fn crashes(&self) -> u64 {
        self.marker.crashes().max(self.crashed.into())
    }

    /// The newest snapshot that can be used, each tried by `usable` in turn, if `verifier` believes it. In the place of one
    /// that the process crashed with none counts that has no route: a node that serves nothing is not ready, rather than
    /// one that finds no route for anybody.
    pub(crate) fn load<T>(
        &self,
        verifier: &Verifier,
        usable: impl Fn(&Snapshot) -> Result<T, String>,
    ) -> Option<(T, Kept)> {
        let mut crashed = false;
        FILES.iter().find_map(|name| {
            let path = self.directory.join(name);
            let tried = self.believed(&path, verifier).and_then(|kept| {
                let snapshot = &kept.snapshot;
                let position = snapshot.position;
                let configuration = snapshot.configuration();
                if self.marker.is_quarantined(&configuration, &position.root) {
                    crashed = true;
                    return Err(Unusable::Quarantined);
                }
                if crashed && !snapshot.records().any(|record| record.key.kind == Route::KIND) {
                    return Err(Unusable::Bare);
                }
                let value = usable(snapshot).map_err(Unusable::Content)?;
                self.marker.starts(configuration);
                tracing::info!(revision = %position.revision, file = %path.display(), "starting with the last good configuration");
                Ok((value, kept))
            });
            match tried {
                Ok(value) => Some(value),
                Err(Unusable::Read(error)) if error.kind() == ErrorKind::NotFound => None,
                Err(reason) => {
                    tracing::warn!(file = %path.display(), error = %reason, "a last good configuration is passed over");
                    None
                }
            }
        })
    }

    /// The newest snapshot that `verifier` believes among those that the process crashed with.
    pub(crate) fn crashed_with(&self, verifier: &Verifier) -> Option<Kept> {
        let paths = FILES.iter().map(|name| self.directory.join(name));
        let mut believed = paths.filter_map(|path| self.believed(&path, verifier).ok());
        believed.find(|kept| {
            let Snapshot { position, .. } = &kept.snapshot;
            let configuration = kept.snapshot.configuration();
            self.marker.is_quarantined(&configuration, &position.root)
        })
    }

    /// What the file at `path` holds, if somebody whom `verifier` believes has vouched for it.
    fn believed(&self, path: &Path, verifier: &Verifier) -> Result<Kept, Unusable> {
        let kept = self.read(path)?;
        kept.believe(verifier)?;
        Ok(kept)
    }

    /// Leaves the directory to the process that has taken over. A write that is under way is over when this returns.
    pub(crate) fn leave(&self) {
        self.marker.leave();
        drop(self.kept.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What else this node keeps beside it is sealed with.
    pub(crate) const fn sealing(&self) -> &Arc<Sealing> {
        &self.sealing
    }

    /// Seals under another private key from now on.
    pub(crate) fn renew(&self, secret: Secret<Vec<u8>>) {
        self.sealing.renew(secret);
    }

    /// Makes `snapshot` the newest, for which a control plane `vouched`. A crash at any point leaves a newest one
    /// that is whole. However often keys and revocations change, a file of another configuration is kept: the one to go
    /// back to.
    pub(crate) fn write(&self, snapshot: &Snapshot, vouched: &Vouched) -> io::Result<()> {
        if self.marker.is_left() {
            return Ok(());
        }
        let bytes = self.seal(snapshot, vouched)?;
        let configuration = snapshot.configuration();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.marker.is_left() {
            return Ok(());
        }
        let names = self.names();
        // What a fault leaves behind is looked at anew, and so are files under other names.
        let known = kept.take().filter(|(known, _)| *known == names);
        let found = known.map_or_else(
            || [0, 1].map(|at| self.holds(names.get(at)?)),
            |(_, found)| found,
        );
        let own = found
            .iter()
            .take_while(|found| **found == Some(configuration));
        // Where all but the last are of this configuration, that stays.
        let others = names.get(..names.len().saturating_sub(1));
        let others = others.filter(|others| !others.is_empty() && own.count() >= others.len());
        // What is of no use gives its place.
        let useless = found.iter().position(Option::is_none);
        let up_to = useless.and_then(|at| names.get(..=at));
        let moves_on = up_to.or(others).unwrap_or(&names);
        let newer = write_unfinished(&self.directory, UNFINISHED, &bytes)?;
        if self.place(newer, moves_on)? {
            self.running.catches_up();
            let before = if moves_on.len() == 1 {
                found[1]
            } else {
                found[0]
            };
            *kept = Some((names, [Some(configuration), before]));
        }
        Ok(())
    }

    /// The files, newest first; none where a directory stands, such as a mount that makes one: no file takes the place of that.
    fn names(&self) -> Vec<&'static str> {
        let mut names = FILES.to_vec();
        names.retain(|name| !self.directory.join(name).is_dir());
        names
    }

    /// Makes the file `newer` the newest of those that `move_on`, unless the directory is another process's by now: then it may
    /// be its file. Whether it is.
    fn place(&self, mut newer: PathBuf, move_on: &[&str]) -> io::Result<bool> {
        if self.marker.is_left() {
            return Ok(false);
        }
        if move_on.is_empty() {
            return Err(ErrorKind::IsADirectory.into());
        }
        let mut renames = Vec::new();
        for name in move_on {
            let path = self.directory.join(name);
            renames.push((newer, path.clone()));
            newer = path;
        }
        for (from, to) in renames.into_iter().rev() {
            match std::fs::rename(from, to) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&self.directory)?.sync_all()?;
        Ok(true)
    }

    /// The configuration in the file `name`, if that can be opened.
    fn holds(&self, name: &str) -> Option<Hash> {
        let kept = self.read(&self.directory.join(name)).ok()?;
        Some(kept.snapshot.configuration())
    }

    fn seal(&self, snapshot: &Snapshot, vouched: &Vouched) -> io::Result<Vec<u8>> {
        self.sealing.seal(MAGIC, encode(snapshot, vouched)?)
    }

    fn read(&self, path: &Path) -> Result<Kept, Unusable> {
        // A pipe would be waited for, and a device may never end.
        let found = std::fs::metadata(path)?;
        if !found.is_file() || found.len() > LONGEST {
            return Err(Unusable::Foreign);
        }
        let bytes = std::fs::read(path)?;
        if bytes.starts_with(&UNSIGNED) {
            return open_unsigned(&self.sealing.open(UNSIGNED, &bytes)?);
        }
        open_signed(&self.sealing.open(MAGIC, &bytes)?)
    }
}

/// What a file holds before it is sealed.
pub(crate) fn encode(snapshot: &Snapshot, vouched: &Vouched) -> io::Result<Vec<u8>> {
    let records = proto::encode_records(snapshot.records().collect());
    let Position {
        generation,
        revision,
        urgent,
        root,
    } = snapshot.position;
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).map_err(io::Error::other);
    let Vouched {
        manifest,
        signature,
    } = vouched;
    let mut content = Vec::new();
    for number in [
        generation,
        revision.0,
        urgent.0,
        length(&records)?,
        length(manifest)?,
        length(signature)?,
    ] {
        content.extend(number.to_be_bytes());
    }
    content.extend(root);
    content.extend(manifest);
    content.extend(signature);
    content.extend(zstd::bulk::compress(&records, 1)?);
    Ok(content)
}

/// Writes `bytes` to the file `name` in `directory`, to be renamed once it is whole and on disk.
pub(crate) fn write_unfinished(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    // Somebody may have removed it.
    make(directory)?;
    let unfinished = directory.join(name);
    // It may be there from a crash.
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(unfinished)
}

/// Makes `directory`, for this user alone, if it is absent.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Takes a number from the front of `bytes`.
fn number(bytes: &mut &[u8]) -> Result<u64, Unopened> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Unopened::Format)?;
    *bytes = rest;
    Ok(u64::from_be_bytes(*number))
}

/// Takes a length from the front of `bytes` that is at most `most`.
fn length(bytes: &mut &[u8], most: u64) -> Result<usize, Unopened> {
    let length = Some(number(bytes)?).filter(|length| *length <= most);
    let length = length.and_then(|length| usize::try_from(length).ok());
    length.ok_or(Unopened::Format)
}

/// Takes a root from the front of `bytes`.
fn root(bytes: &mut &[u8]) -> Result<Hash, Unopened> {
    let (root, rest) = bytes.split_first_chunk().ok_or(Unopened::Format)?;
    *bytes = rest;
    Ok(*root)
}

/// The records that `packed` holds in `length` bytes, which are to be those of `told`.
fn open_records(packed: &[u8], length: usize, told: Position) -> Result<Snapshot, Unusable> {
    let records = zstd::bulk::decompress(packed, length)?;
    let records =
        proto::decode_records(records).map_err(|fault| Unusable::Content(fault.to_string()))?;
    let mut snapshot = Snapshot::new(told.generation, told.revision, records);
    snapshot.position.urgent = told.urgent;
    if told != snapshot.position {
        return Err(Unusable::Content("the roots differ".to_owned()));
    }
    Ok(snapshot)
}

fn open_signed(mut content: &[u8]) -> Result<Kept, Unusable> {
    let content = &mut content;
    let (generation, revision, urgent) = (number(content)?, number(content)?, number(content)?);
    let records = length(content, MOST_BYTES)?;
    let (manifest, signature) = (length(content, VOUCHED)?, length(content, VOUCHED)?);
    let told = Position {
        generation,
        revision: Revision(revision),
        urgent: Revision(urgent),
        root: root(content)?,
    };
    let parted = content.split_at_checked(manifest);
    let (manifest, rest) = parted.ok_or(Unopened::Format)?;
    let parted = rest.split_at_checked(signature);
    let (signature, packed) = parted.ok_or(Unopened::Format)?;
    Ok(Kept {
        snapshot: open_records(packed, records, told)?,
        vouched: Some(Vouched {
            manifest: manifest.to_vec(),
            signature: signature.to_vec(),
        }),
        on_disk: true,
    })
}

/// The first format: generation, revision, root, length of the records, records.
fn open_unsigned(mut content: &[u8]) -> Result<Kept, Unusable> {
    let content = &mut content;
    let (generation, revision) = (number(content)?, number(content)?);
    let told = Position {
        generation,
        revision: Revision(revision),
        urgent: Revision::default(),
        root: root(content)?,
    };
    let records = length(content, MOST_BYTES)?;
    Ok(Kept {
        snapshot: open_records(content, records, told)?,
        vouched: None,
        on_disk: true,
    })
}

#[cfg(test)]
mod tests;
