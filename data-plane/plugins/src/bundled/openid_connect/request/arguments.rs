//! The arguments in a request's body.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{has_type, is_form};
use crate::exchange::{Exchange, Parsing};

/// Longest body that is searched for arguments, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// The arguments of the body, if it is a form or a JSON object of a bearable size.
pub(in crate::bundled::openid_connect) async fn body_arguments(
    exchange: &mut Exchange<'_>,
) -> Vec<(String, String)> {
    let members = body_members(exchange).await.into_iter();
    members
        .filter_map(|(name, value)| match value {
            Value::String(text) => Some((name, text)),
            Value::Number(number) => Some((name, number.to_string())),
            _ => None,
        })
        .collect()
}

/// Whether the body has an argument `name`, whatever it says.
pub(in crate::bundled::openid_connect) async fn has_body_argument(
    exchange: &mut Exchange<'_>,
    name: &str,
) -> bool {
    let members = body_members(exchange).await;
    members.iter().any(|(found, _)| found == name)
}

/// Whether there is nothing in the body: one that is too large to be looked into has something.
pub(in crate::bundled::openid_connect) async fn has_empty_body(
    exchange: &mut Exchange<'_>,
) -> bool {
    let body = exchange.body.read(BODY_LIMIT, Parsing::Nothing).await;
    body.is_ok_and(|body| body.is_empty())
}

/// The fields of a form, or the members of a JSON object.
async fn body_members(exchange: &mut Exchange<'_>) -> Vec<(String, Value)> {
    let headers = &exchange.request.headers;
    let form = is_form(headers);
    if !form && !has_type(headers, "application/json") {
        return Vec::new();
    }
    let parsing = if form { Parsing::Form } else { Parsing::Json };
    let Ok(body) = exchange.body.read(BODY_LIMIT, parsing).await else {
        return Vec::new();
    };
    if form {
        let fields = form_urlencoded::parse(&body).into_owned();
        return fields.map(|(name, value)| (name, value.into())).collect();
    }
    serde_json::from_slice(&body).map_or_else(|_| Vec::new(), |Members(all)| all)
}

/// The members of a JSON object in their order, those of one name too: which of them counts is not this reader's to say.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = members.next_entry()? {
                    all.push(member);
                }
                Ok(Members(all))
            }
        }

        from.deserialize_map(Collect)
    }
}
