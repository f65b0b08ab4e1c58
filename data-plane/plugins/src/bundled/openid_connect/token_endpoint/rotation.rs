//! Two secrets of one client, while one takes the other's place at the provider, or the cluster's keys and those before
//! them, which a provider may know longer than they are published: the one that was accepted last is tried first, the
//! other when the provider does not accept that.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Response, StatusCode};
use shared::clock::UnixTime;
use tracing::{info, warn};

use super::answer::refusal;
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

/// The clients of a node whose provider has accepted the other secret last, or the key before.
#[derive(Debug, Default)]
pub(in crate::bundled::openid_connect) struct Exchanged(Mutex<HashSet<(u64, usize)>>);

impl Exchanged {
    /// Whether that is so of the client at position `client`.
    pub(in crate::bundled::openid_connect) fn has(&self, rules: &Rules, client: usize) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&(rules.compilation, client))
    }

    fn note(&self, rules: &Rules, client: usize, spare: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert((rules.compilation, client));
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

/// Posts a form as the client (RFC 6749 §2.3), with its other secret or key if the provider does not accept the one.
pub(in crate::bundled::openid_connect) async fn post(
    rules: &Rules,
    document: &Document,
    caller: Caller<'_>,
    host: &impl Host,
    form: Post<'_>,
) -> Result<Response<Bytes>, ProviderError> {
    let keys = host.client_keys();
    let Some((position, other)) = other(document, caller, &keys, host.now()) else {
        return post_once(rules, document, caller, host, form).await;
    };
    let exchanged = host.node_state::<Exchanged>();
    let other_first = exchanged.has(rules, position);
    let with = |other_now: bool| if other_now { other } else { caller };
    let again = form.clone();
    let first = post_once(rules, document, with(other_first), host, form).await?;
    if !refuses_client(&first) {
        return Ok(first);
    }
    let second = post_once(rules, document, with(!other_first), host, again).await?;
    if !refuses_client(&second) {
        exchanged.note(rules, position, !other_first);
        let (issuer, client) = (&rules.issuer, caller.id);
        match (other_first, caller.spare.is_some()) {
            (true, _) => info!(
                issuer,
                client, "the provider accepts what the client is to prove itself by again"
            ),
            (false, true) => warn!(
                issuer,
                client,
                "the provider accepts client_secret_alternate and no longer client_secret: let it take its place"
            ),
            (false, false) => warn!(
                issuer,
                client,
                "the provider does not know the new keys of /openid-connect/jwks yet: those before are shown"
            ),
        }
    }
    Ok(second)
}

/// The client with what else it can prove itself by, and its position.
fn other<'a>(
    document: &Document,
    mut caller: Caller<'a>,
    keys: &'a ClientKeys,
    now: UnixTime,
) -> Option<(usize, Caller<'a>)> {
    let offered = document.token_auth_methods.as_deref();
    match caller.auth.unwrap_or_else(|| discovered(offered, caller)) {
        ClientAuth::ClientSecretBasic
        | ClientAuth::ClientSecretPost
        | ClientAuth::ClientSecretJwt => {
            let spare = caller.spare?;
            caller.secret = Some(spare.secret);
            caller.secret_signer = Some(spare.signer);
        }
        ClientAuth::PrivateKeyJwt if caller.key_signer.is_none() => {
            caller.key_signer = Some(keys.retired_signer(caller.algorithm, now)?);
        }
        _ => return None,
    }
    Some((caller.position?, caller))
}

/// Whether the provider does not accept the client (RFC 6749 §5.2).
fn refuses_client(response: &Response<Bytes>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
        || (response.status() == StatusCode::BAD_REQUEST
            && refusal(response.body()) == "invalid_client")
}
