//! `redirect`: sends every request elsewhere (Kong 3.9, redirect).

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;
use url::Url;

use crate::answer;
use crate::bundled::request_termination::{final_status, refuse_interim};
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin};
use crate::host::Host;

/// Configuration of `redirect`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Redirect {
    /// Status of the answer.
    #[serde(default = "moved")]
    #[schemars(range(min = 100, max = 599))]
    pub status_code: u16,

    /// URL to go to.
    pub location: RedirectTarget,

    /// Goes to the request's path and query there, in place of those of `location`.
    #[serde(default)]
    pub keep_incoming_path: bool,
}

/// A URL to go to.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct RedirectTarget(#[schemars(extend("format" = "kong-url"))] pub String);

const fn moved() -> u16 {
    301
}

impl Plugin for Redirect {
    const NAME: &'static str = "redirect";
    const PRIORITY: u32 = 779;
    type Filter = RedirectFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        refuse_interim("status_code", self.status_code, errors);
    }

    fn compile(self, _: &Instance) -> Result<RedirectFilter, FieldErrors> {
        let wrong = || FieldErrors::at(&["location"], "missing host in url");
        let url = Url::parse(&self.location.0).map_err(|_| wrong())?;
        let location = HeaderValue::from_str(&self.location.0).map_err(|_| wrong())?;
        Ok(RedirectFilter {
            status: final_status(self.status_code).unwrap_or(StatusCode::MOVED_PERMANENTLY),
            location,
            frame: self.keep_incoming_path.then_some(url),
        })
    }
}

/// Answers with a redirect.
#[derive(Debug)]
pub struct RedirectFilter {
    status: StatusCode,
    location: HeaderValue,
    /// The URL that the request's path and query are put into.
    frame: Option<Url>,
}

impl Filter for RedirectFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        let location = match &self.frame {
            None => self.location.clone(),
            Some(frame) => {
                let (mut target, uri) = (frame.clone(), &exchange.request.uri);
                target.set_path(uri.path());
                target.set_query(uri.query());
                match HeaderValue::from_str(target.as_str()) {
                    Ok(location) => location,
                    Err(_) => {
                        return Flow::Answer(answer::message(
                            StatusCode::INTERNAL_SERVER_ERROR,
                            "An unexpected error occurred",
                            &exchange.request_id,
                        ));
                    }
                }
            }
        };
        let mut response = Response::new(Bytes::from_static(b"redirecting"));
        *response.status_mut() = self.status;
        response.headers_mut().insert(LOCATION, location);
        Flow::Answer(response)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, answer_of};

    #[test]
    fn the_path_is_kept_on_wish() {
        let check = |config: Value, status: u16, location: &str| {
            let config: Redirect = serde_json::from_value(config).unwrap();
            let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
            let answer = answer_of(&filter, &FakeHost::default(), &Request::get("/a/b?c=d"));
            assert_eq!(
                (answer.status, answer.header("location").as_str()),
                (status, location)
            );
        };
        let target = "https://example.com:444/x?y=1";
        check(json!({"location": target}), 301, target);
        check(
            json!({"location": target, "status_code": 302, "keep_incoming_path": true}),
            302,
            "https://example.com:444/a/b?c=d",
        );
        check(
            json!({"location": "app://user@example.com/x#top", "keep_incoming_path": true}),
            301,
            "app://user@example.com/a/b?c=d#top",
        );
    }
}
