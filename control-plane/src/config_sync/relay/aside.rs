//! What a node keeps here for whichever node needs it next, also where that is connected to another control plane.
//!
//! Where there are several, each looks for what the others want while it keeps something: what nobody wants, and anybody
//! can have kept, costs etcd nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::bytes::Bytes;
use proto::v1::aside::Step;
use proto::v1::{Aside, answer};
use shared::clock::monotonic;

use super::{Asker, Key, LOOK, Relay, is_key};
use crate::config_sync::asides::Asides;
use crate::store::etcd::{Claims, EtcdError};

/// How often it is looked whether another control plane wants something.
const LOOK_FOR_WANTED: Duration = Duration::from_millis(250);

/// How long something is looked for at the others: a user waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is kept here, and whether somebody looks for what the others want.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<(Asides, bool)>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, (Asides, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// Does what a node of this name asks.
    pub(super) fn put_or_take(&self, node: &str, aside: Aside, asker: Asker) {
        if !is_key(&aside.key) {
            return asker.refuse("not a key");
        }
        let now = monotonic();
        let step = aside.step();
        let key = aside.key;
        match step {
            Step::Keep => {
                let mut kept = self.asides.lock();
                if !kept.0.keep(key, node, aside.sealed, now) {
                    return asker.refuse("too long");
                }
                let is_looked_for = std::mem::replace(&mut kept.1, true);
                drop(kept);
                asker.answer(answer::What::Stored(true));
                if let Some(claims) = self.claims().filter(|_| !is_looked_for) {
                    tokio::spawn(give(self.asides.clone(), claims));
                }
            }
            Step::Take => {
                let taken = self.asides.lock().0.take(&key, now);
                match (taken, self.claims()) {
                    (Some(sealed), _) => asker.answer(answer::What::Result(sealed)),
                    (None, Some(claims)) => _ = tokio::spawn(find(claims, key, asker)),
                    (None, None) => asker.refuse("nothing is kept as this"),
                }
            }
            Step::Forget => {
                self.asides.lock().0.forget(&key);
                asker.answer(answer::What::Stored(true));
            }
            Step::Unspecified => asker.refuse("this control plane does not know what is asked for"),
        }
    }
}

/// Gives the other control planes what they want of what is kept here, for as long as there is something.
async fn give(kept: Kept, claims: Arc<Claims>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(LOOK_FOR_WANTED).await;
        {
            let mut kept = kept.lock();
            if kept.0.is_empty(monotonic()) {
                kept.1 = false;
                return;
            }
        }
        let given = give_wanted(&kept, &claims).await;
        if let Err(error) = &given
            && !failing
        {
            tracing::warn!(%error, "other control planes are not given the forms that their nodes need");
        }
        failing = given.is_err();
    }
}

async fn give_wanted(kept: &Kept, claims: &Claims) -> Result<(), EtcdError> {
    for key in claims.wanted().await? {
        let key = Key::from(key);
        // Nobody else is given it, also if it does not arrive: what was posted twice would be worse than what is asked for anew.
        let taken = kept.lock().0.take(&key, monotonic());
        if let Some(sealed) = taken {
            claims.give(&key, &sealed).await?;
        }
    }
    Ok(())
}

/// Looks for `key` at the other control planes.
async fn find(claims: Arc<Claims>, key: Key, asker: Asker) {
    let found = async {
        claims.want(&key).await?;
        let mut pause = LOOK.0;
        loop {
            if let Some(found) = claims.receive(&key).await? {
                return Ok::<_, EtcdError>(found);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(Ok(found)) => asker.answer(answer::What::Result(Bytes::from(found))),
        Ok(Err(error)) => {
            tracing::warn!(%error, "other control planes cannot be asked for a form");
            asker.refuse("the other control planes cannot be asked");
        }
        Err(_) => {
            asker.refuse("nothing is kept as this");
            // If that fails it is gone by itself, only later.
            _ = claims.unwant(&key).await;
        }
    }
}
