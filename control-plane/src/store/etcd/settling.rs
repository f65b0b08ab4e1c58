//! Whether what was sent to etcd is written, also where the answer is lost.
//!
//! The same transaction may be sent again: it names the head that it follows on, which is another one as soon as it has come
//! through, so it comes through once.

use shared::clock::monotonic;

use super::Head;
use super::client::{ALL as PATIENCE, Comparison, EtcdError, Put};
use super::shelf::Shelf;

/// How often it is sent: to each member of a usual cluster.
const ATTEMPTS: u32 = 3;

/// What has become of a transaction.
#[derive(Debug)]
pub(super) enum Settled {
    /// It is written, as etcd's number of the head says, unless others went on from there already.
    Ours(u64),
    /// Others were first: it is not written, and never will be.
    Theirs,
}

impl Shelf {
    /// Writes `puts`, which make `head` the head, if `unchanged` holds and the value `needed` is there.
    ///
    /// # Errors
    ///
    /// [`EtcdError::Unknown`] if it may be written, now or later. Otherwise it is not.
    pub(super) fn settle(
        &self,
        unchanged: &Comparison<'_>,
        needed: Option<&str>,
        puts: &[Put],
        head: &Head,
    ) -> Result<Settled, EtcdError> {
        let begun = monotonic();
        let left = || PATIENCE.saturating_sub(begun.elapsed());
        let mut doubt = None;
        for _ in 0..ATTEMPTS {
            let sent = self.client.commit_within(left(), unchanged, needed, puts);
            match (sent, &doubt) {
                (Ok(Some(version)), _) => return Ok(Settled::Ours(version)),
                (Ok(None), None) => return Ok(Settled::Theirs),
                (Err(EtcdError::Unknown(reason)), _) => doubt = Some(reason),
                (Err(error), None) => return Err(error),
                // Of what was sent before it tells nothing.
                (Ok(None) | Err(_), Some(_)) => {}
            }
            let unknown = |error: EtcdError| match &doubt {
                Some(reason) => EtcdError::Unknown(format!("{reason}; and then: {error}")),
                None => error,
            };
            // Only what is there tells.
            let (found, version) = self.head_within(left()).map_err(unknown)?;
            if found.write == head.write {
                return Ok(Settled::Ours(version));
            }
            if version != unchanged.version {
                // Others have gone on from there: what led to it may be in the log.
                let logged = self.chain_at(head.revision).map_err(unknown)?;
                return Ok(if logged == Some(head.chain) {
                    // The next write learns from etcd that there is a newer head.
                    Settled::Ours(unchanged.version)
                } else {
                    Settled::Theirs
                });
            }
        }
        Err(EtcdError::Unknown(doubt.unwrap_or_default()))
    }
}
