//! How much a client may have per period, as the configuration says it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use super::period::{PERIODS, Period};
use crate::config::values::Number;

/// So much per period, of requests or of what a plugin counts: part of a configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Amounts {
    /// Most per second.
    #[serde(default)]
    pub second: Option<Number>,

    /// Most per minute.
    #[serde(default)]
    pub minute: Option<Number>,

    /// Most per hour.
    #[serde(default)]
    pub hour: Option<Number>,

    /// Most per day.
    #[serde(default)]
    pub day: Option<Number>,

    /// Most per month.
    #[serde(default)]
    pub month: Option<Number>,

    /// Most per year.
    #[serde(default)]
    pub year: Option<Number>,
}

impl Amounts {
    const fn of(&self, period: Period) -> Option<&Number> {
        match period {
            Period::Second => self.second.as_ref(),
            Period::Minute => self.minute.as_ref(),
            Period::Hour => self.hour.as_ref(),
            Period::Day => self.day.as_ref(),
            Period::Month => self.month.as_ref(),
            Period::Year => self.year.as_ref(),
        }
    }

    /// Those that are given, the shortest period first.
    pub(crate) fn given(&self) -> Vec<(Period, &Number)> {
        let periods = PERIODS.into_iter();
        periods
            .filter_map(|period| Some((period, self.of(period)?)))
            .collect()
    }

    /// The rules between them; `place` leads to the record that they stand in.
    pub(crate) fn check(&self, place: &[&str], errors: &mut FieldErrors) {
        let given = self.given();
        for (period, most) in &given {
            if most.value() <= 0.0 {
                let path: Vec<&str> = place.iter().copied().chain([period.name()]).collect();
                errors.add(&path, "value must be greater than 0");
            }
        }
    }

    /// A longer period must not have a lower limit: which one does, if any.
    pub(crate) fn disorder(&self) -> Option<String> {
        let given = self.given();
        for (place, (shorter, low)) in given.iter().enumerate() {
            for (longer, high) in given.iter().skip(place + 1) {
                if high.value() < low.value() {
                    return Some(format!(
                        "limit for {}({:.1}) cannot be lower than the limit for {}({:.1})",
                        longer.name(),
                        high.value(),
                        shorter.name(),
                        low.value()
                    ));
                }
            }
        }
        None
    }
}

/// An amount in whole units.
pub(crate) fn whole(most: &Number) -> u64 {
    most.0.as_u64().unwrap_or_else(|| most.seconds().as_secs())
}
