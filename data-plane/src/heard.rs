//! When a control plane was heard last, kept over restarts as the time of a file: a node that starts again in the midst of a
//! silence has not heard what was ended elsewhere meanwhile, either.
//!
//! Only the wall clock goes on while no process runs. One that was put back behind the last word says nothing of the silence,
//! which then counts as long.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use shared::clock::UnixTime;

/// The file in the data directory.
const NAME: &str = "heard";

/// How far a clock may be put back by a step that only sets it right.
const STEP: Duration = Duration::from_secs(5);

/// The file of one node.
#[derive(Debug)]
pub(crate) struct Heard(PathBuf);

impl Heard {
    pub(crate) fn new(directory: &Path) -> Self {
        Self(directory.join(NAME))
    }

    /// How long nothing had been heard at `now`, or since 1970 if that cannot be known: by one that may have `missed` something,
    /// where there is no such file, and by any if that is of a time which is yet to come.
    pub(crate) fn silence(&self, now: UnixTime, missed: bool) -> Duration {
        let time = std::fs::metadata(&self.0).and_then(|found| found.modified());
        let time = match time {
            Ok(time) => time,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(file = %self.0.display(), %error, "the time of the last contact with a control plane is not known");
                }
                let unknown = Duration::from_secs(now.as_secs());
                return if missed { unknown } else { Duration::ZERO };
            }
        };
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let heard = UnixTime::from_millis(since);
        if heard.saturating_since(now) > STEP {
            tracing::warn!(
                "by this clock a control plane was heard in the future: how long ago that was is not known"
            );
            return Duration::from_secs(now.as_secs());
        }
        now.saturating_since(heard)
    }

    /// A control plane was heard at `at`.
    pub(crate) fn note(&self, at: UnixTime) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(at.as_millis());
        options.open(&self.0)?.set_modified(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_goes_on_over_restarts() {
        let place = tempfile::tempdir().unwrap();
        let heard = Heard::new(place.path());
        let at = UnixTime::from_secs;
        assert_eq!(heard.silence(at(1_000), false), Duration::ZERO);
        let ever = Duration::from_mins(15);
        assert_eq!(heard.silence(at(900), true), ever, "nobody knows");
        for time in [1_000, 1_010] {
            heard.note(at(time)).unwrap();
            let next = Heard::new(place.path());
            for missed in [false, true] {
                let silence = |seconds| next.silence(at(seconds), missed);
                assert_eq!(silence(1_040), Duration::from_secs(1_040 - time));
                assert_eq!(silence(time - 5), Duration::ZERO, "a step of the clock");
                assert_eq!(silence(time - 6), Duration::from_secs(time - 6));
                assert_eq!(silence(900), ever, "the clock was put back");
            }
        }
    }
}
