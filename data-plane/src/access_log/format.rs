//! How a line of the access log is written: as JSON, or as an operator's text with fields in it.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};

/// The fields of requests and of streams.
const FIELDS: [&str; 19] = [
    "started_at",
    "request_id",
    "client_ip",
    "method",
    "host",
    "path",
    "query",
    "status",
    "latency_ms",
    "upstream_latency_ms",
    "bytes_received",
    "bytes_sent",
    "route",
    "service",
    "consumer",
    "ended_by",
    "protocol",
    "server_name",
    "session_ms",
];

/// `started_at` as people read it.
const TIME: &str = "time";

/// A setting `access_log_format`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    Json,
    Text(Vec<Piece>),
}

/// A part of a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    Field(String),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "json" {
            return Ok(Self::Json);
        }
        let mut pieces = Vec::new();
        let mut parts = text.split('$');
        let mut push = |text: &str| {
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
        };
        push(parts.next().unwrap_or_default());
        for part in parts {
            let end = part.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
            let (name, rest) = part.split_at(end.unwrap_or(part.len()));
            if name != TIME && !FIELDS.contains(&name) {
                return Err(format!(
                    "no field `${name}`; there are $time, ${}",
                    FIELDS.join(", $")
                ));
            }
            pieces.push(Piece::Field(name.to_owned()));
            if !rest.is_empty() {
                pieces.push(Piece::Text(rest.to_owned()));
            }
        }
        if !pieces.iter().any(|piece| matches!(piece, Piece::Field(_))) {
            return Err(
                "a line with no field in it; expected `json`, or a text with `$NAME`".to_owned(),
            );
        }
        Ok(Self::Text(pieces))
    }
}

impl Format {
    /// A line, with its end.
    pub(super) fn line(&self, line: &impl Serialize) -> Option<Vec<u8>> {
        let mut bytes = match self {
            Self::Json => serde_json::to_vec(line).ok()?,
            Self::Text(pieces) => {
                let Ok(Value::Object(fields)) = serde_json::to_value(line) else {
                    return None;
                };
                text(pieces, &fields).into_bytes()
            }
        };
        bytes.push(b'\n');
        Some(bytes)
    }
}

fn text(pieces: &[Piece], fields: &Map<String, Value>) -> String {
    let mut line = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => line.push_str(text),
            Piece::Field(name) if name == TIME => {
                let milliseconds = fields.get("started_at").and_then(Value::as_u64);
                let since = Duration::from_millis(milliseconds.unwrap_or_default());
                line.push_str(&httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since));
            }
            Piece::Field(name) => match fields.get(name.as_str()) {
                Some(Value::String(text)) if !text.is_empty() => push_escaped(&mut line, text),
                None | Some(Value::Null | Value::String(_)) => line.push('-'),
                Some(other) => line.push_str(&other.to_string()),
            },
        }
    }
    line
}

/// What a client has sent cannot end a line, or what an operator has put around it.
fn push_escaped(line: &mut String, text: &str) {
    for letter in text.chars() {
        if letter.is_control() || matches!(letter, '"' | '\\') {
            // Writing to memory cannot fail.
            let _ = write!(line, "\\x{:02X}", u32::from(letter));
        } else {
            line.push(letter);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_what_its_format_says() {
        let check = |format: &str, expected: &str| {
            let fields = json!({
                "started_at": 784_111_777_000_u64, "client_ip": "192.0.2.1", "method": "GET", "path": "/a\"\n\\b",
                "query": null, "status": 200, "bytes_sent": 7, "host": "",
            });
            let line = format.parse::<Format>().unwrap().line(&fields).unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), format!("{expected}\n"));
        };
        check(
            "$client_ip - $consumer [$time] \"$method $path?$query\" $status $bytes_sent",
            "192.0.2.1 - - [Sun, 06 Nov 1994 08:49:37 GMT] \"GET /a\\x22\\x0A\\x5Cb?-\" 200 7",
        );
        check("<$status$method>$host", "<200GET>-");
    }

    #[test]
    fn a_format_names_fields_that_there_are() {
        for text in ["", "text", "$", "$status $nothing", "$Status"] {
            assert!(text.parse::<Format>().is_err(), "{text}");
        }
        assert_eq!("json".parse(), Ok(Format::Json));
    }
}
