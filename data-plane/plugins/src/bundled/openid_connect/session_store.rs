//! Sessions that live in Redis. The cookie holds a sealed ticket with the session's id; what is stored
//! is sealed as well, so that whoever reads the store learns nothing of tokens.
//!
//! ```text
//! <prefix>:<id>                    the session
//! <prefix>:<id>:remember           what restores it
//! <prefix>:form:<name>             a form that was posted before a sign-in
//! <prefix>:refreshed:<name>        new tokens whose key is not known yet
//! <prefix>:code:<digest>           who redeems a code, and what came of it
//! <prefix>:trial                   written for a second, to see whether the store takes writes
//! <prefix>:turn:<name>             whose turn it is to refresh a session; in a cluster: turn:{<prefix>:<id>}:<name>
//! <prefix>:<audience>:<subject>    the ids of a user's sessions, by when they end (session_store_metadata)
//! ```

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::digest::sha256;
use shared::schema::FieldErrors;
use shared::secret::Secret;
use tracing::warn;

use super::config::{OpenidConnect, Redis, Storage};
use super::cookie::{Family, Jar};
use super::failure::Failure;
use super::rules::Rules;
use super::session::{self, Session};
use crate::exchange::Exchange;
use crate::host::Host;
use crate::host::redis::{Command, Endpoint, RedisServer, RedisTls, Reply};
use crate::sessions::seal::{self, SealError, Sizes};
use crate::sessions::session_keys::{KeyRing, LONGEST};

/// The prefix of keys if none is configured (Kong 2.8, `session_redis_prefix`).
const PREFIX: &str = "sessions";

/// What is stored is one piece.
const SIZES: Sizes = Sizes {
    chunk: seal::LONGEST,
    most: 1,
};

/// Where sessions are kept, and how they are called there.
#[derive(Debug)]
pub(super) struct SessionStore {
    server: Arc<RedisServer>,
    prefix: String,
    audience: String,
    hashes_keys: bool,
    keeps_metadata: bool,
    hashes_subjects: bool,
}

/// How long the key stands that was written on trial.
const TRIAL: Duration = Duration::from_secs(1);

/// What the cookie holds.
#[derive(Deserialize, Serialize)]
struct Ticket {
    id: String,
}

/// What is put aside in the store, beside sessions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aside {
    /// A form that was posted before a sign-in.
    Form,
    /// What a refresh gave that nobody can judge yet.
    Refreshed,
}

impl Aside {
    const fn word(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Refreshed => "refreshed",
        }
    }

    /// What it is sealed as. No cookie has such a name.
    fn sealed_as(self, name: &str) -> String {
        format!("={} {name}", self.word())
    }

    fn open(
        self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        name: &str,
        reply: Reply,
    ) -> Option<Vec<u8>> {
        let sealed = String::from_utf8(reply.bytes()?.into()).ok()?;
        let now = host.now().as_secs();
        let opened = seal::open(ring, &rules.binding, &self.sealed_as(name), &sealed, now)?;
        Some(opened.plaintext.to_vec())
    }
}

impl SessionStore {
    /// The store of `config`, if sessions do not live in cookies.
    pub(super) fn new(config: &OpenidConnect, errors: &mut FieldErrors) -> Option<Self> {
        let session = &config.session;
        match session.session_storage {
            Storage::Cookie => return None,
            Storage::Memcache | Storage::Memcached => {
                errors.add(
                    &["session_storage"],
                    "not supported by this version of Wardgate: use cookie, or redis for sessions that are kept on a server",
                );
                return None;
            }
            Storage::Redis => {}
        }
        Some(Self {
            server: Arc::new(server("redis", &session.redis, errors)),
            prefix: session
                .redis
                .prefix
                .clone()
                .unwrap_or_else(|| PREFIX.to_owned()),
            audience: session.session_audience.clone(),
            hashes_keys: session.session_hash_storage_key,
            keeps_metadata: session.session_store_metadata,
            hashes_subjects: session.session_hash_subject,
        })
    }

    fn key(&self, family: Family, id: &str) -> String {
        let name = if self.hashes_keys {
            URL_SAFE_NO_PAD.encode(sha256(id.as_bytes()))
        } else {
            id.to_owned()
        };
        match family {
            Family::Session => format!("{}:{name}", self.prefix),
            Family::Remember => format!("{}:{name}:remember", self.prefix),
        }
    }

    fn subject_key(&self, subject: &str) -> String {
        let name = if self.hashes_subjects {
            URL_SAFE_NO_PAD.encode(sha256(subject.as_bytes()))
        } else {
            subject.to_owned()
        };
        format!("{}:{}:{name}", self.prefix, self.audience)
    }

    /// Stores `session`. One that was ended meanwhile is not stored again.
    ///
    /// # Errors
    ///
    /// If the store does not answer, or the session cannot be sealed.
    pub(super) async fn put(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        family: Family,
        session: &Session,
    ) -> Result<(), Failure> {
        let now = host.now();
        let name = stored_name(&session.id);
        let failed = |error| match error {
            SealError::TooLarge => Failure::too_large_to_store(),
            SealError::NoKey => session::failure(error),
        };
        let packed = session.packed().map_err(failed)?;
        let mut nonce = [0; 12];
        host.random(&mut nonce);
        let seconds = now.as_secs();
        let sealed = seal::seal(ring, &rules.binding, &name, &packed, SIZES, seconds, nonce)
            .map_err(failed)?;
        let left = session.left(family, rules, now).unwrap_or(LONGEST);
        let left = left.max(Duration::from_millis(1));
        let key = self.key(family, &session.id);
        let set = Command::new("SET").arg(key.clone()).arg(sealed);
        let set = set.arg("PX").milliseconds(left);
        let is_new = session.used_at <= session.started_at || family == Family::Remember;
        let mut commands = vec![if is_new { set } else { set.arg("XX") }];
        if self.keeps_metadata
            && family == Family::Session
            && let Some(subject) = session.subject()
        {
            let list = self.subject_key(&subject);
            let milliseconds = |time: UnixTime| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            commands.push(
                Command::new("ZADD")
                    .arg(list.clone())
                    .number(milliseconds(now.saturating_add(left)))
                    .arg(key),
            );
            commands.push(
                Command::new("ZREMRANGEBYSCORE")
                    .arg(list.clone())
                    .arg("-inf")
                    .number(milliseconds(now)),
            );
            commands.push(Command::new("PEXPIRE").arg(list).milliseconds(left));
        }
        self.ask(host, commands).await.map(|_| ())
    }

    /// Sees whether a session could be stored now.
    ///
    /// # Errors
    ///
    /// If the store does not answer, or takes no writes.
    pub(super) async fn try_out(&self, host: &impl Host) -> Result<(), Failure> {
        let set = Command::new("SET").arg(format!("{}:trial", self.prefix));
        let set = set.arg("1").arg("PX").milliseconds(TRIAL);
        self.ask(host, vec![set]).await.map(|_| ())
    }

    /// What is stored of the session `id`, sealed.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub(super) async fn get(
        &self,
        host: &impl Host,
        family: Family,
        id: &str,
    ) -> Result<Option<String>, Failure> {
        let command = Command::new("GET").arg(self.key(family, id));
        match self.ask(host, vec![command]).await?.pop() {
            Some(Reply::Bytes(bytes)) => Ok(String::from_utf8(bytes.into()).ok()),
            Some(Reply::Nil) => Ok(None),
            // What it holds, nobody knows.
            _ => Err(unavailable("its reply is no value")),
        }
    }

    /// Puts `content` aside, sealed, for as long as it is `kept`.
    ///
    /// # Errors
    ///
    /// If it is too large, or the store does not answer.
    pub(super) async fn put_aside(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        (aside, name): (Aside, &str),
        content: &[u8],
        kept: Duration,
    ) -> Result<(), Failure> {
        let mut nonce = [0; 12];
        host.random(&mut nonce);
        let (sealed_as, seconds) = (aside.sealed_as(name), host.now().as_secs());
        let (binding, sizes) = (&rules.binding, SIZES);
        let sealed = seal::seal(ring, binding, &sealed_as, content, sizes, seconds, nonce)
            .map_err(session::failure)?;
        let set = Command::new("SET").arg(self.place(aside, name)).arg(sealed);
        self.ask(host, vec![set.arg("PX").milliseconds(kept)])
            .await
            .map(|_| ())
    }

    /// What was put aside, and stays there.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub(super) async fn see_aside(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        (aside, name): (Aside, &str),
    ) -> Result<Option<Vec<u8>>, Failure> {
        let get = Command::new("GET").arg(self.place(aside, name));
        let reply = self.ask(host, vec![get]).await?.pop();
        Ok(reply.and_then(|reply| aside.open(rules, ring, host, name, reply)))
    }

    /// Takes out what was put aside.
    pub(super) async fn take_aside(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        (aside, name): (Aside, &str),
    ) -> Option<Vec<u8>> {
        let key = self.place(aside, name);
        let commands = vec![
            Command::new("GET").arg(key.clone()),
            Command::new("DEL").arg(key),
        ];
        let reply = self.ask(host, commands).await.ok()?.into_iter().next()?;
        aside.open(rules, ring, host, name, reply)
    }

    /// The server, and the place of a turn that is taken for the session `id`. In a cluster it lies where the session does,
    /// by a hash tag: whoever gives the turn can store what comes of it (Redis Cluster specification, "Hash tags").
    pub(super) fn turn(&self, id: &str, name: &str) -> (&Arc<RedisServer>, String) {
        let prefix = &self.prefix;
        // Braces in the prefix are the tag of all keys.
        let place = match self.server.endpoint {
            Endpoint::Cluster(_) if !prefix.contains(['{', '}']) => {
                let session = self.key(Family::Session, id);
                format!("{prefix}:turn:{{{session}}}:{name}")
            }
            _ => format!("{prefix}:turn:{name}"),
        };
        (&self.server, place)
    }

    /// The server, and the place that `name` has there.
    pub(super) fn shared(&self, name: &str) -> (&Arc<RedisServer>, String) {
        (&self.server, format!("{}:{name}", self.prefix))
    }

    fn place(&self, aside: Aside, name: &str) -> String {
        format!("{}:{}:{name}", self.prefix, aside.word())
    }

    /// Deletes the sessions whose tickets the browser holds, in the background.
    pub(super) fn delete(
        self: &Arc<Self>,
        rules: &Rules,
        exchange: &Exchange<'_>,
        host: &impl Host,
        jar: &Jar,
    ) {
        let ring = &exchange.environment.session_keys;
        let now = host.now();
        // One by one: a cluster may have them in different places.
        let keys = tickets(rules, ring, jar, now).map(|(family, id)| self.key(family, &id));
        let commands: Vec<_> = keys.map(|key| Command::new("DEL").arg(key)).collect();
        if commands.is_empty() {
            return;
        }
        let (store, its_host) = (Arc::clone(self), host.clone());
        host.spawn(Box::pin(async move {
            // What failed is logged; the session is revoked as well.
            _ = store.ask(&its_host, commands).await;
        }));
    }

    async fn ask(&self, host: &impl Host, commands: Vec<Command>) -> Result<Vec<Reply>, Failure> {
        let replies = host
            .redis(&self.server, commands)
            .await
            .map_err(|error| unavailable(&error.to_string()))?;
        let refused = replies.iter().find_map(|reply| match reply {
            Reply::Error(text) => Some(text),
            _ => None,
        });
        match refused {
            Some(text) => Err(unavailable(text)),
            None => Ok(replies),
        }
    }
}

pub(super) fn unavailable(error: &str) -> Failure {
    warn!(error, "the session storage fails");
    Failure::paused(
        "session_storage",
        "The session storage is unavailable",
        "the session storage fails",
    )
}

/// What is sealed into the cookie of `session` in place of the session.
pub(super) fn ticket_of(session: &Session) -> Vec<u8> {
    let ticket = Ticket {
        id: session.id.clone(),
    };
    serde_json::to_vec(&ticket).expect("a ticket has only string keys")
}

/// The ids in all tickets of the browser.
pub(super) fn tickets(
    rules: &Rules,
    ring: &KeyRing,
    jar: &Jar,
    now: UnixTime,
) -> impl Iterator<Item = (Family, String)> {
    let families = [Family::Session, Family::Remember].into_iter();
    families.flat_map(move |family| {
        let sealed = session::sealed_values(jar, family);
        sealed.filter_map(move |sealed| Some((family, ticket(rules, ring, family, &sealed, now)?)))
    })
}

/// The id in a sealed ticket.
pub(super) fn ticket(
    rules: &Rules,
    ring: &KeyRing,
    family: Family,
    sealed: &str,
    now: UnixTime,
) -> Option<String> {
    let name = rules.names.of(family);
    let opened = seal::open(ring, &rules.binding, name, sealed, now.as_secs())?;
    let ticket: Ticket = serde_json::from_slice(&opened.plaintext).ok()?;
    Some(ticket.id)
}

/// What the stored form of the session `id` is sealed as: it serves under no other id, and no cookie
/// has such a name.
pub(super) fn stored_name(id: &str) -> String {
    format!("=session {id}")
}

/// The server that the record `record` of a configuration names.
pub(super) fn server(record: &str, redis: &Redis, errors: &mut FieldErrors) -> RedisServer {
    let milliseconds = |value: u32| Duration::from_millis(value.into());
    let password = redis.password.as_ref();
    RedisServer {
        endpoint: redis.endpoint(record, errors),
        username: redis.username.clone(),
        password: password.map(|password| Secret::new(password.expose().to_owned())),
        database: redis.database.into(),
        tls: redis.ssl.then(|| RedisTls {
            verify: redis.ssl_verify,
            server_name: redis.server_name.clone(),
        }),
        connect_timeout: milliseconds(redis.connect_timeout),
        read_timeout: milliseconds(redis.read_timeout.max(redis.send_timeout)),
    }
}
