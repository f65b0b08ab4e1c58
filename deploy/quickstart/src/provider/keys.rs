//! Signing keys, and tokens on their way to being signed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::RsaKeyPair;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

/// What a test does to a token before it is signed.
pub(super) type DraftHook = Arc<dyn Fn(&mut Draft) + Send + Sync>;

/// An RSA key that signs with RS256.
#[derive(Clone)]
pub struct SigningKey {
    /// Names the key in the JWKS.
    pub id: String,
    encoding: EncodingKey,
    public: Jwk,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a key of 2,048 bits.
    pub fn generate() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("the system has random numbers");
        let der: Pkcs8V1Der<'_> = pair.as_der().expect("a key just made can be encoded");
        // `from_rsa_der` wants PKCS #1; only the PEM way unwraps PKCS #8.
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let encoding =
            EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a key just encoded can be decoded");
        let id = random_text(8);
        let mut public = Jwk::from_encoding_key(&encoding, Algorithm::RS256)
            .expect("an RSA key has a public part");
        public.common.key_id = Some(id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Self {
            id,
            encoding,
            public,
        }
    }
}

/// All keys: the first one signs, all are published.
#[derive(Debug)]
pub(super) struct Keys {
    current: SigningKey,
    old: Vec<SigningKey>,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self {
            current: SigningKey::generate(),
            old: Vec::new(),
        }
    }

    pub(super) fn rotate(&mut self, keep_old: bool) {
        let old = std::mem::replace(&mut self.current, SigningKey::generate());
        if keep_old {
            self.old.push(old);
        } else {
            self.old.clear();
        }
    }

    pub(super) fn published(&self) -> JwkSet {
        JwkSet {
            keys: std::iter::once(&self.current)
                .chain(&self.old)
                .map(|key| key.public.clone())
                .collect(),
        }
    }

    pub(super) fn draft(&self, kind: TokenKind, claims: Map<String, Value>) -> Draft {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.current.id.clone());
        if kind == TokenKind::Access {
            header.typ = Some("at+jwt".to_owned()); // RFC 9068 §2.1
        }
        Draft {
            kind,
            header,
            claims,
            key: self.current.clone(),
            replacement: None,
        }
    }
}

/// Which token a draft becomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenKind {
    /// An access token (RFC 9068).
    Access,
    /// An ID token (OpenID Connect Core §2).
    Id,
}

/// A token before it is signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Which token it becomes.
    pub kind: TokenKind,
    /// Its header; the algorithm must be one of an RSA key.
    pub header: Header,
    /// Its claims.
    pub claims: Map<String, Value>,
    /// The key that signs it.
    pub key: SigningKey,
    /// Text to hand out in its place.
    pub replacement: Option<String>,
}

impl Draft {
    /// Signs the token as it stands.
    pub fn finish(self) -> String {
        if let Some(replacement) = self.replacement {
            return replacement;
        }
        jsonwebtoken::encode(&self.header, &self.claims, &self.key.encoding)
            .expect("an RSA key signs with an RSA algorithm")
    }
}

/// Random text for a URL, of `bytes` random bytes.
pub(super) fn random_text(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut buffer).expect("the system has random numbers");
    URL_SAFE_NO_PAD.encode(buffer)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_verifies_with_the_published_key_until_a_rotation_drops_it() {
        let mut keys = Keys::new();
        let claims = json!({"sub": "s", "exp": 4_000_000_000_u64});
        let Value::Object(claims) = claims else {
            unreachable!()
        };
        let token = keys.draft(TokenKind::Id, claims).finish();
        let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();

        let published = keys.published();
        let key = DecodingKey::from_jwk(published.find(&kid).unwrap()).unwrap();
        jsonwebtoken::decode::<Value>(&token, &key, &Validation::new(Algorithm::RS256)).unwrap();

        keys.rotate(true);
        assert!(keys.published().find(&kid).is_some());
        keys.rotate(false);
        assert!(keys.published().find(&kid).is_none());
    }
}
