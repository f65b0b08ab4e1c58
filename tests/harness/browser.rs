//! An HTTP client that behaves as a browser does where sign-in depends on it: it keeps cookies by host,
//! not by port, and shows every redirect.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT, COOKIE, HOST, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use url::Url;

/// A browser with its cookies.
#[derive(Debug, Default)]
pub struct Browser {
    cookies: Mutex<BTreeMap<(String, String), String>>,
    /// Names that stand for an address, as a load balancer's would.
    hosts: BTreeMap<String, String>,
    accept: Option<&'static str>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The URL that was asked for.
    pub url: Url,
}

impl Browser {
    /// A client that asks for anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// A browser that asks for pages.
    pub fn for_pages() -> Self {
        Self {
            accept: Some("text/html"),
            ..Self::default()
        }
    }

    /// Sends what is for `host` to `address`.
    pub fn resolve(&mut self, host: &str, address: &str) {
        self.hosts.insert(host.to_owned(), address.to_owned());
    }

    /// The value of a cookie.
    pub fn cookie(&self, host: &str, name: &str) -> Option<String> {
        let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        cookies.get(&(host.to_owned(), name.to_owned())).cloned()
    }

    /// The names of the cookies for `host`.
    pub fn cookie_names(&self, host: &str) -> Vec<String> {
        let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        let names = cookies.keys().filter(|(of, _)| of == host);
        names.map(|(_, name)| name.clone()).collect()
    }

    /// Puts a cookie in, as a thief or a forger would.
    pub fn set_cookie(&self, host: &str, name: &str, value: &str) {
        let mut cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        cookies.insert((host.to_owned(), name.to_owned()), value.to_owned());
    }

    /// Takes over the cookies that `other` has of `host`.
    pub fn take_cookies(&self, other: &Self, host: &str) {
        for name in other.cookie_names(host) {
            if let Some(value) = other.cookie(host, &name) {
                self.set_cookie(host, &name, &value);
            }
        }
    }

    /// Throws every cookie away.
    pub fn forget(&self) {
        self.cookies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Gets one URL, without following where it leads.
    pub async fn get(&self, url: &str) -> Reply {
        self.send(Method::GET, url, &[], "").await
    }

    /// Like [`Browser::get`]; none if nobody answers.
    pub async fn try_get(&self, url: &str) -> Option<Reply> {
        self.try_send(Method::GET, url, &[], "").await
    }

    /// Like [`Browser::send`]; none if nobody answers.
    pub async fn try_send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Reply> {
        self.attempt(method, url, headers, body.into()).await.ok()
    }

    /// Gets one URL with further headers.
    pub async fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, url, headers, "").await
    }

    /// Sends a form.
    pub async fn post_form(&self, url: &str, fields: &[(&str, &str)]) -> Reply {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.send(Method::POST, url, &headers, form.finish()).await
    }

    /// Sends one request.
    ///
    /// # Panics
    ///
    /// If no answer comes.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        self.attempt(method.clone(), url, headers, body.into())
            .await
            .unwrap_or_else(|error| panic!("{method} {url}: {error:#}"))
    }

    async fn attempt(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Reply> {
        let url = Url::parse(url)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let own = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
        let address = self.hosts.get(&host).unwrap_or(&own);
        let stream = TcpStream::connect(address.as_str()).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let authority = url
            .port()
            .map_or(host.clone(), |port| format!("{host}:{port}"));
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority);
        if let Some(accept) = self.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(cookies) = self.cookie_header(&host) {
            request = request.header(COOKIE, cookies);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let (head, body) = response.into_parts();
        self.keep(&host, &head.headers);
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
            url,
        })
    }

    fn cookie_header(&self, host: &str) -> Option<String> {
        let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        let mine: Vec<_> = cookies
            .iter()
            .filter(|((of, _), _)| of == host)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        (!mine.is_empty()).then(|| mine.join("; "))
    }

    fn keep(&self, host: &str, headers: &HeaderMap) {
        let mut cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        for line in headers.get_all(SET_COOKIE) {
            let line = line.to_str().unwrap_or_default();
            let mut parts = line.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
                continue;
            };
            let expired = parts.any(|part| part.eq_ignore_ascii_case("max-age=0"));
            let key = (host.to_owned(), name.to_owned());
            if expired {
                cookies.remove(&key);
            } else {
                cookies.insert(key, value.to_owned());
            }
        }
    }

    /// Follows redirects until a page comes.
    ///
    /// # Panics
    ///
    /// If it goes on for ever.
    pub async fn open(&self, url: &str) -> Reply {
        let mut reply = self.get(url).await;
        for _ in 0..20 {
            let Some(next) = reply.location() else {
                return reply;
            };
            reply = self.get(next.as_str()).await;
        }
        panic!("{url} redirects for ever");
    }

    /// Opens `url` and, where a login page comes, signs in as `user`; returns the last answer.
    pub async fn sign_in(&self, url: &str, user: &str) -> Reply {
        let callback = self.log_in(url, user).await;
        self.open(callback.as_str()).await
    }

    /// Opens `url`, signs in as `user` at the provider, and returns the callback URL without opening it.
    ///
    /// # Panics
    ///
    /// If `url` leads to no login page or the provider does not send the browser back.
    pub async fn log_in(&self, url: &str, user: &str) -> Url {
        let page = self.open(url).await;
        let text = page.text();
        let hidden = text.split_once("name=\"sign_in\" value=\"");
        let Some((sign_in, _)) = hidden.and_then(|(_, rest)| rest.split_once('"')) else {
            panic!(
                "{url} led to no login page but to {}: {} {text}",
                page.url, page.status
            )
        };
        let form = page
            .url
            .join("/login")
            .expect("the provider has a login URL");
        let fields = [
            ("sign_in", sign_in),
            ("username", user),
            ("password", &format!("{user}-password")),
        ];
        let reply = self.post_form(form.as_str(), &fields).await;
        reply
            .location()
            .unwrap_or_else(|| panic!("the provider answered {} {}", reply.status, reply.text()))
    }
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header as text, empty if absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// A header that reached the upstream, as the echo shows it.
    pub fn upstream_header(&self, name: &str) -> Option<String> {
        let value = self.json();
        Some(value.get("headers")?.get(name)?.as_str()?.to_owned())
    }

    /// Where a redirect leads.
    pub fn location(&self) -> Option<Url> {
        let redirects =
            StatusCode::from_u16(self.status).is_ok_and(|status| status.is_redirection());
        if !redirects {
            return None;
        }
        self.url
            .join(self.headers.get(LOCATION)?.to_str().ok()?)
            .ok()
    }
}
