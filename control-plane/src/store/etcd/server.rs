//! Which version etcd has: one that is too old is used all the same, and operators are told.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use shared::clock::monotonic;
use shared::telemetry::Trouble;
use tokio::sync::watch;

use super::client::Client;
use super::{EtcdError, EtcdSettings};

/// How often it is asked: members may be replaced while this process runs.
const LOOK: Duration = Duration::from_mins(10);

/// How soon it is asked again where it did not answer.
const AGAIN: Duration = Duration::from_secs(10);

/// The first version that is not told of as too old.
const SINCE: (u32, u32) = (3, 5);

/// The version of the member that answered last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version(String);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Version {
    /// What does not work with it, if it is too old.
    pub fn warning(&self) -> Option<String> {
        let mut numbers = self.0.split('.').map(|number| number.parse().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        ((major, minor) < SINCE).then(|| {
            format!(
                "etcd {self} is older than 3.5 and gets no repairs any more: after one of its members stood still it may answer \
                 with what was there before, and changes of other control planes, logouts among them, come here late; upgrade it"
            )
        })
    }

    /// As `/status` shows it.
    pub(crate) fn show(&self) -> Value {
        json!({ "version": self.0, "warning": self.warning() })
    }
}

/// The way to ask for the version.
#[derive(Debug)]
pub struct Server {
    client: Client,
}

impl Server {
    /// That of `settings`.
    ///
    /// # Errors
    ///
    /// Settings that cannot be used.
    pub fn new(settings: &EtcdSettings) -> Result<Self, EtcdError> {
        Ok(Self {
            client: Client::start(settings)?,
        })
    }

    /// Has `known` hold the version, and warns of one that is too old, for as long as the process lives.
    pub(crate) async fn follow(self, known: watch::Sender<Option<Version>>) {
        let mut age = Trouble::default();
        loop {
            let pause = match self.version().await {
                Ok(version) => {
                    match version.warning() {
                        Some(warning) if age.is_news(&warning, monotonic()) => {
                            tracing::warn!("{warning}");
                        }
                        Some(_) => {}
                        None => age.ends(),
                    }
                    known.send_replace(Some(version));
                    LOOK
                }
                // Whoever needs it says that it is not reached.
                Err(_) => AGAIN,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The version of whichever member answers.
    pub(in crate::store) async fn version(&self) -> Result<Version, EtcdError> {
        self.client.version().await.map(Version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etcd_that_is_too_old_is_told_of() {
        for (version, expected) in [
            ("3.4.23", true),
            ("3.3.0", true),
            ("2.9.9", true),
            ("3.5.0", false),
            ("3.6.1", false),
            ("3.10.0", false),
            ("4.0.0", false),
            ("3.6.0-rc.1", false),
            ("", false),
            ("unknown", false),
        ] {
            let version = Version(version.to_owned());
            assert_eq!(version.warning().is_some(), expected, "{version}");
            assert_eq!(version.show()["warning"].is_string(), expected);
        }
    }
}
