//! Regular expressions of routes and plugins. Both planes read them here: what one takes the other can run.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder, bytes};
use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{self, Ast, RepetitionKind};

/// Most memory that the compiled expression of a path may take: there may be many.
const PATH: usize = 1024 * 1024;

/// The same of a header's: a class of Unicode, such as `\w`, takes 45 kB each time.
const HEADER: usize = 4 * PATH;

/// Most bytes of its text: reading it takes many times that for a moment.
const TEXT: usize = 64 * 1024;

/// Why an expression is none that can be run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PatternError {
    /// It is longer than anyone writes.
    #[error("it is longer than {TEXT} bytes")]
    TooLong,
    /// It is none, or takes too much memory.
    #[error(transparent)]
    Bad(#[from] regex::Error),
    /// A quantifier of it is a possessive one, which only PCRE has.
    #[error("possessive quantifiers (`*+`, `++`, `?+`, `}}+`) are not supported")]
    Possessive,
    /// A `*` or `?` of it stands behind another quantifier: no expression for PCRE.
    #[error("quantifier does not follow a repeatable item")]
    Repeated,
}

/// The expression of a route's path, which stands behind `~`, for paths in their normal form, and as what it is
/// compiled.
pub fn of_path(text: &str) -> Result<(Cow<'_, str>, Regex), PatternError> {
    bounded(text)?;
    let pattern = normalize_pattern(text);
    // By itself first: a parenthesis must not close the one around it.
    let compile = |text: &str| RegexBuilder::new(text).size_limit(PATH).build();
    if pattern.contains(')') {
        compile(&pattern)?;
    }
    let regex = compile(&format!("^(?:{pattern})")).or_else(|_| {
        // What is wrong is said of it alone. A comment at its end goes to the end of the line.
        compile(&pattern)?;
        compile(&format!("^(?:{pattern}\n)"))
    })?;
    Ok((pattern, regex))
}

/// The expression for the values of a header, which stands behind `~*`; none if `values` are to be met as they are.
pub fn of_header(values: &[String]) -> Option<Result<bytes::Regex, PatternError>> {
    let [only] = values else {
        return None;
    };
    let text = only.strip_prefix("~*")?;
    let compiled = bounded(text).and_then(|()| {
        let mut builder = bytes::RegexBuilder::new(text);
        let regex = builder.case_insensitive(true).size_limit(HEADER).build()?;
        Ok(regex)
    });
    Some(compiled)
}

/// Refuses quantifiers behind others, which Rust takes for repetitions of repetitions: to PCRE they are possessive, or
/// no expression. Asked of what is written: what is stored runs on as it did. An expression that is none passes.
pub fn check_quantifiers(text: &str) -> Result<(), PatternError> {
    bounded(text)?;
    match Parser::new().parse(text) {
        Ok(parsed) => ast::visit(&parsed, Quantifiers),
        Err(_) => Ok(()),
    }
}

/// Looks for quantifiers behind others.
struct Quantifiers;

impl ast::Visitor for Quantifiers {
    type Output = ();
    type Err = PatternError;

    fn finish(self) -> Result<(), PatternError> {
        Ok(())
    }

    fn visit_pre(&mut self, part: &Ast) -> Result<(), PatternError> {
        match part {
            Ast::Repetition(outer) if matches!(*outer.ast, Ast::Repetition(_)) => {
                match outer.op.kind {
                    RepetitionKind::OneOrMore => Err(PatternError::Possessive),
                    RepetitionKind::ZeroOrMore | RepetitionKind::ZeroOrOne => {
                        Err(PatternError::Repeated)
                    }
                    RepetitionKind::Range(_) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

const fn bounded(text: &str) -> Result<(), PatternError> {
    if text.len() > TEXT {
        return Err(PatternError::TooLong);
    }
    Ok(())
}

/// A regular expression for paths with its percent-triplets as [`decode_unreserved`] leaves those of a path. What
/// is decoded stands for itself, also where a bare one would not.
fn normalize_pattern(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains('%') {
        return Cow::Borrowed(pattern);
    }
    let normal = with_triplets(pattern, |normal, byte, digits| {
        if matches!(byte, b'.' | b'-') {
            normal.push('\\');
        }
        push_triplet(normal, byte, digits);
    });
    Cow::Owned(normal)
}

/// `path` with its percent-triplets in upper case and, for unreserved characters, decoded (RFC 3986 §6.2.2).
pub fn decode_unreserved(path: &str) -> String {
    with_triplets(path, push_triplet)
}

/// Those whose triplets stay in a readable path: delimiters (RFC 3986 §2.2), and the percent sign.
const DELIMITERS: &[u8] = b"!#$%&'()*+,/:;=?@[]";

/// `path` with characters in the place of percent-triplets, but for those of delimiters (Kong 3.9, `normalize`). `None`
/// if a `%` begins no triplet, or if that is no text.
pub fn readable(path: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.extend_from_slice(before.as_bytes());
        let byte = u8::from_str_radix(after.get(..2)?, 16).ok()?;
        if DELIMITERS.contains(&byte) {
            decoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            decoded.push(byte);
        }
        rest = after.get(2..)?;
    }
    decoded.extend_from_slice(rest.as_bytes());
    String::from_utf8(decoded).ok()
}

/// How many bytes of `path` the first `length` bytes of what [`readable`] makes of it stand for.
pub fn written_length(path: &str, length: usize) -> usize {
    let (mut written, mut read) = (0, 0);
    while read < length && written < path.len() {
        let triplet = path.get(written..written + 3);
        let digits = triplet.and_then(|triplet| triplet.strip_prefix('%'));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let is_read = byte.is_some_and(|byte| !DELIMITERS.contains(&byte));
        written += if is_read { 3 } else { 1 };
        read += 1;
    }
    written
}

fn push_triplet(text: &mut String, byte: u8, digits: &str) {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        text.push(char::from(byte));
    } else {
        text.push('%');
        text.push_str(&digits.to_ascii_uppercase());
    }
}

/// `text` with what `push` makes of each percent-triplet, which is given as its byte and its digits.
fn with_triplets(text: &str, push: impl Fn(&mut String, u8, &str)) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        made.push_str(before);
        let parted = after.split_at_checked(2).and_then(|(digits, rest)| {
            let are_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let byte = u8::from_str_radix(digits, 16).ok().filter(|_| are_digits)?;
            Some((byte, digits, rest))
        });
        rest = if let Some((byte, digits, rest)) = parted {
            push(&mut made, byte, digits);
            rest
        } else {
            made.push('%');
            after
        };
    }
    made.push_str(rest);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triplet_in_a_pattern_stands_for_itself() {
        for (pattern, expected) in [
            ("/a.b", "/a.b"),
            ("/a%2eb", r"/a\.b"),
            ("/%61%2fb%2D[0-9]%", r"/a%2Fb\-[0-9]%"),
        ] {
            assert_eq!(normalize_pattern(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn a_readable_path_has_its_delimiters_as_they_were_written() {
        for (path, expected) in [
            ("/a%20b%2Fc", Some("/a b%2Fc")),
            ("/%C3%A9%25%7B", Some("/\u{e9}%25{")),
            ("/%FF", None),
            ("/%zz", None),
            ("/a%", None),
        ] {
            assert_eq!(readable(path).as_deref(), expected, "{path}");
        }
        let path = "/%C3%A9%2Fa%20b";
        for (length, expected) in [
            (0, 0),
            (1, 1),
            (3, 7),
            (6, 10),
            (7, 11),
            (8, 14),
            (9, 15),
            (99, 15),
        ] {
            assert_eq!(written_length(path, length), expected, "{length}");
        }
    }

    #[test]
    fn a_quantifier_behind_a_quantifier_is_told_from_a_lazy_one() {
        for (text, good) in [
            ("a*+b", false),
            ("a++", false),
            ("a?+", false),
            ("a{2}+", false),
            ("(a{2,}+)", false),
            ("[a]**", false),
            ("(?x) a+ +", false),
            ("b|(?:x(a*+))", false),
            ("a*?b+?c??d{2}?", true),
            (r"a\*+\++", true),
            ("[a*+]+[]*+]*", true),
            ("(?:a*)+", true),
            // What is none at all its compilation says.
            ("(a*+", true),
        ] {
            assert_eq!(check_quantifiers(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn an_expression_stands_for_itself_and_is_bounded() {
        let matches = |text: &str, path: &str| of_path(text).unwrap().1.is_match(path);
        assert!(matches("/a|/b", "/b/c") && !matches("/a|/b", "/c/b"));
        assert!(matches("(?x)/a # a comment", "/ab") && !matches("(?x)/a # or b", "/b"));
        for text in ["/a)|(.*", "/(", r"/(\p{L}{100}){10}", &"/a".repeat(40_000)] {
            assert!(of_path(text).is_err(), "{text:.20}");
        }
        let wrong = of_path(r"/a\").unwrap_err().to_string();
        assert!(
            wrong.contains("incomplete escape") && !wrong.contains("?:"),
            "{wrong}"
        );
        let header = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            of_header(&values)
        };
        assert!(header(&["~*a", "b"]).is_none() && header(&["a"]).is_none());
        assert!(header(&["~*^A+$"]).unwrap().unwrap().is_match(b"aaa"));
        let uuid = r"~*^\w{8}-\w{4}-\w{4}-\w{4}-\w{12}$";
        assert!(header(&[uuid]).unwrap().is_ok());
        for text in ["~*(", r"~*(\p{L}{100}){100}"] {
            assert!(header(&[text]).unwrap().is_err(), "{text}");
        }
    }
}
