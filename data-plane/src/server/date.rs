//! The `Date` of answers (RFC 9110 §6.6.1), written anew once a second.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use shared::clock::UnixTime;

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
const LENGTH: usize = 29;

/// The last date that was asked for.
#[derive(Debug, Default)]
pub(crate) struct Date(Cell<(u64, [u8; LENGTH])>);

impl Date {
    /// The date at `now`, as it is written.
    pub(crate) fn at(&self, now: UnixTime) -> [u8; LENGTH] {
        let (second, known) = self.0.get();
        if second == now.as_secs() {
            return known;
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let text = httpdate::fmt_http_date(time);
        let date = text.as_bytes().try_into().unwrap_or([b' '; LENGTH]);
        self.0.set((now.as_secs(), date));
        date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_that_of_its_second() {
        let date = Date::default();
        let check = |milliseconds, expected: &[u8]| {
            assert_eq!(date.at(UnixTime::from_millis(milliseconds)), expected);
        };
        check(784_111_777_000, b"Sun, 06 Nov 1994 08:49:37 GMT");
        check(784_111_777_999, b"Sun, 06 Nov 1994 08:49:37 GMT");
        check(784_111_778_000, b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
