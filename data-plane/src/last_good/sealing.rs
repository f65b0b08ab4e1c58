//! How a node seals what it keeps on disk: `magic, salt, nonce, sealed(content)`, under a key that only this node
//! can derive, from its own private key.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use shared::secret::Secret;

/// What a file begins with: name and format.
pub(crate) type Magic = [u8; 8];

const SALT: usize = 32;
const TAG: usize = 16;

/// Bytes of a file that are not content.
pub(crate) const OVERHEAD: usize = size_of::<Magic>() + SALT + NONCE_LEN + TAG;

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unopened {
    #[error("it is no file of this format")]
    Format,
    #[error("it is damaged, or was sealed by another node or under another key")]
    Sealed,
}

/// What one node seals with.
#[derive(Debug)]
pub(crate) struct Sealing {
    /// The node's private key.
    secret: RwLock<Secret<Vec<u8>>>,
    /// How often that was replaced.
    renewals: AtomicU64,
    /// The node's id, which the files are bound to.
    node: String,
}

impl Sealing {
    /// Seals under the private key of `node`.
    pub(crate) fn new(secret: Secret<Vec<u8>>, node: &str) -> Self {
        Self {
            secret: RwLock::new(secret),
            renewals: AtomicU64::default(),
            node: node.to_owned(),
        }
    }

    /// Seals under another private key from now on.
    pub(crate) fn renew(&self, secret: Secret<Vec<u8>>) {
        *self.secret.write().unwrap_or_else(PoisonError::into_inner) = secret;
        self.renewals.fetch_add(1, Ordering::Release);
    }

    /// How often the private key was replaced.
    pub(crate) fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Acquire)
    }

    /// The file that holds `content`.
    pub(crate) fn seal(&self, magic: Magic, mut content: Vec<u8>) -> io::Result<Vec<u8>> {
        let (mut salt, mut nonce) = ([0; SALT], [0; NONCE_LEN]);
        rand::fill(&mut salt).map_err(io::Error::other)?;
        rand::fill(&mut nonce).map_err(io::Error::other)?;
        self.key(&salt)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(magic),
                &mut content,
            )
            .map_err(io::Error::other)?;
        Ok([magic.as_slice(), &salt, &nonce, &content].concat())
    }

    /// The content of the file `bytes`, which begins with `magic`.
    pub(crate) fn open(&self, magic: Magic, bytes: &[u8]) -> Result<Vec<u8>, Unopened> {
        let rest = bytes.strip_prefix(&magic).ok_or(Unopened::Format)?;
        let parted = rest.split_at_checked(SALT);
        let (salt, rest) = parted.ok_or(Unopened::Format)?;
        let parted = rest.split_at_checked(NONCE_LEN);
        let (nonce, sealed) = parted.ok_or(Unopened::Format)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopened::Format)?;
        let mut content = sealed.to_vec();
        let opened = self
            .key(salt)
            .open_in_place(nonce, Aad::from(magic), &mut content)
            .map_err(|_| Unopened::Sealed)?
            .len();
        content.truncate(opened);
        Ok(content)
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
