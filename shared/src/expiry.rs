//! Certificates that expire soon, and when to warn about them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::clock::UnixTime;

/// What ends within this time is said to.
pub const SOON: Duration = Duration::from_hours(30 * 24);

/// How often the same is said.
const AGAIN: Duration = Duration::from_hours(24);

/// A certificate as operators know it, and when it ends.
pub type Expiry = (String, UnixTime);

/// Whether what ends at `at` is worth a word.
pub fn is_soon(at: UnixTime, now: UnixTime) -> bool {
    at.saturating_since(now) < SOON
}

/// When certificates end, as a metric in the text format of Prometheus.
pub fn metrics(expiries: &[Expiry]) -> String {
    let name = "wardgate_certificate_expiry_timestamp";
    let mut text = format!(
        "# HELP {name} When a certificate ends, in seconds since 1970.\n# TYPE {name} gauge\n"
    );
    for (certificate, at) in expiries {
        // A certificate is called after a setting or a host name: nothing in it needs an escape.
        let at = at.as_secs();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}{{certificate=\"{certificate}\"}} {at}");
    }
    text
}

/// Says of certificates that they end: from 30 days before on, of each once a day, and at once when it has ended or
/// another that ends soon is in its place.
#[derive(Debug, Default)]
pub struct Notices {
    /// What was said of each: of which end, whether it was over, and when.
    said: HashMap<String, (UnixTime, bool, Instant)>,
}

impl Notices {
    /// Logs what of `expiries` is to be said now. `clock` tells how long ago it was said last.
    pub fn tell(&mut self, expiries: &[Expiry], now: UnixTime, clock: Instant) {
        for (certificate, at) in self.due(expiries, now, clock) {
            let days = at.saturating_since(now).as_secs() / 86_400;
            if at <= now {
                tracing::error!(
                    certificate,
                    ended_at = at.as_secs(),
                    "a certificate has ended"
                );
            } else {
                tracing::warn!(certificate, days, "a certificate ends soon");
            }
        }
    }

    fn due<'a>(
        &mut self,
        expiries: &'a [Expiry],
        now: UnixTime,
        clock: Instant,
    ) -> Vec<(&'a str, UnixTime)> {
        let mut due = Vec::new();
        let mut said = HashMap::new();
        for (certificate, at) in expiries.iter().filter(|(_, at)| is_soon(*at, now)) {
            let known = self.said.get(certificate).copied();
            let same = known.filter(|(end, over, then)| {
                (*end, *over) == (*at, *at <= now) && clock.duration_since(*then) < AGAIN
            });
            let told = same.unwrap_or_else(|| {
                due.push((certificate.as_str(), *at));
                (*at, *at <= now, clock)
            });
            said.insert(certificate.clone(), told);
        }
        self.said = said;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn what_ends_soon_is_said_once_a_day_and_what_has_ended_at_once() {
        let start = crate::clock::monotonic();
        let mut notices = Notices::default();
        let mut due = |ends: &[(&str, u64)], seconds: u64| {
            let expiries: Vec<Expiry> = ends
                .iter()
                .map(|(what, at)| ((*what).to_owned(), UnixTime::from_secs(*at)))
                .collect();
            let now = UnixTime::from_secs(seconds);
            let said = notices.due(&expiries, now, start + Duration::from_secs(seconds));
            let names = said.into_iter().map(|(what, _)| what.to_owned());
            names.collect::<Vec<_>>()
        };
        let both = [("a", 40 * DAY), ("b", 31 * DAY)];
        assert!(due(&both, DAY).is_empty(), "there are 30 days left");
        assert_eq!(due(&both, DAY + 1), ["b"]);
        assert!(due(&both, 2 * DAY).is_empty());
        assert_eq!(due(&both, 2 * DAY + 1), ["b"]);
        assert_eq!(due(&both, 11 * DAY), ["a", "b"]);
        // Renewed, and not for long enough.
        assert!(due(&[("b", 90 * DAY)], 11 * DAY + 1).is_empty());
        assert_eq!(due(&[("b", 32 * DAY)], 11 * DAY + 2), ["b"]);
        assert!(due(&[("b", 32 * DAY)], 11 * DAY + 3).is_empty());
        assert_eq!(due(&[("b", 32 * DAY)], 32 * DAY - 1), ["b"]);
        assert_eq!(due(&[("b", 32 * DAY)], 32 * DAY), ["b"]);
        assert!(due(&[("b", 32 * DAY)], 32 * DAY + 1).is_empty());
        assert_eq!(due(&[("b", 32 * DAY)], 33 * DAY), ["b"]);
    }
}
