//! Sealing at rest: AES-256-GCM under a key that lives outside the store, bound to the name that the
//! value is filed under.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use shared::secret::Secret;

use super::StoreError;
use super::files::file_error;

/// Length of the key, in bytes.
const KEY: usize = 32;

/// The key that seals the store.
#[derive(Clone, Debug)]
pub struct SecretsKey(Secret<[u8; KEY]>);

/// Whether there is no key in `path`.
pub(crate) fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

impl SecretsKey {
    /// Reads the key in `path`.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| file_error("secrets_key_file: reading", path, source);
        // A pipe would be waited for.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            let message = format!("secrets_key_file: {} is no regular file", path.display());
            return Err(StoreError::Key(message));
        }
        let key = std::fs::read(path).map_err(failed)?;
        let key = <[u8; KEY]>::try_from(key).map_err(|key| {
            StoreError::Key(format!(
                "secrets_key_file: {} holds {} bytes; a key has {KEY}",
                path.display(),
                key.len()
            ))
        })?;
        Ok(Self(Secret::new(key)))
    }

    /// Reads the key in `path`, or makes one there, readable by its owner only.
    pub fn read_or_create(path: &Path) -> Result<Self, StoreError> {
        match Self::read(path) {
            Err(StoreError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Self::create(path)
            }
            read => read,
        }
    }

    /// Whether the two are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.0.expose(), other.0.expose()).is_ok()
    }

    fn create(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| file_error("secrets_key_file: making", path, source);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut key = [0; KEY];
        rand::fill(&mut key).expect("the system's random source works");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path).map_err(failed)?;
        file.write_all(&key)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        Ok(Self(Secret::new(key)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_key_is_refused_by_the_name_of_the_setting() {
        let root = tempfile::tempdir().unwrap();
        let short = root.path().join("short");
        std::fs::write(&short, "secret").unwrap();
        let below = short.join("key");
        for path in [root.path(), &short, &below, Path::new("/dev/zero")] {
            let error = SecretsKey::read_or_create(path).unwrap_err().to_string();
            assert!(error.starts_with("secrets_key_file: "), "{error}");
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
