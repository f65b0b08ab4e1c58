//! How long what a session says may decide, and what it has begun may go on.

use shared::clock::UnixTime;

use super::Session;
use crate::bundled::openid_connect::opened;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::token_endpoint::Tokens;

impl Session {
    /// Whether its tokens can be renewed without the user.
    pub(in crate::bundled::openid_connect) fn is_renewable(&self, rules: &Rules) -> bool {
        self.refresh_token.is_some() && rules.config.credentials.refresh_tokens
    }

    /// When its claims are too old to decide anything. `None`: never.
    pub(in crate::bundled::openid_connect) fn claims_due(&self, rules: &Rules) -> Option<UnixTime> {
        let age = rules.config.access.max_claim_age.as_ref()?.seconds();
        let since = self.claimed_at.unwrap_or(self.started_at);
        Some(since.saturating_add(age))
    }

    /// When the provider said the user info that it holds.
    pub(in crate::bundled::openid_connect) fn user_info_said(&self) -> UnixTime {
        let claimed = self.claimed_at.unwrap_or(self.started_at);
        self.user_info_at.unwrap_or(claimed)
    }

    /// Whether the user info that it holds may still decide while the provider cannot be asked: not where each request
    /// is to ask, nor once it is too old.
    pub(in crate::bundled::openid_connect) fn may_go_by_user_info(
        &self,
        rules: &Rules,
        now: UnixTime,
    ) -> bool {
        let (access, provider) = (&rules.config.access, &rules.config.provider);
        let is_young = access.max_claim_age.as_ref().is_none_or(|age| {
            let served = age
                .seconds()
                .saturating_add(access.stale_if_error.seconds());
            now < self.user_info_said().saturating_add(served)
        });
        self.user_info.is_some() && provider.cache_user_info && is_young
    }

    /// Whether a refresh that brought `tokens` has said anew who the user is. An access token that only the provider
    /// can read says nothing: then only user info does, which is asked for with each new one.
    pub(super) fn is_said_anew(&self, rules: &Rules, tokens: &Tokens) -> bool {
        tokens.id_token.is_some()
            || rules.config.credentials.search_user_info
            || opened::claims_of(rules, self).0.is_some()
    }

    /// When what it was begun with may not go on: with the session, or with a token that nobody renews.
    pub(in crate::bundled::openid_connect) fn tenure_end(&self, rules: &Rules) -> Option<UnixTime> {
        let token = self.expires_at.filter(|_| !self.is_renewable(rules));
        let leeway = rules.config.credentials.leeway.seconds();
        let token = token.map(|end| end.saturating_add(leeway));
        self.end(rules).into_iter().chain(token).min()
    }
}
