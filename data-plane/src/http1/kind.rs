//! The header fields that the gateway has to know: recognised by name once, and tested by a bit from then on.

use http::HeaderName;

/// One kind of field, or several.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Kind(u32);

impl Kind {
    /// Nothing that the gateway has to know.
    pub(crate) const OTHER: Self = Self(0);
    /// The form that answers are wanted in.
    pub(crate) const ACCEPT: Self = Self(1);
    /// What a server tells the proxy before it, by words of nginx.
    pub(crate) const ACCEL: Self = Self(1 << 24);
    /// Credentials.
    pub(crate) const AUTHORIZATION: Self = Self(1 << 22);
    pub(crate) const CONNECTION: Self = Self(1 << 1);
    pub(crate) const CONTENT_LENGTH: Self = Self(1 << 2);
    pub(crate) const CONTENT_TYPE: Self = Self(1 << 3);
    pub(crate) const COOKIE: Self = Self(1 << 23);
    pub(crate) const DATE: Self = Self(1 << 4);
    pub(crate) const EXPECT: Self = Self(1 << 5);
    /// Who a request comes from, by the word of proxies: `X-Forwarded-For`, `X-Real-IP`.
    pub(crate) const FORWARDED_FOR: Self = Self(1 << 6);
    /// What was asked for, by their word: the other fields of `X-Forwarded-*` that the gateway sends.
    pub(crate) const FORWARDED_URL: Self = Self(1 << 7);
    pub(crate) const HOST: Self = Self(1 << 8);
    /// What else speaks of one connection.
    const KEEP_ALIVE: Self = Self(1 << 9);
    /// What says who a request comes from, and is the filters' alone to say; also what some servers would read
    /// as that, as framing, or as the gateway's own word, because they take `_` for `-`.
    pub(crate) const IDENTITY: Self = Self(1 << 10);
    /// What else proxies say of a client, its certificate or the URL that it asked for.
    pub(crate) const PROXIES: Self = Self(1 << 20);
    /// What is for proxies. Programs that read fields as variables take `Proxy` for a setting of their own
    /// (CVE-2016-5385).
    pub(crate) const PROXY: Self = Self(1 << 19);
    pub(crate) const REQUEST_ID: Self = Self(1 << 11);
    pub(crate) const SET_COOKIE: Self = Self(1 << 12);
    pub(crate) const TE: Self = Self(1 << 13);
    /// What the gateway tells of an answer.
    pub(crate) const TOLD: Self = Self(1 << 14);
    pub(crate) const TRAILER: Self = Self(1 << 15);
    pub(crate) const TRANSFER_ENCODING: Self = Self(1 << 16);
    pub(crate) const UPGRADE: Self = Self(1 << 17);
    pub(crate) const VIA: Self = Self(1 << 18);
    /// Where tokens may be beside `Authorization`.
    pub(crate) const TOKEN: Self = Self(1 << 25);
    /// What is left out whatever it is: no name is of this kind.
    pub(super) const LEFT_OUT: Self = Self(1 << 21);

    /// What holds tokens, whatever filters there are.
    pub(crate) const SECRET: Self = Self::AUTHORIZATION.and(Self::COOKIE).and(Self::TOKEN);

    /// What speaks of one connection and is never passed on (RFC 9110 §7.6.1).
    pub(crate) const HOP_BY_HOP: Self = Self::CONNECTION
        .and(Self::KEEP_ALIVE)
        .and(Self::TE)
        .and(Self::TRANSFER_ENCODING)
        .and(Self::UPGRADE);

    /// The kind of a field.
    pub(crate) fn of(name: &HeaderName) -> Self {
        Self::of_text(name.as_str().as_bytes())
    }

    /// The kind of the field called `name`, in lower case.
    pub(crate) fn of_text(name: &[u8]) -> Self {
        match name {
            b"accept" => Self::ACCEPT,
            b"access-token" => Self::TOKEN,
            b"authorization" => Self::AUTHORIZATION,
            b"connection" => Self::CONNECTION,
            b"content-length" => Self::CONTENT_LENGTH,
            b"content-type" => Self::CONTENT_TYPE,
            b"cookie" => Self::COOKIE,
            b"date" => Self::DATE,
            b"expect" => Self::EXPECT,
            b"forwarded" => Self::PROXIES,
            b"host" => Self::HOST,
            b"proxy" | b"proxy-authorization" => Self::PROXY,
            b"keep-alive" | b"proxy-authenticate" | b"proxy-connection" => Self::KEEP_ALIVE,
            b"set-cookie" => Self::SET_COOKIE,
            b"te" => Self::TE,
            b"trailer" => Self::TRAILER,
            b"transfer-encoding" => Self::TRANSFER_ENCODING,
            b"upgrade" => Self::UPGRADE,
            b"via" => Self::VIA,
            b"content_length" | b"transfer_encoding" | b"proxy_connection" => Self::IDENTITY,
            [b'x', rest @ ..] => Self::of_extension(rest),
            _ => Self::OTHER,
        }
    }

    /// The kind of the field whose name is `x` and then `rest`.
    fn of_extension(rest: &[u8]) -> Self {
        match rest {
            b"-forwarded-for" | b"-real-ip" => Self::FORWARDED_FOR,
            b"-forwarded-host" | b"-forwarded-path" | b"-forwarded-port" | b"-forwarded-prefix"
            | b"-forwarded-proto" => Self::FORWARDED_URL,
            b"-accel-buffering" | b"-accel-charset" | b"-accel-expires" | b"-accel-limit-rate"
            | b"-accel-redirect" => Self::ACCEL,
            b"-access-token" => Self::TOKEN,
            b"-kong-request-id" => Self::REQUEST_ID,
            b"-kong-proxy-latency"
            | b"-kong-response-latency"
            | b"-kong-upstream-latency"
            | b"-kong-upstream-status" => Self::TOLD,
            _ if is_identity(rest) => Self::IDENTITY,
            _ if is_of_proxies(rest) => Self::PROXIES,
            _ => Self::OTHER,
        }
    }

    /// These kinds and those.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These kinds but for those.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether these kinds and those have one in common.
    pub(crate) const fn is_any_of(self, kinds: Self) -> bool {
        self.0 & kinds.0 != 0
    }
}

/// Whether the field whose name is `x` and then `rest` says who a request comes from. Only filters may set such
/// fields; the client's own are dropped, also where `_` stands for `-`, because some servers read the two alike.
/// What the gateway itself says has been told apart already, but for those spellings.
fn is_identity(rest: &[u8]) -> bool {
    const NAMES: [&[u8]; 10] = [
        b"-anonymous-consumer",
        b"-forwarded-for",
        b"-forwarded-host",
        b"-forwarded-path",
        b"-forwarded-port",
        b"-forwarded-prefix",
        b"-forwarded-proto",
        b"-kong-request-id",
        b"-real-ip",
        b"-userinfo",
    ];
    const PREFIXES: [&[u8]; 3] = [b"-consumer-", b"-credential-", b"-authenticated-"];
    // Nearly every field is told apart by its first bytes.
    matches!(
        rest,
        [b'-' | b'_', b'a' | b'c' | b'f' | b'k' | b'r' | b'u', ..]
    ) && is_one_of(rest, &NAMES, &PREFIXES)
}

/// Whether the field whose name is `x` and then `rest` is the word of a proxy about a request. Proxies that are not
/// trusted are not believed, also not where `_` stands for `-`.
fn is_of_proxies(rest: &[u8]) -> bool {
    const NAMES: [&[u8]; 1] = [b"-client-cert"];
    const PREFIXES: [&[u8]; 5] = [
        b"-forwarded-",
        b"-original-",
        b"-rewrite-",
        b"-client-cert-",
        b"-ssl-",
    ];
    matches!(rest, [b'-' | b'_', b'c' | b'f' | b'o' | b'r' | b's', ..])
        && is_one_of(rest, &NAMES, &PREFIXES)
}

/// Whether `name` is one of `names` or begins with one of `prefixes`, if `_` is read as `-`.
fn is_one_of(name: &[u8], names: &[&[u8]], prefixes: &[&[u8]]) -> bool {
    let plain = |text: &[u8], pattern: &[u8]| {
        text.len() == pattern.len()
            && text
                .iter()
                .zip(pattern)
                .all(|(byte, expected)| byte == expected || (*byte == b'_' && *expected == b'-'))
    };
    names.iter().any(|pattern| plain(name, pattern))
        || prefixes.iter().any(|prefix| {
            name.get(..prefix.len())
                .is_some_and(|start| plain(start, prefix))
        })
}

#[cfg(test)]
mod tests {
    use plugins::glance::TOKEN_HEADERS;

    use super::*;

    #[test]
    fn rule_83_identity_is_known_in_every_spelling() {
        let is_identity = |name: &str| Kind::of_text(name.as_bytes()) == Kind::IDENTITY;
        for name in [
            "x-consumer-id",
            "x_consumer_id",
            "x-consumer_username",
            "x-credential-identifier",
            "x-userinfo",
            "x_anonymous-consumer",
            "x-authenticated-userid",
            "x-authenticated_groups",
            "x-consumer-anything",
            "content_length",
            "x_forwarded_for",
            "x-forwarded_proto",
            "x_real-ip",
            "x_kong_request_id",
        ] {
            assert!(is_identity(name), "{name}");
        }
        for name in [
            "x-consumer",
            "accept",
            "x-request-id",
            "x-access-token",
            "x-userinfo2",
            "content-length",
        ] {
            assert!(!is_identity(name), "{name}");
        }
    }

    #[test]
    fn whatever_may_be_a_token_is_known_as_one() {
        for name in &TOKEN_HEADERS {
            assert_eq!(Kind::of(name), Kind::TOKEN, "{name}");
            assert!(Kind::of(name).is_any_of(Kind::SECRET));
        }
        assert_eq!(Kind::of_text(b"x-access_token"), Kind::OTHER);
    }

    #[test]
    fn the_word_of_proxies_is_known_in_every_spelling() {
        let kind = |name: &str| Kind::of_text(name.as_bytes());
        for name in [
            "forwarded",
            "x-forwarded-user",
            "x_forwarded_user",
            "x-original-url",
            "x-rewrite-url",
            "x-client-cert",
            "x-client-cert-dn",
            "x_ssl_client_verify",
        ] {
            assert_eq!(kind(name), Kind::PROXIES, "{name}");
        }
        assert_eq!(kind("x-forwarded-for"), Kind::FORWARDED_FOR);
        assert_eq!(kind("x-forwarded-proto"), Kind::FORWARDED_URL);
        for name in [
            "x-forwarded",
            "x-client-certain",
            "x-origin",
            "x-request-id",
            "x-ssl",
        ] {
            assert_eq!(kind(name), Kind::OTHER, "{name}");
        }
    }
}
