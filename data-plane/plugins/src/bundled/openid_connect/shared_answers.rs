//! What the nodes share in Redis (Kong 3.9, `cluster_cache_strategy`): introspection answers, which proofs of possession were
//! used, and who redeems a code or refreshes a session in a cookie.
//!
//! They are sealed like cookies: whoever can write to the store can make nobody's token active. A store
//! that fails is passed by; the provider is asked then.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::schema::FieldErrors;
use tracing::warn;

use super::answers::Key;
use super::config::{OpenidConnect, Switch};
use super::jws::Claims;
use super::rules::Rules;
use super::session_store;
use crate::host::Host;
use crate::host::redis::{Command, RedisServer, Reply};
use crate::sessions::seal::{self, Sizes};
use crate::sessions::session_keys::KeyRing;

/// What an answer is sealed as, with its key after it. No cookie has such a name.
const NAME: &str = "=introspection";

/// An answer is one piece.
const SIZES: Sizes = Sizes {
    chunk: seal::LONGEST,
    most: 1,
};

/// The store of a configuration that shares its answers.
#[derive(Clone, Debug)]
pub(super) struct SharedAnswers {
    server: Arc<RedisServer>,
    /// What the names of answers begin with in the store.
    prefix: Option<String>,
}

/// An answer as it is stored.
#[derive(Deserialize, Serialize)]
pub(super) struct Stored {
    pub(super) claims: Claims,
    pub(super) jwt: Option<String>,
    pub(super) until: UnixTime,
}

shared::unsaid!(Stored);

impl SharedAnswers {
    pub(super) fn new(config: &OpenidConnect, errors: &mut FieldErrors) -> Option<Self> {
        let provider = &config.provider;
        if provider.cluster_cache_strategy == Switch::Off {
            return None;
        }
        let redis = &provider.cluster_cache_redis;
        Some(Self {
            server: Arc::new(session_store::server("cluster_cache_redis", redis, errors)),
            prefix: redis.prefix.clone(),
        })
    }

    /// The answer to `key`, if one is stored that still serves.
    pub(super) async fn get(
        &self,
        rules: &Rules,
        host: &impl Host,
        ring: &KeyRing,
        key: &Key,
    ) -> Option<Stored> {
        let name = name(key);
        let reply = self
            .ask(host, Command::new("GET").arg(self.place(&name)))
            .await?;
        let sealed = String::from_utf8(reply.bytes()?.into()).ok()?;
        let now = host.now();
        let opened = seal::open(ring, &rules.binding, &name, &sealed, now.as_secs())?;
        let stored: Stored = serde_json::from_slice(&opened.plaintext).ok()?;
        (now < stored.until).then_some(stored)
    }

    /// Stores an answer for as long as it serves. Nobody waits for that.
    pub(super) fn put(
        &self,
        rules: &Rules,
        host: &impl Host,
        ring: &KeyRing,
        key: &Key,
        answer: &Stored,
    ) {
        let now = host.now();
        let left = answer.until.saturating_since(now);
        if left.is_zero() {
            return;
        }
        let name = name(key);
        let text = serde_json::to_vec(answer).expect("an answer has only string keys");
        let mut nonce = [0; 12];
        host.random(&mut nonce);
        let seconds = now.as_secs();
        let sealed = seal::seal(ring, &rules.binding, &name, &text, SIZES, seconds, nonce);
        // One that is too large is asked for by each node.
        if let Ok(sealed) = sealed {
            let command = Command::new("SET").arg(self.place(&name)).arg(sealed);
            let (shared, its_host) = (self.clone(), host.clone());
            host.spawn(Box::pin(async move {
                // What failed is logged.
                _ = shared
                    .ask(&its_host, command.arg("PX").milliseconds(left))
                    .await;
            }));
        }
    }

    /// Whether what `name` names is used for the first time in the cluster; noted for as long as `left`. `None`: the
    /// store fails.
    pub(super) async fn use_once(
        &self,
        host: &impl Host,
        name: &[u8; 32],
        left: Duration,
    ) -> Option<bool> {
        let place = self.place(&format!("=used:{}", URL_SAFE_NO_PAD.encode(name)));
        let command = Command::new("SET").arg(place).arg("1").arg("NX");
        let reply = self.ask(host, command.arg("PX").milliseconds(left)).await?;
        Some(reply != Reply::Nil)
    }

    /// The server, and the place that `name` has there beside the answers.
    pub(super) fn shared(&self, name: &str) -> (&Arc<RedisServer>, String) {
        (&self.server, self.place(&format!("={name}")))
    }

    /// Where the answer `name` is stored.
    fn place(&self, name: &str) -> String {
        match &self.prefix {
            Some(prefix) => format!("{prefix}:{name}"),
            None => name.to_owned(),
        }
    }

    async fn ask(&self, host: &impl Host, command: Command) -> Option<Reply> {
        match host.redis(&self.server, vec![command]).await {
            Ok(mut replies) => match replies.pop() {
                Some(Reply::Error(error)) => {
                    warn!(error, "the shared cache refused a command");
                    None
                }
                reply => reply,
            },
            Err(error) => {
                warn!(%error, "the shared cache fails");
                None
            }
        }
    }
}

fn name(key: &Key) -> String {
    format!("{NAME}:{}", URL_SAFE_NO_PAD.encode(key))
}
