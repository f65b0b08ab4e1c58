//! Where clients authenticate: as configured, or as discovered.

use crate::bundled::openid_connect::config::ClientAuth;
use crate::bundled::openid_connect::provider::Document;
use crate::bundled::openid_connect::rules::Rules;

/// An endpoint that clients authenticate at.
#[derive(Clone, Copy, Debug)]
pub(in crate::bundled::openid_connect) enum Endpoint {
    Token,
    Introspection,
    Revocation,
    PushedRequest,
}

impl Endpoint {
    const ALL: [Self; 4] = [
        Self::Token,
        Self::Introspection,
        Self::Revocation,
        Self::PushedRequest,
    ];

    /// Whether `document` names `url` as one of them.
    pub(super) fn is_named(document: &Document, url: &str) -> bool {
        let all = Self::ALL.into_iter();
        all.filter_map(|endpoint| endpoint.discovered(document))
            .any(|named| named == url)
    }

    fn discovered(self, document: &Document) -> Option<&String> {
        match self {
            Self::Token => document.token_endpoint.as_ref(),
            Self::Introspection => document.introspection_endpoint.as_ref(),
            Self::Revocation => document.revocation_endpoint.as_ref(),
            Self::PushedRequest => document.pushed_authorization_request_endpoint.as_ref(),
        }
    }

    /// Where it is for a client that authenticates by `auth`: as configured, or as discovered.
    pub(in crate::bundled::openid_connect) fn of(
        self,
        rules: &Rules,
        document: &Document,
        auth: Option<ClientAuth>,
    ) -> Option<String> {
        let (config, sign_in) = (&rules.config.client, &rules.config.sign_in);
        let mutual_tls = &document.mutual_tls;
        let nothing = None;
        let (configured, for_certificates, alias) = match self {
            Self::Token => (
                &config.token_endpoint,
                &config.mtls_token_endpoint,
                &mutual_tls.token,
            ),
            Self::Introspection => (
                &config.introspection_endpoint,
                &config.mtls_introspection_endpoint,
                &mutual_tls.introspection,
            ),
            Self::Revocation => (
                &config.revocation_endpoint,
                &config.mtls_revocation_endpoint,
                &mutual_tls.revocation,
            ),
            Self::PushedRequest => (
                &sign_in.pushed_authorization_request_endpoint,
                &nothing,
                &mutual_tls.pushed_request,
            ),
        };
        let plain = configured.as_ref().or(self.discovered(document));
        let found = if auth.is_some_and(ClientAuth::is_mutual_tls) {
            for_certificates.as_ref().or(alias.as_ref()).or(plain)
        } else {
            plain
        };
        found.cloned()
    }
}
