//! Client assertions: how a client proves who it is without sending a secret (RFC 7523 §2.2, OpenID
//! Connect Core §9).

use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::config::{Jwk, SecretText, SigningAlgorithm};
use super::session::random_text;
use crate::client_keys::signer::{Key, Signer, rsa_encoding};
use crate::host::Host;

/// The value of `client_assertion_type`.
pub(super) const KIND: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How long an assertion is good for, in seconds. It is made for one request.
const LIFETIME: u64 = 60;

/// Whom an assertion is for, as it says itself. It goes to nobody else: one for the issuer is sent to endpoints of that alone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Audience {
    /// The endpoint that it is sent to, as Kong has it (OpenID Connect Core §9).
    #[default]
    Endpoint,
    /// The provider's issuer (RFC 9126 §2, FAPI 2.0 Security Profile §5.3.3.1).
    Issuer,
}

/// What signs with a private key that is a JWK.
///
/// # Errors
///
/// If the key is incomplete, does not fit together, or does not suit `algorithm`.
pub(super) fn signer(
    jwk: &Jwk,
    algorithm: Option<SigningAlgorithm>,
) -> Result<Signer, &'static str> {
    let own = jwk
        .alg
        .as_ref()
        .and_then(|name| serde_json::from_value(json!(name)).ok());
    let algorithm = algorithm.or(own);
    let (algorithm, key) = match jwk.kty.as_deref() {
        Some("RSA") => {
            let algorithm = algorithm.unwrap_or(SigningAlgorithm::RS256);
            let encoding = rsa_encoding(algorithm)
                .ok_or("an RSA key needs an algorithm RS… or PS… in client_alg")?;
            (algorithm, Key::Rsa(rsa(jwk)?, encoding))
        }
        Some("EC") => {
            let (native, curve) = match jwk.crv.as_deref() {
                Some("P-256") => (
                    SigningAlgorithm::ES256,
                    &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                ),
                Some("P-384") => (
                    SigningAlgorithm::ES384,
                    &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                ),
                Some("P-521") => (
                    SigningAlgorithm::ES512,
                    &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
                ),
                _ => return Err("crv must be P-256, P-384 or P-521"),
            };
            if algorithm.is_some_and(|algorithm| algorithm != native) {
                return Err("the curve of the key needs another algorithm in client_alg");
            }
            let mut point = vec![4];
            point.extend(public(jwk.x.as_ref())?);
            point.extend(public(jwk.y.as_ref())?);
            let scalar = private(jwk.d.as_ref())?;
            let pair = EcdsaKeyPair::from_private_key_and_public_key(curve, &scalar, &point)
                .map_err(|_| "x, y and d are not one key")?;
            (native, Key::Ec(pair))
        }
        Some("OKP") if jwk.crv.as_deref() == Some("Ed25519") => {
            if algorithm.is_some_and(|algorithm| algorithm != SigningAlgorithm::EdDSA) {
                return Err("an Ed25519 key needs EdDSA in client_alg");
            }
            let (seed, point) = (private(jwk.d.as_ref())?, public(jwk.x.as_ref())?);
            let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &point)
                .map_err(|_| "x and d are not one key")?;
            (SigningAlgorithm::EdDSA, Key::Ed(pair))
        }
        Some("OKP") if jwk.crv.as_deref() == Some("Ed448") => {
            return Err("Ed448 is not supported: use Ed25519");
        }
        _ => return Err("kty must be RSA, EC or OKP (Ed25519)"),
    };
    Ok(Signer::of_key(algorithm, jwk.kid.clone(), key))
}

/// An assertion of the client `id` for `audience`, by `signer`. `None`: it cannot be signed.
pub(super) fn sign(signer: &Signer, id: &str, audience: &str, host: &impl Host) -> Option<String> {
    let now = host.now().as_secs();
    let claims = json!({
        "iss": id, "sub": id, "aud": audience, "jti": random_text::<16>(host),
        "iat": now, "exp": now.saturating_add(LIFETIME),
    });
    signer.sign_claims("JWT", &claims)
}

fn rsa(jwk: &Jwk) -> Result<RsaKeyPair, &'static str> {
    let components = KeyPairComponents {
        public_key: PublicKeyComponents {
            n: public(jwk.n.as_ref())?,
            e: public(jwk.e.as_ref())?,
        },
        d: private(jwk.d.as_ref())?,
        p: private(jwk.p.as_ref())?,
        q: private(jwk.q.as_ref())?,
        dP: private(jwk.dp.as_ref())?,
        dQ: private(jwk.dq.as_ref())?,
        qInv: private(jwk.qi.as_ref())?,
    };
    RsaKeyPair::from_components(&components).map_err(
        |_| "the numbers of the RSA key do not fit together, or it has fewer than 2,048 bits",
    )
}

fn public(member: Option<&String>) -> Result<Vec<u8>, &'static str> {
    decoded(member.map(String::as_str))
}

fn private(member: Option<&SecretText>) -> Result<Vec<u8>, &'static str> {
    decoded(member.map(SecretText::expose))
}

fn decoded(member: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let text = member.ok_or("the key is incomplete: RSA needs n e d p q dp dq qi, EC needs crv x y d, OKP needs crv x d")?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| "a member of the key is not base64url without padding")
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsBigEndian, AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::KeyPair;
    use serde_json::Value;

    use super::*;
    use crate::bundled::openid_connect::jws::Jws;
    use crate::bundled::openid_connect::key::PublicKey;
    use crate::testing::{FakeHost, START};

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The integers of a DER sequence (RFC 8017, appendix A.1.2), without their leading zeros.
    fn integers(der: &[u8]) -> Vec<String> {
        fn length(der: &[u8]) -> (usize, &[u8]) {
            match der[0] {
                short @ 0..0x80 => (short.into(), &der[1..]),
                long => {
                    let (bytes, rest) = der[1..].split_at(usize::from(long & 0x7f));
                    let value = bytes
                        .iter()
                        .fold(0, |all, byte| all * 256 + usize::from(*byte));
                    (value, rest)
                }
            }
        }
        let (_, mut rest) = length(&der[1..]);
        let mut all = Vec::new();
        while !rest.is_empty() {
            let (size, after) = length(&rest[1..]);
            let (integer, after) = after.split_at(size);
            let zeros = integer.iter().take_while(|byte| **byte == 0).count();
            all.push(encoded(&integer[zeros..]));
            rest = after;
        }
        all
    }

    fn rsa_jwk() -> Value {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pkcs8 = der.as_ref();
        // The octet string after version and algorithm is the key itself (RFC 5208 §5).
        let n = integers(&pkcs8[26..]);
        json!({
            "kty": "RSA", "kid": "one", "n": n[1], "e": n[2], "d": n[3], "p": n[4], "q": n[5],
            "dp": n[6], "dq": n[7], "qi": n[8],
        })
    }

    fn ec_jwk() -> Value {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let private = pair.private_key();
        let secret = private.as_be_bytes().unwrap();
        let point = pair.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..]),
            "d": encoded(secret.as_ref()),
        })
    }

    fn ed_jwk() -> Value {
        let pair = Ed25519KeyPair::generate().unwrap();
        let seed = pair.seed().unwrap();
        let secret = seed.as_be_bytes().unwrap();
        json!({
            "kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key().as_ref()),
            "d": encoded(secret.as_ref()),
        })
    }

    fn of_jwk(jwk: &Value, algorithm: Option<SigningAlgorithm>) -> Result<Signer, &'static str> {
        signer(&serde_json::from_value(jwk.clone()).unwrap(), algorithm)
    }

    fn check(signer: &Signer, algorithm: &str, verifies: impl Fn(&Jws<'_>) -> bool) {
        let host = FakeHost::default();
        let endpoint = "https://idp.example/token";
        let one = sign(signer, "client", endpoint, &host).unwrap();
        let two = sign(signer, "client", endpoint, &host).unwrap();
        let (one, two) = (
            Jws::parse(&one, one.len()).unwrap(),
            Jws::parse(&two, two.len()).unwrap(),
        );
        assert!(verifies(&one), "{algorithm}");
        assert_eq!(format!("{:?}", one.header.algorithm), algorithm);
        for (name, value) in [
            ("iss", json!("client")),
            ("sub", json!("client")),
            ("aud", json!(endpoint)),
            ("iat", json!(START.as_secs())),
            ("exp", json!(START.as_secs() + 60)),
        ] {
            assert_eq!(one.claims[name], value, "{name}");
        }
        assert_ne!(one.claims["jti"], two.claims["jti"]);
    }

    #[test]
    fn assertions_verify_by_the_public_half_of_each_kind_of_key() {
        let by = |jwk: &Value| {
            let key = PublicKey::read(jwk).unwrap();
            move |token: &Jws<'_>| token.signed_by(&key)
        };
        let jwk = rsa_jwk();
        check(&of_jwk(&jwk, None).unwrap(), "RS256", by(&jwk));
        let pss = of_jwk(&jwk, Some(SigningAlgorithm::PS384)).unwrap();
        check(&pss, "PS384", by(&jwk));
        assert!(pss.signs_by(SigningAlgorithm::PS384));
        let jwk = ec_jwk();
        check(&of_jwk(&jwk, None).unwrap(), "ES256", by(&jwk));
        let jwk = ed_jwk();
        check(&of_jwk(&jwk, None).unwrap(), "EdDSA", by(&jwk));
        let with = |token: &Jws<'_>| token.signed_with("secret");
        check(&Signer::of_secret("secret", None), "HS256", with);
        let longer = Signer::of_secret("secret", Some(SigningAlgorithm::HS512));
        check(&longer, "HS512", with);
    }

    #[test]
    fn a_key_that_cannot_sign_is_refused_with_a_reason() {
        let refused = |jwk: &Value, algorithm| {
            let problem = of_jwk(jwk, algorithm).unwrap_err();
            assert!(!problem.is_empty());
        };
        let rsa = rsa_jwk();
        refused(&rsa, Some(SigningAlgorithm::ES256));
        refused(&rsa, Some(SigningAlgorithm::HS256));
        refused(&json!({ "kty": "oct", "k": "c2VjcmV0" }), None);
        refused(&json!({}), None);
        for member in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
            let mut broken = rsa.clone();
            broken[member] = Value::Null;
            refused(&broken, None);
            broken[member] = "!".into();
            refused(&broken, None);
        }
        let mut mixed = ec_jwk();
        mixed["d"] = ec_jwk()["d"].clone();
        refused(&mixed, None);
        refused(&ec_jwk(), Some(SigningAlgorithm::ES384));
        let mut mixed = ed_jwk();
        mixed["x"] = ed_jwk()["x"].clone();
        refused(&mixed, None);
    }
}
