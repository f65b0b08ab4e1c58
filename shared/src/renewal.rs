//! Files that are reloaded when they change, such as certificates: the old content stays in use until the new one is
//! usable.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use zeroize::Zeroizing;

use crate::telemetry::{Trouble, chain};

/// Files that belong together.
#[derive(Debug)]
pub struct Renewal {
    /// What they hold, as the log calls it.
    what: &'static str,
    files: Vec<PathBuf>,
    /// Their content when they were read last.
    known: [u8; 32],
    /// Why what they hold since cannot be used.
    trouble: Trouble,
}

impl Renewal {
    /// `files` that hold `what`, such as "the cluster's certificates", and that have been read just now.
    pub fn of(what: &'static str, files: Vec<PathBuf>) -> Self {
        let known = fingerprint(&files);
        Self {
            what,
            files,
            known,
            trouble: Trouble::default(),
        }
    }

    /// What `read` makes of the files if they have changed. What cannot be used is said once, and looked at again: of
    /// certificate and key, which are two files, one may be there before the other.
    pub fn look<T, E: Error>(
        &mut self,
        clock: Instant,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Option<T> {
        let found = fingerprint(&self.files);
        if found == self.known {
            self.trouble.ends();
            return None;
        }
        match read() {
            Ok(read) => {
                self.known = found;
                self.trouble.ends();
                tracing::info!("{} were renewed", self.what);
                Some(read)
            }
            Err(error) => {
                let error = chain(&error).to_string();
                if self.trouble.is_news(&error, clock) {
                    tracing::warn!(
                        %error,
                        "{} have changed and cannot be used; the ones before go on", self.what
                    );
                }
                None
            }
        }
    }
}

/// Tells one content of the files from another. One that cannot be read counts as empty.
fn fingerprint(files: &[PathBuf]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        let bytes = std::fs::read(path).map(Zeroizing::new).unwrap_or_default();
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;

    #[test]
    fn files_are_read_when_they_have_changed_and_until_they_can_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        std::fs::write(&one, "1").unwrap();
        let mut renewal = Renewal::of("the files", vec![one.clone(), other.clone()]);
        let read = || std::fs::read_to_string(&other);
        assert_eq!(renewal.look(monotonic(), read), None);
        std::fs::write(&one, "2").unwrap();
        assert_eq!(renewal.look(monotonic(), read), None, "the other is absent");
        std::fs::write(&other, "3").unwrap();
        assert_eq!(renewal.look(monotonic(), read).as_deref(), Some("3"));
        assert_eq!(renewal.look(monotonic(), read), None);
    }
}
