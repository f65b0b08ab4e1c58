//! Values with expressions: `$(headers.x)`, `$(query_params["x"])`, `$(uri_captures.x or "none")`.
//!
//! Kong runs Lua between the parentheses. What is served of it here is what its documentation shows:
//! the three tables, and `or` between them and texts.

use crate::arguments::Arguments;
use crate::exchange::{Captures, Exchange};

/// A value, some parts of which the request decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Piece {
    Text(String),
    /// The first of these that is there.
    Either(Vec<Term>),
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Term {
    Text(String),
    Header(String),
    Query(String),
    Capture(String),
    Nothing,
}

/// What expressions look at: the request as it came.
#[derive(Debug, Default)]
pub(super) struct Facts {
    headers: http::HeaderMap,
    query: Arguments,
    captures: Captures,
}

impl Facts {
    /// Those of `exchange`.
    pub(super) fn of(exchange: &Exchange<'_>) -> Self {
        Self {
            headers: exchange.request.headers.clone(),
            query: Arguments::of(&exchange.request.uri),
            captures: exchange.captures.clone(),
        }
    }
}

impl Template {
    /// Reads `text`, or says which expression is none.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("$(") {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (expression, after) =
                expression(after).ok_or_else(|| format!("unfinished expression: $({after}"))?;
            let terms: Option<Vec<_>> = split_or(expression).into_iter().map(term).collect();
            let terms = terms.ok_or_else(|| {
                format!(
                    "not supported by this version of Wardgate: $({expression}); known are headers, query_params and uri_captures, and `or` between them and texts"
                )
            })?;
            pieces.push(Piece::Either(terms));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Whether the request decides nothing of it.
    pub(super) fn is_constant(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// The value for a request.
    pub(super) fn render(&self, facts: &Facts) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Either(terms) => {
                    let found = terms.iter().find_map(|term| term.value(facts));
                    text.push_str(found.as_deref().unwrap_or_default());
                }
            }
        }
        text
    }
}

/// What stands before the parenthesis that ends an expression, and what after it.
fn expression(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let mut quote = None;
    for (place, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) => {
                if open == character {
                    quote = None;
                }
            }
            (None, '"' | '\'') => quote = Some(character),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    return Some((text.get(..place)?, text.get(place + 1..)?));
                }
            }
            (None, _) => {}
        }
    }
    None
}

/// The parts between the words `or`.
fn split_or(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut quote = None;
    let mut start = 0;
    for (place, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) => {
                if open == character {
                    quote = None;
                }
            }
            (None, '"' | '\'') => quote = Some(character),
            (None, ' ') => {
                if text
                    .get(place..)
                    .is_some_and(|rest| rest.starts_with(" or "))
                    && let Some(part) = text.get(start..place)
                {
                    parts.push(part);
                    start = place + " or ".len();
                }
            }
            (None, _) => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn term(text: &str) -> Option<Term> {
    let text = text.trim();
    if let Some(text) = quoted(text) {
        return Some(Term::Text(text.to_owned()));
    }
    if text == "nil" {
        return Some(Term::Nothing);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Term::Text(text.to_owned()));
    }
    let place = text.find(['.', '['])?;
    let (table, key) = text.split_at(place);
    let key = if let Some(name) = key.strip_prefix('.') {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        (!name.is_empty() && name.bytes().all(word)).then_some(name)?
    } else {
        let inner = key.strip_prefix('[')?.strip_suffix(']')?.trim();
        let number = !inner.is_empty() && inner.bytes().all(|byte| byte.is_ascii_digit());
        if number { inner } else { quoted(inner)? }
    };
    let key = key.to_owned();
    match table.trim() {
        "headers" => Some(Term::Header(key.to_ascii_lowercase().replace('_', "-"))),
        "query_params" => Some(Term::Query(key)),
        "uri_captures" => Some(Term::Capture(key)),
        // Nothing here puts anything into it.
        "shared" => Some(Term::Nothing),
        _ => None,
    }
}

/// What stands between quotes.
fn quoted(text: &str) -> Option<&str> {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    let found = inner('"').or_else(|| inner('\''))?;
    (!found.contains(['"', '\'', '\\'])).then_some(found)
}

impl Term {
    fn value(&self, facts: &Facts) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Text(text) => Some(text.clone()),
            Self::Header(name) => {
                let value = facts.headers.get(name)?;
                Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
            }
            Self::Query(name) => facts.query.all(name).next().map(str::to_owned),
            Self::Capture(name) => {
                let numbered = || {
                    let number: usize = name.parse().ok()?;
                    facts.captures.numbered.get(number.checked_sub(1)?)
                };
                let mut named = facts.captures.named.iter();
                let named = named.find(|(known, _)| known == name);
                named
                    .map(|(_, value)| value)
                    .or_else(numbered)
                    .filter(|value| !value.is_empty())
                    .cloned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn facts() -> Facts {
        let mut headers = HeaderMap::new();
        headers.insert("x-a-b", HeaderValue::from_static("header"));
        Facts {
            headers,
            query: Arguments::parse("q=argument&or=2"),
            captures: Captures {
                numbered: vec!["first".to_owned()],
                named: vec![("user".to_owned(), "ann".to_owned())],
            },
        }
    }

    #[test]
    fn expressions_are_what_the_request_says() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a$(headers.x_a_b)b", "aheaderb"),
            ("$(headers['X-A-B'])", "header"),
            (
                "$(query_params.q)/$(query_params[\"q\"])",
                "argument/argument",
            ),
            (
                "$(uri_captures.user)$(uri_captures[1])$(uri_captures['user'])",
                "annfirstann",
            ),
            ("$(uri_captures.none or 'b) or c')", "b) or c"),
            ("$(headers.none or query_params.or or 'x')", "2"),
            ("$(headers.none)", ""),
            ("10$ (5)", "10$ (5)"),
        ] {
            let template = Template::compile(text).unwrap();
            assert_eq!(template.render(&facts()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in [
            "$(",
            "$(os.exit())",
            "$((function() return 1 end)())",
            "$(headers)",
            "$(headers.a .. 'x')",
        ] {
            assert!(Template::compile(text).is_err(), "{text}");
        }
    }
}
