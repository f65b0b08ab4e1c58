//! Judges the raw head of a client's request, and says how long its body is.
//!
//! Parsers read more than is safe to forward: ours ends lines at a bare line feed, and what it makes of white
//! space or of repeated fields is not to be seen afterwards. So heads are judged before they are parsed.

use super::head::{MAX_FIELDS, MAX_TARGET};
use super::{Framing, has_only_digits};

/// Why a request is refused before anything looks at it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// It is malformed, or could be read in two ways.
    Malformed(&'static str),
    /// Its head is larger than allowed, or has too many fields.
    HeadTooLarge,
    /// Its target is longer than allowed.
    TargetTooLong,
    /// Its head did not come in time.
    Timeout,
}

/// Judges a complete head and says how its body is framed. A head is everything up to and with its empty
/// line, each line ending in CRLF (RFC 9112 §2.2, §3, §5, §6.1, §6.3).
pub(crate) fn judge(head: &[u8]) -> Result<Framing, Refusal> {
    let mut rest = head;
    // A server should take an empty line before a request (RFC 9112 §2.2).
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    let Some(line) = next_line(&mut rest)? else {
        return Err(Refusal::Malformed("no request line"));
    };
    let http10 = judge_request_line(line)?;
    let mut framing = Framing::None;
    let (mut lengths, mut codings, mut count) = (0_u32, 0_u32, 0_usize);
    while let Some(line) = next_line(&mut rest)? {
        if line.is_empty() {
            break;
        }
        count += 1;
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(Refusal::Malformed("a field without a colon"));
        };
        let (name, value) = line.split_at(colon);
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return Err(Refusal::Malformed("white space in or around a field name"));
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            framing = Framing::Length(length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Malformed("Transfer-Encoding other than chunked"));
            }
            framing = Framing::Chunked;
        }
    }
    if count > MAX_FIELDS {
        return Err(Refusal::HeadTooLarge);
    }
    if lengths + codings > 1 {
        return Err(Refusal::Malformed(
            "the body's length is said more than once",
        ));
    }
    if http10 && codings > 0 {
        return Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    Ok(framing)
}

/// Takes the next line off `rest`, without its CRLF.
fn next_line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
    let Some(end) = memchr::memchr(b'\n', rest) else {
        return Ok(None);
    };
    let (line, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    let Some(line) = line.strip_suffix(b"\r") else {
        return Err(Refusal::Malformed("a line ends in a bare line feed"));
    };
    if memchr::memchr2(b'\r', 0, line).is_some() {
        return Err(Refusal::Malformed("a carriage return or NUL within a line"));
    }
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Refusal::Malformed("a folded line"));
    }
    Ok(Some(line))
}

/// Says whether the request is of HTTP/1.0.
fn judge_request_line(line: &[u8]) -> Result<bool, Refusal> {
    let (line, http10) = if let Some(line) = line.strip_suffix(b" HTTP/1.1") {
        (line, false)
    } else if let Some(line) = line.strip_suffix(b" HTTP/1.0") {
        (line, true)
    } else {
        return Err(Refusal::Malformed("not a request of HTTP/1.0 or HTTP/1.1"));
    };
    let Some(space) = memchr::memchr(b' ', line) else {
        return Err(Refusal::Malformed("no request target"));
    };
    let (method, target) = line.split_at(space);
    let target = target.get(1..).unwrap_or_default();
    if target.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    if !target
        .iter()
        .all(|byte| byte.is_ascii_graphic() && *byte != b'#')
    {
        return Err(Refusal::Malformed(
            "a character that no URI has in its target",
        ));
    }
    let absolute = |scheme: &[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let known = match target {
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => method == b"CONNECT" || absolute(b"http://") || absolute(b"https://"),
    };
    if known {
        Ok(http10)
    } else {
        Err(Refusal::Malformed("neither a path nor an absolute target"))
    }
}

fn length(value: &[u8]) -> Result<u64, Refusal> {
    if !has_only_digits(value) {
        return Err(Refusal::Malformed("Content-Length is not a number"));
    }
    str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(Refusal::Malformed("Content-Length is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> Vec<u8> {
        format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
    }

    #[test]
    fn a_body_has_one_certain_length() {
        let check = |lines: &str, expected: Framing| {
            assert_eq!(judge(&head(lines)).unwrap(), expected, "{lines:?}");
        };
        check("", Framing::None);
        check("Content-Length: 0\r\n", Framing::Length(0));
        check("content-length:\t12 \r\n", Framing::Length(12));
        check("Transfer-Encoding: Chunked\r\n", Framing::Chunked);
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length : 1\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding\r\n : chunked\r\n",
            "X: a\r\n b\r\n",
            "X: a\r\n\tb\r\n",
            "X: a\nTransfer-Encoding: chunked\r\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            ": x\r\n",
            "no colon\r\n",
        ] {
            let verdict = judge(&head(lines));
            assert!(
                matches!(verdict, Err(Refusal::Malformed(_))),
                "{lines:?} {verdict:?}"
            );
        }
        assert!(judge(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn a_target_is_a_path_or_absolute() {
        let check = |line: &str, fits: bool| {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(judge(head.as_bytes()).is_ok(), fits, "{line:?}");
        };
        for line in [
            "GET / HTTP/1.1",
            "GET /a?b=c HTTP/1.0",
            "GET HTTP://a/b HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "\r\nGET / HTTP/1.1",
        ] {
            check(line, true);
        }
        for line in [
            "GET * HTTP/1.1",
            "GET a HTTP/1.1",
            "GET /#b HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.2",
            "GET / http/1.1",
            "GET /",
            "GET",
            "",
            " GET / HTTP/1.1",
        ] {
            check(line, false);
        }
    }

    #[test]
    fn a_target_may_have_16_kib_and_a_head_128_fields() {
        let target = |length: usize| {
            let head = format!(
                "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
                "x".repeat(length - 1)
            );
            judge(head.as_bytes()).map(|_| ())
        };
        assert_eq!(target(MAX_TARGET), Ok(()));
        assert_eq!(target(MAX_TARGET + 1), Err(Refusal::TargetTooLong));
        let fields = |count: usize| judge(&head(&"x: y\r\n".repeat(count - 1))).map(|_| ());
        assert_eq!(fields(MAX_FIELDS), Ok(()));
        assert_eq!(fields(MAX_FIELDS + 1), Err(Refusal::HeadTooLarge));
    }
}
