//! A registered relying party: its credentials and where it may be sent back to.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use url::Url;

/// One relying party.
#[derive(Clone, Debug)]
pub struct Client {
    /// `client_id`.
    pub id: String,
    /// `client_secret`. A demo's or a test's, so it may be printed.
    pub secret: String,
    /// Where a browser may be sent after sign-in. An entry that ends in `/*` allows every path below.
    pub redirect_uris: Vec<String>,
    /// Where a browser may be sent after sign-out, by the same rule.
    pub post_logout_redirect_uris: Vec<String>,
}

impl Client {
    /// Whether the browser may be sent back to `uri` after sign-in.
    pub(super) fn allows_redirect_to(&self, uri: &str) -> bool {
        allows(&self.redirect_uris, uri)
    }

    /// Whether the browser may be sent to `uri` after sign-out.
    pub(super) fn allows_logout_to(&self, uri: &str) -> bool {
        allows(&self.post_logout_redirect_uris, uri)
    }

    /// Whether `secret` is this client's.
    pub(super) fn has_secret(&self, secret: &str) -> bool {
        verify_slices_are_equal(self.secret.as_bytes(), secret.as_bytes()).is_ok()
    }
}

/// Plain string comparison (RFC 9700 §2.1). For a pattern the origin is compared as parsed, so that
/// `http://localhost:8000@evil.example/` does not pass for `http://localhost:8000/*`.
fn allows(registered: &[String], uri: &str) -> bool {
    let Ok(parsed) = Url::parse(uri) else {
        return false;
    };
    if parsed.fragment().is_some() || !parsed.username().is_empty() || parsed.password().is_some() {
        return false;
    }
    registered.iter().any(|entry| {
        let Some(base) = entry.strip_suffix('*') else {
            return entry == uri;
        };
        Url::parse(base).is_ok_and(|base| {
            base.origin() == parsed.origin() && parsed.path().starts_with(base.path())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn only_registered_uris_are_allowed() {
        let check = |entry: &str, uri: &str, expected: bool| {
            assert_eq!(allows(&[entry.to_owned()], uri), expected, "{entry} {uri}");
        };
        check("http://localhost:8000/cb", "http://localhost:8000/cb", true);
        check(
            "http://localhost:8000/cb",
            "http://localhost:8000/cb/",
            false,
        );
        check(
            "http://localhost:8000/cb",
            "http://localhost:8000/cb?x=1",
            false,
        );
        check(
            "http://localhost:8000/*",
            "http://localhost:8000/any/path",
            true,
        );
        check(
            "http://localhost:8000/*",
            "http://localhost:8001/any",
            false,
        );
        check(
            "http://localhost:8000/*",
            "http://localhost:8000@evil.example/",
            false,
        );
        check(
            "http://localhost:8000/*",
            "http://localhost:8000/a#b",
            false,
        );
        check(
            "http://localhost:8000/app/*",
            "http://localhost:8000/app/../x",
            false,
        );
        check("http://localhost:8000/*", "javascript:alert(1)", false);
    }
}
