//! Whose turn it is to redeem a code where no control plane says so: nodes that share a Redis server say it to one another
//! there. Nothing is written while control planes are heard.
//!
//! ```text
//! <prefix>:code:<digest>     a node is at it ("1"); then what it tells the others, sealed
//! ```

use std::sync::Arc;
use std::time::Duration;

use shared::hexadecimal::hexadecimal;
use tracing::warn;

use crate::bundled::openid_connect::failure::Failure;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::session_store;
use crate::host::Host;
use crate::host::redis::{Command, RedisServer, Reply};

/// What stands there while a node is at it. No sealed text is that short.
const AT_IT: &str = "1";

/// The shortest turn.
const TURN: Duration = Duration::from_mins(1);

/// How long a node may take between what it asks of the provider.
const BETWEEN: Duration = Duration::from_secs(10);

/// How long another node is waited for, as long as where a control plane says whose a code is.
const WAITED: Duration = Duration::from_secs(30);

/// How often it is looked what has come of it: at first, and at last.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

/// Whose turn it is.
pub(super) enum Whose {
    /// This node's.
    Ours,
    /// Another node's, which tells this.
    Theirs(Vec<u8>),
    /// Another node's, which is still at it after a long wait.
    Taken,
    /// Nobody can say.
    Unknown,
}

/// The place where nodes say who redeems one code.
pub(super) struct Turn<'a, H> {
    host: &'a H,
    server: &'a Arc<RedisServer>,
    place: String,
    lasts: Duration,
    /// Whether nothing comes of the sign-in while the server is away.
    is_needed: bool,
}

impl<'a, H: Host> Turn<'a, H> {
    /// Where the nodes that run `rules` say who redeems the code `key`; none if they share no server.
    pub(super) fn of(rules: &'a Rules, host: &'a H, key: &[u8; 32]) -> Option<Self> {
        let name = format!("code:{}", hexadecimal(key));
        let store = rules.storage.as_deref().map(|store| store.shared(&name));
        let is_needed = store.is_some();
        let answers = || Some(rules.shared_answers.as_ref()?.shared(&name));
        let (server, place) = store.or_else(answers)?;
        // Longer than all calls take: discovery and tokens, both again where the endpoint has moved, and keys.
        let timeout = rules.config.provider.timeout.milliseconds();
        Some(Self {
            host,
            server,
            place,
            lasts: TURN.max(timeout.saturating_mul(5).saturating_add(BETWEEN)),
            is_needed,
        })
    }

    /// Takes the turn, or waits for what comes of that of another node.
    ///
    /// # Errors
    ///
    /// If the server fails, and what comes of the code could not be stored there: it stays unspent.
    pub(super) async fn take(&self) -> Result<Whose, Failure> {
        let (mut waited, mut pause) = (Duration::ZERO, LOOK.0);
        loop {
            match self.begin().await {
                Some(true) => return Ok(Whose::Ours),
                Some(false) => {}
                None => return self.unknown(),
            }
            let get = Command::new("GET").arg(self.place.clone());
            match self.ask(get).await {
                Some(Reply::Bytes(told)) if told != AT_IT.as_bytes() => {
                    return Ok(Whose::Theirs(told.into()));
                }
                Some(_) if waited >= WAITED => return Ok(Whose::Taken),
                Some(_) => {}
                None => return self.unknown(),
            }
            self.host.sleep(pause).await;
            waited = waited.saturating_add(pause);
            pause = (pause * 2).min(LOOK.1);
        }
    }

    /// Says that this node redeems the code, unless another one has said so: whether it has not. `None`: the server fails.
    pub(super) async fn begin(&self) -> Option<bool> {
        let set = Command::new("SET").arg(self.place.clone()).arg(AT_IT);
        let set = set.arg("PX").number(milliseconds(self.lasts)).arg("NX");
        Some(self.ask(set).await? != Reply::Nil)
    }

    /// Tells what has come of it, which is worth knowing for as long as it `lasts`. `None`: the code may still be good, and is
    /// another node's to redeem.
    pub(super) async fn end(&self, told: Option<Vec<u8>>, lasts: Duration) {
        let place = self.place.clone();
        let command = match told {
            Some(told) => {
                let set = Command::new("SET").arg(place).arg(told);
                set.arg("PX").number(milliseconds(lasts))
            }
            None => Command::new("DEL").arg(place),
        };
        // What failed is logged.
        _ = self.ask(command).await;
    }

    fn unknown(&self) -> Result<Whose, Failure> {
        if self.is_needed {
            return Err(session_store::unavailable(
                "it does not say whose turn it is",
            ));
        }
        Ok(Whose::Unknown)
    }

    async fn ask(&self, command: Command) -> Option<Reply> {
        let error = match self.host.redis(self.server, vec![command]).await {
            Ok(mut replies) => match replies.pop() {
                Some(Reply::Error(error)) => error,
                reply => return reply,
            },
            Err(error) => error.to_string(),
        };
        warn!(error, "nodes cannot agree in Redis on who redeems a code");
        None
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
