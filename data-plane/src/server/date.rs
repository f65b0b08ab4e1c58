//! The `Date` of responses (RFC 9110 §6.6.1), rewritten once a second.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use shared::clock::UnixTime;

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
const LENGTH: usize = 29;

/// How long a date is that of now.
const SECOND: Duration = Duration::from_secs(1);

/// The last date that was asked for, and from and until when it is that of now.
#[derive(Debug, Default)]
pub(crate) struct Date(Cell<Option<(Instant, Instant, [u8; LENGTH])>>);

impl Date {
    /// The date at `moment`, which is not long ago, as it is written. The wall clock is asked once a second.
    pub(crate) fn at(&self, moment: Instant, wall: impl FnOnce() -> UnixTime) -> [u8; LENGTH] {
        if let Some((from, until, known)) = self.0.get()
            && moment < until
            && moment >= from
        {
            return known;
        }
        let now = wall();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let text = httpdate::fmt_http_date(time);
        let date = text.as_bytes().try_into().unwrap_or([b' '; LENGTH]);
        let left = Duration::from_millis(1000 - now.as_millis() % 1000);
        let until = moment + left;
        let from = until.checked_sub(SECOND).unwrap_or(moment);
        self.0.set(Some((from, until, date)));
        date
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::monotonic;

    use super::*;

    #[test]
    fn a_date_is_that_of_its_second() {
        let (date, start) = (Date::default(), monotonic());
        let check = |milliseconds: u64, expected: &[u8]| {
            let moment = start + Duration::from_millis(milliseconds);
            let wall = || UnixTime::from_millis(784_111_777_300 + milliseconds);
            assert_eq!(date.at(moment, wall), expected, "{milliseconds}");
        };
        check(0, b"Sun, 06 Nov 1994 08:49:37 GMT");
        check(699, b"Sun, 06 Nov 1994 08:49:37 GMT");
        check(700, b"Sun, 06 Nov 1994 08:49:38 GMT");
        check(1699, b"Sun, 06 Nov 1994 08:49:38 GMT");
        check(1700, b"Sun, 06 Nov 1994 08:49:39 GMT");
        check(100, b"Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
