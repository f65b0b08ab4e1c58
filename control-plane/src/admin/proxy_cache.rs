//! `/proxy-cache/*`: what data planes keep of answers (Kong 3.9, proxy-cache).
//!
//! A control plane keeps none itself and does not know theirs, so there is nothing to look at. It does tell them to
//! drop what they have kept so far.

use http::Method;
use plugins::bundled::proxy_cache::{LONGEST, ProxyCache};
use plugins::filter::Plugin as _;
use shared::clock::UnixTime;
use shared::entity::{Entity, Plugin, Revocation};
use shared::snapshot::Key;
use uuid::Uuid;

use super::error::Refusal;
use super::{Admin, Answer};
use crate::config::{Config, Fields};
use crate::history::Origin;

/// A page.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Page {
    /// `/proxy-cache`
    All,
    /// `/proxy-cache/{key}`
    Key(String),
    /// `/proxy-cache/{plugin}/caches/{key}`
    KeyOfPlugin(String, String),
}

/// The page below `/proxy-cache`.
pub(super) fn parse(segments: &[&str]) -> Option<Page> {
    match *segments {
        [] => Some(Page::All),
        [key] => Some(Page::Key(key.to_owned())),
        [plugin, "caches", key] => Some(Page::KeyOfPlugin(plugin.to_owned(), key.to_owned())),
        _ => None,
    }
}

impl Page {
    pub(super) const fn methods(&self) -> &'static [Method] {
        match self {
            Self::All => &[Method::DELETE, Method::OPTIONS],
            Self::Key(_) | Self::KeyOfPlugin(..) => {
                &[Method::DELETE, Method::GET, Method::HEAD, Method::OPTIONS]
            }
        }
    }
}

pub(super) async fn write(
    admin: &Admin,
    config: &Config,
    page: Page,
    origin: Origin,
) -> Result<Answer, Refusal> {
    let names = match page {
        Page::All => {
            let plugins = config.collection(Plugin::KIND, Uuid::nil());
            let caches = plugins.filter(|(_, fields)| is_cache(fields));
            caches.map(|(key, _)| Revocation::cache(key.id)).collect()
        }
        Page::Key(key) => vec![name(&key)?],
        Page::KeyOfPlugin(plugin, key) => {
            let id = plugin.parse().map_err(|_| Refusal::NotFound)?;
            let kind = Plugin::KIND;
            let fields = config.record(Key { kind, id }).ok_or(Refusal::NotFound)?;
            if !is_cache(&fields) {
                return Err(Refusal::NotFound);
            }
            vec![name(&key)?]
        }
    };
    admin.revoke(origin, names, UnixTime::now(), LONGEST).await
}

fn is_cache(fields: &Fields) -> bool {
    fields
        .get("name")
        .is_some_and(|name| name == ProxyCache::NAME)
}

/// Names what is kept under `key`. What is no key is that of nothing.
fn name(key: &str) -> Result<Uuid, Refusal> {
    let mut bytes = [0; 32];
    let digits = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (place, byte) in bytes.iter_mut().enumerate().filter(|_| digits) {
        let pair = key.get(2 * place..2 * place + 2).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).map_err(|_| Refusal::NotFound)?;
    }
    if digits {
        Ok(Revocation::cached(bytes))
    } else {
        Err(Refusal::NotFound)
    }
}
