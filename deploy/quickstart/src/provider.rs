//! A small OpenID provider for demonstrations and tests: real protocol, invented users, nothing kept.
//!
//! ```text
//! GET  /.well-known/openid-configuration   discovery.rs
//! GET  /jwks                               discovery.rs
//! GET  /authorize ──► login page ──► POST /login ──► 303 with code, state, iss      authorize.rs, request.rs
//! POST /token       authorization_code (PKCE), refresh_token (rotating)             token.rs
//! GET  /userinfo                                                                    userinfo.rs
//! GET  /end-session ──► 302 to a registered post-logout URI, or a page              logout.rs
//! POST /revoke                                                                      logout.rs
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use shared::clock::UnixTime;

mod authorize;
mod client;
mod discovery;
mod error;
mod keys;
mod logout;
mod page;
mod request;
mod state;
#[cfg(test)]
mod tests;
mod token;
mod user;
mod userinfo;

pub use client::Client;
pub use keys::{Draft, SigningKey, TokenKind};
pub use user::User;

use keys::{DraftHook, Keys};
use state::State;

/// What a provider is started with.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// The issuer identifier, which is also the base of all endpoints. Without a slash at the end.
    pub issuer: String,
    /// The registered relying parties.
    pub clients: Vec<Client>,
    /// Who can sign in.
    pub users: Vec<User>,
    /// How long access tokens live.
    pub access_token_lifetime: Duration,
    /// How long ID tokens live.
    pub id_token_lifetime: Duration,
    /// How long a refresh token that was already exchanged is still accepted, so that a relying
    /// party of several nodes may ask twice. Later use of it revokes the whole grant
    /// (RFC 9700 §4.14.2).
    pub refresh_reuse_leeway: Duration,
}

impl ProviderSettings {
    /// The usual lifetimes, the demo's users and no client.
    pub fn new(issuer: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            clients: Vec::new(),
            users: User::demo(),
            access_token_lifetime: Duration::from_mins(5),
            id_token_lifetime: Duration::from_mins(5),
            refresh_reuse_leeway: Duration::from_secs(10),
        }
    }
}

/// A running provider's mind. Clones share it.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

struct Inner {
    settings: Mutex<ProviderSettings>,
    state: Mutex<State>,
    keys: Mutex<Keys>,
    hook: Mutex<Option<DraftHook>>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("issuer", &self.issuer())
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// Makes a signing key and an empty state.
    pub fn new(settings: ProviderSettings) -> Self {
        Self(Arc::new(Inner {
            settings: Mutex::new(settings),
            state: Mutex::default(),
            keys: Mutex::new(Keys::new()),
            hook: Mutex::default(),
        }))
    }

    /// All endpoints.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(page::index))
            .route(
                "/.well-known/openid-configuration",
                get(discovery::document),
            )
            .route("/jwks", get(discovery::jwks))
            .route(
                "/authorize",
                get(authorize::authorize_get).post(authorize::authorize_post),
            )
            .route("/login", post(authorize::login))
            .route("/token", post(token::token))
            .route(
                "/userinfo",
                get(userinfo::userinfo).post(userinfo::userinfo),
            )
            .route(
                "/end-session",
                get(logout::end_session_get).post(logout::end_session_post),
            )
            .route("/revoke", post(logout::revoke))
            .with_state(self.clone())
    }

    /// The issuer identifier.
    pub fn issuer(&self) -> String {
        self.settings().issuer.clone()
    }

    /// Changes what the provider was started with. Tokens already issued stay as they are.
    pub fn configure(&self, change: impl FnOnce(&mut ProviderSettings)) {
        change(&mut lock(&self.0.settings));
    }

    /// Signs with a new key from now on. With `keep_old` the old keys stay published.
    pub fn rotate_keys(&self, keep_old: bool) {
        lock(&self.0.keys).rotate(keep_old);
    }

    /// Lets `hook` change, spoil or replace every token before it is handed out.
    pub fn on_draft(&self, hook: impl Fn(&mut Draft) + Send + Sync + 'static) {
        *lock(&self.0.hook) = Some(Arc::new(hook));
    }

    /// Forgets every grant, so that refresh tokens are refused, and every sign-in at the provider.
    pub fn forget_everyone(&self) {
        *lock(&self.0.state) = State::default();
    }

    /// An access token for a user, as a program would hold one. `None`: no such user.
    pub fn access_token(&self, username: &str, client_id: &str, scope: &str) -> Option<String> {
        let user = self.settings().user(username)?.clone();
        Some(self.sign(
            TokenKind::Access,
            token::access_claims(&self.settings(), &user, client_id, scope, UnixTime::now()),
        ))
    }

    fn settings(&self) -> ProviderSettings {
        lock(&self.0.settings).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.0.keys)
    }

    fn sign(&self, kind: TokenKind, claims: serde_json::Map<String, serde_json::Value>) -> String {
        let mut draft = self.keys().draft(kind, claims);
        let hook = lock(&self.0.hook).clone();
        if let Some(hook) = hook {
            hook(&mut draft);
        }
        draft.finish()
    }
}

impl ProviderSettings {
    fn client(&self, id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.id == id)
    }

    fn user(&self, username: &str) -> Option<&User> {
        self.users.iter().find(|user| user.username == username)
    }

    fn user_by_subject(&self, subject: &str) -> Option<&User> {
        self.users.iter().find(|user| user.subject == subject)
    }
}

/// Every critical section here leaves the value whole, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
