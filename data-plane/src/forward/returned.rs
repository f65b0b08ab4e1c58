//! What a client receives of a server's response.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::fields;
use crate::body::ResponseBody;
use crate::http1::fields::Fields;
use crate::http1::headers::Headers;
use crate::http1::kind::Kind;
use crate::pipeline::Returned;
use crate::upstream::exchange::Answer;

/// What the client is returned of the upstream's answer: nothing that belongs to the upstream's connection. Which
/// trailers are to come is told only to clients that take them.
pub(crate) fn response(
    answer: Answer,
    method: &Method,
    takes_trailers: bool,
) -> Returned<ResponseBody> {
    let status = answer.head.status;
    // An answer without content has no length (RFC 9110 §8.6).
    let keeps_length = (*method == Method::HEAD && status != StatusCode::NO_CONTENT)
        || status == StatusCode::NOT_MODIFIED;
    let headers = match answer.head.headers {
        Headers::Raw(mut fields)
            if !keeps_length && !takes_trailers && is_usual(&fields, status) =>
        {
            fields.leave_out(NOT_RETURNED);
            Headers::Raw(fields)
        }
        headers => {
            let map = headers.into_map();
            Headers::Map(returned_fields(map, status, keeps_length, takes_trailers))
        }
    };
    Returned {
        reason: answer.head.reason,
        ..Returned::new(status, headers, answer.body)
    }
}

/// What is left out of an answer. The server side frames the body anew; a length that is known is set again
/// from the body.
const NOT_RETURNED: Kind = Kind::HOP_BY_HOP
    .and(Kind::TRAILER)
    .and(Kind::ACCEL)
    .and(Kind::CONTENT_LENGTH);

/// Whether an answer with these fields can be passed on as it came but for [`NOT_RETURNED`]: its `Connection`
/// names no other field, and there is none that the gateway would change.
fn is_usual(fields: &Fields, status: StatusCode) -> bool {
    const CHANGED: Kind = Kind::TE
        .and(Kind::UPGRADE)
        .and(Kind::VIA)
        .and(Kind::TOLD)
        .and(Kind::REQUEST_ID);
    fields.is_plain()
        && !fields.has(CHANGED)
        && !status.is_informational()
        && !fields.connection().fields
}

/// The same of any answer.
fn returned_fields(
    mut headers: HeaderMap,
    status: StatusCode,
    keeps_length: bool,
    takes_trailers: bool,
) -> HeaderMap {
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = if switched {
        headers.get(header::UPGRADE).cloned()
    } else {
        None
    };
    fields::strip_hop_by_hop(&mut headers);
    // Paths of files, say, which are not for clients.
    let for_proxies = |name: &&HeaderName| Kind::of(name).is_any_of(Kind::ACCEL);
    let hidden: Vec<HeaderName> = headers.keys().filter(for_proxies).cloned().collect();
    for name in hidden {
        headers.remove(name);
    }
    if !takes_trailers {
        headers.remove(header::TRAILER);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    } else if !keeps_length {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_tells_nginx_reaches_no_client() {
        let map: HeaderMap = [
            "x-accel-redirect",
            "x-accel-buffering",
            "x-accel-expires",
            "x-accel-limit-rate",
            "x-accel-charset",
            "x-accelerated",
        ]
        .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("a")))
        .into_iter()
        .collect();
        let left = returned_fields(map, StatusCode::OK, false, false);
        assert_eq!(left.keys().collect::<Vec<_>>(), ["x-accelerated"]);
        assert!(NOT_RETURNED.is_any_of(Kind::ACCEL), "as it came, too");
    }
}
