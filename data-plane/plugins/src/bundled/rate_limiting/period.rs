//! The periods that requests are counted in: they begin when the clock (UTC) begins them.

use chrono::{DateTime, Datelike as _, Utc};
use shared::clock::UnixTime;

/// A period.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Period {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

/// All periods, shortest first.
pub(crate) const PERIODS: [Period; 6] = [
    Period::Second,
    Period::Minute,
    Period::Hour,
    Period::Day,
    Period::Month,
    Period::Year,
];

impl Period {
    /// Its name in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// How long it is, in seconds: every month has 30 days and every year 365, as in Kong.
    pub(crate) const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
            Self::Month => 2_592_000,
            Self::Year => 31_536_000,
        }
    }

    /// When the one that `now` lies in has begun, in seconds since 1970.
    pub(crate) fn start(self, now: UnixTime) -> u64 {
        let seconds = now.as_secs();
        match self {
            Self::Month | Self::Year => {
                let date = i64::try_from(seconds)
                    .ok()
                    .and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0))
                    .map(|time| time.date_naive());
                let first = date.and_then(|date| {
                    let first = date.with_day(1)?;
                    if self == Self::Year {
                        first.with_month(1)
                    } else {
                        Some(first)
                    }
                });
                first
                    .and_then(|first| first.and_hms_opt(0, 0, 0))
                    .and_then(|first| u64::try_from(first.and_utc().timestamp()).ok())
                    .unwrap_or_default()
            }
            _ => seconds - seconds % self.seconds(),
        }
    }

    /// After how many seconds it ends; at least one.
    pub(crate) fn reset(self, now: UnixTime) -> u64 {
        let gone = now.as_secs().saturating_sub(self.start(now));
        self.seconds().saturating_sub(gone).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_when_the_calendar_begins_them() {
        // 2024-02-29T12:34:56Z
        let now = UnixTime::from_secs(1_709_210_096);
        let check = |period: Period, start: u64, reset: u64| {
            assert_eq!(
                (period.start(now), period.reset(now)),
                (start, reset),
                "{period:?}"
            );
        };
        check(Period::Second, 1_709_210_096, 1);
        check(Period::Minute, 1_709_210_040, 4);
        check(Period::Hour, 1_709_208_000, 1504);
        check(Period::Day, 1_709_164_800, 41_104);
        check(Period::Month, 1_706_745_600, 2_592_000 - 2_464_496);
        check(Period::Year, 1_704_067_200, 31_536_000 - 5_142_896);
    }
}
