//! Paths of services and routes, judged in Kong's words.

/// The characters of a path (RFC 3986 §3.3) and well-formed percent triplets.
fn check_path_characters(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let accepted = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%[]".contains(byte);
        if !accepted {
            return Err(format!(
                "invalid path: '{text}' (characters outside of the reserved list of RFC 3986 found)"
            ));
        }
        if *byte == b'%' {
            let triplet = bytes.get(at..at + 3).unwrap_or_default();
            if !(triplet.len() == 3 && triplet.iter().skip(1).all(u8::is_ascii_hexdigit)) {
                let shown = bytes.get(at..(at + 3).min(bytes.len())).unwrap_or_default();
                return Err(format!(
                    "invalid url-encoded value: '{}'",
                    String::from_utf8_lossy(shown)
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn check_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("should start with: /".to_owned());
    }
    if text.contains("//") {
        return Err("must not have empty segments".to_owned());
    }
    check_path_characters(text)
}

pub(super) fn check_route_path(text: &str) -> Result<(), String> {
    if let Some(pattern) = text.strip_prefix('~') {
        if !pattern.starts_with('/') {
            return Err("should start with: / (fixed path) or ~/ (regex path)".to_owned());
        }
        return regex::Regex::new(pattern)
            .map(drop)
            .map_err(|error| format!("invalid regex: '{pattern}' ({})", one_line(&error)));
    }
    if !text.starts_with('/') {
        return Err("should start with: / (fixed path) or ~/ (regex path)".to_owned());
    }
    check_path(text)
}

/// The last line of a regular expression's error: what is wrong, without the drawing above it.
fn one_line(error: &regex::Error) -> String {
    error
        .to_string()
        .lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned()
}
