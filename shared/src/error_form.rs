//! The form of an error's body, which the client chooses by `Accept` (Kong 3.9, error templates).

mod templates;

use std::borrow::Cow;

pub use self::templates::{ErrorTemplates, NO_TEMPLATES, Template};

/// What an error is written as.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum ErrorForm {
    /// JSON.
    #[value(name = "application/json")]
    Json,
    /// HTML.
    #[value(name = "text/html")]
    Html,
    /// Text.
    #[value(name = "text/plain")]
    Plain,
    /// XML.
    #[value(name = "application/xml")]
    Xml,
    /// Fields instead of a body.
    #[value(name = "application/grpc")]
    Grpc,
}

impl ErrorForm {
    /// The form that `wish`, an `Accept` or else a `Content-Type`, asks for.
    pub fn of(wish: &[u8]) -> Self {
        let Ok(text) = str::from_utf8(wish) else {
            return Self::Json;
        };
        if is_grpc(wish) {
            return Self::Grpc;
        }
        let mut best = (0, Self::Json);
        for member in text.split(',') {
            let mut parts = member.split(';').map(str::trim);
            let Some(media_type) = parts.next().filter(|text| text.contains('/')) else {
                continue;
            };
            let quality = parts
                .find_map(|parameter| {
                    let (name, value) = parameter.split_once('=')?;
                    name.trim()
                        .eq_ignore_ascii_case("q")
                        .then(|| thousandths(value.trim()))
                })
                .unwrap_or(1000);
            if quality > best.0 {
                best = (quality, Self::of_media_type(media_type));
            }
        }
        best.1
    }

    fn of_media_type(text: &str) -> Self {
        match &*text.to_ascii_lowercase() {
            "text/html" => Self::Html,
            "text/plain" | "text/*" => Self::Plain,
            "application/xml" => Self::Xml,
            _ => Self::Json,
        }
    }

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Plain => "text/plain; charset=utf-8",
            Self::Xml => "application/xml; charset=utf-8",
            Self::Grpc => "application/grpc",
        }
    }

    /// The body. `message` may be anything that an operator has written.
    pub fn body(self, message: &str, request_id: &str) -> String {
        let message: Cow<'_, str> = match self {
            Self::Json => return json(message, request_id),
            Self::Html | Self::Xml => escaped(message),
            Self::Plain | Self::Grpc => Cow::Borrowed(message),
        };
        match self {
            Self::Json | Self::Grpc => String::new(),
            Self::Html => format!(
                "<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n  \
                 </head>\n  <body>\n    <h1>Error</h1>\n    <p>{message}.</p>\n    <p>request_id: {request_id}</p>\n  \
                 </body>\n</html>\n"
            ),
            Self::Plain => format!("{message}\nrequest_id: {request_id}\n"),
            Self::Xml => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>{message}</message>\n  \
                 <requestid>{request_id}</requestid>\n</error>\n"
            ),
        }
    }
}

fn json(message: &str, request_id: &str) -> String {
    let message = serde_json::Value::from(message);
    format!("{{\n  \"message\":{message},\n  \"request_id\":\"{request_id}\"\n}}")
}

/// The text as it stands between quotes.
fn json_text(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    let inside = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inside.unwrap_or(&quoted).to_owned()
}

/// The text as the content of an element.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>']) {
        return Cow::Borrowed(text);
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    Cow::Owned(text.replace('>', "&gt;"))
}

/// What stands for an HTTP status in gRPC (Kong 3.9, `kong.response.exit`): for one without a code of its own, that of its class.
pub const fn grpc_status(status: u16) -> u16 {
    match status {
        401 => 16,
        403 => 7,
        404 => 5,
        409 => 6,
        429 => 8,
        499 => 1,
        501 => 12,
        503 => 14,
        504 => 4,
        200..=299 => 0,
        400..=498 => 3,
        500..=599 => 13,
        _ => 2,
    }
}

/// What a gRPC code that stands for an HTTP status is called, as a message where there is no other.
pub const fn grpc_name(status: u16) -> &'static str {
    match grpc_status(status) {
        0 => "OK",
        1 => "Canceled",
        3 => "InvalidArgument",
        4 => "DeadlineExceeded",
        5 => "NotFound",
        6 => "AlreadyExists",
        7 => "PermissionDenied",
        8 => "ResourceExhausted",
        12 => "Unimplemented",
        13 => "Internal",
        14 => "Unavailable",
        16 => "Unauthenticated",
        _ => "Unknown",
    }
}

/// Whether a `Content-Type` is one of gRPC's.
pub fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .get(..16)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"application/grpc"))
}

/// A quality value (RFC 9110 §12.4.2); one that is none counts as 1.
fn thousandths(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, digits) {
        ("0", true) => format!("{fraction:0<3}").parse().unwrap_or(1000),
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_a_code_of_grpc() {
        for (status, code) in [
            (200, 0),
            (204, 0),
            (302, 2),
            (400, 3),
            (401, 16),
            (405, 3),
            (409, 6),
            (413, 3),
            (499, 1),
            (500, 13),
            (502, 13),
            (503, 14),
            (599, 13),
        ] {
            assert_eq!(grpc_status(status), code, "{status}");
        }
    }

    #[test]
    fn the_best_quality_wins_and_the_first_of_equals() {
        for (accept, expected) in [
            ("*/*", ErrorForm::Json),
            ("text/html", ErrorForm::Html),
            ("text/*", ErrorForm::Plain),
            ("application/*", ErrorForm::Json),
            ("application/xml", ErrorForm::Xml),
            ("image/png", ErrorForm::Json),
            ("nonsense", ErrorForm::Json),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                ErrorForm::Html,
            ),
            (
                "application/json;q=0.9,text/html,text/plain;q=0.9",
                ErrorForm::Html,
            ),
            (
                "text/plain;q=0.7,application/json;q=0.8,text/html;q=0.5",
                ErrorForm::Json,
            ),
            ("text/html;q=0, text/plain;q=0.001", ErrorForm::Plain),
            ("application/grpc+proto", ErrorForm::Grpc),
        ] {
            assert_eq!(ErrorForm::of(accept.as_bytes()), expected, "{accept}");
        }
    }

    #[test]
    fn bodies_are_kongs() {
        let body = |form: ErrorForm| form.body("Bad request", "1f");
        assert_eq!(
            body(ErrorForm::Json),
            "{\n  \"message\":\"Bad request\",\n  \"request_id\":\"1f\"\n}"
        );
        assert_eq!(body(ErrorForm::Plain), "Bad request\nrequest_id: 1f\n");
        assert!(
            body(ErrorForm::Html).contains("    <p>Bad request.</p>\n    <p>request_id: 1f</p>")
        );
        assert!(body(ErrorForm::Xml).contains("  <requestid>1f</requestid>\n</error>"));
        assert_eq!(body(ErrorForm::Grpc), "");
    }

    #[test]
    fn what_an_operator_has_written_cannot_break_a_form() {
        let body = |form: ErrorForm| form.body("a \"<b>\"", "1f");
        assert!(body(ErrorForm::Json).contains(r#""message":"a \"<b>\"","#));
        assert!(body(ErrorForm::Html).contains("<p>a \"&lt;b&gt;\".</p>"));
        assert!(body(ErrorForm::Xml).contains("<message>a \"&lt;b&gt;\"</message>"));
        assert!(body(ErrorForm::Plain).starts_with("a \"<b>\"\n"));
    }
}
