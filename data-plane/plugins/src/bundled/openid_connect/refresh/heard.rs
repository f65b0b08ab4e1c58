//! What nodes tell one another of refreshes: by their control planes, and in Redis where they share answers.

use std::time::Duration;

use shared::hexadecimal::hexadecimal;

use super::contested::{REFUSED, contested};
use super::{Outcome, Refresh, unjudged};
use crate::bundled::openid_connect::failure::{Class, Failure, known_refusal};
use crate::bundled::openid_connect::token_endpoint::Tokens;
use crate::bundled::openid_connect::told;
use crate::bundled::openid_connect::turn::{Turn, Whose};
use crate::host::Host;

/// What tokens are sealed as on their way to another node. No cookie has such a name.
const NAME: &str = "=refresh";

/// What a refusal is sealed as: nodes of the version before, which know nothing of it, ask for themselves.
const NONE: &str = "=refresh, refused";

/// How long other nodes can hear of new tokens in Redis: as long as of a control plane.
const TOLD: Duration = Duration::from_mins(1);

impl<H: Host> Refresh<H> {
    /// The tokens that another node has published; none if nobody has judged them yet, which is noted.
    pub(super) fn hear(&self, sealed: &[u8]) -> Option<Tokens> {
        let tokens = self.open(sealed);
        if tokens.is_none() {
            let (rules, ring, host) = (&self.rules, &self.ring, &self.host);
            let unjudged = &self.refreshes.unjudged;
            unjudged.hear(rules, ring, host, self.key, sealed);
        }
        tokens
    }

    /// The tokens that another node has published, if they are judged.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Tokens> {
        told::open(&self.rules, &self.ring, &self.host, NAME, sealed)
    }

    /// That another node has ended the session, for what the provider said or gave.
    pub(super) fn hear_refusal(&self, sealed: &[u8]) -> Option<Failure> {
        let code: String = told::open(&self.rules, &self.ring, &self.host, NONE, sealed)?;
        let detail = "another node was refused new tokens of late";
        // What was forged is so here, too: it leaves nobody as the anonymous consumer.
        let known = known_refusal(&code).unwrap_or(REFUSED);
        Some(Failure::refused(known, detail).with("reason", code))
    }

    /// What other nodes are told: the tokens, judged or not, or that the session has ended.
    pub(super) fn tell(&self, outcome: &Outcome) -> Option<Vec<u8>> {
        let (rules, ring, host) = (&self.rules, &self.ring, &self.host);
        match outcome {
            Ok(tokens) => return told::seal(rules, ring, host, NAME, tokens.as_ref()),
            Err(failure) if failure.class == Class::Unauthorized && self.session.is_some() => {
                return told::seal(rules, ring, host, NONE, &failure.code);
            }
            Err(_) => {}
        }
        let given = self.refreshes.unjudged.find(&self.key, host.now())?;
        given.seal(rules, ring, host, &self.want.token)
    }

    /// Whether the refresh token is used up: whoever brings it again may end what the provider has given for it.
    fn is_spent_by(&self, outcome: &Outcome) -> bool {
        if let Ok(tokens) = outcome {
            return self.want.used_up(tokens);
        }
        let given = self.refreshes.unjudged.find(&self.key, self.host.now());
        given.is_some_and(|given| given.next(&self.want.token).is_some())
    }

    /// New tokens, of this node's asking or of that of another one, where nodes share a server in which no session lies.
    pub(super) async fn ask_or_hear(&self) -> Outcome {
        let name = self.replaces();
        let Some(turn) = Turn::of_refresh(&self.rules, &self.host, &name) else {
            return self.ask().await;
        };
        let sealed_as = format!("{NAME} {}", hexadecimal(&name));
        let (rules, ring, host) = (&self.rules, &self.ring, &self.host);
        match turn.take().await? {
            Whose::Ours | Whose::Unknown => {}
            Whose::Taken | Whose::Spent => return Err(contested()),
            Whose::Theirs(told) => {
                // It serves at no other place than this one, whoever can write there.
                let told: Option<String> = told::open(rules, ring, host, &sealed_as, &told);
                let told = told.as_deref().map(str::as_bytes);
                if let Some(refusal) = told.and_then(|told| self.hear_refusal(told)) {
                    return Err(refusal);
                }
                let tokens = told.and_then(|told| self.hear(told));
                // A refresh token that is not used up serves whoever wants more.
                let tokens = tokens.filter(|tokens| self.want.takes(tokens, host.now()));
                return match tokens {
                    Some(tokens) => self.take(tokens).await,
                    None => self.ask().await,
                };
            }
        }
        let outcome = turn.during(self.ask()).await;
        let told = self.tell(&outcome);
        let told = told.and_then(|told| String::from_utf8(told).ok());
        let told = told.and_then(|told| told::seal(rules, ring, host, &sealed_as, &told));
        let lasts = match &outcome {
            Err(failure) if failure.class != Class::Unauthorized => unjudged::KEPT,
            _ => TOLD,
        };
        if told.is_none() && self.is_spent_by(&outcome) {
            turn.end_spent(lasts).await;
        } else {
            turn.end(told, lasts).await;
        }
        outcome
    }
}
