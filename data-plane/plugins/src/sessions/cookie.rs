//! Cookies as browsers keep them: the attributes that they are set with and taken back by, and how long one may be.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;

use super::session_keys::LONGEST;

/// Characters of a chunk: with its name and attributes it stays under the 4,096 bytes that browsers
/// keep (RFC 6265bis §5.6).
pub(crate) const CHUNK: usize = 3800;

/// What browsers take from nobody but the very host over TLS (RFC 6265bis §4.1.3.2).
pub(crate) const HOST_PREFIX: &str = "__Host-";

/// `SameSite` attribute of a cookie.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SameSite {
    /// Only with requests from our own site.
    Strict,
    /// Also when another site links to us.
    Lax,
    /// With every request.
    None,
    /// No attribute: what the browser takes as its default.
    #[default]
    Default,
}

/// The attributes of a cookie.
#[derive(Clone, Debug)]
pub(crate) struct Attributes {
    pub(crate) path: String,
    pub(crate) domain: Option<String>,
    pub(crate) same_site: SameSite,
    pub(crate) http_only: bool,
    /// `None`: if the request came over TLS.
    pub(crate) secure: Option<bool>,
    /// Sent across sites over TLS, whatever `same_site` says.
    pub(crate) cross_site_over_tls: bool,
    /// Names get the prefix `__Host-` wherever the other attributes allow it.
    pub(crate) host_prefix: bool,
}

impl Attributes {
    /// Whether names get the prefix `__Host-`: such a cookie is secure, for one host, and for all of it.
    pub(crate) fn is_prefixed(&self, https: bool) -> bool {
        self.host_prefix
            && self.secure.unwrap_or(https)
            && self.domain.is_none()
            && self.path == "/"
    }

    /// `Set-Cookie` for `value`, kept until the browser closes.
    pub(crate) fn set(&self, name: &str, value: &str, https: bool) -> HeaderValue {
        self.header(name, value, "", https)
    }

    /// `Set-Cookie` for `value`, kept for `lifetime`.
    pub(crate) fn set_for(
        &self,
        name: &str,
        value: &str,
        lifetime: Duration,
        https: bool,
    ) -> HeaderValue {
        let lifetime = format!("Max-Age={}; ", lifetime.as_secs());
        self.header(name, value, &lifetime, https)
    }

    /// `Set-Cookie` for `value`, kept from `now` on for `lifetime` by clients that know no `Max-Age`
    /// too.
    pub(crate) fn set_until(
        &self,
        name: &str,
        value: &str,
        now: UnixTime,
        lifetime: Duration,
        https: bool,
    ) -> HeaderValue {
        // Browsers keep nothing for longer than 400 days (RFC 6265bis §5.5).
        let lifetime = lifetime.min(LONGEST);
        let end = Duration::from_millis(now.as_millis()).saturating_add(lifetime);
        let date = SystemTime::UNIX_EPOCH
            .checked_add(end)
            .map(httpdate::fmt_http_date)
            .unwrap_or_default();
        let lifetime = format!("Expires={date}; Max-Age={}; ", lifetime.as_secs());
        self.header(name, value, &lifetime, https)
    }

    /// `Set-Cookie` that makes the browser forget `name`.
    pub(crate) fn expire(&self, name: &str, https: bool) -> HeaderValue {
        self.header(
            name,
            "",
            "Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; ",
            https,
        )
    }

    fn header(&self, name: &str, value: &str, lifetime: &str, https: bool) -> HeaderValue {
        let prefix = if self.is_prefixed(https) {
            HOST_PREFIX
        } else {
            ""
        };
        let mut text = format!("{prefix}{name}={value}; {lifetime}");
        if let Some(domain) = &self.domain {
            text.push_str("Domain=");
            text.push_str(domain);
            text.push_str("; ");
        }
        text.push_str("Path=");
        text.push_str(&self.path);
        let secure = self.secure.unwrap_or(https);
        // The provider's form brings no cookie that is for requests of our own site only.
        let same_site = match self.same_site {
            _ if self.cross_site_over_tls && secure => SameSite::None,
            _ if self.cross_site_over_tls => SameSite::Default,
            own => own,
        };
        text.push_str(match same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            // Without `Secure`, browsers drop the whole cookie.
            SameSite::None if secure => "; SameSite=None",
            SameSite::None | SameSite::Default => "",
        });
        if secure {
            text.push_str("; Secure");
        }
        if self.http_only {
            text.push_str("; HttpOnly");
        }
        HeaderValue::from_str(&text)
            .expect("names, paths and domains were checked, values are base64url")
    }
}
