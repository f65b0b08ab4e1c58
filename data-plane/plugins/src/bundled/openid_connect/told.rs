//! The result of an operation that a node has done for all others, sealed on its way to them so that nobody in between
//! can read it.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::rules::Rules;
use crate::host::{Claim, Host, LONGEST_RESULT, Work};
use crate::sessions::seal::{self, Sizes};
use crate::sessions::session_keys::KeyRing;

/// A result is one piece.
const SIZES: Sizes = Sizes {
    chunk: LONGEST_RESULT,
    most: 1,
};

/// What is told where something is spent, and what was given for it cannot be told. No sealed text is that short.
pub(super) const SPENT: &[u8] = b"spent";

/// How long a control plane remembers what it was told.
const REMEMBERED: Duration = Duration::from_mins(1);

/// How soon it is looked again whether it still does.
const LOOK: Duration = Duration::from_secs(2);

/// Seals `result` as `name`, which no cookie has. `None`: there is no key, or it is too long to be told.
pub(super) fn seal(
    rules: &Rules,
    ring: &KeyRing,
    host: &impl Host,
    name: &str,
    result: &impl Serialize,
) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(result).ok()?;
    let mut nonce = [0; 12];
    host.random(&mut nonce);
    let now = host.now().as_secs();
    let sealed = seal::seal(ring, &rules.binding, name, &json, SIZES, now, nonce);
    Some(sealed.ok()?.into_bytes())
}

/// Opens what another node has sealed as `name`.
pub(super) fn open<T: DeserializeOwned>(
    rules: &Rules,
    ring: &KeyRing,
    host: &impl Host,
    name: &str,
    sealed: &[u8],
) -> Option<T> {
    let sealed = std::str::from_utf8(sealed).ok()?;
    let opened = seal::open(ring, &rules.binding, name, sealed, host.now().as_secs())?;
    serde_json::from_slice(&opened.plaintext).ok()
}

/// Sees to it that the other nodes can hear of what was told as `key` for as long as this one has it: tells it again
/// whenever the control planes have forgotten it.
pub(super) async fn go_on<T>(
    host: &impl Host,
    key: [u8; 32],
    work: Work,
    kept: impl Fn() -> Option<T>,
    seal: impl Fn(&T) -> Option<Vec<u8>>,
) {
    let mut pause = REMEMBERED;
    while kept().is_some() {
        host.sleep(pause).await;
        pause = LOOK;
        let Some(kept) = kept() else {
            break;
        };
        let begun = match host.claim(key, work).await {
            Claim::Ours(begun) => begun,
            // It may have been given to this node, and nobody else does it until that is told.
            Claim::Alone => host.undertake(key),
            Claim::Theirs(_) | Claim::Taken => continue,
        };
        host.publish(key, begun, seal(&kept));
        pause = REMEMBERED;
    }
}
