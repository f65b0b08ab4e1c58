//! User info: what the provider says of an access token's user (OpenID Connect Core §5.3).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use shared::clock::UnixTime;
use shared::telemetry::chain;
use tracing::warn;
use url::Url;

use super::answers::{Answers, Given, Namer, Outcome};
use super::config::{AuthMethod, ClientAuth, UnsignedMethod, UserinfoAccept};
use super::distributed;
use super::failure::Failure;
use super::jws::{self, Claims};
use super::provider::{self, Document, ProviderError, Reason, Unaccepted};
use super::request;
use super::rules::Rules;
use super::strict_json;
use super::token_endpoint;
use super::verify::Verifier;
use crate::exchange::Exchange;
use crate::host::Host;

/// Longest answer, in bytes.
const LIMIT: usize = 1024 * 1024;

/// What the user info endpoint said.
#[derive(Clone)]
pub(super) struct UserInfo {
    pub(super) claims: Claims,
    /// The signed form, if that is what came.
    pub(super) jwt: Option<String>,
    /// Whether a source of its claims could not be asked.
    pub(super) lacks: bool,
}

shared::unsaid!(UserInfo);

/// A question to the user info endpoint.
pub(super) struct Question {
    client: usize,
    token: String,
    arguments: Vec<(String, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the client shows its certificate.
    certified: bool,
}

impl Question {
    /// The question about `token`, which came by `method`, with what the configuration adds from the request. A token that may be
    /// bound to the client's certificate goes with that only if the client got it itself (RFC 8705 §3): whoever brings a stolen
    /// one is not to be vouched for.
    pub(super) async fn new(
        rules: &Rules,
        exchange: &mut Exchange<'_>,
        (client, method): (usize, AuthMethod),
        token: &str,
    ) -> Self {
        let is_brought = matches!(
            method,
            AuthMethod::Bearer | AuthMethod::Introspection | AuthMethod::Userinfo
        );
        let config = &rules.config.credentials;
        let names = config.userinfo_query_args_names.iter().flatten().cloned();
        let values = config.userinfo_query_args_values.iter().flatten().cloned();
        let mut arguments: Vec<_> = names.zip(values).collect();
        let wanted = config.userinfo_query_args_client.as_deref();
        let given = request::let_through(exchange, wanted, false).await;
        token_endpoint::add_missing(&mut arguments, given);
        let mut headers = rules.configured_headers.userinfo.clone();
        let wanted = config.userinfo_headers_client.as_deref();
        headers.extend(request::headers_let_through(
            &exchange.request.headers,
            wanted,
        ));
        Self {
            client,
            token: token.to_owned(),
            arguments,
            headers,
            certified: !is_brought && has_certificate(rules, client),
        }
    }

    /// The answer: from memory, or from the provider.
    ///
    /// # Errors
    ///
    /// If the provider does not take the token, or cannot be asked.
    pub(super) async fn ask(self, rules: &Arc<Rules>, host: &impl Host) -> Outcome<UserInfo> {
        let configured = rules.config.client.userinfo_endpoint.as_ref();
        let document = provider::document_for(rules, host, configured)
            .await
            .map_err(|error| error.failure())?;
        let Some(endpoint) = endpoint(rules, &document, self.certified).map(str::to_owned) else {
            return Err(Failure::refused(
                "at_typ",
                "there is no user info endpoint that could vouch for the token",
            ));
        };
        if !rules.config.provider.cache_user_info {
            let given = self.run(rules, host, document).await;
            return given.map(|(user_info, _)| Arc::new(user_info));
        }
        let pairs = self
            .arguments
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        let key = Namer::new(rules, "user info")
            .with(endpoint.as_bytes())
            .with(rules.client(self.client).id.as_bytes())
            .with(self.token.as_bytes())
            .with(&[u8::from(self.certified)])
            .with_pairs(pairs)
            .with_pairs(headers)
            .finish();
        let answers = host.node_state::<Answers<UserInfo>>();
        let (its_rules, its_host) = (Arc::clone(rules), host.clone());
        let asking = async move { self.run(&its_rules, &its_host, document).await };
        answers.ask(rules, host, key, asking).await
    }

    async fn run(
        &self,
        rules: &Arc<Rules>,
        host: &impl Host,
        document: Arc<Document>,
    ) -> Given<UserInfo> {
        let failed = |error: ProviderError| {
            warn!(issuer = rules.issuer, error = %chain(&error), "user info failed");
            error.failure()
        };
        let ask = async |endpoint: &str| {
            let request = self.request(rules, endpoint)?;
            let mut limits = provider::limits(rules, LIMIT);
            if self.certified {
                // What it says is not signed: the stricter of the two settings counts.
                let verify_tls = limits.verify_tls;
                limits = token_endpoint::presenting(rules, host, limits)?;
                limits.verify_tls |= verify_tls;
            }
            provider::fetched(rules, host, endpoint, request, limits).await
        };
        let place =
            |document: &Document| endpoint(rules, document, self.certified).map(str::to_owned);
        let again = provider::looks_moved;
        let answered = provider::call(rules, host, &document, place, again, ask).await;
        let nowhere = ProviderError::Unusable("there is no user info endpoint");
        let answered = answered.ok_or(nowhere).and_then(|answered| answered);
        let response = answered.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            // These alone speak of the token (RFC 6750 §3.1).
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(Failure::refused(
                    "userinfo_refused",
                    "the user info endpoint does not take the token",
                ));
            }
            other => return Err(failed(ProviderError::Status(other.as_u16()))),
        }
        let user_info = self.read(rules, host, document, &response).await?;
        let now = host.now();
        let mut until: UnixTime = rules.remembered_until(jws::own_end(&self.token), now);
        if user_info.lacks {
            until = until.min(now.saturating_add(distributed::PAUSE));
        }
        Ok((user_info, until))
    }

    fn request(&self, rules: &Rules, endpoint: &str) -> Result<Request<Bytes>, ProviderError> {
        let unusable = || ProviderError::Unusable("the user info endpoint cannot be asked");
        let mut url = Url::parse(endpoint).map_err(|_| unusable())?;
        if !self.arguments.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.arguments);
        }
        let mut request = Request::get(url.as_str())
            .body(Bytes::new())
            .map_err(|_| unusable())?;
        let headers = request.headers_mut();
        headers.insert(
            ACCEPT,
            HeaderValue::from_static(match rules.config.credentials.userinfo_accept {
                UserinfoAccept::Json => "application/json",
                UserinfoAccept::Jwt => "application/jwt",
            }),
        );
        let mut token = HeaderValue::try_from(format!("Bearer {}", self.token))
            .map_err(|_| ProviderError::Unusable("the token is no header value"))?;
        token.set_sensitive(true);
        headers.insert(AUTHORIZATION, token);
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        Ok(request)
    }

    /// JSON or a signed JWT: the content type says which.
    async fn read(
        &self,
        rules: &Arc<Rules>,
        host: &impl Host,
        mut document: Arc<Document>,
        response: &http::Response<Bytes>,
    ) -> Result<UserInfo, Failure> {
        let unusable = |detail: &'static str| {
            warn!(issuer = rules.issuer, detail, "the user info is unusable");
            Failure::unavailable("userinfo_shape", detail)
        };
        let mut user_info = if is_jwt(response.headers()) {
            let token = str::from_utf8(response.body())
                .map_err(|_| unusable("the user info is no text"))?
                .trim()
                .to_owned();
            let check = !rules.ignores_signature(UnsignedMethod::Userinfo);
            let judge = |verifier: &Verifier<'_>| verifier.statement(&token, check, "userinfo_sig");
            let known = Arc::clone(&document);
            let judged = provider::judged(
                rules,
                self.client,
                host,
                known,
                Reason::ProviderToken,
                judge,
            )
            .await;
            let (statement, newest) = judged.map_err(Unaccepted::failure)?;
            document = newest;
            UserInfo {
                claims: statement.claims,
                jwt: Some(token),
                lacks: false,
            }
        } else {
            let claims = strict_json::object(response.body())
                .ok_or_else(|| unusable("the user info is not a JSON object"))?;
            UserInfo {
                claims,
                jwt: None,
                lacks: false,
            }
        };
        if rules.config.credentials.resolve_distributed_claims {
            let claims = &user_info.claims;
            let added = distributed::resolve(rules, host, &document, self.client, claims).await;
            user_info.lacks = !added.complete;
            user_info.claims.extend(added.claims);
        }
        Ok(user_info)
    }
}

/// Whether an answer is a JWT, by its type.
pub(super) fn is_jwt(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    essence.is_some_and(|essence| {
        essence.eq_ignore_ascii_case("application/jwt")
            || essence.to_ascii_lowercase().ends_with("+jwt")
    })
}

/// Where it is: as configured or as discovered, for a client that shows its certificate where those are taken.
fn endpoint<'a>(rules: &'a Rules, document: &'a Document, certified: bool) -> Option<&'a str> {
    let configured = rules.config.client.userinfo_endpoint.as_deref();
    let alias = document.mutual_tls.user_info.as_deref();
    configured
        .or(alias.filter(|_| certified))
        .or(document.userinfo_endpoint.as_deref())
}

/// Whether the client gets its tokens by a certificate, which they may be bound to (RFC 8705 §3, §5).
fn has_certificate(rules: &Rules, client: usize) -> bool {
    let configured = rules.config.client.token_endpoint_auth_method;
    let auth = configured.or(rules.client(client).auth);
    auth.is_some_and(ClientAuth::is_mutual_tls)
}

/// Whether `user_info` speaks of the user that an ID token names (OpenID Connect Core §5.3.2).
///
/// # Errors
///
/// If it speaks of another, or of none.
pub(super) fn check_subject(user_info: &Claims, id: Option<&Claims>) -> Result<(), Failure> {
    let Some(expected) = id.and_then(|id| id.get("sub")) else {
        return Ok(());
    };
    if user_info.get("sub") == Some(expected) {
        return Ok(());
    }
    Err(Failure::refused(
        "userinfo_sub",
        "the user info is of another user than the ID token",
    ))
}
