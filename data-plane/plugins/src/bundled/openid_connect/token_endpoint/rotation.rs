//! Two secrets of one client, while one takes the other's place at the provider, or the cluster's keys and those before
//! them, which a provider may know longer than they are published; and whom its assertions are for, on which providers do
//! not agree: what was accepted last is tried first, the others when the provider does not accept that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Response, StatusCode};
use shared::clock::UnixTime;
use tracing::{info, warn};
use url::Url;

use super::answer::{is_named, refusal};
use super::client::post_once;
use super::discovered::algorithm;
use super::{Caller, Endpoint, Post, discovered};
use crate::bundled::openid_connect::assertion::Audience;
use crate::bundled::openid_connect::config::ClientAuth;
use crate::bundled::openid_connect::provider::{self, Document, ProviderError};
use crate::bundled::openid_connect::rules::Rules;
use crate::client_keys::ClientKeys;
use crate::host::Host;

/// Most clients that a node remembers.
const MOST: usize = 10_000;

/// In the place of the position of those that are configured: clients that bring their secrets. Whom assertions are for is the
/// provider's affair, the same for all of them.
const BROUGHT: usize = usize::MAX;

/// What a client proves itself by: the place of a secret or key among those that it has, and whom its assertions are for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Way {
    place: usize,
    audience: Audience,
}

/// The clients of a node whose provider has accepted another way last than the one that comes first.
#[derive(Debug, Default)]
pub(in crate::bundled::openid_connect) struct Exchanged(Mutex<HashMap<(u64, usize), Way>>);

impl Exchanged {
    /// Whether that is by another secret or key, of the client at position `client`.
    pub(in crate::bundled::openid_connect) fn has(&self, rules: &Rules, client: usize) -> bool {
        self.last(rules, client).place > 0
    }

    fn last(&self, rules: &Rules, client: usize) -> Way {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&(rules.compilation, client))
            .copied()
            .unwrap_or_default()
    }

    fn note(&self, rules: &Rules, client: usize, way: Way) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if way == Way::default() {
            known.remove(&(rules.compilation, client));
            return;
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert((rules.compilation, client), way);
    }
}

/// The same, unless the endpoint rests. The answer says that what was asked is done, or that what was sent is not taken.
pub(in crate::bundled::openid_connect) async fn post_guarded(
    rules: &Rules,
    document: &Document,
    caller: Caller<'_>,
    host: &impl Host,
    form: Post<'_>,
) -> Result<Response<Bytes>, ProviderError> {
    provider::guarded(rules, host, form.endpoint, async {
        let response = post(rules, document, caller, host, form).await?;
        let status = response.status();
        if status.is_success() || provider::refuses(status) {
            return Ok(response);
        }
        Err(ProviderError::Status(status.as_u16()))
    })
    .await
}

/// Posts a form as the client (RFC 6749 §2.3), with its other secret or keys if the provider does not accept the one.
pub(in crate::bundled::openid_connect) async fn post(
    rules: &Rules,
    document: &Document,
    caller: Caller<'_>,
    host: &impl Host,
    form: Post<'_>,
) -> Result<Response<Bytes>, ProviderError> {
    let offered = document.token_auth_methods.as_deref();
    let auth = caller.auth.unwrap_or_else(|| discovered(offered, caller));
    let announced = document.supported.token_auth_algorithms.as_deref();
    let caller = Caller {
        auth: Some(auth),
        algorithm: caller.algorithm.or_else(|| algorithm(announced, auth)),
        ..caller
    };
    let keys = host.client_keys();
    let mut ways = ways(auth, caller, &keys, host.now());
    if !is_of_issuer(rules, document, form.endpoint) {
        ways.retain(|(way, _)| way.audience == Audience::Endpoint);
    }
    if ways.len() < 2 {
        return post_once(rules, document, caller, host, form).await;
    }
    let position = caller.position.unwrap_or(BROUGHT);
    let exchanged = host.node_state::<Exchanged>();
    let last = exchanged.last(rules, position);
    // The others stay in their order.
    ways.sort_by_key(|(way, _)| (*way != last, way.audience != last.audience));
    let (mut refusal, mut is_named_so) = (None, false);
    for (way, caller) in ways {
        // Who refuses an assertion says whom it refuses; what serves once is not sent again for less.
        if refusal.is_some() && way.audience != last.audience && !is_named_so {
            continue;
        }
        let response = post_once(rules, document, caller, host, form.clone()).await?;
        if refuses_client(&response) {
            is_named_so |= names_client(&response);
            refusal = Some(response);
            continue;
        }
        if refusal.is_some() && accepts_client(&response) {
            exchanged.note(rules, position, way);
            tell(rules, caller, last, way);
        }
        return Ok(response);
    }
    refusal.ok_or(ProviderError::Unusable("a client proves itself by nothing"))
}

/// Logs what the provider accepts of a client after it has refused what it accepted `last`.
fn tell(rules: &Rules, caller: Caller<'_>, last: Way, way: Way) {
    let (issuer, client) = (&rules.issuer, caller.id);
    if way.place == last.place {
        info!(issuer, client, audience = ?way.audience, "the provider takes assertions for another audience");
        return;
    }
    match (way.place, caller.spare.is_some()) {
        (0, _) => info!(
            issuer,
            client, "the provider accepts what the client is to prove itself by again"
        ),
        (_, true) => warn!(
            issuer,
            client,
            "the provider accepts client_secret_alternate and no longer client_secret: let it take its place"
        ),
        (_, false) => warn!(
            issuer,
            client,
            "the provider does not know the new keys of /openid-connect/jwks yet: those before are shown"
        ),
    }
}

/// The client with each thing that it can prove itself by.
fn ways<'a>(
    auth: ClientAuth,
    caller: Caller<'a>,
    keys: &'a ClientKeys,
    now: UnixTime,
) -> Vec<(Way, Caller<'a>)> {
    let asserts = matches!(
        auth,
        ClientAuth::ClientSecretJwt | ClientAuth::PrivateKeyJwt
    );
    let mut all = Vec::new();
    for audience in [Audience::Endpoint, Audience::Issuer] {
        let proofs = std::iter::once(caller).chain(others(auth, caller, keys, now));
        if audience == Audience::Endpoint || asserts {
            all.extend(proofs.enumerate().map(|(place, caller)| {
                let way = Way { place, audience };
                (way, Caller { audience, ..caller })
            }));
        }
    }
    all
}

/// The client with each thing else that it can prove itself by: its other secret, or the keys before, the newest first.
fn others<'a>(
    auth: ClientAuth,
    caller: Caller<'a>,
    keys: &'a ClientKeys,
    now: UnixTime,
) -> Vec<Caller<'a>> {
    match auth {
        ClientAuth::ClientSecretBasic
        | ClientAuth::ClientSecretPost
        | ClientAuth::ClientSecretJwt => {
            let with = |secret| Caller {
                secret: Some(secret),
                ..caller
            };
            caller.spare.map(with).into_iter().collect()
        }
        ClientAuth::PrivateKeyJwt if caller.key_signer.is_none() => {
            let with = |signer| Caller {
                key_signer: Some(signer),
                ..caller
            };
            let retired = keys.retired_signers(caller.algorithm, now);
            retired.into_iter().map(with).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether `endpoint` is one of the configured issuer: that of somebody else could be our client there with an assertion for it.
fn is_of_issuer(rules: &Rules, document: &Document, endpoint: &str) -> bool {
    if rules.config.provider.using_pseudo_issuer
        || document.issuer.trim_end_matches('/') != rules.issuer
    {
        return false;
    }
    let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
    Endpoint::is_named(document, endpoint)
        || origin(endpoint).is_some_and(|found| Some(found) == origin(&rules.issuer))
}

/// Whether the provider does not accept the client (RFC 6749 §5.2), rather than what it brings. Keycloak says of a wrong
/// secret that the client is unauthorized.
fn refuses_client(response: &Response<Bytes>) -> bool {
    let code = refusal(response.body());
    names_client(response)
        || response.status() == StatusCode::UNAUTHORIZED
            && (code == "unauthorized_client" || !is_named(code))
}

/// Whether the provider has accepted the client, whatever it says to what that brings: what fails for now tells neither.
fn accepts_client(response: &Response<Bytes>) -> bool {
    let code = refusal(response.body());
    response.status().is_success() || is_named(code) && code != "invalid_client"
}

/// Whether it says so by the name that there is for it.
fn names_client(response: &Response<Bytes>) -> bool {
    let status = response.status();
    (status == StatusCode::UNAUTHORIZED || status == StatusCode::BAD_REQUEST)
        && refusal(response.body()) == "invalid_client"
}
