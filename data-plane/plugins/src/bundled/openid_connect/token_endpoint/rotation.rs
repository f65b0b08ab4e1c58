//! Two secrets of one client, while one takes the other's place at the provider, or the cluster's keys and those before
//! them, which a provider may know longer than they are published: what was accepted last is tried first, the
//! others when the provider does not accept that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Response, StatusCode};
use shared::clock::UnixTime;
use tracing::{info, warn};

use super::answer::refusal;
use super::discovered::algorithm;
use super::{Caller, Post, discovered, post_once};
use crate::bundled::openid_connect::assertion::Signer;
use crate::bundled::openid_connect::client_keys::ClientKeys;
use crate::bundled::openid_connect::config::ClientAuth;
use crate::bundled::openid_connect::provider::{self, Document, ProviderError};
use crate::bundled::openid_connect::rules::Rules;
use crate::host::Host;

/// Most clients that a node remembers.
const MOST: usize = 10_000;

/// The other secret of a client.
#[derive(Clone, Copy)]
pub(in crate::bundled::openid_connect) struct Spare<'a> {
    pub(super) secret: &'a str,
    pub(super) signer: &'a Signer,
}

/// The clients of a node whose provider has accepted something else last than what comes first: the place of that among
/// what each can prove itself by.
#[derive(Debug, Default)]
pub(in crate::bundled::openid_connect) struct Exchanged(Mutex<HashMap<(u64, usize), usize>>);

impl Exchanged {
    /// Whether that is so of the client at position `client`.
    pub(in crate::bundled::openid_connect) fn has(&self, rules: &Rules, client: usize) -> bool {
        self.last(rules, client) > 0
    }

    fn last(&self, rules: &Rules, client: usize) -> usize {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&(rules.compilation, client))
            .copied()
            .unwrap_or_default()
    }

    fn note(&self, rules: &Rules, client: usize, place: usize) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if place > 0 {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert((rules.compilation, client), place);
        } else {
            known.remove(&(rules.compilation, client));
        }
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
    let announced = document.supported.token_auth_algorithms.as_deref();
    let caller = Caller {
        algorithm: caller.algorithm.or_else(|| algorithm(announced)),
        ..caller
    };
    let keys = host.client_keys();
    let others = others(document, caller, &keys, host.now());
    let Some(position) = caller.position.filter(|_| !others.is_empty()) else {
        return post_once(rules, document, caller, host, form).await;
    };
    let exchanged = host.node_state::<Exchanged>();
    let last = exchanged.last(rules, position);
    let mut ways: Vec<_> = std::iter::once(caller).chain(others).enumerate().collect();
    // The others stay in their order.
    ways.sort_by_key(|(place, _)| *place != last);
    let mut refusal = None;
    for (place, caller) in ways {
        let response = post_once(rules, document, caller, host, form.clone()).await?;
        if refuses_client(&response) {
            refusal = Some(response);
            continue;
        }
        if refusal.is_some() {
            exchanged.note(rules, position, place);
            tell(rules, caller, place);
        }
        return Ok(response);
    }
    refusal.ok_or(ProviderError::Unusable("a client proves itself by nothing"))
}

/// Logs what the provider accepts of a client after it has refused something else.
fn tell(rules: &Rules, caller: Caller<'_>, place: usize) {
    let (issuer, client) = (&rules.issuer, caller.id);
    match (place, caller.spare.is_some()) {
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

/// The client with each thing else that it can prove itself by: its other secret, or the keys before, the newest first.
fn others<'a>(
    document: &Document,
    caller: Caller<'a>,
    keys: &'a ClientKeys,
    now: UnixTime,
) -> Vec<Caller<'a>> {
    let offered = document.token_auth_methods.as_deref();
    match caller.auth.unwrap_or_else(|| discovered(offered, caller)) {
        ClientAuth::ClientSecretBasic
        | ClientAuth::ClientSecretPost
        | ClientAuth::ClientSecretJwt => {
            let with = |spare: Spare<'a>| Caller {
                secret: Some(spare.secret),
                secret_signer: Some(spare.signer),
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

/// Whether the provider does not accept the client (RFC 6749 §5.2).
fn refuses_client(response: &Response<Bytes>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
        || (response.status() == StatusCode::BAD_REQUEST
            && refusal(response.body()) == "invalid_client")
}
