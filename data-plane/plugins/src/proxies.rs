//! Proxies between the gateway and what it fetches.

use http::Uri;
use shared::authority::bare;
use shared::secret::Secret;

/// The proxies of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// For `http` URLs.
    pub http: Option<Proxy>,
    /// For `https` URLs.
    pub https: Option<Proxy>,
    /// Hosts that are reached without: names, which cover those below them, or `*`.
    pub without: Vec<String>,
}

/// A proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it is.
    pub url: Uri,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<Secret<String>>,
}

impl Proxies {
    /// The proxy on the way to `target`, if there is one.
    pub fn of(&self, target: &Uri) -> Option<&Proxy> {
        let proxy = match target.scheme_str() {
            Some("https") => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        let host = target.host().unwrap_or_default();
        let host = bare(host).to_ascii_lowercase();
        let direct = self.without.iter().any(|entry| {
            let entry = entry.trim_start_matches('.').to_ascii_lowercase();
            let below = host
                .strip_suffix(&entry)
                .is_some_and(|rest| rest.ends_with('.'));
            entry == "*" || host == entry || (!entry.is_empty() && below)
        });
        (!direct).then_some(proxy)
    }
}

/// The entries of a list of hosts, as `no_proxy` has it.
pub fn hosts(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_76_a_host_that_is_excepted_is_reached_directly() {
        let proxy = |url: &str| Proxy {
            url: url.parse().unwrap(),
            authorization: None,
        };
        let proxies = Proxies {
            http: Some(proxy("http://plain:3128")),
            https: Some(proxy("http://secure:3128")),
            without: hosts("idp.example, .internal,, 10.0.0.1"),
        };
        let check = |target: &str, by: Option<&str>| {
            let found = proxies.of(&target.parse().unwrap());
            assert_eq!(found.and_then(|proxy| proxy.url.host()), by, "{target}");
        };
        check("http://other.example/", Some("plain"));
        check("https://other.example/", Some("secure"));
        check("https://idp.example/token", None);
        check("https://IDP.example:8443/token", None);
        check("https://a.idp.example/", None);
        check("https://notidp.example/", Some("secure"));
        check("http://a.internal/", None);
        check("http://10.0.0.1/", None);
        check("http://10.0.0.12/", Some("plain"));
        let all = Proxies {
            without: hosts("*"),
            ..proxies
        };
        assert!(all.of(&"http://x/".parse().unwrap()).is_none());
    }
}
