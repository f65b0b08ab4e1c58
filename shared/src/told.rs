//! Header fields in which the gateway says something about itself: the settings `headers` and `headers_upstream` (Kong
//! 3.9). The Admin API's answers heed the first too.

/// What `headers` says unless it is set.
pub const USUAL: &str = "server_tokens,latency_tokens,X-Kong-Request-Id";

/// Which fields are added.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field that an operator switches"
)]
pub struct Told {
    /// `Server`.
    pub server: bool,
    /// `Via`.
    pub via: bool,
    /// `X-Kong-Upstream-Latency`.
    pub upstream_latency: bool,
    /// `X-Kong-Proxy-Latency`.
    pub proxy_latency: bool,
    /// `X-Kong-Response-Latency`.
    pub response_latency: bool,
    /// `X-Kong-Admin-Latency`.
    pub admin_latency: bool,
    /// `X-Kong-Upstream-Status`.
    pub upstream_status: bool,
    /// `X-Kong-Request-Id` to the client.
    pub request_id: bool,
    /// The same to the upstream.
    pub request_id_upstream: bool,
}

impl Told {
    const NOTHING: Self = Self {
        server: false,
        via: false,
        upstream_latency: false,
        proxy_latency: false,
        response_latency: false,
        admin_latency: false,
        upstream_status: false,
        request_id: false,
        request_id_upstream: false,
    };

    /// Reads the two settings.
    ///
    /// # Errors
    ///
    /// A name that is unknown, with its setting.
    pub fn parse(headers: &[String], upstream: &[String]) -> Result<Self, String> {
        let mut told = Self::NOTHING;
        for name in names(headers) {
            match &*name {
                "off" => {}
                "server_tokens" => (told.server, told.via) = (true, true),
                "latency_tokens" => {
                    told.upstream_latency = true;
                    told.proxy_latency = true;
                    told.response_latency = true;
                    told.admin_latency = true;
                }
                "server" => told.server = true,
                "via" => told.via = true,
                "x-kong-upstream-latency" => told.upstream_latency = true,
                "x-kong-proxy-latency" => told.proxy_latency = true,
                "x-kong-response-latency" => told.response_latency = true,
                "x-kong-admin-latency" => told.admin_latency = true,
                "x-kong-upstream-status" => told.upstream_status = true,
                "x-kong-request-id" => told.request_id = true,
                _ => return Err(format!("headers: unknown name `{name}`")),
            }
        }
        for name in names(upstream) {
            match &*name {
                "off" => {}
                "x-kong-request-id" => told.request_id_upstream = true,
                _ => return Err(format!("headers_upstream: unknown name `{name}`")),
            }
        }
        Ok(told)
    }
}

fn names(list: &[String]) -> impl Iterator<Item = String> {
    list.iter()
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::Told;

    fn parse(headers: &[&str], upstream: &[&str]) -> Result<Told, String> {
        let owned = |list: &[&str]| {
            list.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        Told::parse(&owned(headers), &owned(upstream))
    }

    #[test]
    fn single_names_and_groups_are_known() {
        let off = parse(&["off"], &["off"]).unwrap();
        assert_eq!(off, Told::NOTHING);
        let latency = parse(&["latency_tokens"], &[]).unwrap();
        assert!(latency.proxy_latency && latency.upstream_latency && latency.response_latency);
        assert!(latency.admin_latency);
        assert!(!latency.server && !latency.via && !latency.request_id);
        let single = parse(&["Via", " X-Kong-Upstream-Status"], &["X-Kong-Request-Id"]).unwrap();
        assert!(single.via && single.upstream_status && single.request_id_upstream);
        assert!(!single.server && !single.request_id);
    }

    #[test]
    fn an_unknown_name_is_refused_with_its_setting() {
        assert!(
            parse(&["X-Other"], &[])
                .unwrap_err()
                .starts_with("headers:")
        );
        assert!(
            parse(&[], &["Via"])
                .unwrap_err()
                .starts_with("headers_upstream:")
        );
    }
}
