//! Detects an etcd that was put back to an earlier state, or begun afresh, while running control planes know another.

use std::time::{Duration, Instant};

use shared::snapshot::Revision;

use super::Head;
use crate::publisher::JournalFault;

/// How long an older head may be the answer of a member that stood still, and does not know yet what it has missed.
const BEHIND: Duration = Duration::from_secs(3);

/// What is known of heads that are older than ours.
#[derive(Debug, Default)]
pub(super) struct Regression {
    since: Option<Instant>,
    /// What there is to say of it, once it is no stale answer.
    found: Option<String>,
}

impl Regression {
    /// Takes in that at `now` etcd has the head `found` where `known` is the newest that is known here. Whether it lacks that,
    /// which may be a stale answer.
    ///
    /// # Errors
    ///
    /// If it was put back.
    pub(super) fn look(
        &mut self,
        found: &Head,
        known: &Head,
        now: Instant,
    ) -> Result<bool, JournalFault> {
        if !found
            .found()
            .lacks(known.generation, Revision(known.revision))
        {
            *self = Self::default();
            return Ok(false);
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= BEHIND {
            let there = match found {
                Head { generation: 0, .. } => "holds no configuration, older than".to_owned(),
                found if found.generation > known.generation => format!(
                    "was begun anew and is at revision {} of generation {}, without",
                    found.revision, found.generation
                ),
                found => format!(
                    "is at revision {} of generation {}, older than",
                    found.revision, found.generation
                ),
            };
            self.found = Some(format!(
                "etcd {there} revision {} of generation {} that this control plane has: it was put back to an \
                 earlier state; `POST /clustering/exports` at the control plane that names the highest revision, stop all \
                 control planes, `restore --from` that export, start them",
                known.revision, known.generation
            ));
        }
        self.check()?;
        Ok(true)
    }

    /// An error if it was put back.
    pub(super) fn check(&self) -> Result<(), JournalFault> {
        match &self.found {
            Some(found) => Err(JournalFault::Broken(found.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn head(generation: u64, revision: u64) -> Head {
        Head {
            generation,
            revision,
            chain: [0; 32],
            write: uuid::Uuid::nil(),
            restored: None,
        }
    }

    #[test]
    fn what_stays_older_was_put_back() {
        let start = shared::clock::monotonic();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let known = head(7, 34);
        for (found, said) in [
            (head(7, 19), "etcd is at revision 19 of generation 7, older"),
            (head(6, 40), "etcd is at revision 40 of generation 6, older"),
            (Head::default(), "etcd holds no configuration, older"),
            (
                Head {
                    restored: Some(false),
                    ..head(9, 2)
                },
                "etcd was begun anew and is at revision 2 of generation 9, without revision 34",
            ),
        ] {
            let mut regression = Regression::default();
            for ms in [0, 2999] {
                regression.look(&found, &known, at(ms)).unwrap();
                regression.check().unwrap();
            }
            // A stale answer in between begins anew.
            assert!(!regression.look(&known, &known, at(3000)).unwrap());
            assert!(regression.look(&found, &known, at(3100)).unwrap());
            regression.look(&found, &known, at(6099)).unwrap();
            let told = regression.look(&found, &known, at(6100)).unwrap_err();
            assert!(matches!(told, JournalFault::Broken(_)), "{told:?}");
            assert!(told.to_string().contains(said), "{told}");
            regression.check().unwrap_err();
            // The right state was put back in its place.
            assert!(!regression.look(&head(7, 35), &known, at(7000)).unwrap());
            regression.check().unwrap();
        }
        // A restore that raised the generation is none of that.
        let restored = Head {
            restored: Some(true),
            ..head(9, 2)
        };
        let mut regression = Regression::default();
        for ms in [0, 9000] {
            assert!(!regression.look(&restored, &known, at(ms)).unwrap());
        }
    }
}
