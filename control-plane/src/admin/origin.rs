//! Who may be asking: the Admin API has no passwords, so a browser must not be talked into asking for
//! somebody else's page.

use std::net::IpAddr;

use http::{Request, header};

use super::error::Refusal;

/// Refuses what another site's page has sent, and what was sent to a name that is not ours: a name may
/// have been pointed at this machine by whoever owns it (DNS rebinding).
pub(super) fn check<B>(request: &Request<B>, names: &[String]) -> Result<(), Refusal> {
    let site = request.headers().get("sec-fetch-site");
    if site.is_some_and(|site| site == "cross-site") {
        return Err(Refusal::CrossSite);
    }
    let header = request.headers().get(header::HOST);
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        // Without a name it is no browser.
        None => match header.map(|value| value.to_str()) {
            None => return Ok(()),
            Some(Ok(host)) => host,
            Some(Err(_)) => "",
        },
    };
    let name = without_port(authority).to_ascii_lowercase();
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

fn without_port(authority: &str) -> &str {
    if let Some((address, _)) = authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return address;
    }
    authority
        .split_once(':')
        .map_or(authority, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_and_addresses_are_answered() {
        let names = ["Admin.example.com".to_owned()];
        let asks = |host: &str| {
            let request = Request::get("/").header("host", host).body(()).unwrap();
            check(&request, &names).is_ok()
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
            "",
        ] {
            assert!(!asks(host), "{host}");
        }
        assert!(check(&Request::get("/").body(()).unwrap(), &names).is_ok());
    }
}
