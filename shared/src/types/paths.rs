//! Paths of services and routes, judged in Kong's words.

use super::patterns::{self, PatternError};

/// The characters of a path (RFC 3986 §3.3) and well-formed percent triplets.
fn check_path_characters(text: &str) -> Result<(), String> {
    let accepted =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%[]".contains(&byte);
    if !text.bytes().all(accepted) {
        return Err(format!(
            "invalid path: '{text}' (characters outside of the reserved list of RFC 3986 found)"
        ));
    }
    check_triplets(text)
}

/// Percent signs begin triplets.
fn check_triplets(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let mut signs = text.get(at + 1..).unwrap_or_default().chars();
        let shown: String = signs.by_ref().take(2).collect();
        if shown.len() < 2 || !shown.bytes().all(|sign| sign.is_ascii_hexdigit()) {
            return Err(format!("invalid url-encoded value: '%{shown}'"));
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

/// A prefix may hold any character: what a URL cannot have as it is, requests have percent-encoded.
pub(super) fn check_route_path(text: &str) -> Result<(), String> {
    if let Some(pattern) = text.strip_prefix('~').filter(|rest| rest.starts_with('/')) {
        return patterns::of_path(pattern)
            .map(drop)
            .map_err(|error| invalid_pattern(pattern, &error));
    }
    if !text.starts_with('/') {
        return Err("should start with: / (fixed path) or ~/ (regex path)".to_owned());
    }
    if text.contains("//") {
        return Err("must not have empty segments".to_owned());
    }
    check_triplets(text)
}

/// What is wrong with the quantifiers of a route's path that is an expression.
pub(crate) fn check_path_quantifiers(text: &str) -> Result<(), String> {
    let Some(pattern) = text.strip_prefix('~') else {
        return Ok(());
    };
    patterns::check_quantifiers(pattern).map_err(|error| invalid_pattern(pattern, &error))
}

/// The form of a route's prefix that Kong compares requests with, if it is another one: with characters in the
/// place of percent triplets unless they are delimiters, and without dot segments (Kong 3.9, `normalize`).
pub(crate) fn normal_prefix(text: &str) -> Option<String> {
    let decoded = patterns::readable(text)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split('/').skip(1) {
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => _ = kept.pop(),
            other => kept.push(other),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_open || kept.is_empty() {
        normal.push('/');
    }
    (normal != text).then_some(normal)
}

/// What Kong says of a regular expression that is none, with what PCRE has to say of the most common mistakes.
fn invalid_pattern(pattern: &str, error: &PatternError) -> String {
    if matches!(error, PatternError::TooLong | PatternError::Possessive) {
        return format!("invalid regex: {error}");
    }
    let error = error.to_string();
    let last = error.lines().last().unwrap_or_default();
    let reason = match last.trim_start_matches("error: ") {
        "unclosed group" => "missing closing parenthesis",
        "unopened group" => "unmatched closing parenthesis",
        "unclosed character class" => "missing terminating ] for character class",
        "repetition operator missing expression" => "quantifier does not follow a repeatable item",
        other => other,
    };
    format!(
        "invalid regex: '{pattern}' (PCRE returned: pcre2_compile() failed: {reason} in \"{pattern}\")"
    )
}

#[cfg(test)]
mod tests {
    use super::{check_route_path, normal_prefix};

    #[test]
    fn a_prefix_is_written_as_requests_are_compared() {
        for (text, expected) in [
            ("/", None),
            ("/abcd~user~2", None),
            ("/a b/\u{e4}?", None),
            ("/a%2Fb%25", None),
            ("/%c3%A4", Some("/\u{e4}")),
            ("/%20", Some("/ ")),
            ("/%2f%2A", Some("/%2F%2A")),
            ("/a/./b/../c/.", Some("/a/c/")),
            ("/..", Some("/")),
            ("/trail/", None),
            // There is no way to write what this stands for.
            ("/%ff", None),
        ] {
            assert!(check_route_path(text).is_ok(), "{text}");
            assert_eq!(normal_prefix(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused_in_kongs_words() {
        let start = "should start with: / (fixed path) or ~/ (regex path)";
        let pcre = |pattern: &str, reason: &str| {
            format!(
                "invalid regex: '{pattern}' (PCRE returned: pcre2_compile() failed: {reason} in \"{pattern}\")"
            )
        };
        for (text, expected) in [
            ("foo", start.to_owned()),
            ("~foo", start.to_owned()),
            ("/foo//bar", "must not have empty segments".to_owned()),
            (
                "/some%20words%ax",
                "invalid url-encoded value: '%ax'".to_owned(),
            ),
            (
                "~/users/(foo/profile",
                pcre("/users/(foo/profile", "missing closing parenthesis"),
            ),
            ("~/a)", pcre("/a)", "unmatched closing parenthesis")),
            (
                "~/[a",
                pcre("/[a", "missing terminating ] for character class"),
            ),
        ] {
            assert_eq!(check_route_path(text), Err(expected), "{text}");
        }
    }
}
