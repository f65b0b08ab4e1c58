//! Sealing at rest: AES-256-GCM under a key that lives outside the store, bound to the name that the
//! value is filed under.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use shared::secret::Secret;

use super::StoreError;

/// Length of the key, in bytes.
const KEY: usize = 32;

/// The key that seals the store.
#[derive(Clone, Debug)]
pub struct SecretsKey(Secret<[u8; KEY]>);

impl SecretsKey {
    /// Reads the key in `path`, or makes one there, readable by its owner only.
    pub fn read_or_create(path: &Path) -> Result<Self, StoreError> {
        let failed = |attempt: &'static str, source: std::io::Error| StoreError::File {
            attempt,
            path: path.display().to_string(),
            source,
        };
        match std::fs::File::open(path) {
            Ok(mut file) => {
                let mut key = Vec::new();
                file.read_to_end(&mut key)
                    .map_err(|error| failed("reading", error))?;
                let key = <[u8; KEY]>::try_from(key).map_err(|key| {
                    StoreError::Key(format!(
                        "{} holds {} bytes; a key has {KEY}",
                        path.display(),
                        key.len()
                    ))
                })?;
                Ok(Self(Secret::new(key)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(|error| failed("making", error))?;
                }
                let mut key = [0; KEY];
                rand::fill(&mut key).expect("the system's random source works");
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                let mut file = options
                    .open(path)
                    .map_err(|error| failed("making", error))?;
                file.write_all(&key)
                    .map_err(|error| failed("writing", error))?;
                file.sync_all().map_err(|error| failed("syncing", error))?;
                Ok(Self(Secret::new(key)))
            }
            Err(error) => Err(failed("opening", error)),
        }
    }
}

/// Seals and opens values.
pub(super) struct Sealer(LessSafeKey);

impl Sealer {
    pub(super) fn new(key: &SecretsKey) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.0.expose()).expect("the key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Nonce and sealed value.
    pub(super) fn seal(&self, name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).expect("the system's random source works");
        let mut sealed = value.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name),
                &mut sealed,
            )
            .expect("a record is far shorter than what AES-GCM can seal");
        [nonce.as_slice(), &sealed].concat()
    }

    /// The value, if it was sealed under this key and name.
    pub(super) fn open(&self, name: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut value = sealed.to_vec();
        let length = self
            .0
            .open_in_place(nonce, Aad::from(name), &mut value)
            .ok()?
            .len();
        value.truncate(length);
        Some(value)
    }
}
