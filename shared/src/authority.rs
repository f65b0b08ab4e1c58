//! The parts of an authority (RFC 3986 §3.2), such as `Host` has it.

/// A host without the brackets around an IPv6 address.
pub fn bare(host: &str) -> &str {
    let inside = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inside.unwrap_or(host)
}

/// Host and port of an authority. A bracketed IPv6 address keeps its brackets.
pub fn split_port(authority: &str) -> (&str, Option<&str>) {
    let digits = authority
        .bytes()
        .rev()
        .take_while(u8::is_ascii_digit)
        .count();
    let (before, port) = authority.split_at(authority.len() - digits);
    match before.strip_suffix(':') {
        // The last group of a bare IPv6 address is no port.
        Some(host) if !host.ends_with(']') && host.bytes().any(|byte| byte == b':') => match port {
            "" => (host, None),
            _ => (authority, None),
        },
        Some(host) => (host, (!port.is_empty()).then_some(port)),
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        assert_eq!(split_port("a:80"), ("a", Some("80")));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some("80")));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("a:"), ("a", None));
    }
}
