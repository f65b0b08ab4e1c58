//! Failures to reach a provider, in fixed words, and what to do about them. An address that refuses, one that is silent
//! and a name that does not resolve look the same, so that nobody learns about a network what they could not find out
//! themselves. A certificate that is not trusted is reported: whoever has one for the configured name shows it to
//! everybody.

use shared::tls::Mistrust;

use crate::bundled::openid_connect::provider::ProviderError;
use crate::host::FetchError;

/// What goes wrong.
pub(super) fn tell(error: &ProviderError) -> String {
    match error {
        ProviderError::Issuer { expected, found } => {
            format!("the provider names the issuer {found}, configured is {expected}")
        }
        ProviderError::Fetch(FetchError::Untrusted { why, .. }) => {
            format!("the provider's certificate is not believed: {why}")
        }
        ProviderError::Resting(Some(error)) => tell(error),
        other => other.failure().detail.into_owned(),
    }
}

/// What to do about it; `otherwise`, if the provider was reached and says what is of no use.
pub(super) fn fix<'a>(error: &ProviderError, otherwise: &'a str) -> &'a str {
    match error {
        ProviderError::Fetch(FetchError::Untrusted { why, .. }) => match why {
            Mistrust::Issuer => {
                "Have the provider send the certificates between its own and its authority, and add that authority to those \
                 that the machines of all data planes and control planes trust."
            }
            Mistrust::Expired => {
                "Have the provider's certificate renewed; if it has not expired, set this machine's clock."
            }
            Mistrust::NotYet => {
                "Set this machine's clock, or have the provider use a certificate whose time has come."
            }
            Mistrust::Name => {
                "Configure the host by a name that the provider's certificate has in subjectAltName, or have it name this one."
            }
            Mistrust::Other => {
                "Have the provider use a certificate of X.509 version 3 that is for servers and not an authority's own."
            }
        },
        ProviderError::Fetch(FetchError::Forbidden { .. }) => {
            "If the provider is meant to be there, list its network in provider_networks of every data plane and control plane."
        }
        ProviderError::Fetch(FetchError::TooLarge { .. } | FetchError::Url(_)) => otherwise,
        ProviderError::Fetch(_) | ProviderError::GivenUp | ProviderError::Slow => {
            "See whether the host's name resolves on this machine, whether it can connect to its port, and whether the provider \
             is up: which of these fails is not told here."
        }
        ProviderError::Resting(Some(error)) => fix(error, otherwise),
        _ => otherwise,
    }
}
