//! Calls of the Admin API: what is sent, and the `curl` command that sends the same.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// One call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Call {
    /// The method.
    pub(crate) method: Method,
    /// The path.
    pub(crate) path: String,
    /// The form's fields.
    pub(crate) data: Vec<(String, String)>,
}

impl Call {
    /// A call with a form.
    pub(crate) fn new(method: Method, path: impl Into<String>, data: &[(&str, &str)]) -> Self {
        Self {
            method,
            path: path.into(),
            data: data
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// The command that makes this call at the Admin API `base`.
    pub(crate) fn curl(&self, base: &str) -> String {
        let mut text = format!("curl -i -X {} {base}{}", self.method, self.path);
        for (name, value) in &self.data {
            text.push_str(" \\\n    --data ");
            text.push_str(&quoted(&format!("{name}={value}")));
        }
        text
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-' | '=' | ':' | '/')
    };
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The Admin API at an address.
#[derive(Clone, Debug)]
pub(crate) struct AdminApi {
    address: String,
}

impl AdminApi {
    /// The API that listens on `address`.
    pub(crate) fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
        }
    }

    /// The base of its URLs.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a call; its answer.
    ///
    /// # Errors
    ///
    /// If it is refused, with what the API says.
    pub(crate) async fn make(&self, call: &Call) -> anyhow::Result<Value> {
        let (status, answer) = self.send(call).await?;
        if !(200..300).contains(&status) {
            bail!("{}\nwas answered {status} {answer}", call.curl(&self.url()));
        }
        Ok(answer)
    }

    /// What is at `path`; `None` if nothing is.
    pub(crate) async fn read(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let call = Call::new(Method::GET, path, &[]);
        match self.send(&call).await? {
            (200, answer) => Ok(Some(answer)),
            (404, _) => Ok(None),
            (status, answer) => bail!("GET {path} was answered {status} {answer}"),
        }
    }

    async fn send(&self, call: &Call) -> anyhow::Result<(u16, Value)> {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&call.data)
            .finish();
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(header::HOST, &self.address);
        if !call.data.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(Bytes::from(form)))?;
        exchange(&self.address, request).await
    }
}

/// Sends one request to `address`; status and JSON of the answer.
pub(crate) async fn exchange(
    address: &str,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(u16, Value)> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_command_that_a_shell_understands() {
        let data = [("name", "demo"), ("paths[]", "/"), ("note", "it's")];
        let call = Call::new(Method::POST, "/services/demo/routes", &data);
        let expected = r"curl -i -X POST http://localhost:8001/services/demo/routes \
    --data name=demo \
    --data 'paths[]=/' \
    --data 'note=it'\''s'";
        assert_eq!(call.curl("http://localhost:8001"), expected);
    }
}
