//! Sealing of cookies: AES-256-GCM under a key derived from a session key of the cluster.
//!
//! ```text
//! version 1 │ chunks 1 │ key id 8 │ nonce 12 │ ciphertext and tag
//! ```
//!
//! Version, chunk count and key id are authenticated with the cookie's name and the plugin's binding,
//! so that a cookie opens only where, as what and for whom it was sealed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, Salt};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shared::digest::sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::config::values::SecretText;
use crate::sessions::session_keys::KeyRing;

/// The format that is written.
const VERSION: u8 = 1;

/// Bytes before the ciphertext.
const HEAD: usize = 22;

/// Bytes that sealing adds: head and tag.
const OVERHEAD: usize = HEAD + 16;

/// Longest cookie value, all chunks joined, that is looked at.
pub(crate) const LONGEST: usize = 48 * 1024;

/// How many characters at the start of a sealed value hold the head, and so name it: the nonce is
/// random.
pub(crate) const NAME_CHARACTERS: usize = 32;

/// What a cookie is bound to besides its name.
#[derive(Debug)]
pub(crate) struct Binding {
    context: Vec<u8>,
    salt: Vec<u8>,
}

impl Binding {
    /// Binds to `parts` and to the plugin, or to the secret that it shares.
    pub(crate) fn of(parts: &[&str], secret: Option<&SecretText>, id: Uuid) -> Self {
        let salt = secret
            .map(|secret| sha256(secret.expose().as_bytes()).to_vec())
            .unwrap_or_default();
        let mut context = Vec::new();
        for part in parts {
            add(&mut context, part.as_bytes());
        }
        if salt.is_empty() {
            add(&mut context, id.as_bytes());
        } else {
            add(&mut context, &sha256(&salt));
        }
        Self { context, salt }
    }

    /// What it binds to. The secret cannot be told from it.
    pub(crate) fn context(&self) -> &[u8] {
        &self.context
    }
}

/// What was sealed, and the id of the key that sealed it.
pub(crate) struct Opened {
    pub(crate) plaintext: Zeroizing<Vec<u8>>,
    pub(crate) key_id: [u8; 8],
}

shared::unsaid!(Opened);

/// Seals `plaintext` as the cookie `name`, to be cut into chunks of `chunk` characters. `None` if the
/// ring has no key, or if there would be more than `most` chunks.
pub(crate) fn seal(
    ring: &KeyRing,
    binding: &Binding,
    name: &str,
    plaintext: &[u8],
    sizes: Sizes,
    now: u64,
    nonce: [u8; 12],
) -> Result<String, SealError> {
    let length = (plaintext.len() + OVERHEAD).saturating_mul(4).div_ceil(3);
    let chunks = u8::try_from(length.div_ceil(sizes.chunk).max(1))
        .ok()
        .filter(|chunks| *chunks <= sizes.most)
        .ok_or(SealError::TooLarge)?;
    let sealed = seal_bytes(ring, binding, name, (plaintext, chunks), now, nonce)?;
    Ok(URL_SAFE_NO_PAD.encode(sealed))
}

/// Seals `plaintext` as `name`, in so many chunks, for where bytes need not be text.
pub(crate) fn seal_bytes(
    ring: &KeyRing,
    binding: &Binding,
    name: &str,
    (plaintext, chunks): (&[u8], u8),
    now: u64,
    nonce: [u8; 12],
) -> Result<Vec<u8>, SealError> {
    let key = ring.sealing(now).ok_or(SealError::NoKey)?;
    let mut sealed = Vec::with_capacity(plaintext.len() + OVERHEAD);
    sealed.extend_from_slice(&[VERSION, chunks]);
    sealed.extend_from_slice(&key.id);
    sealed.extend_from_slice(&nonce);
    let mut body = plaintext.to_vec();
    let aad = associated_data(binding, name, chunks, key.id);
    derive(key.secret.expose(), &binding.salt)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut body,
        )
        .map_err(|_| SealError::TooLarge)?;
    sealed.extend_from_slice(&body);
    Ok(sealed)
}

/// How a sealed value is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Characters of a chunk.
    pub(crate) chunk: usize,
    /// Most chunks.
    pub(crate) most: u8,
}

/// Why a value could not be sealed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// The ring is empty.
    #[error("there is no session key yet")]
    NoKey,
    /// It would not fit into the cookies that a browser keeps.
    #[error("the session is too large for cookies")]
    TooLarge,
}

/// The chunk count that the first chunk of a sealed value claims, before anything is verified.
pub(crate) fn claimed_chunks(first: &str) -> Option<u8> {
    let start = URL_SAFE_NO_PAD.decode(first.get(..4)?).ok()?;
    match start.as_slice() {
        [VERSION, chunks, ..] if *chunks > 0 => Some(*chunks),
        _ => None,
    }
}

/// The chunk count that the first chunk of a sealed value claims, and the id of the key that it claims to be sealed by.
pub(crate) fn claims(first: &[u8]) -> Option<(u8, [u8; 8])> {
    // Nearly nothing else begins like this, and each cookie of each request is looked at.
    if !first.starts_with(b"AQ") {
        return None;
    }
    let mut head = [0; 12];
    URL_SAFE_NO_PAD
        .decode_slice(first.get(..16)?, &mut head)
        .ok()?;
    match head {
        [VERSION, chunks, rest @ ..] if chunks > 0 => Some((chunks, *rest.first_chunk()?)),
        _ => None,
    }
}

/// Opens `value`, sealed as the cookie `name`. All failures look the same.
pub(crate) fn open(
    ring: &KeyRing,
    binding: &Binding,
    name: &str,
    value: &str,
    now: u64,
) -> Option<Opened> {
    if value.len() > LONGEST {
        return None;
    }
    open_bytes(
        ring,
        binding,
        name,
        URL_SAFE_NO_PAD.decode(value).ok()?,
        now,
    )
}

/// Opens what was sealed as bytes.
pub(crate) fn open_bytes(
    ring: &KeyRing,
    binding: &Binding,
    name: &str,
    sealed: Vec<u8>,
    now: u64,
) -> Option<Opened> {
    let mut sealed = Zeroizing::new(sealed);
    let (head, body) = sealed.split_at_mut_checked(HEAD)?;
    let [version, chunks, rest @ ..] = &*head else {
        return None;
    };
    let (key_id, nonce) = rest.split_first_chunk::<8>()?;
    let nonce: [u8; 12] = nonce.try_into().ok()?;
    if *version != VERSION {
        return None;
    }
    let key = ring.opening(*key_id, now)?;
    let aad = associated_data(binding, name, *chunks, *key_id);
    let plaintext = derive(key.secret.expose(), &binding.salt)
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body)
        .ok()?;
    Some(Opened {
        plaintext: Zeroizing::new(plaintext.to_vec()),
        key_id: *key_id,
    })
}

/// Every part has its length before it, so that no two lists of parts make the same bytes.
fn associated_data(binding: &Binding, name: &str, chunks: u8, key_id: [u8; 8]) -> Vec<u8> {
    let mut data = vec![VERSION, chunks];
    data.extend_from_slice(&key_id);
    add(&mut data, name.as_bytes());
    data.extend_from_slice(&binding.context);
    data
}

fn add(data: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    data.extend_from_slice(&length.to_be_bytes());
    data.extend_from_slice(part);
}

/// HKDF-SHA256 (RFC 5869); a plugin's own secret is the salt.
fn derive(secret: &[u8; 32], salt: &[u8]) -> LessSafeKey {
    let pseudo_random_key = Salt::new(HKDF_SHA256, salt).extract(secret);
    let info: [&[u8]; 1] = [b"wardgate cookie 1"];
    let mut key = Zeroizing::new([0; 32]);
    pseudo_random_key
        .expand(&info, KeyLength)
        .and_then(|material| material.fill(&mut *key))
        .expect("32 bytes are within what HKDF can make");
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).expect("AES-256 keys have 32 bytes"))
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    const SIZES: Sizes = Sizes {
        chunk: 3800,
        most: 9,
    };

    fn binding(secret: Option<&str>, id: u128) -> Binding {
        let secret = secret.map(|secret| SecretText::from(secret.to_owned()));
        let parts = ["https://idp.example", "client", "default"];
        Binding::of(&parts, secret.as_ref(), Uuid::from_u128(id))
    }

    fn sealed(binding: &Binding, name: &str) -> String {
        seal(
            &testing::key_ring(),
            binding,
            name,
            b"hello",
            SIZES,
            10,
            [7; 12],
        )
        .unwrap()
    }

    #[test]
    fn rule_60_what_was_sealed_opens_only_where_it_belongs() {
        let ours = binding(None, 1);
        let value = sealed(&ours, "session");
        let opens = |binding: &Binding, name: &str| {
            open(&testing::key_ring(), binding, name, &value, 10).is_some()
        };
        assert!(opens(&ours, "session"));
        assert!(!opens(&ours, "authorization"));
        assert!(!opens(&binding(None, 2), "session"));
        assert!(!opens(&binding(Some("secret"), 1), "session"));
        assert!(open(&KeyRing::default(), &ours, "session", &value, 10).is_none());
    }

    #[test]
    fn case_70_equal_secrets_share_and_different_ones_do_not() {
        let value = sealed(&binding(Some("one"), 1), "session");
        let opens = |binding: &Binding| {
            open(&testing::key_ring(), binding, "session", &value, 10).is_some()
        };
        assert!(opens(&binding(Some("one"), 2)));
        assert!(!opens(&binding(Some("two"), 1)));
    }

    #[test]
    fn rule_61_what_a_later_version_may_write_is_none() {
        let ours = binding(None, 1);
        let value = sealed(&ours, "session");
        let opens = |value: &str| open(&testing::key_ring(), &ours, "session", value, 10).is_some();
        let mut bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        assert!(opens(&value) && claimed_chunks(&value) == Some(1));
        for version in [0, VERSION + 1, u8::MAX] {
            bytes[0] = version;
            let other = URL_SAFE_NO_PAD.encode(&bytes);
            assert!(!opens(&other), "{version}");
            assert_eq!(claimed_chunks(&other), None, "{version}");
            assert_eq!(claims(other.as_bytes()), None, "{version}");
        }
    }

    #[test]
    fn rule_59_what_fills_its_chunks_claims_no_further_one() {
        let ours = binding(None, 1);
        for chunks in 1..=9 {
            // Three bytes are four characters.
            let full = SIZES.chunk / 4 * 3 * chunks - OVERHEAD;
            for (length, expected) in [(full - 1, chunks), (full, chunks), (full + 1, chunks + 1)] {
                let plaintext = vec![0; length];
                let ring = testing::key_ring();
                let value = seal(&ring, &ours, "session", &plaintext, SIZES, 10, [7; 12]);
                if expected > usize::from(SIZES.most) {
                    assert!(matches!(value, Err(SealError::TooLarge)), "{length}");
                    continue;
                }
                let value = value.unwrap();
                assert_eq!(value.len().div_ceil(SIZES.chunk), expected, "{length}");
                let claimed = claimed_chunks(&value).map(usize::from);
                assert_eq!(claimed, Some(expected), "{length}");
                let opened = open(&ring, &ours, "session", &value, 10);
                assert_eq!(*opened.unwrap().plaintext, plaintext, "{length}");
            }
        }
    }

    #[test]
    fn too_much_for_the_cookies_is_an_error() {
        let value = seal(
            &testing::key_ring(),
            &binding(None, 1),
            "session",
            &vec![0; 40_000],
            SIZES,
            10,
            [7; 12],
        );
        assert!(matches!(value, Err(SealError::TooLarge)));
    }

    proptest! {
        #[test]
        fn case_61_no_changed_value_opens(position in 0_usize..60, replacement in "[A-Za-z0-9_-]") {
            let ours = binding(None, 1);
            let mut value = sealed(&ours, "session");
            let position = position % value.len();
            prop_assume!(value[position..=position] != replacement);
            value.replace_range(position..=position, &replacement);
            prop_assert!(open(&testing::key_ring(), &ours, "session", &value, 10).is_none());
        }

        #[test]
        fn rubbish_never_opens(value in ".{0,200}") {
            prop_assert!(open(&testing::key_ring(), &binding(None, 1), "session", &value, 10).is_none());
            let _ = claimed_chunks(&value);
        }
    }
}
