//! `request-transformer`: changes a request on its way to the upstream (Kong 3.9, request-transformer).

mod change;
mod template;
#[cfg(test)]
mod tests;

use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use self::change::{Changes, Failure};
use self::template::Template;
use crate::answer;
use crate::config::pairs::{self, Entries};
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin};
use crate::host::Host;

/// Configuration of `request-transformer`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RequestTransformer {
    /// Method for the upstream.
    #[serde(default)]
    pub http_method: Option<String>,

    /// What is removed: names.
    #[serde(default)]
    pub remove: Names,

    /// What gets another name: `old:new`.
    #[serde(default)]
    pub rename: Names,

    /// What gets another value if it is there: `name:value`.
    #[serde(default)]
    pub replace: Replacements,

    /// What is added if it is not there: `name:value`.
    #[serde(default)]
    pub add: Names,

    /// What gets one more value: `name:value`.
    #[serde(default)]
    pub append: Names,
}

/// Lists of names, or of names and values.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Names {
    /// Fields of the body: a form, multipart, or the top level of a JSON object.
    #[serde(default)]
    pub body: Vec<String>,

    /// Headers.
    #[serde(default)]
    pub headers: Vec<String>,

    /// Arguments of the query.
    #[serde(default)]
    pub querystring: Vec<String>,
}

/// The same, and the path.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Replacements {
    /// Fields of the body: a form, multipart, or the top level of a JSON object.
    #[serde(default)]
    pub body: Vec<String>,

    /// Headers.
    #[serde(default)]
    pub headers: Vec<String>,

    /// Arguments of the query.
    #[serde(default)]
    pub querystring: Vec<String>,

    /// Path for the upstream, in place of the one that service and route make.
    #[serde(default)]
    pub uri: Option<String>,
}

impl Plugin for RequestTransformer {
    const NAME: &'static str = "request-transformer";
    const PRIORITY: u32 = 801;
    type Filter = RequestTransformerFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        let capitals = |name: &String| name.bytes().all(|byte| byte.is_ascii_uppercase());
        if let Some(name) = self.http_method.as_ref().filter(|name| !capitals(name)) {
            errors.add(&["http_method"], format!("invalid value: {name}"));
        }
        let replace = &self.replace;
        for (name, body, query) in [
            ("rename", &self.rename.body, &self.rename.querystring),
            ("replace", &replace.body, &replace.querystring),
            ("add", &self.add.body, &self.add.querystring),
            ("append", &self.append.body, &self.append.querystring),
        ] {
            pairs::check(&[name, "body"], body, Entries::Valued, errors);
            pairs::check(&[name, "querystring"], query, Entries::Valued, errors);
        }
    }

    fn compile(self, _: &Instance) -> Result<RequestTransformerFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        let method = self.http_method.as_ref().and_then(|name| {
            let method = Method::from_bytes(name.as_bytes()).ok();
            if method.is_none() {
                errors.add(&["http_method"], format!("invalid value: {name}"));
            }
            method
        });
        let replace = Names {
            body: self.replace.body,
            headers: self.replace.headers,
            querystring: self.replace.querystring,
        };
        let uri = self.replace.uri.as_deref().and_then(|text| {
            Template::compile(text)
                .map_err(|message| errors.add(&["replace", "uri"], message))
                .ok()
        });
        for (name, lists, kind, header) in [
            ("remove", &self.remove, Entries::Names, Entries::Headers),
            ("rename", &self.rename, Entries::Pairs, Entries::HeaderNames),
            ("replace", &replace, Entries::Pairs, Entries::HeaderPairs),
            ("add", &self.add, Entries::Pairs, Entries::HeaderPairs),
            ("append", &self.append, Entries::Pairs, Entries::HeaderPairs),
        ] {
            pairs::check(&[name, "body"], &lists.body, kind, &mut errors);
            pairs::check(&[name, "headers"], &lists.headers, header, &mut errors);
            pairs::check(
                &[name, "querystring"],
                &lists.querystring,
                kind,
                &mut errors,
            );
        }
        let mut changes = |field: fn(&Names) -> &[String], place: &'static str| {
            let lists = [
                &self.remove,
                &self.rename,
                &replace,
                &self.add,
                &self.append,
            ];
            Changes::compile(lists.map(field), place, &mut errors)
        };
        let filter = RequestTransformerFilter {
            headers: changes(|names| &names.headers, "headers"),
            query: changes(|names| &names.querystring, "querystring"),
            body: changes(|names| &names.body, "body"),
            method,
            uri,
        };
        if errors.is_empty() {
            Ok(filter)
        } else {
            Err(errors)
        }
    }
}

/// Changes requests.
#[derive(Debug)]
pub struct RequestTransformerFilter {
    method: Option<Method>,
    uri: Option<Template>,
    headers: Changes,
    query: Changes,
    body: Changes,
}

impl Filter for RequestTransformerFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        let Err(failure) = self.transform(exchange).await else {
            return Flow::Continue;
        };
        let (status, text) = match failure {
            Failure::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Payload too large"),
            Failure::Broken | Failure::Climbs => (StatusCode::BAD_REQUEST, "Bad request"),
            Failure::Template(error) => {
                let request_id = &*exchange.request_id;
                // A client can bring this about.
                tracing::debug!(request_id, error, "a template could not be evaluated");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "An unexpected error occurred",
                )
            }
        };
        Flow::Answer(answer::error(status, text, exchange))
    }
}
