//! Where a request may come from: the Admin API has no passwords, so no other site's page may make a browser send
//! requests to it.

use std::net::IpAddr;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, header};
use shared::authority::{bare, split_port};

use super::error::Refusal;

/// The origins of consoles: pages that may call the Admin API from a browser.
#[derive(Clone, Debug, Default)]
pub(super) struct Consoles(Arc<[HeaderValue]>);

impl Consoles {
    /// Takes the origins, such as `https://console.example.com`; a path after one does not matter.
    pub(super) fn new(origins: &[String]) -> Self {
        let origin = |text: &String| {
            let end = text
                .match_indices('/')
                .nth(2)
                .map_or(text.len(), |(at, _)| at);
            HeaderValue::from_str(text.get(..end)?).ok()
        };
        Self(origins.iter().filter_map(origin).collect())
    }

    fn has(&self, origin: &HeaderValue) -> bool {
        self.0.contains(origin)
    }

    /// Lets a console's page read an answer. Nobody's, if there is no console: to what comes without an origin, and
    /// so from no other site's page, Kong's `*` is said.
    pub(super) fn open(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let Some(first) = self.0.first() else {
            headers.insert(header::VARY, HeaderValue::from_static("Origin"));
            if origin.is_none() {
                let any = HeaderValue::from_static("*");
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
            }
            return;
        };
        let allowed = origin.filter(|origin| self.has(origin));
        let shown = allowed.unwrap_or(first).clone();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, shown);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if allowed.is_some() {
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
            let readable = HeaderValue::from_static("X-Kong-Admin-Latency, X-Wardgate-Revision");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, readable);
        }
    }
}

/// Refuses what another site's page has sent, and what was sent to a name that is not ours: a name may
/// have been pointed at this machine by whoever owns it (DNS rebinding).
pub(super) fn check<B>(
    request: &Request<B>,
    names: &[String],
    consoles: &Consoles,
) -> Result<(), Refusal> {
    let site = request.headers().get("sec-fetch-site");
    let origin = request.headers().get(header::ORIGIN);
    if site.is_some_and(|site| site == "cross-site") && !origin.is_some_and(|own| consoles.has(own))
    {
        return Err(Refusal::CrossSite);
    }
    // Not every browser tells the site to every address, but all tell the origin of what may change something.
    let own_page = |origin: &HeaderValue| {
        consoles.has(origin)
            || site.is_some_and(|site| site == "same-origin")
            || is_of_host(origin, request)
    };
    if !request.method().is_safe() && !origin.is_none_or(own_page) {
        return Err(Refusal::CrossSite);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (header, None) = (hosts.next(), hosts.next()) else {
        // RFC 9112 §3.2. Which of them counts must not be luck.
        return Err(Refusal::Argument("more than one Host header".to_owned()));
    };
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        // Without a name it is no browser.
        None => match header.map(|value| value.to_str()) {
            None => return Ok(()),
            Some(Ok(host)) => host,
            Some(Err(_)) => "",
        },
    };
    let name = bare(split_port(authority).0).to_ascii_lowercase();
    let ours = name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || names.iter().any(|ours| ours.eq_ignore_ascii_case(&name));
    if ours {
        Ok(())
    } else {
        Err(Refusal::Host(name))
    }
}

/// Whether a page of this `origin` came from where the request goes.
fn is_of_host<B>(origin: &HeaderValue, request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let asked = request.uri().authority().map(Authority::as_str).or(host);
    let page = origin.to_str().ok().and_then(|text| text.split_once("://"));
    page.zip(asked)
        .is_some_and(|((_, page), asked)| page.eq_ignore_ascii_case(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_and_addresses_are_answered() {
        let names = ["Admin.example.com".to_owned()];
        let asks = |host: &str| {
            let request = Request::get("/").header("host", host).body(()).unwrap();
            check(&request, &names, &Consoles::default()).is_ok()
        };
        for host in [
            "localhost",
            "localhost:8001",
            "LOCALHOST:1",
            "127.0.0.1:8001",
            "[::1]:8001",
            "kong.localhost:8001",
            "admin.example.com:8001",
        ] {
            assert!(asks(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:8001",
            "127.0.0.1.evil.example",
            "[::1].evil.example:8001",
            "",
        ] {
            assert!(!asks(host), "{host}");
        }
        let two = Request::get("/")
            .header("host", "localhost")
            .header("host", "localhost");
        assert!(check(&two.body(()).unwrap(), &names, &Consoles::default()).is_err());
        let nameless = Request::get("/").body(()).unwrap();
        assert!(check(&nameless, &names, &Consoles::default()).is_ok());
    }

    #[test]
    fn only_pages_of_ours_may_change_something() {
        let consoles = Consoles::new(&["https://console.example".to_owned()]);
        for (method, origin, site, allowed) in [
            ("POST", None, None, true),
            ("POST", Some("http://evil.example"), None, false),
            ("DELETE", Some("null"), None, false),
            ("GET", Some("http://evil.example"), None, true),
            ("OPTIONS", Some("http://evil.example"), None, true),
            ("POST", Some("http://10.0.0.5:8001"), None, true),
            ("POST", Some("http://10.0.0.5:8002"), None, false),
            ("POST", Some("https://console.example"), None, true),
            // Behind a proxy that has another name.
            (
                "POST",
                Some("https://admin.example"),
                Some("same-origin"),
                true,
            ),
            (
                "POST",
                Some("https://admin.example"),
                Some("same-site"),
                false,
            ),
        ] {
            let mut request = Request::builder().method(method).uri("/services");
            request = request.header("host", "10.0.0.5:8001");
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            let checked = check(&request.body(()).unwrap(), &[], &consoles);
            assert_eq!(checked.is_ok(), allowed, "{method} {origin:?} {site:?}");
        }
    }

    #[test]
    fn only_a_consoles_page_may_ask_from_another_site_and_read_the_answer() {
        let consoles = Consoles::new(&["https://console.example/path".to_owned()]);
        let asks = |origin: &'static str, consoles: &Consoles| {
            let request = Request::get("/")
                .header("sec-fetch-site", "cross-site")
                .header("origin", origin)
                .body(())
                .unwrap();
            let mut headers = HeaderMap::new();
            consoles.open(request.headers().get("origin"), &mut headers);
            let shown = headers.get("access-control-allow-origin").cloned();
            let credentials = headers.contains_key("access-control-allow-credentials");
            (check(&request, &[], consoles).is_ok(), shown, credentials)
        };
        let own = Some(HeaderValue::from_static("https://console.example"));
        assert_eq!(
            asks("https://console.example", &consoles),
            (true, own.clone(), true)
        );
        assert_eq!(asks("https://evil.example", &consoles), (false, own, false));
        assert_eq!(
            asks("https://console.example", &Consoles::default()),
            (false, None, false)
        );
    }
}
