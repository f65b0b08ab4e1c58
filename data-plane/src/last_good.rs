//! The last good configuration on disk, so that a node starts and serves without a control plane.
//!
//! A file is `magic, salt, nonce, sealed(position, manifest, signature, zstd(records))`. It holds secrets and is
//! sealed under a key that only this node can derive: from its own private key. Three generations are kept; what
//! cannot be opened is passed over, and what is opened must have the root that it tells, a control plane must
//! have vouched for that, and it must not be one that this node crashed with.

pub(crate) mod marker;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use shared::secret::Secret;
use shared::signature::Verifier;
use shared::snapshot::{Hash, MOST_BYTES, Position, Revision, Snapshot};

use crate::config_sync::Vouched;
use marker::Marker;

/// What a file begins with: name and format.
const MAGIC: &[u8; 8] = b"WARDLG\0\x02";
/// The same, of the format without manifest and signature: what a node has from before its upgrade. It is
/// read, not written.
const UNSIGNED: &[u8; 8] = b"WARDLG\0\x01";
const SALT: usize = 32;
const HEAD: usize = MAGIC.len() + SALT + NONCE_LEN;
/// Bytes of a manifest and of a signature that are read.
const VOUCHED: u64 = 1024 * 1024;
/// Newest first.
const FILES: [&str; 3] = ["last-good", "last-good.1", "last-good.2"];
const UNFINISHED: &str = "last-good.new";

/// The files of one node.
#[derive(Debug)]
pub(crate) struct LastGood {
    directory: PathBuf,
    /// The node's private key.
    secret: RwLock<Secret<Vec<u8>>>,
    /// What this node has crashed with.
    pub(crate) marker: Marker,
    /// The node's id, which the files are bound to.
    node: String,
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) snapshot: Snapshot,
    /// Who vouched for it; none in a file of the first format.
    pub(crate) vouched: Option<Vouched>,
}

/// Why a file is passed over.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is no file of this format")]
    Format,
    #[error("it is damaged, or was sealed by another node or under another key")]
    Sealed,
    #[error("its content does not have the root that it tells: {0}")]
    Content(String),
    #[error("no control plane of this cluster vouches for it: {0}")]
    Unbelievable(String),
    #[error("the process crashed with it")]
    Quarantined,
}

impl LastGood {
    /// Prepares `directory`, made with mode 0700 if absent.
    pub(crate) fn open(directory: &Path, secret: Vec<u8>, node: &str) -> io::Result<Self> {
        Self::with(directory, secret, node, Marker::open)
    }

    /// Opens the directory in the same way while the process before this one still runs: what it is about to
    /// try it has not crashed with.
    pub(crate) fn open_beside(directory: &Path, secret: Vec<u8>, node: &str) -> io::Result<Self> {
        Self::with(directory, secret, node, Marker::beside)
    }

    fn with(
        directory: &Path,
        secret: Vec<u8>,
        node: &str,
        marker: impl FnOnce(&Path) -> Marker,
    ) -> io::Result<Self> {
        make(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            secret: RwLock::new(Secret::new(secret)),
            marker: marker(directory),
            node: node.to_owned(),
        })
    }

    /// The newest snapshot that can be used, each tried by `usable` in turn, if `verifier` believes it.
    pub(crate) fn load<T>(
        &self,
        verifier: &Verifier,
        usable: impl Fn(&Snapshot) -> Result<T, String>,
    ) -> Option<(T, Kept)> {
        FILES.iter().find_map(|name| {
            let path = self.directory.join(name);
            let tried = self.read(&path).and_then(|kept| {
                let Kept { snapshot, vouched } = &kept;
                let position = snapshot.position;
                if let Some(vouched) = vouched {
                    let refused = |fault: proto::v1::Fault| Unusable::Unbelievable(fault.message);
                    vouched.check(verifier, &position).map_err(refused)?;
                }
                if self.marker.is_quarantined(&position.root) {
                    return Err(Unusable::Quarantined);
                }
                let value = usable(snapshot).map_err(Unusable::Content)?;
                tracing::info!(revision = %position.revision, file = %path.display(), "starting with the last good configuration");
                Ok((value, kept))
            });
            match tried {
                Ok(value) => Some(value),
                Err(Unusable::Read(error)) if error.kind() == ErrorKind::NotFound => None,
                Err(reason) => {
                    tracing::warn!(file = %path.display(), %reason, "a last good configuration is passed over");
                    None
                }
            }
        })
    }

    /// Seals under another private key from now on.
    pub(crate) fn renew(&self, secret: Vec<u8>) {
        *self.secret.write().unwrap_or_else(PoisonError::into_inner) = Secret::new(secret);
    }

    /// Makes `snapshot` the newest, for which a control plane `vouched`. A crash at any point leaves a newest one
    /// that is whole.
    pub(crate) fn write(&self, snapshot: &Snapshot, vouched: &Vouched) -> io::Result<()> {
        if self.marker.is_left() {
            return Ok(());
        }
        let bytes = self.seal(snapshot, vouched)?;
        // Somebody may have removed it.
        make(&self.directory)?;
        let unfinished = self.directory.join(UNFINISHED);
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
        file.write_all(&bytes)?;
        file.sync_all()?;
        let mut newer = unfinished;
        let mut renames = Vec::new();
        for name in FILES {
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
        File::open(&self.directory)?.sync_all()
    }

    fn seal(&self, snapshot: &Snapshot, vouched: &Vouched) -> io::Result<Vec<u8>> {
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
        let (mut salt, mut nonce) = ([0; SALT], [0; NONCE_LEN]);
        rand::fill(&mut salt).map_err(io::Error::other)?;
        rand::fill(&mut nonce).map_err(io::Error::other)?;
        self.key(&salt)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(MAGIC),
                &mut content,
            )
            .map_err(io::Error::other)?;
        Ok([MAGIC.as_slice(), &salt, &nonce, &content].concat())
    }

    fn read(&self, path: &Path) -> Result<Kept, Unusable> {
        let mut bytes = std::fs::read(path)?;
        let mut known = [MAGIC, UNSIGNED].into_iter();
        let magic = known.find(|magic| bytes.len() >= HEAD && bytes.starts_with(*magic));
        let magic = magic.ok_or(Unusable::Format)?;
        let mut sealed = bytes.split_off(HEAD);
        let (_, head) = bytes.split_at(MAGIC.len());
        let (salt, nonce) = head.split_at(SALT);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unusable::Format)?;
        let content = self
            .key(salt)
            .open_in_place(nonce, Aad::from(magic), &mut sealed)
            .map_err(|_| Unusable::Sealed)?;
        if magic == MAGIC {
            open_signed(content)
        } else {
            open_unsigned(content)
        }
    }

    /// Each file has a key of its own, since each has a salt of its own.
    fn key(&self, salt: &[u8]) -> LessSafeKey {
        let secret = self.secret.read().unwrap_or_else(PoisonError::into_inner);
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret.expose());
        let purpose: [&[u8]; 2] = [
            b"wardgate last good configuration of ",
            self.node.as_bytes(),
        ];
        let key = derived
            .expand(&purpose, &AES_256_GCM)
            .expect("the length of an AES key can be derived");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

/// Makes `directory`, for this user alone, if it is absent.
fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Takes a number from the front of `bytes`.
fn number(bytes: &mut &[u8]) -> Result<u64, Unusable> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Unusable::Format)?;
    *bytes = rest;
    Ok(u64::from_be_bytes(*number))
}

/// Takes a length from the front of `bytes` that is at most `most`.
fn length(bytes: &mut &[u8], most: u64) -> Result<usize, Unusable> {
    let length = Some(number(bytes)?).filter(|length| *length <= most);
    let length = length.and_then(|length| usize::try_from(length).ok());
    length.ok_or(Unusable::Format)
}

/// Takes a root from the front of `bytes`.
fn root(bytes: &mut &[u8]) -> Result<Hash, Unusable> {
    let (root, rest) = bytes.split_first_chunk().ok_or(Unusable::Format)?;
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
    let (manifest, rest) = parted.ok_or(Unusable::Format)?;
    let parted = rest.split_at_checked(signature);
    let (signature, packed) = parted.ok_or(Unusable::Format)?;
    Ok(Kept {
        snapshot: open_records(packed, records, told)?,
        vouched: Some(Vouched {
            manifest: manifest.to_vec(),
            signature: signature.to_vec(),
        }),
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
    })
}

#[cfg(test)]
mod tests;
