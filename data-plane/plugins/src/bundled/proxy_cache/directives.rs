//! What `Cache-Control` says of a message.

use http::HeaderMap;
use http::header::{CACHE_CONTROL, EXPIRES};
use shared::clock::UnixTime;

/// The directives of `Cache-Control` (RFC 9111 §5.2).
#[derive(Debug, Default)]
pub(super) struct Directives(Vec<(String, Option<String>)>);

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CACHE_CONTROL).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        let directives = texts.flat_map(|text| text.split(',')).map(|directive| {
            match directive.trim().split_once('=') {
                Some((name, value)) => {
                    let value = value.trim().trim_matches('"').to_owned();
                    (name.trim().to_ascii_lowercase(), Some(value))
                }
                None => (directive.trim().to_ascii_lowercase(), None),
            }
        });
        Self(directives.collect())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    pub(super) fn seconds(&self, name: &str) -> Option<u64> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        value.as_ref()?.parse().ok()
    }

    /// For how many seconds an answer is fresh.
    pub(super) fn lifetime(&self, headers: &HeaderMap, now: UnixTime) -> u64 {
        let said = self.seconds("s-maxage").or_else(|| self.seconds("max-age"));
        said.unwrap_or_else(|| {
            let expires = headers.get_all(EXPIRES).iter().next_back();
            let expires = expires
                .and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
                .and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
            expires.map_or(0, |date| date.as_secs().saturating_sub(now.as_secs()))
        })
    }
}
