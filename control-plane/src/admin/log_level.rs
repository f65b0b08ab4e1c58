//! `/debug/node/log-level`: how much this control plane logs, for a while.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use shared::telemetry::{self, LevelChange};

use super::Answer;
use super::error::Refusal;

/// How long a level stays unless the request says otherwise (Kong 3.9, debug).
const STAY: u64 = 60;

pub(super) fn show() -> Value {
    json!({ "message": format!("log level: {}", telemetry::level()) })
}

/// Changes the level for `timeout` seconds of the query, for good if that is 0.
pub(super) fn set(level: &str, query: Option<&str>) -> Result<Answer, Refusal> {
    let stay = stay(query)?;
    let message = match telemetry::set_level(level) {
        LevelChange::Changed(change) => {
            if !stay.is_zero() {
                tokio::spawn(async move {
                    tokio::time::sleep(stay).await;
                    telemetry::reset_level(change);
                });
            }
            "log level changed".to_owned()
        }
        LevelChange::Already => format!("log level is already {level}"),
        LevelChange::Unknown => {
            return Err(Refusal::Argument(format!("unknown log level: {level}")));
        }
        LevelChange::Off => return Err(Refusal::Unexpected),
    };
    Ok(Answer::new(StatusCode::OK, json!({ "message": message })))
}

/// What the query says of how long a level stays. As in Kong, what is no number says nothing.
fn stay(query: Option<&str>) -> Result<Duration, Refusal> {
    let given = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "timeout")
        .and_then(|(_, text)| text.parse::<f64>().ok());
    match given {
        None => Ok(Duration::from_secs(STAY)),
        Some(seconds) if seconds < 0.0 || seconds.is_nan() => Err(Refusal::Argument(
            "timeout must be greater than or equal to 0".to_owned(),
        )),
        Some(seconds) => Ok(Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_stays_a_minute_or_as_long_as_is_asked() {
        let seconds = |query| stay(query).map(|stay| stay.as_secs()).ok();
        for (query, expected) in [
            (None, Some(60)),
            (Some("timeout=10"), Some(10)),
            (Some("timeout=0.5"), Some(1)),
            (Some("timeout=0"), Some(0)),
            (Some("timeout=soon"), Some(60)),
            (Some("timeout=-1"), None),
            (Some("timeout=NaN"), None),
        ] {
            assert_eq!(seconds(query), expected, "{query:?}");
        }
    }
}
