//! Request bodies that filters look into: forms, JSON objects, multipart.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use crate::credentials::arguments::Arguments;
use crate::exchange::{Exchange, Parsing};
use crate::logs::log_record::grouped;

/// Largest body that filters look into, in bytes.
pub(crate) const LARGEST: usize = 8 * 1024 * 1024;

/// What a body is, as far as filters can look into it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MediaType {
    Json,
    Form,
    Multipart,
}

impl MediaType {
    /// That of a message with these header fields.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let text = text.to_ascii_lowercase();
        if text.contains("application/json") {
            Some(Self::Json)
        } else if text.contains("multipart/form-data") {
            Some(Self::Multipart)
        } else if text.contains("application/x-www-form-urlencoded") {
            Some(Self::Form)
        } else {
            None
        }
    }
}

impl From<MediaType> for Parsing {
    fn from(media_type: MediaType) -> Self {
        match media_type {
            MediaType::Json => Self::Json,
            MediaType::Form => Self::Form,
            MediaType::Multipart => Self::Multipart,
        }
    }
}

/// A body that has been looked into.
#[derive(Debug)]
pub(crate) enum Form {
    /// None, or none that filters can look into.
    Opaque,
    Arguments(Arguments),
    Json(Map<String, Value>),
    Multipart(Multipart),
}

/// Reads the request's body. One that is too large or malformed is opaque, and goes upstream as it is.
pub(crate) async fn form(exchange: &mut Exchange<'_>) -> Form {
    let Some(media_type) = MediaType::of(&exchange.request.headers) else {
        return Form::Opaque;
    };
    let read = match &exchange.upstream.body {
        Some(bytes) => Ok(bytes.clone()),
        None => exchange.body.read(LARGEST, media_type.into()).await,
    };
    let Ok(bytes) = read else {
        return Form::Opaque;
    };
    parse(media_type, &exchange.request.headers, &bytes).unwrap_or(Form::Opaque)
}

/// Looks into `bytes`.
pub(crate) fn parse(media_type: MediaType, headers: &HeaderMap, bytes: &[u8]) -> Option<Form> {
    match media_type {
        MediaType::Form => Some(Form::Arguments(Arguments::parse_bytes(bytes))),
        MediaType::Json => match serde_json::from_slice(bytes).ok()? {
            Value::Object(map) => Some(Form::Json(map)),
            _ => None,
        },
        MediaType::Multipart => {
            let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
            Multipart::parse(text, bytes).map(Form::Multipart)
        }
    }
}

impl Form {
    /// The values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        match self {
            Self::Opaque => Vec::new(),
            Self::Arguments(arguments) => arguments.all(name).map(str::to_owned).collect(),
            Self::Json(map) => match map.get(name) {
                Some(Value::String(text)) => vec![text.clone()],
                Some(Value::Number(number)) => vec![number.to_string()],
                Some(Value::Array(list)) => list
                    .iter()
                    .map(|value| value.as_str().unwrap_or_default().to_owned())
                    .collect(),
                _ => Vec::new(),
            },
            Self::Multipart(parts) => parts.values(name),
        }
    }

    /// Whether a field says anything. In Lua, which Kong looks at JSON with, `false` and `null` are nothing.
    pub(crate) fn says(&self, name: &str) -> bool {
        match self {
            Self::Json(map) => {
                !matches!(map.get(name), None | Some(Value::Null | Value::Bool(false)))
            }
            others => !others.values(name).is_empty(),
        }
    }

    /// All fields, as Kong shows them; none of what cannot be looked into.
    pub(crate) fn shown(&self) -> Option<Value> {
        match self {
            Self::Opaque => None,
            Self::Arguments(arguments) => Some(grouped(arguments.shown())),
            Self::Json(map) => Some(Value::Object(map.clone())),
            Self::Multipart(parts) => {
                let fields = parts.parts.iter().map(|part| {
                    let content = String::from_utf8_lossy(&part.content);
                    (part.name.as_str(), Value::from(content))
                });
                Some(grouped(fields))
            }
        }
    }

    /// Removes a field, and answers whether it was there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        match self {
            Self::Opaque => false,
            Self::Arguments(arguments) => arguments.remove(name),
            Self::Json(map) => map.shift_remove(name).is_some(),
            Self::Multipart(parts) => parts.remove(name),
        }
    }

    /// The bytes of the body.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        match self {
            Self::Opaque => None,
            Self::Arguments(arguments) => Some(arguments.encode().into_bytes()),
            Self::Json(map) => serde_json::to_vec(map).ok(),
            Self::Multipart(parts) => Some(parts.encode()),
        }
    }
}

/// A body of parts (RFC 7578), kept as they came but for those that filters change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Multipart {
    boundary: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
struct Part {
    name: String,
    /// The part's own header, without the empty line.
    head: Vec<u8>,
    content: Vec<u8>,
}

/// Most parts of a body.
const MOST_PARTS: usize = 1000;

impl Multipart {
    fn parse(content_type: &str, bytes: &[u8]) -> Option<Self> {
        let boundary = parameter(content_type, "boundary").filter(|found| !found.is_empty())?;
        let delimiter = format!("--{boundary}");
        let mut parts = Vec::new();
        let mut rest = split(bytes, delimiter.as_bytes())?.1;
        loop {
            if rest.starts_with(b"--") {
                break;
            }
            rest = rest.strip_prefix(b"\r\n")?;
            let (part, after) = split(rest, format!("\r\n{delimiter}").as_bytes())?;
            let (head, content) = match part.strip_prefix(b"\r\n") {
                Some(content) => (&b""[..], content),
                None => split(part, b"\r\n\r\n")?,
            };
            let text = str::from_utf8(head).ok()?;
            let disposition = text.lines().find(|line| {
                line.get(..20)
                    .is_some_and(|start| start.eq_ignore_ascii_case("content-disposition:"))
            });
            parts.push(Part {
                name: disposition
                    .and_then(|line| parameter(line, "name"))
                    .unwrap_or_default(),
                head: head.to_vec(),
                content: content.to_vec(),
            });
            if parts.len() > MOST_PARTS {
                return None;
            }
            rest = after;
        }
        Some(Self { boundary, parts })
    }

    fn values(&self, name: &str) -> Vec<String> {
        let parts = self.parts.iter().filter(|part| part.name == name);
        parts
            .map(|part| String::from_utf8_lossy(&part.content).into_owned())
            .collect()
    }

    /// Whether there is a part of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.name == name)
    }

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.parts.len();
        self.parts.retain(|part| part.name != name);
        self.parts.len() < before
    }

    /// Adds a simple field.
    pub(crate) fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let quoted = name.replace('"', "%22").replace(['\r', '\n'], "");
        self.parts.push(Part {
            name: name.to_owned(),
            head: format!("Content-Disposition: form-data; name=\"{quoted}\"").into_bytes(),
            content: value.as_ref().to_vec(),
        });
    }

    /// Gives a simple field another name.
    pub(crate) fn rename(&mut self, old: &str, new: &str) -> bool {
        let parts = self.parts.iter().filter(|part| part.name == old);
        let contents: Vec<Vec<u8>> = parts.map(|part| part.content.clone()).collect();
        if !self.remove(old) {
            return false;
        }
        self.remove(new);
        for content in contents {
            self.push(new, content);
        }
        true
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in &self.parts {
            for piece in [
                &b"--"[..],
                self.boundary.as_bytes(),
                b"\r\n",
                &part.head,
                if part.head.is_empty() {
                    &b""[..]
                } else {
                    b"\r\n"
                },
                b"\r\n",
                &part.content,
                b"\r\n",
            ] {
                bytes.extend_from_slice(piece);
            }
        }
        for piece in [&b"--"[..], self.boundary.as_bytes(), b"--\r\n"] {
            bytes.extend_from_slice(piece);
        }
        bytes
    }
}

/// The bytes before and after the first `delimiter`.
fn split<'a>(bytes: &'a [u8], delimiter: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes
        .windows(delimiter.len())
        .position(|window| window == delimiter)?;
    Some((bytes.get(..at)?, bytes.get(at + delimiter.len()..)?))
}

/// A parameter of a header field's value, without its quotes.
fn parameter(text: &str, name: &str) -> Option<String> {
    text.split(';').skip(1).find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multipart_body_keeps_the_parts_that_nobody_changes() {
        let body = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f.bin\"\r\nContent-Type: image/png\r\n\r\n\u{1}\r\n\u{2}\r\n--x--\r\n";
        let parsed = Multipart::parse("multipart/form-data; boundary=x", body.as_bytes());
        let mut parsed = parsed.unwrap();
        assert_eq!(parsed.values("a"), ["1"]);
        assert_eq!(String::from_utf8(parsed.encode()).unwrap(), body);
        assert!(parsed.rename("a", "b") && !parsed.contains("a"));
        parsed.push("c", "3");
        let again = Multipart::parse("multipart/form-data; boundary=\"x\"", &parsed.encode());
        assert_eq!(again.unwrap(), parsed);
    }

    #[test]
    fn a_broken_multipart_body_is_opaque() {
        for body in [
            "",
            "--x",
            "--x\r\n",
            "--x\r\nnothing",
            "--y\r\n\r\n1\r\n--y--",
        ] {
            let parsed = Multipart::parse("multipart/form-data; boundary=x", body.as_bytes());
            assert_eq!(parsed, None, "{body:?}");
        }
    }
}
