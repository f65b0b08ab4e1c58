//! The clients of a configuration, each with the settings that stand at its position.

use shared::schema::FieldErrors;
use shared::secret::Secret;

use super::Client;
use crate::bundled::openid_connect::assertion;
use crate::bundled::openid_connect::config::{ClientAuth, OpenidConnect};
use crate::client_keys::signer::Signer;

/// Reads them; there is always a first.
pub(super) fn read(config: &OpenidConnect, errors: &mut FieldErrors) -> Vec<Client> {
    let ids = config.client.client_id.as_deref().unwrap_or_default();
    // A certificate may be for one endpoint alone.
    let has_certificate = config.client.tls_client_auth_cert_id.is_some()
        && own_ways(config).iter().all(Option::is_none);
    (0..ids.len().max(1))
        .map(|position| {
            let client = &config.client;
            let algorithm = at(client.client_alg.as_deref(), position).copied();
            let key = at(client.client_jwk.as_deref(), position);
            let secret = at(client.client_secret.as_deref(), position);
            let spare = at(client.client_secret_alternate.as_deref(), position);
            let spare = spare.filter(|spare| !spare.expose().is_empty());
            let key_signer = key.and_then(|jwk| {
                assertion::signer(jwk, algorithm)
                    .map_err(|problem| errors.add(&["client_jwk"], problem))
                    .ok()
            });
            // Who has nothing but a certificate proves itself by it.
            let bare = has_certificate && secret.is_none() && key.is_none();
            let auth = at(client.client_auth.as_deref(), position).copied();
            let url = |list: &Option<Vec<String>>| at(list.as_deref(), position).cloned();
            Client {
                id: ids.get(position).cloned().unwrap_or_default(),
                secret: secret.map(|secret| Secret::new(secret.expose().to_owned())),
                spare: spare.map(|spare| Secret::new(spare.expose().to_owned())),
                secret_signer: secret.map(|secret| Signer::of_secret(secret.expose(), algorithm)),
                key_signer,
                algorithm,
                auth: auth.or(bare.then_some(ClientAuth::TlsClientAuth)),
                redirect_uri: url(&config.sign_in.redirect_uri),
                login_redirect_uri: url(&config.sign_in.login_redirect_uri),
                logout_redirect_uri: url(&config.logout.logout_redirect_uri),
                unauthorized_redirect_uri: url(&config.access.unauthorized_redirect_uri),
                forbidden_redirect_uri: url(&config.access.forbidden_redirect_uri),
                unexpected_redirect_uri: url(&config.access.unexpected_redirect_uri),
            }
        })
        .collect()
}

/// What stands in `list` for the client at `position`, or else for the first.
fn at<T>(list: Option<&[T]>, position: usize) -> Option<&T> {
    let list = list?;
    list.get(position).or_else(|| list.first())
}

/// How clients prove themselves at single endpoints, as far as that is said.
pub(super) fn own_ways(config: &OpenidConnect) -> [Option<ClientAuth>; 4] {
    [
        config.client.token_endpoint_auth_method,
        config.client.introspection_endpoint_auth_method,
        config.client.revocation_endpoint_auth_method,
        config
            .sign_in
            .pushed_authorization_request_endpoint_auth_method,
    ]
}
