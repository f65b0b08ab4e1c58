//! The last good configuration on disk, so that a node starts and serves without a control plane.
//!
//! A file is `magic, salt, nonce, sealed(position, zstd(records))`. It holds secrets and is sealed under
//! a key that only this node can derive: from its own private key. Three generations are kept; what
//! cannot be opened is passed over, and what is opened must have the root that it tells, and must not
//! be one that this node crashed with.

pub(crate) mod marker;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use shared::secret::Secret;
use shared::snapshot::{Position, Revision, Snapshot};

use marker::Marker;

/// What a file begins with: name and format.
const MAGIC: &[u8; 8] = b"WARDLG\0\x01";
const SALT: usize = 32;
const HEAD: usize = MAGIC.len() + SALT + NONCE_LEN;
/// Generation, revision, root, length of the records.
const POSITION: usize = 8 + 8 + 32 + 8;
/// Newest first.
const FILES: [&str; 3] = ["last-good", "last-good.1", "last-good.2"];
const UNFINISHED: &str = "last-good.new";
/// Bytes of records that are unpacked: what a control plane may send.
const RECORDS: u64 = 512 * 1024 * 1024;

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
    #[error("the process crashed with it")]
    Quarantined,
}

impl LastGood {
    /// Prepares `directory`, made with mode 0700 if absent.
    pub(crate) fn open(directory: &Path, secret: Vec<u8>, node: &str) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            secret: RwLock::new(Secret::new(secret)),
            marker: Marker::open(directory),
            node: node.to_owned(),
        })
    }

    /// The newest snapshot that can be used, each tried by `usable` in turn.
    pub(crate) fn load<T>(
        &self,
        usable: impl Fn(&Snapshot) -> Result<T, String>,
    ) -> Option<(T, Snapshot)> {
        FILES.iter().find_map(|name| {
            let path = self.directory.join(name);
            let tried = self.read(&path).and_then(|snapshot| {
                let position = snapshot.position;
                if self.marker.is_quarantined(&position.root) {
                    return Err(Unusable::Quarantined);
                }
                let value = usable(&snapshot).map_err(Unusable::Content)?;
                tracing::info!(revision = %position.revision, file = %path.display(), "starting with the last good configuration");
                Ok((value, snapshot))
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

    /// Makes `snapshot` the newest. A crash at any point leaves a newest one that is whole.
    pub(crate) fn write(&self, snapshot: &Snapshot) -> io::Result<()> {
        let bytes = self.seal(snapshot)?;
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

    fn seal(&self, snapshot: &Snapshot) -> io::Result<Vec<u8>> {
        let records = proto::encode_records(snapshot.records.clone());
        let length = u64::try_from(records.len()).map_err(io::Error::other)?;
        let mut content = Vec::new();
        content.extend(snapshot.position.generation.to_be_bytes());
        content.extend(snapshot.position.revision.0.to_be_bytes());
        content.extend(snapshot.position.root);
        content.extend(length.to_be_bytes());
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

    fn read(&self, path: &Path) -> Result<Snapshot, Unusable> {
        let mut bytes = std::fs::read(path)?;
        if bytes.len() < HEAD || !bytes.starts_with(MAGIC) {
            return Err(Unusable::Format);
        }
        let mut sealed = bytes.split_off(HEAD);
        let (_, head) = bytes.split_at(MAGIC.len());
        let (salt, nonce) = head.split_at(SALT);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unusable::Format)?;
        let content = self
            .key(salt)
            .open_in_place(nonce, Aad::from(MAGIC), &mut sealed)
            .map_err(|_| Unusable::Sealed)?;
        open_content(content)
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

fn open_content(content: &[u8]) -> Result<Snapshot, Unusable> {
    let (position, packed) = content.split_at_checked(POSITION).ok_or(Unusable::Format)?;
    let (numbers, rest) = position.split_at(16);
    let (root, length) = rest.split_at(32);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let (generation, revision) = numbers.split_at(8);
    let length = Some(number(length)).filter(|length| *length <= RECORDS);
    let length = length.and_then(|length| usize::try_from(length).ok());
    let records = zstd::bulk::decompress(packed, length.ok_or(Unusable::Format)?)?;
    let records =
        proto::decode_records(records).map_err(|fault| Unusable::Content(fault.to_string()))?;
    let snapshot = Snapshot::new(number(generation), Revision(number(revision)), records);
    let told = Position {
        root: root.try_into().map_err(|_| Unusable::Format)?,
        ..snapshot.position
    };
    if told != snapshot.position {
        return Err(Unusable::Content("the roots differ".to_owned()));
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use shared::snapshot::{Key, Record};
    use uuid::Uuid;

    use super::*;

    fn snapshot(revision: u64) -> Snapshot {
        let record = Record {
            key: Key {
                kind: "services",
                id: Uuid::from_u128(u128::from(revision)),
            },
            json: br#"{"name":"hunter2"}"#.as_slice().into(),
        };
        Snapshot::new(1, Revision(revision), vec![record])
    }

    fn open(directory: &Path) -> LastGood {
        LastGood::open(&directory.join("data"), vec![7; 100], "node-1").unwrap()
    }

    fn revision(files: &LastGood) -> Option<u64> {
        let loaded = files.load(|snapshot| Ok(snapshot.position.revision.0));
        loaded.map(|(revision, _)| revision)
    }

    #[test]
    fn the_newest_is_found_again_and_nobody_else_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let files = open(root.path());
        assert_eq!(revision(&files), None);
        for number in 1..=5 {
            files.write(&snapshot(number)).unwrap();
            assert_eq!(revision(&files), Some(number));
        }
        let directory = root.path().join("data");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), FILES.len());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        let newest = directory.join(FILES[0]);
        assert_eq!(mode(&newest), 0o600);
        let bytes = std::fs::read(newest).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        for (secret, node) in [(vec![8; 100], "node-1"), (vec![7; 100], "node-2")] {
            let other = LastGood::open(&directory, secret, node).unwrap();
            assert_eq!(revision(&other), None);
        }
    }

    #[test]
    fn a_damaged_file_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let files = open(root.path());
        files.write(&snapshot(1)).unwrap();
        files.write(&snapshot(2)).unwrap();
        let newest = root.path().join("data").join(FILES[0]);
        let good = std::fs::read(&newest).unwrap();
        for length in 0..good.len() {
            std::fs::write(&newest, &good[..length]).unwrap();
            assert_eq!(revision(&files), Some(1), "cut to {length}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&newest, bad).unwrap();
            assert_eq!(revision(&files), Some(1), "flipped at {at}");
        }
        // A crash between the renames leaves no newest file.
        std::fs::remove_file(&newest).unwrap();
        assert_eq!(revision(&files), Some(1));
        files.write(&snapshot(3)).unwrap();
        assert_eq!(revision(&files), Some(3));
    }

    #[test]
    fn one_that_cannot_be_used_gives_way_to_the_one_before() {
        let root = tempfile::tempdir().unwrap();
        let files = open(root.path());
        files.write(&snapshot(1)).unwrap();
        files.write(&snapshot(2)).unwrap();
        let used = files.load(|snapshot| match snapshot.position.revision.0 {
            2 => Err("does not compile".to_owned()),
            number => Ok(number),
        });
        assert_eq!(used.map(|(revision, _)| revision), Some(1));
    }

    #[test]
    fn one_that_the_process_crashed_with_gives_way_to_the_one_before() {
        let root = tempfile::tempdir().unwrap();
        let files = open(root.path());
        files.write(&snapshot(1)).unwrap();
        files.write(&snapshot(2)).unwrap();
        files.marker.tries(snapshot(2).position);
        assert_eq!(revision(&open(root.path())), Some(2));
        assert_eq!(revision(&open(root.path())), Some(1));
        // A renewed private key seals from then on.
        let files = open(root.path());
        files.renew(vec![9; 100]);
        files.write(&snapshot(3)).unwrap();
        let directory = root.path().join("data");
        let renewed = LastGood::open(&directory, vec![9; 100], "node-1").unwrap();
        assert_eq!(revision(&renewed), Some(3));
    }

    /// What every version since the first has written stays readable. `UPDATE=1` writes it anew, which is
    /// only right for a format that is not released.
    #[test]
    fn a_file_of_the_first_format_is_read() {
        let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/last-good-1");
        let root = tempfile::tempdir().unwrap();
        let files = open(root.path());
        let newest = root.path().join("data").join(FILES[0]);
        if std::env::var_os("UPDATE").is_some() {
            files.write(&snapshot(1)).unwrap();
            std::fs::copy(&newest, &recorded).unwrap();
        }
        std::fs::copy(&recorded, &newest).unwrap();
        let (records, read) = files.load(|read| Ok(read.records.clone())).unwrap();
        assert_eq!(records, snapshot(1).records);
        assert_eq!(read.position, snapshot(1).position);
    }
}
