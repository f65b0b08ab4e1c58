//! The demo: a provider, an upstream, and the configuration that puts the gateway between them.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use axum::Router;
use http::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::admin::{AdminApi, Call};
use crate::provider::{Client, Provider, ProviderSettings, User};
use crate::settings::Settings;
use crate::upstream;

/// The demo's relying party at its provider.
const CLIENT: (&str, &str) = ("wardgate-demo", "wardgate-demo-secret");
/// Where the sign-out button leads.
const SIGN_OUT: &str = "/logout";
/// The one path that needs no sign-in.
const SIGNED_OUT: &str = "/signed-out";

/// The demo's servers. Dropped, they stop.
#[derive(Debug)]
pub(crate) struct Demo {
    /// Where the provider listens.
    pub(crate) provider: SocketAddr,
    /// Where the upstream listens.
    pub(crate) upstream: SocketAddr,
    /// Who can sign in.
    pub(crate) users: Vec<User>,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Demo {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

impl Demo {
    /// Starts both servers. `gateways` are the base URLs that browsers know the data planes by.
    pub(crate) async fn start(settings: &Settings, gateways: &[String]) -> anyhow::Result<Self> {
        let listener = listen("provider_listen", settings.provider_listen).await?;
        let provider = listener.local_addr()?;
        let mut setup = ProviderSettings::new(issuer(provider));
        let anywhere: Vec<_> = gateways.iter().map(|url| format!("{url}/*")).collect();
        setup.clients.push(Client {
            id: CLIENT.0.to_owned(),
            secret: CLIENT.1.to_owned(),
            redirect_uris: anywhere.clone(),
            post_logout_redirect_uris: anywhere,
        });
        let users = setup.users.clone();
        let provider_server = serve(listener, Provider::new(setup).router());
        let listener = listen("upstream_listen", settings.upstream_listen).await?;
        let upstream = listener.local_addr()?;
        let links = upstream::Links {
            data_planes: gateways.to_vec(),
            sign_out: Some(SIGN_OUT.to_owned()),
        };
        let upstream_server = serve(listener, upstream::router(links));
        Ok(Self {
            provider,
            upstream,
            users,
            servers: vec![provider_server, upstream_server],
        })
    }
}

fn issuer(provider: SocketAddr) -> String {
    format!("http://{provider}")
}

async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    if !address.ip().is_loopback() {
        bail!(
            "{setting} is {address}: the demo knows invented people, so it listens on loopback addresses only"
        );
    }
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} ({setting})"))
}

fn serve(listener: TcpListener, router: Router) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "a server of the demo stopped");
        }
    })
}

/// What a fresh gateway is sent: the guide's commands, with the demo's names.
fn first_calls(demo: &Demo, gateway: &str) -> Vec<Call> {
    let issuer = issuer(demo.provider);
    let upstream = format!("http://{}", demo.upstream);
    let signed_out = format!("{gateway}{SIGNED_OUT}");
    let sign_in = [
        ("name", "openid-connect"),
        (
            "config.issuer",
            &*format!("{issuer}/.well-known/openid-configuration"),
        ),
        ("config.client_id", CLIENT.0),
        ("config.client_secret", CLIENT.1),
        ("config.redirect_uri", &*format!("{gateway}/")),
        ("config.scopes", "openid"),
        ("config.scopes", "email"),
        ("config.scopes", "profile"),
        ("config.scopes", "offline_access"),
        ("config.login_action", "redirect"),
        ("config.login_tokens", ""),
        ("config.authenticated_groups_claim", "groups"),
        ("config.logout_uri_suffix", SIGN_OUT),
        ("config.logout_redirect_uri", &*signed_out),
    ];
    let post = |path: &str, data: &[(&str, &str)]| Call::new(Method::POST, path, data);
    let mut calls = vec![
        post("/services", &[("name", "demo"), ("url", &upstream)]),
        post(
            "/services/demo/routes",
            &[("name", "demo"), ("paths[]", "/"), ("strip_path", "false")],
        ),
        post("/services/demo/plugins", &sign_in),
        // Only for members of the group admins.
        post(
            "/services/demo/routes",
            &[
                ("name", "demo-admins"),
                ("paths[]", "/admins"),
                ("strip_path", "false"),
            ],
        ),
        post(
            "/routes/demo-admins/plugins",
            &[("name", "acl"), ("config.allow", "admins")],
        ),
        // Where the browser ends after signing out.
        post("/services", &[("name", "demo-public"), ("url", &upstream)]),
        post(
            "/services/demo-public/routes",
            &[
                ("name", "demo-public"),
                ("paths[]", SIGNED_OUT),
                ("strip_path", "false"),
            ],
        ),
    ];
    for user in &demo.users {
        let data = [
            ("username", user.username.as_str()),
            ("custom_id", &user.subject),
        ];
        calls.push(post("/consumers", &data));
    }
    calls
}

/// The guide's "Configure access restrictions".
fn map_consumers(plugin: &str) -> Call {
    let data = [
        ("config.consumer_by", "custom_id"),
        ("config.consumer_claim", "sub"),
    ];
    Call::new(Method::PATCH, format!("/plugins/{plugin}"), &data)
}

/// What a gateway that was configured before is sent: the addresses, which may have changed. All else
/// stays as its user left it.
fn later_calls(demo: &Demo, gateway: &str, plugin: Option<&str>) -> Vec<Call> {
    let upstream = format!("http://{}", demo.upstream);
    let mut calls: Vec<_> = ["/services/demo", "/services/demo-public"]
        .map(|path| Call::new(Method::PATCH, path, &[("url", &upstream)]))
        .into();
    if let Some(plugin) = plugin {
        let data = [
            (
                "config.issuer",
                format!("{}/.well-known/openid-configuration", issuer(demo.provider)),
            ),
            ("config.redirect_uri", format!("{gateway}/")),
            (
                "config.logout_redirect_uri",
                format!("{gateway}{SIGNED_OUT}"),
            ),
        ];
        let data: Vec<_> = data
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        calls.push(Call::new(
            Method::PATCH,
            format!("/plugins/{plugin}"),
            &data,
        ));
    }
    calls
}

/// Puts the gateway between provider and upstream; the calls that did it.
///
/// # Errors
///
/// If the Admin API refuses one.
pub(crate) async fn configure(
    api: &AdminApi,
    demo: &Demo,
    gateway: &str,
) -> anyhow::Result<Vec<Call>> {
    if api.read("/services/demo").await?.is_none() {
        let mut calls = first_calls(demo, gateway);
        let mut plugin = None;
        for call in &calls {
            let answer = api.make(call).await?;
            if text(&answer, "name") == Some("openid-connect") {
                plugin = text(&answer, "id").map(str::to_owned);
            }
        }
        let map = map_consumers(&plugin.context("the Admin API names no plugin id")?);
        api.make(&map).await?;
        calls.push(map);
        return Ok(calls);
    }
    let plugins = api
        .read("/services/demo/plugins")
        .await?
        .unwrap_or_default();
    let plugins = plugins.get("data").and_then(Value::as_array);
    let sign_in = plugins
        .into_iter()
        .flatten()
        .find(|plugin| text(plugin, "name") == Some("openid-connect"));
    let id = sign_in.and_then(|plugin| text(plugin, "id"));
    let mut calls = later_calls(demo, gateway, id);
    if api.read("/services/demo-public").await?.is_none() {
        calls.retain(|call| call.path != "/services/demo-public");
    }
    for call in &calls {
        api.make(call).await?;
    }
    Ok(calls)
}

fn text<'a>(record: &'a Value, field: &str) -> Option<&'a str> {
    record.get(field)?.as_str()
}

/// The revision that the Admin API shows now.
pub(crate) async fn revision(api: &AdminApi) -> anyhow::Result<u64> {
    let status: Option<Value> = api.read("/status").await?;
    let revision = status.and_then(|status| status.get("configuration_revision")?.as_u64());
    revision.context("the Admin API tells no revision")
}
