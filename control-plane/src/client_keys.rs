//! The keys that sign for `private_key_jwt` and signed requests where no `client_jwk` is configured: one for each
//! algorithm, made here before the write of the first `openid-connect` plugin is answered, sealed in the store like every
//! record: what a provider announces may call for them at any time. Providers read their public halves at
//! `/openid-connect/jwks`; nobody reads the private ones.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use plugins::client_keys::ClientKeys;
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::entity::{ClientKey, Entity, Plugin};
use shared::snapshot::{Key, Revision};
use shared::telemetry::chain;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::command::{Action, Body, Command, Selector};
use crate::config::{Config, Stored};
use crate::history::Origin;
use crate::publisher::{ExecuteError, Publisher};

/// What clients may sign by (Kong 3.9, `client_alg`), without the algorithms of secrets.
const ALGORITHMS: [&str; 10] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

/// What the record of a plugin says that may sign by them.
const PLUGIN: &str = r#""name":"openid-connect""#;

/// Time between a change and the look at what it needs: changes come in bursts.
const SETTLE: Duration = Duration::from_millis(100);

/// How soon it is tried again to make keys that the store did not take, at first and at last.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));

/// Makes keys as soon as there is a plugin that may sign by them, where no write has made them: in a store of a version that
/// did not, or after a rollback.
pub(crate) async fn follow(publisher: Publisher) {
    let mut revisions = publisher.watch();
    let mut retry = RETRY.0;
    loop {
        let looking = publisher.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let config = looking.config();
            if !none(&config) {
                return Ok(true);
            }
            if is_configured(&config) {
                return ensure(&looking, &Origin::system(), UnixTime::now()).map(|()| true);
            }
            Ok(false)
        });
        match looked.await {
            // They last: only an operator replaces them.
            Ok(Ok(true)) => return,
            Ok(Ok(false)) => {
                tokio::time::sleep(SETTLE).await;
                if revisions.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Ok(Err(error)) => tracing::error!(error = %chain(&error), "client keys not made"),
            Err(error) => tracing::error!(error = %chain(&error), "client keys not made"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY.1);
    }
}

/// The JWK set that providers read: public members only (RFC 7517 §5).
pub(crate) fn published(config: &Config) -> Value {
    let keys: Vec<Value> = keys(config)
        .filter(|key| key.retired_at.is_none())
        .filter_map(|key| serde_json::from_str(&key.public).ok())
        .collect();
    json!({ "keys": keys })
}

/// What signs by them, for a question that the control plane asks a provider itself.
pub(crate) fn signing(config: &Config) -> ClientKeys {
    let mut all = ClientKeys::default();
    for key in keys(config) {
        if let Err(problem) = all.add(&key) {
            tracing::error!(kid = %key.id, problem, "a client key cannot be used");
        }
    }
    all
}

/// Whether `record` may sign by them. Told from its text: without keys, all plugins are looked at with each change.
pub(crate) fn may_sign(key: Key, record: &Stored) -> bool {
    let text = str::from_utf8(record.json()).unwrap_or_default();
    key.kind == Plugin::KIND && text.contains(PLUGIN)
}

/// Makes keys if there is a plugin that may sign by them and there are none: whoever writes such a plugin finds them there
/// when that is answered. Answers the revision that has them, if they were made for it. Blocks on the store.
pub(crate) fn make_needed(publisher: &Publisher) -> Option<Revision> {
    let config = publisher.config();
    if !none(&config) || !is_configured(&config) {
        return None;
    }
    match ensure(publisher, &Origin::system(), UnixTime::now()) {
        Ok(()) => Some(publisher.config().revision()),
        Err(error) => {
            tracing::error!(error = %chain(&error), "client keys not made");
            None
        }
    }
}

/// Held by the one that makes keys: several may find at the same time that there are none, or which are to be replaced.
static MAKING: Mutex<()> = Mutex::new(());

/// Makes keys if there are none. Blocks on the store.
pub(crate) fn ensure(
    publisher: &Publisher,
    origin: &Origin,
    now: UnixTime,
) -> Result<(), ExecuteError> {
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !none(&publisher.config()) {
        return Ok(());
    }
    match make(publisher, origin, now, none) {
        // Another control plane was faster.
        Err(ExecuteError::Changed) => Ok(()),
        made => made,
    }
}

/// Makes new keys. Those from before are published no more, and sign where a provider does not know the new ones yet, as
/// do those from before these: it may have read the page before both were replaced. Older ones go. Blocks on the store.
pub(crate) fn rotate(
    publisher: &Publisher,
    origin: &Origin,
    now: UnixTime,
) -> Result<(), ExecuteError> {
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    make(publisher, origin, now, |_| true)
}

/// The same if it `holds` of the newest configuration that they are to be made.
fn make(
    publisher: &Publisher,
    origin: &Origin,
    now: UnixTime,
    holds: impl Fn(&Config) -> bool,
) -> Result<(), ExecuteError> {
    let command = |action| Command {
        entity: ClientKey::KIND,
        action,
        parents: Vec::new(),
    };
    // Side by side: to find primes takes a while, and somebody waits.
    let made = std::thread::scope(|scope| {
        let making = |algorithm| scope.spawn(move || generate(algorithm, Uuid::new_v4(), now));
        ALGORITHMS.map(making).map(|made| {
            let made = made.join().ok().and_then(Result::ok);
            made.expect("the system's random source makes keys")
        })
    });
    let made = made.into_iter();
    let mut commands: Vec<_> = made
        .map(|made| command(Action::Create(Body::Json(made))))
        .collect();
    let config = publisher.config();
    let newest = keys(&config).filter_map(|key| key.retired_at).max();
    // Later than all before, whatever the clock says: the order is how generations are told apart.
    let at = now.as_secs().max(newest.map_or(0, |newest| newest + 1));
    for key in keys(&config) {
        let selector = Selector::Id(key.id);
        if key.retired_at.is_none() {
            let mut patch = Map::new();
            patch.insert("retired_at".to_owned(), at.into());
            commands.push(command(Action::Patch(selector, Body::Json(patch))));
        } else if key.retired_at < newest {
            commands.push(command(Action::Delete(selector)));
        }
    }
    let command = command(Action::Several(commands));
    publisher.execute_if(origin, &command, now, holds, |_, _| Ok(()))?;
    Ok(())
}

/// Whether there is no key that signs.
fn none(config: &Config) -> bool {
    !keys(config).any(|key| key.retired_at.is_none())
}

/// Whether there is a plugin that may sign by them.
fn is_configured(config: &Config) -> bool {
    let mut plugins = config.keys(Plugin::KIND, Uuid::nil());
    plugins.any(|key| config.stored(key).is_some_and(|one| may_sign(key, one)))
}

fn keys(config: &Config) -> impl Iterator<Item = ClientKey> {
    config
        .collection(ClientKey::KIND, Uuid::nil())
        .filter_map(|(_, fields)| serde_json::from_value(Value::Object((*fields).clone())).ok())
}

/// A new key for `algorithm`, as a record.
fn generate(algorithm: &str, id: Uuid, now: UnixTime) -> Result<Map<String, Value>, Unspecified> {
    let curve = match algorithm {
        "ES256" => Some((&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")),
        "ES384" => Some((&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")),
        "ES512" => Some((&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521")),
        _ => None,
    };
    let random = SystemRandom::new();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (pkcs8, mut public) = if let Some((curve, name)) = curve {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &random)?;
        let pair = EcdsaKeyPair::from_pkcs8(curve, pkcs8.as_ref()).map_err(|_| Unspecified)?;
        let point = pair.public_key().as_ref();
        // One byte says that both coordinates follow (SEC 1 §2.3.3).
        let coordinates = point.get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        let public = json!({ "kty": "EC", "crv": name, "x": encode(x), "y": encode(y) });
        (Zeroizing::new(pkcs8.as_ref().to_vec()), public)
    } else if algorithm == "EdDSA" {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random)?;
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| Unspecified)?;
        let point = pair.public_key().as_ref();
        let public = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(point) });
        (Zeroizing::new(pkcs8.as_ref().to_vec()), public)
    } else {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der()?;
        let [n, e] = integers(pair.public_key().as_ref()).ok_or(Unspecified)?;
        let public = json!({ "kty": "RSA", "n": encode(n), "e": encode(e) });
        (Zeroizing::new(pkcs8.as_ref().to_vec()), public)
    };
    let members = public.as_object_mut().ok_or(Unspecified)?;
    members.insert("kid".to_owned(), id.to_string().into());
    members.insert("use".to_owned(), "sig".into());
    members.insert("alg".to_owned(), algorithm.into());
    let record = json!({
        "id": id,
        "algorithm": algorithm,
        "secret": STANDARD.encode(&*pkcs8),
        "public": public.to_string(),
        "created_at": now.as_secs(),
        "retired_at": null,
    });
    match record {
        Value::Object(fields) => Ok(fields),
        _ => Err(Unspecified),
    }
}

/// The two integers of an RSA public key in DER, without leading zeros (RFC 8017, appendix A.1.1).
fn integers(der: &[u8]) -> Option<[&[u8]; 2]> {
    /// What follows the tag and the length of the first value, and its length.
    fn enter(der: &[u8], tag: u8) -> Option<(usize, &[u8])> {
        let (found, rest) = der.split_first()?;
        let (first, rest) = rest.split_first()?;
        if *found != tag {
            return None;
        }
        if *first < 0x80 {
            return Some((usize::from(*first), rest));
        }
        let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = length
            .iter()
            .fold(0_usize, |all, byte| (all << 8) | usize::from(*byte));
        Some((length, rest))
    }
    fn integer(der: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = enter(der, 2)?;
        let (number, rest) = rest.split_at_checked(length)?;
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        Some((number.get(zeros..)?, rest))
    }
    let (_, rest) = enter(der, 0x30)?;
    let (n, rest) = integer(rest)?;
    let (e, _) = integer(rest)?;
    Some([n, e])
}

#[cfg(test)]
mod tests {
    use plugins::client_keys::ClientKeys;

    use super::*;

    #[test]
    fn every_algorithm_has_a_key_that_data_planes_take_and_whose_public_half_is_public() {
        let mut all = ClientKeys::default();
        for algorithm in ALGORITHMS {
            let record = generate(algorithm, Uuid::nil(), UnixTime::from_secs(1)).unwrap();
            let record: ClientKey = serde_json::from_value(Value::Object(record)).unwrap();
            all.add(&record).unwrap();
            let public: Value = serde_json::from_str(&record.public).unwrap();
            assert_eq!(public["alg"], algorithm);
            for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
                assert!(public.get(private).is_none(), "{algorithm} {private}");
            }
            if public["kty"] == "RSA" {
                let n = URL_SAFE_NO_PAD
                    .decode(public["n"].as_str().unwrap())
                    .unwrap();
                assert_eq!((n.len(), &public["e"]), (256, &json!("AQAB")));
            }
            assert!(!format!("{record:?}").contains(record.secret.expose()));
        }
    }
}
