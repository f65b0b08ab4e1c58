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
    let at = |list: &Option<Vec<String>>, position: usize| {
        let list = list.as_deref().unwrap_or_default();
        list.get(position).or_else(|| list.first()).cloned()
    };
    // A certificate may be for one endpoint alone.
    let has_certificate = config.client.tls_client_auth_cert_id.is_some()
        && own_ways(config).iter().all(Option::is_none);
    (0..ids.len().max(1))
        .map(|position| {
            let secrets = config.client.client_secret.as_deref().unwrap_or_default();
            let auths = config.client.client_auth.as_deref().unwrap_or_default();
            let algorithms = config.client.client_alg.as_deref().unwrap_or_default();
            let algorithm = algorithms.get(position).or_else(|| algorithms.first());
            let algorithm = algorithm.copied();
            let keys = config.client.client_jwk.as_deref().unwrap_or_default();
            let key = keys.get(position).or_else(|| keys.first());
            let secret = secrets.get(position).or_else(|| secrets.first());
            let spares = config.client.client_secret_alternate.as_deref();
            let spares = spares.unwrap_or_default();
            let spare = spares.get(position).or_else(|| spares.first());
            let spare = spare.filter(|spare| !spare.expose().is_empty());
            let key_signer = key.and_then(|jwk| {
                assertion::signer(jwk, algorithm)
                    .map_err(|problem| errors.add(&["client_jwk"], problem))
                    .ok()
            });
            // Who has nothing but a certificate proves itself by it.
            let bare = has_certificate && secret.is_none() && key.is_none();
            let auth = auths.get(position).or_else(|| auths.first()).copied();
            Client {
                id: ids.get(position).cloned().unwrap_or_default(),
                secret: secret.map(|secret| Secret::new(secret.expose().to_owned())),
                spare: spare.map(|spare| Secret::new(spare.expose().to_owned())),
                secret_signer: secret.map(|secret| Signer::of_secret(secret.expose(), algorithm)),
                key_signer,
                algorithm,
                auth: auth.or(bare.then_some(ClientAuth::TlsClientAuth)),
                redirect_uri: at(&config.sign_in.redirect_uri, position),
                login_redirect_uri: at(&config.sign_in.login_redirect_uri, position),
                logout_redirect_uri: at(&config.logout.logout_redirect_uri, position),
                unauthorized_redirect_uri: at(&config.access.unauthorized_redirect_uri, position),
                forbidden_redirect_uri: at(&config.access.forbidden_redirect_uri, position),
                unexpected_redirect_uri: at(&config.access.unexpected_redirect_uri, position),
            }
        })
        .collect()
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
