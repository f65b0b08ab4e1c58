//! How a client authenticates for which nothing is configured.

use super::Caller;
use crate::openid_connect::config::ClientAuth;
use crate::openid_connect::provider::Document;

/// What discovery offers that the client can, preferring the default of RFC 8414 §2. A provider that takes proofs only is
/// shown no secret.
pub(super) fn discovered(document: &Document, caller: Caller<'_>) -> ClientAuth {
    let offered = document.token_auth_methods.as_deref();
    let offers = |name: &str| offered.is_some_and(|offered| offered.iter().any(|one| one == name));
    let known = [
        ("client_secret_basic", ClientAuth::ClientSecretBasic, true),
        ("client_secret_post", ClientAuth::ClientSecretPost, true),
        (
            "client_secret_jwt",
            ClientAuth::ClientSecretJwt,
            caller.secret_signer.is_some(),
        ),
        (
            "private_key_jwt",
            ClientAuth::PrivateKeyJwt,
            caller.key_signer.is_some(),
        ),
    ];
    let mut usable = known
        .into_iter()
        .filter(|(name, _, able)| *able && offers(name));
    usable
        .next()
        .map_or(ClientAuth::ClientSecretBasic, |(_, auth, _)| auth)
}
