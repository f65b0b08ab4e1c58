//! How a session holds tokens: a JWS is taken apart, for what base64 hides cannot be compressed, and
//! access and ID token say much the same.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A token as it is written: in parts, or, if they would not make the very same token again, whole.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Packed {
    /// Header and payload as text, the signature as it came.
    Parts(String, String, String),
    Whole(String),
}

impl Packed {
    fn new(token: &str) -> Self {
        Self::parts(token).unwrap_or_else(|| Self::Whole(token.to_owned()))
    }

    fn parts(token: &str) -> Option<Self> {
        let (header, rest) = token.split_once('.')?;
        let (payload, signature) = rest.split_once('.')?;
        // The engine decodes only what it would encode itself.
        let text = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let parts = Self::Parts(text(header)?, text(payload)?, signature.to_owned());
        Some(parts)
    }

    fn token(self) -> String {
        match self {
            Self::Parts(header, payload, signature) => {
                let mut token = URL_SAFE_NO_PAD.encode(header);
                token.push('.');
                URL_SAFE_NO_PAD.encode_string(payload, &mut token);
                token.push('.');
                token.push_str(&signature);
                token
            }
            Self::Whole(token) => token,
        }
    }
}

/// A token that there always is.
pub(super) mod token {
    use super::{Deserialize, Deserializer, Packed, Serialize, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        token: &str,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        Packed::new(token).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<String, D::Error> {
        Packed::deserialize(from).map(Packed::token)
    }
}

/// A token that may be missing.
pub(super) mod optional_token {
    use super::{Deserialize, Deserializer, Packed, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde hands over the field as it is")]
    pub(in super::super) fn serialize<S: Serializer>(
        token: &Option<String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        token.as_deref().map(Packed::new).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<String>, D::Error> {
        Ok(Option::<Packed>::deserialize(from)?.map(Packed::token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_comes_back_as_it_was() {
        let check = |token: &str, whole: bool| {
            let packed = Packed::new(token);
            assert_eq!(matches!(packed, Packed::Whole(_)), whole, "{token}");
            let json = serde_json::to_string(&packed).unwrap();
            let back: Packed = serde_json::from_str(&json).unwrap();
            assert_eq!(back.token(), token);
        };
        check("eyJhIjoxfQ.eyJzdWIiOiJ4In0.c2ln", false);
        check("e30.e30.", false);
        check("opaque", true);
        check("", true);
        // Bits that do not count would be lost, and so would padding and bytes that are no text.
        check("e31.e30.sig", true);
        check("e30=.e30.sig", true);
        check("_w.e30.sig", true);
        // A JWE has five parts; its last three stay together.
        check("e30.e30.iv.text.tag", false);
    }
}
