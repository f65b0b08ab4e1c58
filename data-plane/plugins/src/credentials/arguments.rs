//! Query strings and forms as ordered lists of names and values, which filters read and change.

use std::borrow::Cow;

use http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde_json::Value;

/// Arguments in order; a name may stand several times.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Arguments(Vec<Argument>);

#[derive(Clone, Debug, PartialEq)]
struct Argument {
    name: Text,
    /// `None` for a name alone, without `=`.
    value: Option<Text>,
}

/// A name or a value.
#[derive(Clone, Debug, Default, PartialEq)]
struct Text {
    /// With U+FFFD for what is not UTF-8.
    shown: String,
    /// All of it, where that is not UTF-8.
    bytes: Option<Box<[u8]>>,
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        let shown = String::from_utf8_lossy(bytes);
        Self {
            bytes: matches!(shown, Cow::Owned(_)).then(|| bytes.into()),
            shown: shown.into_owned(),
        }
    }

    /// Decodes `text` as it stands in a form.
    fn decode(text: &str) -> Self {
        let spaced = text.replace('+', " ");
        let bytes: Cow<'_, [u8]> = percent_decode_str(&spaced).into();
        Self::of(&bytes)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.shown.as_bytes())
    }
}

impl Argument {
    fn of(name: &str, value: &[u8]) -> Self {
        Self {
            name: Text::of(name.as_bytes()),
            value: Some(Text::of(value)),
        }
    }
}

/// Most arguments that are looked at; the rest of a longer list is left out of every decision.
const MOST: usize = 1000;

impl Arguments {
    /// Those of `application/x-www-form-urlencoded` text.
    pub(crate) fn parse(text: &str) -> Self {
        let parts = text.split('&').filter(|part| !part.is_empty()).take(MOST);
        Self(
            parts
                .map(|part| match part.split_once('=') {
                    Some((name, value)) => Argument {
                        name: Text::decode(name),
                        value: Some(Text::decode(value)),
                    },
                    None => Argument {
                        name: Text::decode(part),
                        value: None,
                    },
                })
                .collect(),
        )
    }

    /// The same of a body, which may hold any bytes.
    pub(crate) fn parse_bytes(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(percent_encode(chunk.invalid(), NON_ALPHANUMERIC));
        }
        Self::parse(&text)
    }

    /// Adds those of `other`.
    pub(crate) fn extend(&mut self, other: Self) {
        for argument in other.0 {
            self.insert(argument);
        }
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
            .filter(move |argument| argument.name.shown == name)
            .map(|argument| Some(&*argument.value.as_ref()?.shown))
    }

    /// The same as they came, for what is not UTF-8.
    pub(crate) fn bytes(&self, name: &str) -> impl Iterator<Item = Option<&[u8]>> {
        self.0
            .iter()
            .filter(move |argument| argument.name.shown == name)
            .map(|argument| Some(argument.value.as_ref()?.as_bytes()))
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
        self.0.retain(|argument| argument.name.shown != name);
        self.0.len() < before
    }

    /// Gives every argument of this name another one, in place of what has that name already.
    pub(crate) fn rename(&mut self, old: &str, new: &str) -> bool {
        if old == new || !self.contains(old) {
            return self.contains(old);
        }
        self.remove(new);
        let renamed = |argument: &&mut Argument| argument.name.shown == old;
        for argument in self.0.iter_mut().filter(renamed) {
            argument.name = Text::of(new.as_bytes());
        }
        true
    }

    /// Puts one value in the place of all values of `name`.
    pub(crate) fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let mut all = self.0.iter();
        let place = all.position(|argument| argument.name.shown == name);
        let argument = Argument::of(name, value.as_ref());
        match place.and_then(|place| self.0.get_mut(place)) {
            Some(kept) => {
                *kept = argument;
                let mut first = true;
                self.0.retain(|argument| {
                    argument.name.shown != name || std::mem::replace(&mut first, false)
                });
            }
            None => self.0.push(argument),
        }
    }

    /// Adds a value of `name`, after those that are there.
    pub(crate) fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.insert(Argument::of(name, value.as_ref()));
    }

    fn insert(&mut self, argument: Argument) {
        let mut all = self.0.iter();
        let last = all.rposition(|known| known.name == argument.name);
        match last {
            Some(last) => self.0.insert(last + 1, argument),
            None => self.0.push(argument),
        }
    }

    /// Names and values, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|argument| {
            let value = argument.value.as_ref();
            let value = value.map_or("", |value| value.shown.as_str());
            (argument.name.shown.as_str(), value)
        })
    }

    /// Names and values, in order, as Kong shows them: `true` for a name alone.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&str, Value)> {
        self.0.iter().map(|argument| {
            let value = argument.value.as_ref();
            let value = value.map_or(Value::Bool(true), |value| Value::from(&*value.shown));
            (argument.name.shown.as_str(), value)
        })
    }

    /// As `application/x-www-form-urlencoded` text.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        for argument in &self.0 {
            if !text.is_empty() {
                text.push('&');
            }
            escape(argument.name.as_bytes(), &mut text);
            if let Some(value) = &argument.value {
                text.push('=');
                escape(value.as_bytes(), &mut text);
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
fn escape(value: &[u8], text: &mut String) {
    use std::fmt::Write as _;
    for &byte in value {
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
        for text in [
            "",
            "a=1&b=2&a=3",
            "flag&x=",
            "q=a%20b%2Bc%3D%3D&u=%C3%BC",
            "latin=gr%FCn&%E9&%25=%00",
        ] {
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
