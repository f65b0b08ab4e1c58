//! What the provider remembers: sign-ins under way, codes, grants and browser sessions.

use std::collections::HashMap;
use std::time::Duration;

use shared::clock::UnixTime;

use super::keys::random_text;

/// How long a login page may stay open.
const SIGN_IN_LIFETIME: Duration = Duration::from_mins(10);

/// How long a code may take to come back (RFC 6749 §4.1.2 allows ten minutes at most).
const CODE_LIFETIME: Duration = Duration::from_mins(1);

/// How long a browser stays signed in at the provider.
const SESSION_LIFETIME: Duration = Duration::from_hours(8);

/// How long a refresh token waits for its use. Its grant lives as long as the newest one.
const REFRESH_LIFETIME: Duration = Duration::from_hours(24);

/// A checked authorization request that waits for somebody to sign in.
#[derive(Clone, Debug)]
pub(super) struct SignIn {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) scope: String,
    pub(super) state: Option<String>,
    pub(super) nonce: Option<String>,
    pub(super) code_challenge: Option<String>,
    /// The user name that the application expects, for the login page.
    pub(super) login_hint: Option<String>,
    /// The only user who may sign in: the subject of `id_token_hint`.
    pub(super) subject: Option<String>,
}

/// An authorization code that was handed out.
#[derive(Clone, Debug)]
pub(super) struct Code {
    pub(super) sign_in: SignIn,
    pub(super) subject: String,
    pub(super) authenticated_at: UnixTime,
    /// The grant made from it. A second use of the code revokes it (RFC 6749 §4.1.2).
    pub(super) grant: Option<String>,
}

/// What a user allowed a client, from the code's exchange on.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) client_id: String,
    pub(super) subject: String,
    pub(super) scope: String,
    pub(super) authenticated_at: UnixTime,
}

/// One refresh token of a grant.
#[derive(Clone, Debug)]
pub(super) struct RefreshToken {
    pub(super) grant: String,
    pub(super) exchanged_at: Option<UnixTime>,
}

/// A browser that is signed in at the provider.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) subject: String,
    pub(super) authenticated_at: UnixTime,
}

/// Everything, in memory.
#[derive(Debug, Default)]
pub(super) struct State {
    sign_ins: HashMap<String, (UnixTime, SignIn)>,
    codes: HashMap<String, (UnixTime, Code)>,
    grants: HashMap<String, (UnixTime, Grant)>,
    refresh_tokens: HashMap<String, (UnixTime, RefreshToken)>,
    sessions: HashMap<String, (UnixTime, Session)>,
}

impl State {
    pub(super) fn add_sign_in(&mut self, now: UnixTime, sign_in: SignIn) -> String {
        add(&mut self.sign_ins, now, SIGN_IN_LIFETIME, sign_in)
    }

    pub(super) fn sign_in(&self, now: UnixTime, id: &str) -> Option<SignIn> {
        find(&self.sign_ins, now, id).cloned()
    }

    pub(super) fn take_sign_in(&mut self, now: UnixTime, id: &str) -> Option<SignIn> {
        let (expires_at, sign_in) = self.sign_ins.remove(id)?;
        (now < expires_at).then_some(sign_in)
    }

    pub(super) fn add_code(&mut self, now: UnixTime, code: Code) -> String {
        add(&mut self.codes, now, CODE_LIFETIME, code)
    }

    pub(super) fn code(&mut self, now: UnixTime, id: &str) -> Option<&mut Code> {
        let (expires_at, code) = self.codes.get_mut(id)?;
        (now < *expires_at).then_some(code)
    }

    pub(super) fn add_grant(&mut self, now: UnixTime, grant: Grant) -> String {
        add(&mut self.grants, now, REFRESH_LIFETIME, grant)
    }

    pub(super) fn grant(&self, now: UnixTime, id: &str) -> Option<Grant> {
        find(&self.grants, now, id).cloned()
    }

    /// Adds a refresh token to a grant, which lives on with it.
    pub(super) fn add_refresh_token(&mut self, now: UnixTime, grant: &str) -> String {
        if let Some((expires_at, _)) = self.grants.get_mut(grant) {
            *expires_at = now.saturating_add(REFRESH_LIFETIME);
        }
        let token = RefreshToken {
            grant: grant.to_owned(),
            exchanged_at: None,
        };
        add(&mut self.refresh_tokens, now, REFRESH_LIFETIME, token)
    }

    pub(super) fn refresh_token(
        &mut self,
        now: UnixTime,
        token: &str,
    ) -> Option<&mut RefreshToken> {
        let (expires_at, token) = self.refresh_tokens.get_mut(token)?;
        (now < *expires_at).then_some(token)
    }

    /// Ends a grant and all of its refresh tokens.
    pub(super) fn revoke(&mut self, grant: &str) {
        self.grants.remove(grant);
        self.refresh_tokens
            .retain(|_, (_, token)| token.grant != grant);
    }

    pub(super) fn add_session(&mut self, now: UnixTime, session: Session) -> String {
        add(&mut self.sessions, now, SESSION_LIFETIME, session)
    }

    pub(super) fn session(&self, now: UnixTime, id: &str) -> Option<Session> {
        find(&self.sessions, now, id).cloned()
    }

    pub(super) fn remove_session(&mut self, id: &str) {
        self.sessions.remove(id);
    }
}

/// Adds under a new id and drops what has expired, so that nothing grows for ever.
fn add<T>(
    map: &mut HashMap<String, (UnixTime, T)>,
    now: UnixTime,
    lifetime: Duration,
    value: T,
) -> String {
    map.retain(|_, (expires_at, _)| now < *expires_at);
    let id = random_text(24);
    map.insert(id.clone(), (now.saturating_add(lifetime), value));
    id
}

fn find<'a, T>(map: &'a HashMap<String, (UnixTime, T)>, now: UnixTime, id: &str) -> Option<&'a T> {
    let (expires_at, value) = map.get(id)?;
    (now < *expires_at).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_and_refresh_tokens_do_not_stay_for_ever() {
        let mut state = State::default();
        let grant = || Grant {
            client_id: "client".to_owned(),
            subject: "subject".to_owned(),
            scope: "openid".to_owned(),
            authenticated_at: UnixTime::from_secs(0),
        };
        let mut now = UnixTime::from_secs(1_000_000);
        let used = state.add_grant(now, grant());
        let mut token = state.add_refresh_token(now, &used);
        let unused = state.add_grant(now, grant());
        state.add_refresh_token(now, &unused);
        for _ in 0..10 {
            now = now.saturating_add(REFRESH_LIFETIME / 2);
            assert!(state.refresh_token(now, &token).is_some());
            token = state.add_refresh_token(now, &used);
        }
        assert!(state.grant(now, &used).is_some());
        assert!(state.grant(now, &unused).is_none());
        state.add_grant(now, grant());
        assert_eq!((state.grants.len(), state.refresh_tokens.len()), (2, 2));
    }
}
