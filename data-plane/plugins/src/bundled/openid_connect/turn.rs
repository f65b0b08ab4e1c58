//! Whose turn it is to redeem a code, or to refresh tokens: nodes that share a Redis server say it to one another there,
//! also those that no control plane hears.
//!
//! ```text
//! <prefix>:code:<digest>        a node is at it ("1"); then what it tells the others, sealed
//! <prefix>:refresh:<digest>
//! <prefix>:turn:<digest>        a node is at it: what comes of it lies where the session does
//! ```

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use shared::clock::UnixTime;
use shared::hexadecimal::hexadecimal;
use tracing::warn;

use crate::bundled::openid_connect::config::AuthMethod;
use crate::bundled::openid_connect::failure::Failure;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::session_store::{self, SessionStore};
use crate::bundled::openid_connect::told;
use crate::host::Host;
use crate::host::redis::{Command, RedisServer, Reply};

/// What stands there while a node is at it. No sealed text is that short.
const AT_IT: &str = "1";

/// How long a turn lasts unless it is prolonged: a node that dies at it does not hold up the others for longer.
const TURN: Duration = Duration::from_secs(10);

/// How soon it is prolonged, while it is worked at.
const PROLONGED: Duration = Duration::from_secs(3);

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
    /// Another node's, which has spent it and tells nothing more.
    Spent,
    /// Another node's, which is still at it after a long wait, or may have spent it while the server was silent.
    Taken,
    /// Nobody can say.
    Unknown,
}

/// The place where nodes say who does one piece of work.
pub(super) struct Turn<H> {
    host: H,
    server: Arc<RedisServer>,
    place: String,
    /// When it is over, unless it is prolonged.
    until: Cell<UnixTime>,
    /// Whether nothing comes of the work while the server is away.
    is_needed: bool,
}

impl<H: Host> Turn<H> {
    /// Where the nodes that run `rules` say who redeems the code `key`; none if they share no server.
    pub(super) fn of_code(rules: &Rules, host: &H, key: &[u8; 32]) -> Option<Self> {
        let name = format!("code:{}", hexadecimal(key));
        match &rules.storage {
            Some(store) => {
                let is_needed = rules.keeps_session(AuthMethod::AuthorizationCode);
                Some(Self::new(host, store.shared(&name), is_needed))
            }
            None => Self::beside_answers(rules, host, &name),
        }
    }

    /// The same for the refresh `key`, of tokens that lie in no store.
    pub(super) fn of_refresh(rules: &Rules, host: &H, key: &[u8; 32]) -> Option<Self> {
        Self::beside_answers(rules, host, &format!("refresh:{}", hexadecimal(key)))
    }

    /// The same for the refresh called `name` of the session `session`, which lies in `store`.
    pub(super) fn of_stored(store: &SessionStore, host: &H, (session, name): (&str, &str)) -> Self {
        Self::new(host, store.turn(session, name), true)
    }

    fn beside_answers(rules: &Rules, host: &H, name: &str) -> Option<Self> {
        let shared = rules.shared_answers.as_ref()?.shared(name);
        Some(Self::new(host, shared, false))
    }

    fn new(host: &H, (server, place): (&Arc<RedisServer>, String), is_needed: bool) -> Self {
        Self {
            host: host.clone(),
            server: Arc::clone(server),
            place,
            until: Cell::new(UnixTime::default()),
            is_needed,
        }
    }

    /// Takes the turn, or waits for what comes of that of another node.
    ///
    /// # Errors
    ///
    /// If the server fails before it has said whose turn it is, and what comes of a code could not be stored there: it stays
    /// unspent.
    pub(super) async fn take(&self) -> Result<Whose, Failure> {
        let (began, mut pause) = (self.host.now(), LOOK.0);
        let (mut is_theirs, mut was_silent) = (false, false);
        loop {
            match self.begin().await {
                // Whoever was at it may have spent it, and could not tell. Others wait until this has lapsed.
                Some(true) if was_silent => return Ok(Whose::Taken),
                Some(true) => return Ok(Whose::Ours),
                Some(false) => is_theirs = true,
                // That the server is silent does not make it this node's.
                None if is_theirs => was_silent = true,
                None => return self.unknown(),
            }
            let get = Command::new("GET").arg(self.place.clone());
            match self.ask(get).await {
                Some(Reply::Bytes(told)) if told == told::SPENT => return Ok(Whose::Spent),
                Some(Reply::Bytes(told)) if told != AT_IT.as_bytes() => {
                    return Ok(Whose::Theirs(told.into()));
                }
                Some(_) => {}
                None => was_silent = true,
            }
            if self.host.now().saturating_since(began) >= WAITED {
                return Ok(Whose::Taken);
            }
            self.host.sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }

    /// Takes the turn, unless another node has it: whether it has not.
    ///
    /// # Errors
    ///
    /// If the server fails, and what comes of it could not be stored there.
    pub(super) async fn take_free(&self) -> Result<bool, Failure> {
        match self.begin().await {
            Some(is_ours) => Ok(is_ours),
            None => self.unknown().map(|_| true),
        }
    }

    /// Says that this node is at it, unless another one has said so: whether it has not. `None`: the server fails.
    async fn begin(&self) -> Option<bool> {
        let until = self.host.now().saturating_add(TURN);
        let set = Command::new("SET").arg(self.place.clone()).arg(AT_IT);
        let set = set.arg("PX").milliseconds(TURN).arg("NX");
        let is_ours = self.ask(set).await? != Reply::Nil;
        if is_ours {
            self.until.set(until);
        }
        Some(is_ours)
    }

    /// Does the `work`, and keeps the turn for as long as that takes.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let prolongs = async {
            loop {
                self.host.sleep(PROLONGED).await;
                self.prolong().await;
            }
        };
        match select(pin!(work), pin!(prolongs)).await {
            Either::Left((done, _)) | Either::Right((done, _)) => done,
        }
    }

    /// Lets others wait longer. One that is over may be another node's. What comes late, behind what is told, at most lets
    /// that be forgotten sooner.
    async fn prolong(&self) {
        let now = self.host.now();
        if now >= self.until.get() {
            return;
        }
        let prolong = Command::new("PEXPIRE").arg(self.place.clone());
        let prolong = prolong.milliseconds(TURN);
        if self.ask(prolong).await == Some(Reply::Integer(1)) {
            self.until.set(now.saturating_add(TURN));
        }
    }

    /// Tells that it is spent, and nothing of what was given for it.
    pub(super) async fn end_spent(&self, lasts: Duration) {
        self.end(Some(told::SPENT.to_vec()), lasts).await;
    }

    /// Tells what has come of it, which is worth knowing for as long as it `lasts`. `None`: nothing may have been
    /// spent, and it is another node's turn.
    pub(super) async fn end(&self, told: Option<Vec<u8>>, lasts: Duration) {
        let Some(told) = told else {
            return self.give_back().await;
        };
        let set = Command::new("SET").arg(self.place.clone()).arg(told);
        // What failed is logged.
        _ = self.ask(set.arg("PX").milliseconds(lasts)).await;
    }

    /// Lets it be another node's turn.
    pub(super) async fn give_back(&self) {
        // It may be that already.
        if self.host.now() < self.until.get() {
            // What failed is logged; it ends by itself.
            _ = self.ask(Command::new("DEL").arg(self.place.clone())).await;
        }
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
        let error = match self.host.redis(&self.server, vec![command]).await {
            Ok(mut replies) => match replies.pop() {
                Some(Reply::Error(error)) => error,
                reply => return reply,
            },
            Err(error) => error.to_string(),
        };
        warn!(
            error,
            "nodes cannot agree in Redis on who redeems a code or refreshes tokens"
        );
        None
    }
}
