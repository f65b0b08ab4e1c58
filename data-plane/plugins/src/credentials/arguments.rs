//! Query strings and forms as ordered lists of names and values, which filters read and change.

use http::Uri;
use serde_json::Value;

/// Arguments in order; a name may stand several times.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Arguments(Vec<Argument>);

#[derive(Clone, Debug, PartialEq)]
struct Argument {
    name: String,
    /// `None` for a name alone, without `=`.
    value: Option<String>,
}

/// Most arguments that are looked at; the rest of a longer list is left out of every decision.
const MOST: usize = 1000;

impl Arguments {
    /// Those of `application/x-www-form-urlencoded` text.
    pub(crate) fn parse(text: &str) -> Self {
        let parts = text.split('&').filter(|part| !part.is_empty()).take(MOST);
        Self(
            parts
                .map(|part| {
                    let decode = |text: &str| {
                        form_urlencoded::parse(text.as_bytes())
                            .next()
                            .map(|(name, _)| name.into_owned())
                            .unwrap_or_default()
                    };
                    match part.split_once('=') {
                        Some((name, value)) => Argument {
                            name: decode(name),
                            value: Some(decode(&value.replace('=', "%3D"))),
                        },
                        None => Argument {
                            name: decode(part),
                            value: None,
                        },
                    }
                })
                .collect(),
        )
    }

    /// Those of a URI's query.
    pub(crate) fn of(uri: &Uri) -> Self {
        uri.query().map(Self::parse).unwrap_or_default()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of `name`, in order; an argument without `=` has none.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = Option<&str>> {
        self.0
            .iter()
            .filter(move |argument| argument.name == name)
            .map(|argument| argument.value.as_deref())
    }

    /// The values of `name`, in order; an argument without `=` has an empty one.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).map(Option::unwrap_or_default)
    }

    /// Whether `name` is there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Removes `name` and answers whether it was there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|argument| argument.name != name);
        self.0.len() < before
    }

    /// Gives every argument of this name another one, in place of what has that name already.
    pub(crate) fn rename(&mut self, old: &str, new: &str) -> bool {
        if old == new || !self.contains(old) {
            return self.contains(old);
        }
        self.remove(new);
        for argument in self.0.iter_mut().filter(|argument| argument.name == old) {
            new.clone_into(&mut argument.name);
        }
        true
    }

    /// Puts one value in the place of all values of `name`.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let place = self.0.iter().position(|argument| argument.name == name);
        let argument = Argument {
            name: name.to_owned(),
            value: Some(value.to_owned()),
        };
        match place.and_then(|place| self.0.get_mut(place)) {
            Some(kept) => {
                *kept = argument;
                let mut first = true;
                self.0.retain(|argument| {
                    argument.name != name || std::mem::replace(&mut first, false)
                });
            }
            None => self.0.push(argument),
        }
    }

    /// Adds a value of `name`, after those that are there.
    pub(crate) fn push(&mut self, name: &str, value: &str) {
        let argument = Argument {
            name: name.to_owned(),
            value: Some(value.to_owned()),
        };
        let last = self.0.iter().rposition(|known| known.name == name);
        match last {
            Some(last) => self.0.insert(last + 1, argument),
            None => self.0.push(argument),
        }
    }

    /// Names and values, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|argument| {
            (
                argument.name.as_str(),
                argument.value.as_deref().unwrap_or_default(),
            )
        })
    }

    /// Names and values, in order, as Kong shows them: `true` for a name alone.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&str, Value)> {
        self.0.iter().map(|argument| {
            let value = argument.value.as_deref();
            (
                argument.name.as_str(),
                value.map_or(Value::Bool(true), Value::from),
            )
        })
    }

    /// As `application/x-www-form-urlencoded` text.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        for argument in &self.0 {
            if !text.is_empty() {
                text.push('&');
            }
            escape(&argument.name, &mut text);
            if let Some(value) = &argument.value {
                text.push('=');
                escape(value, &mut text);
            }
        }
        text
    }

    /// Writes the arguments into the query of `uri`.
    pub(crate) fn write(&self, uri: &mut Uri) {
        let path = uri.path();
        let target = if self.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{}", self.encode())
        };
        let mut parts = uri.clone().into_parts();
        if let Ok(target) = http::uri::PathAndQuery::try_from(target) {
            parts.path_and_query = Some(target);
            if let Ok(changed) = Uri::from_parts(parts) {
                *uri = changed;
            }
        }
    }
}

/// Percent-encodes all but the unreserved characters (RFC 3986 §2.3).
fn escape(value: &str, text: &mut String) {
    use std::fmt::Write as _;
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_parsed_encodes_to_the_same() {
        for text in ["", "a=1&b=2&a=3", "flag&x=", "q=a%20b%2Bc%3D%3D&u=%C3%BC"] {
            assert_eq!(Arguments::parse(text).encode(), text);
        }
        assert_eq!(Arguments::parse("a=b=c&&d+e=1").encode(), "a=b%3Dc&d%20e=1");
    }

    #[test]
    fn one_name_may_have_several_values() {
        let mut arguments = Arguments::parse("a=1&b=2&a=3");
        assert_eq!(arguments.all("a").collect::<Vec<_>>(), ["1", "3"]);
        arguments.push("a", "4");
        assert_eq!(arguments.encode(), "a=1&b=2&a=3&a=4");
        arguments.set("a", "x");
        assert_eq!(arguments.encode(), "a=x&b=2");
        assert!(arguments.rename("b", "a"));
        assert_eq!(arguments.encode(), "a=2");
        assert!(arguments.remove("a") && !arguments.remove("a"));
        let mut uri: Uri = "/p?x=1".parse().unwrap();
        arguments.write(&mut uri);
        assert_eq!(uri, "/p");
    }
}
