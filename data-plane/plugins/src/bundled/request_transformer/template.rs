//! Values with expressions: `$(headers.x)`, `$(query_params["x"])`, `$(uri_captures.x or "none")`.
//!
//! Kong runs Lua between the parentheses; here it is expressions of that language, without statements.

use crate::credentials::arguments::Arguments;
use crate::exchange::{Captures, Exchange};
use crate::lua::{Expression, Scope, Value, World, place};
use crate::raw_text;

/// What templates may name. Nothing here puts anything into `shared`.
const SCOPE: Scope = Scope {
    tables: &["headers", "query_params", "uri_captures", "shared"],
    functions: &[],
};

/// A value, some parts of which the request decides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Expression(Expression),
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

impl World for Facts {
    fn look_up(&self, table: &str, key: &Value) -> Value {
        match (table, key) {
            ("headers", Value::Text(name)) => {
                let name = name.to_ascii_lowercase().replace('_', "-");
                let values = self.headers.get_all(name).iter();
                let texts = values.map(|value| raw_text::from_bytes(value.as_bytes()));
                Value::from(texts.map(|text| Value::from(&*text)).collect::<Vec<_>>())
            }
            ("query_params", Value::Text(name)) => {
                let text = |bytes: &[u8]| Value::from(&*raw_text::from_bytes(bytes));
                let values = self.query.bytes(name);
                let values = values.map(|value| value.map_or(Value::Boolean(true), text));
                Value::from(values.collect::<Vec<_>>())
            }
            ("uri_captures", Value::Text(name)) => {
                let mut named = self.captures.named.iter();
                let named = named.find(|(known, _)| known == name);
                // `uri_captures.1` is what Lua cannot say (OURS).
                let numbered = || {
                    let place: usize = name.parse().ok()?;
                    self.captures.numbered.get(place.checked_sub(1)?)
                };
                captured(named.map(|(_, value)| value).or_else(numbered))
            }
            ("uri_captures", Value::Number(number)) => match place(*number) {
                Some(0) => captured(Some(&self.captures.whole)),
                Some(place) => captured(self.captures.numbered.get(place - 1)),
                None => Value::Nil,
            },
            _ => Value::Nil,
        }
    }

    fn call(&self, _: &str, _: &[Value]) -> Value {
        Value::Nil
    }
}

/// A group that took no part is not there.
fn captured(text: Option<&String>) -> Value {
    match text {
        Some(text) if !text.is_empty() => Value::from(&*raw_text::from_bytes(text.as_bytes())),
        _ => Value::Nil,
    }
}

impl Template {
    /// Reads `text`, or says which expression is none.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        let wrong =
            |detail: &str| format!("value '{text}' is not in supported format, error:{detail}");
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("$(") {
            if !before.is_empty() {
                pieces.push(literal(before));
            }
            let (inner, after) = expression(after).ok_or_else(|| wrong("unfinished expression"))?;
            let compiled = Expression::compile(&raw_text::from_bytes(inner.as_bytes()), &SCOPE)
                .map_err(|detail| wrong(&detail))?;
            pieces.push(Piece::Expression(compiled));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(literal(rest));
        }
        Ok(Self(pieces))
    }

    /// Whether the request decides nothing of it.
    pub(super) fn is_constant(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// The value for a request, as a text of [`raw_text`]; the error says what an expression has tried.
    pub(super) fn render(&self, facts: &Facts) -> Result<String, String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Expression(expression) => {
                    text.push_str(&expression.value(facts)?.shown());
                }
            }
        }
        Ok(text)
    }
}

fn literal(text: &str) -> Piece {
    Piece::Text(raw_text::from_bytes(text.as_bytes()).into_owned())
}

/// What stands before the parenthesis that ends an expression, and what after it.
fn expression(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let mut quote = None;
    let mut escaped = false;
    for (place, character) in text.char_indices() {
        match (quote, character) {
            _ if std::mem::take(&mut escaped) => {}
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if open == character => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    return Some((text.get(..place)?, text.get(place + 1..)?));
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn facts() -> Facts {
        let mut headers = HeaderMap::new();
        headers.insert("x-a-b", HeaderValue::from_static("header"));
        headers.insert("3scale-id", HeaderValue::from_static("three"));
        for value in ["1", "2"] {
            headers.append("x-twice", HeaderValue::from_static(value));
        }
        Facts {
            headers,
            query: Arguments::parse("q=argument&or=2&flag"),
            captures: Captures {
                whole: "/first/ann".to_owned(),
                numbered: vec!["first".to_owned(), String::new()],
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
            ("/r$(uri_captures[0])", "/r/first/ann"),
            ("$(uri_captures[2] or 'none')", "none"),
            ("$(uri_captures.none or 'b) or c')", "b) or c"),
            ("$(uri_captures.1)$(uri_captures['1'])", "firstfirst"),
            ("$(uri_captures.2 or uri_captures.0 or 'x')", "x"),
            ("$(headers.3scale_id .. 1.5)", "three1.5"),
            ("$(headers.none or query_params.or_ or 'x')", "x"),
            ("$(headers.none)", ""),
            ("10$ (5)", "10$ (5)"),
            ("$('$(uri_captures.user)')", "$(uri_captures.user)"),
            ("$(headers.x_a_b .. '-' .. 1 + 2 * 3)", "header-7"),
            ("$(-2 ^ 2 .. ' ' .. 7 % 3 .. ' ' .. 1 / 4)", "-4 1 0.25"),
            ("$(query_params['or'] * 10)", "20"),
            ("$(not headers.none and 1 < 2 and 'yes' or 'no')", "yes"),
            ("$(query_params.flag == true)", "true"),
            ("$(#headers.x_twice .. headers.x_twice[2])", "22"),
            ("$(headers.x_twice)", "1"),
            (
                "$(type(headers[\"X-Twice\"]) == \"table\" and headers[\"X-Twice\"][1] .. \"-first\" or headers[\"X-Twice\"])",
                "1-first",
            ),
            ("$(type(shared.version))", "nil"),
            ("$(string.upper(headers.x_a_b):sub(2, -2))", "EADE"),
            ("$(tonumber('0x10') + tonumber(' 2 '))", "18"),
            ("$([[a]] ~= 'b')", "true"),
        ] {
            let template = Template::compile(text).unwrap();
            assert_eq!(template.render(&facts()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn characters_that_stand_for_bytes_elsewhere_are_themselves() {
        let odd = "\u{10FF80}";
        let facts = Facts {
            captures: Captures {
                whole: odd.to_owned(),
                numbered: vec![odd.to_owned()],
                named: vec![("user".to_owned(), odd.to_owned())],
            },
            ..facts()
        };
        for text in [
            "$(uri_captures[0])",
            "$(uri_captures[1])",
            "$(uri_captures.user)",
            "$('\u{10FF80}')",
            "$(uri_captures.user == '\u{10FF80}' and uri_captures.user)",
            "\u{10FF80}",
        ] {
            let rendered = Template::compile(text).unwrap().render(&facts).unwrap();
            assert_eq!(raw_text::to_bytes(&rendered), odd.as_bytes(), "{text}");
        }
    }

    #[test]
    fn what_goes_wrong_is_said_in_luas_words() {
        for (text, expected) in [
            (
                "$(10 * uri_captures.user)",
                "attempt to perform arithmetic on a string value",
            ),
            ("$(ERROR())", "attempt to call global 'ERROR' (a nil value)"),
            (
                "$(headers.none.x)",
                "attempt to index field 'none' (a nil value)",
            ),
            ("$('a' .. nil)", "attempt to concatenate a nil value"),
            ("$(1 < 'a')", "attempt to compare number with string"),
        ] {
            let template = Template::compile(text).unwrap();
            assert_eq!(template.render(&facts()).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for (text, expected) in [
            ("$(", "unfinished expression"),
            ("$()", "an expression is missing"),
            ("$(uri_captures user)", "unexpected 'user'"),
            ("$(shared.written = true)", "unexpected '='"),
            (
                "$(os.exit())",
                "'os' is not supported; there are headers, query_params, uri_captures, shared, type, tostring, tonumber, string.lower, string.upper, string.len, string.reverse, string.sub",
            ),
            (
                "$((function() return 1 end)())",
                "'function' is not supported; there are headers, query_params, uri_captures, shared, type, tostring, tonumber, string.lower, string.upper, string.len, string.reverse, string.sub",
            ),
            ("$(string.rep('a', 1e9))", "string.rep is not supported"),
            ("$(headers.a ..)", "an expression is missing"),
            ("$('\\x41')", "unknown escape in a text"),
            ("$({1})", "unexpected '{'"),
        ] {
            let expected = format!("value '{text}' is not in supported format, error:{expected}");
            assert_eq!(Template::compile(text).unwrap_err(), expected);
        }
        for (deep, expected) in [
            (format!("{}1{}", "(".repeat(60), ")".repeat(60)), "too deep"),
            (format!("{}1", "1+".repeat(100_000)), "more than 500 tokens"),
            (
                format!("headers{}", ".a".repeat(100_000)),
                "more than 500 tokens",
            ),
            (
                format!("'x'{}", ":upper()".repeat(100_000)),
                "more than 500 tokens",
            ),
        ] {
            let error = Template::compile(&format!("$({deep})")).unwrap_err();
            assert!(error.ends_with(&format!("error:{expected}")), "{expected}");
        }
        let longest = format!("$({}1)", "1+".repeat(249));
        let longest = Template::compile(&longest).unwrap();
        assert_eq!(longest.render(&facts()).as_deref(), Ok("250"));
    }
}
