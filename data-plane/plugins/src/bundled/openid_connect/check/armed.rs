//! Whether the gateway has the credentials that it is to authenticate itself with.

use super::Findings;
use crate::bundled::openid_connect::config::SigningAlgorithm;
use crate::bundled::openid_connect::rules::{Client, Rules};
use crate::client_keys::ClientKeys;

/// Tells a certificate that is not stored. No call to an endpoint where it would be presented comes to anything without.
pub(super) fn certificate(rules: &Rules, keys: &ClientKeys, findings: &mut Findings) {
    let Some(id) = rules.certificate else {
        return;
    };
    if !keys.certificates.contains_key(&id) {
        findings.fail(
            "tls_client_auth_cert_id",
            &format!("no certificate is stored with the id {id}"),
            "Store it with its key (POST /certificates), and set tls_client_auth_cert_id to its id.",
        );
    }
}

/// What is not there to sign authorization requests with.
pub(super) fn requests(rules: &Rules, keys: &ClientKeys, findings: &mut Findings) {
    let (name, clients) = ("client_key", rules.clients.iter());
    let unsigned: Vec<&Client> = clients
        .filter(|client| client.request_signer(keys).is_none())
        .collect();
    let by_secret = |client: &&Client| client.algorithm.is_some_and(SigningAlgorithm::is_symmetric);
    if unsigned.iter().any(by_secret) {
        findings.fail(
            name,
            "authorization requests have to be signed, and client_alg names an algorithm of secrets without client_secret",
            "Set client_secret, or another client_alg.",
        );
    } else if !unsigned.is_empty() {
        findings.warn(
            name,
            "authorization requests have to be signed, and no key is there yet",
            "Keys of the cluster are made once the plugin is saved: register /openid-connect/jwks at the provider then, and check again; or set client_jwk.",
        );
    }
}
