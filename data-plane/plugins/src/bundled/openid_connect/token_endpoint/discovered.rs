//! How a client authenticates for which nothing is configured.

use super::Caller;
use crate::bundled::openid_connect::config::{ClientAuth, SigningAlgorithm};

/// What `offered`, by discovery, the client can, preferring the default of RFC 8414 §2: a secret is shown only where the
/// provider takes it, unless it takes nothing that the client has. Then it is asked by that default all the same: what
/// discovery lists may be less than it takes. Without a secret the client only says its name, unless the provider takes
/// neither secrets nor clients without one: then it signs with the cluster's keys, if they may speak for it.
pub(in crate::bundled::openid_connect) fn discovered(
    offered: Option<&[String]>,
    caller: Caller<'_>,
) -> ClientAuth {
    let offers = |name: &str| offered.is_some_and(|offered| offered.iter().any(|one| one == name));
    let has_secret = caller.secret.is_some();
    let known = [
        (
            "client_secret_basic",
            ClientAuth::ClientSecretBasic,
            has_secret,
        ),
        (
            "client_secret_post",
            ClientAuth::ClientSecretPost,
            has_secret,
        ),
        ("client_secret_jwt", ClientAuth::ClientSecretJwt, has_secret),
        (
            "private_key_jwt",
            ClientAuth::PrivateKeyJwt,
            caller.key_signer.is_some(),
        ),
    ];
    let mut usable = known
        .into_iter()
        .filter(|(name, _, able)| *able && offers(name));
    if let Some((_, auth, _)) = usable.next() {
        return auth;
    }
    let knows_others = [
        "client_secret_basic",
        "client_secret_post",
        "client_secret_jwt",
        "none",
    ];
    let leaves_keys = offers("private_key_jwt") && !knows_others.into_iter().any(offers);
    if leaves_keys && caller.position.is_some() && !has_secret {
        return ClientAuth::PrivateKeyJwt;
    }
    ClientAuth::ClientSecretBasic
}

/// What the assertions of a client are signed by for which no algorithm is configured: by RS256 or, with its secret, by HS256
/// (Kong 3.9, `client_alg`), unless the provider says that it takes others only (RFC 8414 §2): then by the first of them.
pub(in crate::bundled::openid_connect) fn algorithm(
    announced: Option<&[String]>,
    auth: ClientAuth,
) -> Option<SigningAlgorithm> {
    let by_secret = auth == ClientAuth::ClientSecretJwt;
    let default = if by_secret {
        SigningAlgorithm::HS256
    } else {
        SigningAlgorithm::RS256
    };
    let known = announced.unwrap_or_default().iter().filter_map(|name| {
        let algorithm: SigningAlgorithm = serde_json::from_value(name.as_str().into()).ok()?;
        Some(algorithm).filter(|algorithm| algorithm.is_symmetric() == by_secret)
    });
    let known: Vec<_> = known.collect();
    let first = known.first().copied();
    first.filter(|_| !known.contains(&default))
}
