//! Why a provider could not be used.

use std::sync::Arc;

use crate::bundled::openid_connect::failure::Failure;
use crate::host::FetchError;

/// Why a provider could not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    /// No answer.
    #[error("asking the provider")]
    Fetch(#[source] FetchError),
    /// An answer with another status than 200.
    #[error("the provider answered with status {0}")]
    Status(u16),
    /// An answer that is not what the specification says.
    #[error("the provider's answer is unusable: {0}")]
    Unusable(&'static str),
    /// Discovery names another issuer than was configured.
    #[error("the provider names the issuer {found}, configured is {expected}")]
    Issuer {
        /// As configured.
        expected: String,
        /// As discovered.
        found: String,
    },
    /// The configuration asks for what discovery does not offer: the parameter.
    #[error("the provider does not support what {0} asks for")]
    Unsupported(&'static str),
    /// The gateway lacks what it would prove itself with.
    #[error("{0}")]
    Unarmed(&'static str),
    /// Newer keys were looked for a moment ago, and are not looked for again yet.
    #[error("the provider's keys were asked for a moment ago")]
    Searched,
    /// The fetch was given up, for instance because the node stops.
    #[error("asking the provider was given up")]
    GivenUp,
    /// No answer yet.
    #[error("the provider takes too long")]
    Slow,
    /// Too many failures just now, of which this was the last.
    #[error("the provider failed just now and is not asked again yet")]
    Resting(#[source] Option<Arc<Self>>),
}

impl ProviderError {
    /// Whether the provider does not say anything of itself now. What it says may not contradict the
    /// configuration.
    pub(in crate::bundled::openid_connect) fn is_outage(&self) -> bool {
        match self {
            Self::Resting(error) => error.as_deref().is_none_or(Self::is_outage),
            Self::Fetch(error) => !matches!(error, FetchError::Forbidden { .. }),
            Self::Status(_) | Self::GivenUp | Self::Slow => true,
            Self::Unusable(_)
            | Self::Issuer { .. }
            | Self::Unsupported(_)
            | Self::Unarmed(_)
            | Self::Searched => false,
        }
    }

    /// Whether the provider was not reached, or what stands before it has answered: that may well befall the next call,
    /// whoever makes it. Any other answer, a 500 and a 429 above all, may be one to what a client has sent.
    pub(in crate::bundled::openid_connect) fn is_on_the_way(&self) -> bool {
        match self {
            Self::Fetch(error) => {
                !matches!(error, FetchError::TooLarge { .. } | FetchError::Url(_))
            }
            Self::Status(status) => matches!(status, 502..=504),
            Self::GivenUp | Self::Slow => true,
            Self::Unusable(_)
            | Self::Issuer { .. }
            | Self::Unsupported(_)
            | Self::Unarmed(_)
            | Self::Searched
            | Self::Resting(_) => false,
        }
    }

    /// The failure of a request that needs the provider.
    pub(crate) fn failure(&self) -> Failure {
        let unreachable =
            || Failure::unavailable("idp_unreachable", "the OpenID provider does not answer");
        match self {
            Self::Resting(Some(error)) => error.failure(),
            Self::Unsupported(parameter) => Failure::unexpected(
                "configuration",
                format!("the OpenID provider does not support what {parameter} asks for"),
            ),
            Self::Unarmed(detail) => Failure::paused(
                "client_key_missing",
                "The gateway has nothing yet to prove itself with at the OpenID provider",
                *detail,
            ),
            Self::Searched => Failure::unavailable(
                "logout_token",
                "no key fits the token, and newer ones were asked for a moment ago",
            ),
            Self::Fetch(FetchError::TooLarge { .. })
            | Self::Status(_)
            | Self::Unusable(_)
            | Self::Issuer { .. } => Failure::unavailable(
                "idp_error",
                "the OpenID provider gave an answer that cannot be used",
            ),
            Self::Fetch(FetchError::Forbidden { .. }) => Failure::unavailable(
                "idp_forbidden",
                "the OpenID provider is at an address that may not be asked",
            ),
            // What is wrong with the connection, with a certificate above all, is for operators alone.
            Self::Fetch(error) => unreachable().with("reason", error.to_string()),
            Self::GivenUp | Self::Slow | Self::Resting(None) => unreachable(),
        }
    }
}
