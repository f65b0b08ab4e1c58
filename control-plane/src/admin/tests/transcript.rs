//! What the Admin API is asked and what it says, one exchange a line.

use super::*;

impl Api {
    /// Holds the API against lines such as
    ///
    /// ```text
    /// POST /services {"port": "80"} => 400 code 2: schema violation (port: expected an integer)
    /// ```
    ///
    /// Method, URL and body, if it has one, stand before the arrow, and status and message of the answer behind it. The
    /// message is only compared where it is given, and the code of Kong's data layer where it is given before the message.
    pub(super) async fn holds(&self, transcript: &str) {
        self.holds_for("", transcript).await;
    }

    /// The same for whoever has `token`.
    pub(super) async fn holds_for(&self, token: &str, transcript: &str) {
        for line in transcript.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((request, expected)) = line.split_once(" => ") else {
                panic!("no arrow in: {line}");
            };
            let mut request = request.splitn(3, ' ');
            let (method, url) = (request.next().unwrap(), request.next().unwrap());
            let body = request.next().unwrap_or_default();
            let (status, reply) = self.ask(token, method, url, body).await;
            let message = reply["message"].as_str().unwrap_or_default();
            let answered = match expected.split_once(' ') {
                None => status.to_string(),
                Some((_, told)) if told.starts_with("code ") => {
                    format!("{status} code {}: {message}", reply["code"])
                }
                Some(_) => format!("{status} {message}"),
            };
            assert_eq!(answered, expected, "{line}\n{reply}");
            if status == 204 || method == "HEAD" {
                assert_eq!(reply, Value::Null, "{line}");
            }
        }
    }

    /// Sends JSON, or nothing, with a token; status and body of the answer.
    pub(super) async fn ask(
        &self,
        token: &str,
        method: &str,
        url: &str,
        body: impl ToString,
    ) -> (u16, Value) {
        let body = body.to_string();
        let mut request = http::Request::builder().method(method).uri(url);
        request = request.header("kong-admin-token", token);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        self.answer(request.body(HttpBody::from(body)).unwrap())
            .await
    }
}
