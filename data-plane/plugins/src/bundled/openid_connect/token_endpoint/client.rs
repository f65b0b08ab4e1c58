//! Who asks the provider's endpoints, and how that client proves itself (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705 §2).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, Response};
use shared::secret::Secret;

use super::{ANSWER_LIMIT, add_missing, discovered};
use crate::bundled::openid_connect::assertion::{self, Audience};
use crate::bundled::openid_connect::config::{ClientAuth, SigningAlgorithm};
use crate::bundled::openid_connect::provider::{self, Document, ProviderError};
use crate::bundled::openid_connect::rules::Rules;
use crate::client_keys;
use crate::client_keys::signer::Signer;
use crate::host::{FetchLimits, Host, Repeatable};

/// Who a request to the provider comes from.
#[derive(Clone, Copy)]
pub(in crate::bundled::openid_connect) struct Caller<'a> {
    pub(in crate::bundled::openid_connect) id: &'a str,
    pub(in crate::bundled::openid_connect) secret: Option<&'a str>,
    /// How it proves that. `None`: as discovery says.
    pub(in crate::bundled::openid_connect) auth: Option<ClientAuth>,
    /// Its other secret, if it has two.
    pub(in crate::bundled::openid_connect) spare: Option<&'a str>,
    pub(in crate::bundled::openid_connect) key_signer: Option<&'a Signer>,
    /// Its position among those that are configured, for which the cluster's keys may speak.
    pub(in crate::bundled::openid_connect) position: Option<usize>,
    /// The algorithm of its assertions, if one is configured.
    pub(in crate::bundled::openid_connect) algorithm: Option<SigningAlgorithm>,
    /// Whom they are for.
    pub(in crate::bundled::openid_connect) audience: Audience,
}

impl<'a> Caller<'a> {
    /// The configured client at `position`.
    pub(in crate::bundled::openid_connect) fn configured(
        rules: &'a Rules,
        position: usize,
    ) -> Self {
        let client = rules.client(position);
        let text = |secret: &'a Option<Secret<String>>| {
            secret.as_ref().map(|secret| secret.expose().as_str())
        };
        Self {
            id: &client.id,
            secret: text(&client.secret),
            auth: client.auth,
            spare: text(&client.spare),
            key_signer: client.key_signer.as_ref(),
            position: Some(position),
            algorithm: client.algorithm,
            audience: Audience::default(),
        }
    }
}

/// A form to be posted to the provider.
#[derive(Clone)]
pub(in crate::bundled::openid_connect) struct Post<'a> {
    pub(in crate::bundled::openid_connect) endpoint: &'a str,
    pub(in crate::bundled::openid_connect) form: Vec<(String, String)>,
    /// Further headers. An `Authorization` among them takes the place of the client's.
    pub(in crate::bundled::openid_connect) headers: &'a [(HeaderName, HeaderValue)],
    pub(in crate::bundled::openid_connect) accept: &'static str,
    /// Whether it may be sent twice.
    pub(in crate::bundled::openid_connect) repeatable: Repeatable,
}

shared::unsaid!(Post<'a>);

/// Posts a form as the client, with one of its secrets.
pub(super) async fn post_once(
    rules: &Rules,
    document: &Document,
    caller: Caller<'_>,
    host: &impl Host,
    post: Post<'_>,
) -> Result<Response<Bytes>, ProviderError> {
    let Post {
        endpoint,
        mut form,
        headers: extra,
        accept,
        repeatable,
    } = post;
    let offered = document.token_auth_methods.as_deref();
    let auth = caller.auth.unwrap_or_else(|| discovered(offered, caller));
    let mut limits = FetchLimits {
        repeatable,
        ..provider::limits(rules, ANSWER_LIMIT)
    };
    if auth.is_mutual_tls() {
        limits = presenting(rules, host, limits)?;
    }
    let authorization = prove(auth, caller, document, host, endpoint, &mut form).await?;
    let body = Serializer::new(String::new()).extend_pairs(form).finish();
    let mut request = Request::post(provider::target(endpoint)?)
        .body(Bytes::from(body))
        .map_err(|_| ProviderError::Unusable("an endpoint cannot be asked"))?;
    let headers = request.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    for (name, value) in extra {
        headers.append(name, value.clone());
    }
    if let Some(authorization) = authorization
        && !headers.contains_key(AUTHORIZATION)
    {
        headers.insert(AUTHORIZATION, authorization);
    }
    host.fetch(request, limits)
        .await
        .map_err(ProviderError::Fetch)
}

/// Puts into `form` what proves that it comes from the client; where that is a header, it is returned.
async fn prove(
    auth: ClientAuth,
    caller: Caller<'_>,
    document: &Document,
    host: &impl Host,
    endpoint: &str,
    form: &mut Vec<(String, String)>,
) -> Result<Option<HeaderValue>, ProviderError> {
    match (auth, caller.secret) {
        (ClientAuth::ClientSecretBasic, Some(secret)) => {
            // Both are form-encoded first (RFC 6749 §2.3.1).
            let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encode(caller.id), encode(secret));
            let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
                .map_err(|_| ProviderError::Unusable("the client id is no header value"))?;
            value.set_sensitive(true);
            return Ok(Some(value));
        }
        (ClientAuth::ClientSecretPost, Some(secret)) => {
            name_client(form, caller.id);
            form.push(("client_secret".to_owned(), secret.to_owned()));
        }
        (ClientAuth::ClientSecretJwt | ClientAuth::PrivateKeyJwt, _) => {
            let keys = if auth == ClientAuth::PrivateKeyJwt && caller.key_signer.is_none() {
                client_keys::made(host).await
            } else {
                host.client_keys()
            };
            let of_secret = |secret| Signer::of_secret(secret, caller.algorithm);
            let by_secret = caller.secret.map(of_secret);
            let signer = match auth {
                ClientAuth::PrivateKeyJwt => {
                    caller.key_signer.or_else(|| keys.signer(caller.algorithm))
                }
                _ => by_secret.as_ref(),
            };
            let audience = match caller.audience {
                Audience::Endpoint => endpoint,
                Audience::Issuer => &document.issuer,
            };
            let assertion = signer
                .and_then(|signer| assertion::sign(signer, caller.id, audience, host))
                .ok_or(ProviderError::Unarmed(
                    "there is no key that signs the client's assertion",
                ))?;
            // Some providers refuse a client_id beside it.
            form.push((
                "client_assertion_type".to_owned(),
                assertion::KIND.to_owned(),
            ));
            form.push(("client_assertion".to_owned(), assertion));
        }
        // Its certificate proves the client where it has one, and without a secret there is nothing else to prove it by.
        _ => name_client(form, caller.id),
    }
    Ok(None)
}

/// The limits of a call that presents the client's certificate.
pub(in crate::bundled::openid_connect) fn presenting(
    rules: &Rules,
    host: &impl Host,
    limits: FetchLimits,
) -> Result<FetchLimits, ProviderError> {
    let keys = host.client_keys();
    let found = rules.certificate.and_then(|id| keys.certificates.get(&id));
    let certificate = found.ok_or(ProviderError::Unarmed(
        "the certificate of tls_client_auth_cert_id is not there",
    ))?;
    Ok(FetchLimits {
        certificate: Some(Arc::clone(certificate)),
        verify_tls: rules.config.client.tls_client_auth_ssl_verify,
        ..limits
    })
}

/// Says which client it is that asks, if it is one and the form does not say so yet.
fn name_client(form: &mut Vec<(String, String)>, id: &str) {
    if id.is_empty() {
        return;
    }
    add_missing(form, vec![("client_id".to_owned(), id.to_owned())]);
}
