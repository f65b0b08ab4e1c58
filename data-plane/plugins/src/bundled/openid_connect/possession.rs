//! Proof of possession: tokens that are good only with the certificate (RFC 8705 §3) or the key (DPoP,
//! RFC 9449) of the client that they were given to.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::digest::sha256;
use shared::types::patterns::decode_unreserved;
use subtle::ConstantTimeEq;
use url::Url;

use super::config::{AuthMethod, OpenidConnect, ProofOfPossession};
use super::failure::Failure;
use super::jws::{self, Claims, Jws};
use super::key::PublicKey;
use super::opened;
use super::rules::Rules;
use super::session::Session;
use super::sign_in;
use super::used_proofs::UsedProofs;
use crate::exchange::Exchange;
use crate::host::Host;
use crate::sessions::seal::{self, Sizes};

/// The header of a proof.
const PROOF: HeaderName = HeaderName::from_static("dpop");

/// The header of a nonce for the next proof.
const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Longest proof, in bytes.
const LONGEST: usize = 8 * 1024;

/// How far a client's clock may be ahead in any case.
const AHEAD: Duration = Duration::from_secs(5);

/// Members of a JWK that are nobody's but its owner's.
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];

/// What a nonce is sealed as. No cookie has such a name.
const NONCE_NAME: &str = "=dpop";

/// A nonce is as long as it is.
const NONCE_SIZES: Sizes = Sizes {
    chunk: 256,
    most: 1,
};

/// The algorithms of proofs, as challenges tell them.
pub(super) const ALGORITHMS: &str = "ES256 ES384 ES512 EdDSA PS256 PS384 PS512 RS256 RS384 RS512";

/// How a token was presented.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Presented {
    /// With the request.
    Token,
    /// Earlier; the session remembers it.
    Session,
}

/// Which proofs a configuration wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    certificate: ProofOfPossession,
    pub(super) key: ProofOfPossession,
}

impl Wanted {
    pub(super) fn new(config: &OpenidConnect) -> Self {
        Self {
            certificate: config.credentials.proof_of_possession_mtls,
            key: config.credentials.proof_of_possession_dpop,
        }
    }

    /// Whether anything is looked at.
    pub(super) fn any(self) -> bool {
        self.certificate() || self.key()
    }

    /// Whether certificates of clients are looked at.
    pub(super) fn certificate(self) -> bool {
        self.certificate != ProofOfPossession::Off
    }

    /// Whether proofs of keys are looked at.
    pub(super) fn key(self) -> bool {
        self.key != ProofOfPossession::Off
    }
}

/// The methods whose tokens can be bound (Kong 3.9, `proof_of_possession_auth_methods_validation`).
pub(super) const METHODS: [AuthMethod; 3] = [
    AuthMethod::Bearer,
    AuthMethod::Introspection,
    AuthMethod::Session,
];

/// Whether a session, begun here or at another plugin that shares it, can stand where each request has to prove
/// possession: what it was begun with is bound as strictly as that, or by a method of this plugin's own that needs no
/// proof (Kong 3.9, `proof_of_possession_auth_methods_validation`).
pub(super) fn is_enough(rules: &Rules, session: &Session) -> bool {
    let wanted = rules.possession;
    let strict = |proof: ProofOfPossession| proof == ProofOfPossession::Strict;
    if !strict(wanted.certificate) && !strict(wanted.key) {
        return true;
    }
    if !is_bindable(session.method) {
        let methods = &rules.config.credentials.auth_methods;
        return methods.contains(&session.method);
    }
    let [certificate, key] = bound_to(rules, session);
    (!strict(wanted.certificate) || certificate.is_some()) && (!strict(wanted.key) || key.is_some())
}

/// Whether tokens that are known by `method` may be bound.
fn is_bindable(method: AuthMethod) -> bool {
    matches!(method, AuthMethod::Bearer | AuthMethod::Introspection)
}

/// The thumbprints of the certificate and of the key that the access token of `session` is bound to. What is bound in a way
/// that nobody can read is bound to something that nobody can show (RFC 7800 §3.1).
fn bound_to(rules: &Rules, session: &Session) -> [Option<String>; 2] {
    let (access, _) = opened::claims_of(rules, session);
    let claims = session.introspection.as_ref().or(access.as_ref());
    let cnf = claims.and_then(|claims| claims.get("cnf"));
    let cnf = cnf.filter(|cnf| !cnf.is_null());
    ["x5t#S256", "jkt"].map(|name| {
        let value = match cnf? {
            Value::Object(members) => members.get(name).filter(|value| !value.is_null())?,
            unreadable => unreadable,
        };
        let thumbprint = value.as_str().filter(|_| cnf.is_some_and(Value::is_object));
        Some(thumbprint.unwrap_or_default().to_owned())
    })
}

/// Checks that who presents the tokens of `session` is who they were given to.
///
/// # Errors
///
/// If they are not bound although they have to be, or to somebody else.
pub(super) async fn check(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    session: &Session,
    presented: Presented,
) -> Result<(), Failure> {
    let wanted = rules.possession;
    if !wanted.any() || !is_bindable(session.method) {
        return Ok(());
    }
    let [certificate, key] = bound_to(rules, session);
    if wanted.certificate() {
        check_certificate(wanted.certificate, exchange, certificate.as_deref())?;
    }
    if wanted.key() {
        let scheme = scheme_is_dpop(exchange);
        if key.is_none() {
            if wanted.key == ProofOfPossession::Strict {
                return Err(refused("the access token is not bound to a key"));
            }
            if presented == Presented::Token && scheme {
                return Err(refused("a token that is bound to no key was sent as DPoP"));
            }
            return Ok(());
        }
        if presented == Presented::Token && !scheme {
            let mut failure = refused("a token that is bound to a key was sent without proof");
            failure.error = Some("invalid_token");
            return Err(failure);
        }
        let (token, key) = (&session.access_token, key.unwrap_or_default());
        let (proof, until) = check_proof(rules, exchange, host, token, &key)?;
        note_use(rules, host, proof, until).await?;
        accept(exchange, &session.access_token);
    }
    Ok(())
}

fn check_certificate(
    wanted: ProofOfPossession,
    exchange: &Exchange<'_>,
    bound: Option<&str>,
) -> Result<(), Failure> {
    let refuse = |detail: &'static str| Err(Failure::refused("mtls_binding", detail));
    let Some(bound) = bound else {
        if wanted == ProofOfPossession::Strict {
            return refuse("the access token is not bound to a certificate");
        }
        return Ok(());
    };
    let Some(thumbprint) = exchange.client.certificate else {
        return refuse("the client presented no certificate");
    };
    let found = URL_SAFE_NO_PAD.encode(thumbprint);
    if bool::from(found.as_bytes().ct_eq(bound.as_bytes())) {
        return Ok(());
    }
    refuse("the access token is bound to another certificate")
}

fn refused(detail: &'static str) -> Failure {
    let mut failure = Failure::refused("dpop_proof", detail);
    failure.error = Some("invalid_dpop_proof");
    failure
}

fn scheme_is_dpop(exchange: &Exchange<'_>) -> bool {
    let value = exchange.request.headers.get(AUTHORIZATION);
    let scheme = value.and_then(|value| value.to_str().ok()?.split_once(' '));
    scheme.is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("dpop"))
}

/// The checks of RFC 9449 §4.3 but for the last: whether the proof was used before. Answers what names it, and when it
/// ends.
fn check_proof(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    token: &str,
    bound: &str,
) -> Result<([u8; 32], UnixTime), Failure> {
    let mut proofs = exchange.request.headers.get_all(PROOF).iter();
    let proof = proofs.next().and_then(|proof| proof.to_str().ok());
    let Some(proof) = proof.map(str::to_owned) else {
        return Err(refused("there is no DPoP proof"));
    };
    if proofs.next().is_some() {
        return Err(refused("there is more than one DPoP proof"));
    }
    let parsed = Jws::parse(&proof, LONGEST).map_err(|_| refused("the DPoP proof is no JWT"))?;
    if parsed.header.kind().as_deref() != Some("dpop+jwt") {
        return Err(refused("the DPoP proof is a JWT of another kind"));
    }
    let jwk = parsed.header.jwk.as_ref();
    let jwk = jwk.ok_or_else(|| refused("the DPoP proof shows no key"))?;
    if PRIVATE.iter().any(|name| jwk.get(name).is_some()) {
        return Err(refused("the DPoP proof shows a private key"));
    }
    let key = PublicKey::read(jwk).ok_or_else(|| refused("the key of the DPoP proof is none"))?;
    if !parsed.signed_by(&key) {
        return Err(refused("the signature of the DPoP proof is not valid"));
    }
    let thumbprint = thumbprint(jwk);
    let thumbprint = thumbprint.ok_or_else(|| refused("the key of the DPoP proof is none"))?;
    if !bool::from(thumbprint.as_bytes().ct_eq(bound.as_bytes())) {
        return Err(refused("the access token is bound to another key"));
    }
    let claims = &parsed.claims;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("htm") != exchange.request.method.as_str() {
        return Err(refused("the DPoP proof is for another method"));
    }
    if !same_target(text("htu"), &sign_in::own_url(exchange)) {
        return Err(refused("the DPoP proof is for another URL"));
    }
    let hash = URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()));
    if !bool::from(hash.as_bytes().ct_eq(text("ath").as_bytes())) {
        return Err(refused("the DPoP proof is for another token"));
    }
    let now = host.now();
    let until = check_time(rules, exchange, host, claims, now)?;
    let id = text("jti");
    if id.is_empty() || id.len() > 255 {
        return Err(refused("the DPoP proof has no jti"));
    }
    let mut name = thumbprint.into_bytes();
    name.push(b' ');
    name.extend_from_slice(id.as_bytes());
    Ok((sha256(&name), until))
}

/// Notes that a proof is used: on this node, and where the nodes of a cluster share what they know, for all of them.
async fn note_use(
    rules: &Rules,
    host: &impl Host,
    proof: [u8; 32],
    until: UnixTime,
) -> Result<(), Failure> {
    let now = host.now();
    if !host.node_state::<UsedProofs>().note(proof, until, now) {
        return Err(refused("the DPoP proof was used before"));
    }
    let Some(shared) = &rules.shared_answers else {
        return Ok(());
    };
    match shared
        .use_once(host, &proof, until.saturating_since(now))
        .await
    {
        Some(true) => Ok(()),
        Some(false) => Err(refused("the DPoP proof was used before, on another node")),
        // Nobody can say, so it does not pass.
        None => Err(Failure::paused(
            "dpop_proof_store",
            "The gateway cannot tell now whether a proof was used before",
            "nobody can say whether the DPoP proof was used before",
        )),
    }
}

/// Checks when a proof was made: by its own word, or by the nonce that it repeats. Answers when it
/// ends.
fn check_time(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    claims: &Claims,
    now: UnixTime,
) -> Result<UnixTime, Failure> {
    let credentials = &rules.config.credentials;
    let lifetime = credentials.dpop_proof_lifetime.seconds();
    let leeway = credentials.leeway.seconds();
    if !jws::unexpired(claims, now, leeway) {
        return Err(refused("the DPoP proof has expired"));
    }
    if !jws::begun(claims, "nbf", now, leeway.max(AHEAD)) {
        return Err(refused("the DPoP proof is not valid yet"));
    }
    let made_at = jws::time(claims, "iat").ok().flatten();
    let made_at = made_at.ok_or_else(|| refused("the DPoP proof does not say when it was made"))?;
    let dated_at = if credentials.dpop_use_nonce {
        let nonce = claims.get("nonce").and_then(Value::as_str);
        let dated = nonce.and_then(|nonce| read_nonce(rules, exchange, nonce, now));
        let fresh = dated.filter(|at| now < at.saturating_add(lifetime));
        let Some(at) = fresh else {
            hand_out_nonce(rules, exchange, host);
            let mut failure = refused("the DPoP proof has no nonce that is still good");
            failure.error = Some("use_dpop_nonce");
            return Err(failure);
        };
        at
    } else {
        if made_at > now.saturating_add(leeway.max(AHEAD)) {
            return Err(refused("the DPoP proof is of the future"));
        }
        made_at
    };
    let until = dated_at.saturating_add(lifetime).saturating_add(leeway);
    if now >= until {
        return Err(refused("the DPoP proof is too old"));
    }
    Ok(until)
}

/// Sends a nonce along that the next proof is to repeat. It is sealed, so that every node knows it.
fn hand_out_nonce(rules: &Rules, exchange: &mut Exchange<'_>, host: &impl Host) {
    let now = host.now().as_secs();
    let mut drawn = [0; 12];
    host.random(&mut drawn);
    let ring = &exchange.environment.session_keys;
    let text = now.to_be_bytes();
    let sealed = seal::seal(
        ring,
        &rules.binding,
        NONCE_NAME,
        &text,
        NONCE_SIZES,
        now,
        drawn,
    );
    let nonce = sealed
        .ok()
        .and_then(|nonce| HeaderValue::try_from(nonce).ok());
    if let Some(nonce) = nonce {
        exchange.response_headers.push((NONCE, nonce));
    }
}

/// When a nonce was handed out, if it is one of ours.
fn read_nonce(
    rules: &Rules,
    exchange: &Exchange<'_>,
    nonce: &str,
    now: UnixTime,
) -> Option<UnixTime> {
    if nonce.len() > NONCE_SIZES.chunk {
        return None;
    }
    let ring = &exchange.environment.session_keys;
    let opened = seal::open(ring, &rules.binding, NONCE_NAME, nonce, now.as_secs())?;
    let seconds = u64::from_be_bytes(*opened.plaintext.first_chunk()?);
    Some(UnixTime::from_secs(seconds))
}

/// The upstream sees a bearer token, and no proof that it could use elsewhere.
fn accept(exchange: &mut Exchange<'_>, token: &str) {
    let dpop = scheme_is_dpop(exchange);
    let headers = &mut exchange.request.headers;
    headers.remove(PROOF);
    if dpop && let Ok(mut value) = HeaderValue::try_from(format!("Bearer {token}")) {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
}

/// Whether two URLs name the same target, without query and fragment (RFC 9449 §4.3), once they are normalised (RFC 3986
/// §6.2.2, §6.2.3).
fn same_target(said: &str, own: &str) -> bool {
    let plain = |text: &str| {
        let mut url = Url::parse(text).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        let path = decode_unreserved(url.path());
        url.set_path(&path);
        Some(url)
    };
    plain(said).is_some_and(|said| plain(own) == Some(said))
}

/// The thumbprint of a public key: SHA-256 of its required members in their order (RFC 7638).
pub(super) fn thumbprint(jwk: &Value) -> Option<String> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let canonical = match text("kty")? {
        "RSA" => json!({ "e": text("e")?, "kty": "RSA", "n": text("n")? }),
        "EC" => json!({
            "crv": text("crv")?, "kty": "EC", "x": text("x")?, "y": text("y")?,
        }),
        "OKP" => json!({ "crv": text("crv")?, "kty": "OKP", "x": text("x")? }),
        _ => return None,
    };
    Some(URL_SAFE_NO_PAD.encode(sha256(canonical.to_string().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        // RFC 7638 §3.1.
        let jwk = json!({
            "kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        });
        assert_eq!(
            thumbprint(&jwk).unwrap(),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
        assert_eq!(thumbprint(&json!({ "kty": "oct", "k": "c2VjcmV0" })), None);
    }
    #[test]
    fn rule_52_a_target_is_the_same_however_its_path_is_written() {
        let check = |said: &str, own: &str, same: bool| {
            let [said, own] = [said, own].map(|path| format!("http://s.test{path}"));
            assert_eq!(same_target(&said, &own), same, "{said} {own}");
        };
        check("/a~b", "/a%7eb", true);
        check("/a%7Eb", "/a%7eb", true);
        check("/%C3%BC", "/%c3%bc", true);
        check("/ü", "/%c3%bc", true);
        check("/a%2Fb", "/a%2fb", true);
        check("/p", "/%70", true);
        check("/x/../p?q#f", "/p", true);
        check("/a/b", "/a%2fb", false);
        check("/a%25b", "/a%b", false);
        check("/P", "/p", false);
        check("/p/", "/p", false);
    }
}
