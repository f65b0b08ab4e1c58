//! Request bodies: JSON, form or multipart. Bounded, and never a panic.

use std::time::Duration;

use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{Method, header};
use http_body_util::BodyExt;
use serde_json::Value;
use shared::schema::form;
use tokio::time::timeout;

use super::error::Refusal;
use crate::command::Body;
use crate::config::Fields;

/// Largest body, in bytes (Kong: `client_max_body_size` of the Admin API).
const LIMIT: usize = 10 * 1024 * 1024;

/// Longest wait for the next bytes of a body, and for all of it: nobody keeps a connection by a byte now and then.
const PATIENCE: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_mins(5);

/// Most arguments of a form or a query.
const ARGUMENTS: usize = 1000;

/// Deepest nesting of a JSON body.
const DEPTH: usize = 64;

/// Refuses a query with more arguments than a form may have.
pub(super) fn check_query(query: Option<&str>) -> Result<(), Refusal> {
    let query = query.unwrap_or_default();
    if form_urlencoded::parse(query.as_bytes()).count() > ARGUMENTS {
        return Err(Refusal::TooManyArguments);
    }
    Ok(())
}

/// Whether a query sets the switch `name`.
pub(super) fn is_set(query: Option<&str>, name: &str) -> bool {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(own, value)| own == name && matches!(&*value, "" | "1" | "true" | "on"))
}

pub(super) async fn read(request: Request) -> Result<Body, Refusal> {
    let kind = match request.headers().get(header::CONTENT_TYPE) {
        Some(kind) => kind.to_str().unwrap_or_default().to_owned(),
        None => String::new(),
    };
    let deletes = request.method() == Method::DELETE;
    let bytes = collect(request.into_body(), LIMIT).await?;
    match decode(&kind, bytes).await {
        // Few DELETEs have a body that counts; any other is not looked at.
        Err(_) if deletes => Ok(Body::Json(Fields::new())),
        decoded => decoded,
    }
}

/// The whole body. What is too large is read on for a while, and forgotten: a client that still sends
/// when its connection closes would not see the answer.
pub(super) async fn collect<B>(body: B, limit: usize) -> Result<Bytes, Refusal>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let whole = timeout(WHOLE, frames(body, limit));
    whole.await.map_err(|_| Refusal::Slow)?
}

async fn frames<B>(mut body: B, limit: usize) -> Result<Bytes, Refusal>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (mut bytes, mut length) = (BytesMut::new(), 0_usize);
    while let Some(frame) = timeout(PATIENCE, body.frame())
        .await
        .map_err(|_| Refusal::Slow)?
    {
        let data = frame.map_err(|_| Refusal::Broken)?.into_data();
        let data = data.unwrap_or_default();
        length = length.saturating_add(data.len());
        if length > limit.saturating_mul(4) {
            break;
        }
        if length <= limit {
            bytes.extend_from_slice(&data);
        }
    }
    if length > limit {
        return Err(Refusal::TooLarge(limit));
    }
    Ok(bytes.freeze())
}

/// Reads `bytes` as the content type says. Without one only nothing is read.
pub(super) async fn decode(kind: &str, bytes: Bytes) -> Result<Body, Refusal> {
    let lower = kind.to_ascii_lowercase();
    if kind.is_empty() && bytes.is_empty() {
        return Ok(Body::Json(Fields::new()));
    }
    if lower.starts_with("application/json") {
        return match parse(&bytes)? {
            Value::Object(fields) => Ok(Body::Json(fields)),
            _ => Err(Refusal::Json),
        };
    }
    if lower.starts_with("application/x-www-form-urlencoded") {
        let pairs = form_urlencoded::parse(&bytes).into_owned();
        let pairs = pairs.map(|(name, text)| (name, text.into()));
        return form_body(pairs.take(ARGUMENTS + 1).collect());
    }
    if lower.starts_with("multipart/form-data") {
        // Who sends no part needs no boundary.
        if bytes.is_empty() {
            return form_body(Vec::new());
        }
        return form_body(multipart(kind, bytes).await?);
    }
    Err(Refusal::MediaType)
}

/// Reads JSON that is not nested too deep.
fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    let value = serde_json::from_slice(bytes).map_err(|_| Refusal::Json)?;
    if depth(&value) > DEPTH {
        return Err(Refusal::TooDeep);
    }
    Ok(value)
}

/// How many lists and records are around the innermost value. The parser itself stops at 128.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn form_body(pairs: Vec<(String, Value)>) -> Result<Body, Refusal> {
    if pairs.len() > ARGUMENTS {
        return Err(Refusal::TooManyArguments);
    }
    Ok(Body::Form(form::expand_values(pairs)))
}

/// The parts of a form. One that says that it is JSON is read as such.
async fn multipart(kind: &str, bytes: Bytes) -> Result<Vec<(String, Value)>, Refusal> {
    let boundary = multer::parse_boundary(kind).map_err(|_| Refusal::Form)?;
    let whole = stream::once(async move { Ok::<_, std::convert::Infallible>(bytes) });
    let mut parts = multer::Multipart::new(whole, boundary);
    let mut pairs = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(|_| Refusal::Form)? {
        let Some(name) = part.name().map(str::to_owned) else {
            continue;
        };
        let json = part
            .content_type()
            .is_some_and(|kind| kind.essence_str() == "application/json");
        let text = part.text().await.map_err(|_| Refusal::Form)?;
        let value = if json {
            parse(text.as_bytes())?
        } else {
            text.into()
        };
        pairs.push((name, value));
        if pairs.len() > ARGUMENTS {
            break;
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_body_breaks_the_decoder(
            kind in prop::sample::select(vec![
                "", "text/plain", "application/json", "application/x-www-form-urlencoded",
                "multipart/form-data", "multipart/form-data; boundary=b",
            ]),
            noise in prop::collection::vec(any::<u8>(), 0..200),
            framed in any::<bool>(),
        ) {
            let mut bytes = noise;
            if framed {
                let head = b"--b\r\nContent-Disposition: form-data; name=\"a.b[1]\"\r\n\r\n";
                bytes.splice(0..0, head.iter().copied());
                bytes.extend_from_slice(b"\r\n--b--\r\n");
            }
            let decoded = decode(kind, bytes.into()).now_or_never();
            prop_assert!(decoded.is_some(), "decoding waited for more than the body");
        }
    }

    #[tokio::test]
    async fn a_body_may_have_the_limit_and_no_byte_more() {
        for (length, fits) in [(7, true), (8, true), (9, false), (33, false)] {
            let body = http_body_util::Full::new(Bytes::from(vec![b'a'; length]));
            match collect(body, 8).await {
                Ok(bytes) => assert!(fits && bytes.len() == length, "{length}"),
                Err(refusal) => assert!(!fits && matches!(refusal, Refusal::TooLarge(8))),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_a_byte_at_a_time_has_an_end_all_the_same() {
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(PATIENCE / 2).await;
            let frame = http_body::Frame::data(Bytes::from_static(b"a"));
            Some((Ok::<_, std::convert::Infallible>(frame), ()))
        });
        let body = http_body_util::StreamBody::new(Box::pin(drops));
        let started = tokio::time::Instant::now();
        assert!(matches!(collect(body, LIMIT).await, Err(Refusal::Slow)));
        assert_eq!(started.elapsed(), WHOLE);
    }
}
