//! Forms that were posted without a session: kept over the sign-in, then posted again by the browser.
//!
//! A small form travels in the sign-in's cookie, so that any node gives it back. A large one is kept where
//! sessions are stored, sealed. Where they live in cookies, or if it is too large for the store as well, it stays
//! on the node; a sign-in that ends on another finds it gone, and the browser asks for the page by GET.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use http::Method;
use shared::clock::UnixTime;

use super::flow::Pending;
use super::logout::{Origin, origin};
use super::request;
use super::rules::Rules;
use super::session_store::Aside;
use super::under_way::suffix;
use crate::exchange::Exchange;
use crate::host::Host;

/// Longest form that is kept, in bytes.
const LONGEST: usize = 64 * 1024;

/// Longest form in a cookie, compressed and in base64.
const LONGEST_IN_COOKIE: usize = 2400;

/// Most bytes that a node keeps.
const MOST: usize = 16 * 1024 * 1024;

/// How long a node keeps a form, whatever `authorization_rolling_timeout` says.
const KEPT: Duration = Duration::from_mins(10);

/// What stands in the cookie for a form that stays on the node.
const ON_NODE: &str = "";

/// And for one that is stored where sessions are.
const IN_STORE: &str = "=";

/// The large forms of a node, by the end of their sign-in's name.
#[derive(Default)]
struct Forms(Mutex<HashMap<String, (UnixTime, Bytes)>>);

shared::unsaid!(Forms);

/// Keeps the form that the request posts, if it may be posted again: it is not another site's. Answers
/// what the sign-in with this state has to remember of it.
pub(super) async fn keep(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    state: &str,
) -> Option<String> {
    let asked = rules.config.sign_in.preserve_post
        && exchange.request.method == Method::POST
        && request::is_form(&exchange.request.headers);
    // Posted again it would come from our own page, and pass for our users' doing.
    if !asked || origin(exchange) != Origin::Ours {
        return None;
    }
    let form = exchange.body.read(LONGEST).await.ok()?;
    if !is_repeatable(&form) {
        return None;
    }
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&form).ok()?;
    let packed = encoder.finish().ok()?;
    let text = URL_SAFE_NO_PAD.encode(&packed);
    if text.len() <= LONGEST_IN_COOKIE {
        return Some(text);
    }
    if let Some(store) = &rules.storage {
        let ring = &exchange.environment.session_keys;
        let name = suffix(state);
        let form = (Aside::Form, name.as_str());
        let keeping = store.put_aside(rules, ring, host, form, &packed, KEPT);
        if keeping.await.is_ok() {
            return Some(IN_STORE.to_owned());
        }
    }
    let now = host.now();
    let forms = host.node_state::<Forms>();
    let mut forms = forms.0.lock().unwrap_or_else(PoisonError::into_inner);
    forms.retain(|_, (since, _)| now.saturating_since(*since) < KEPT);
    let bytes: usize = forms.values().map(|(_, form)| form.len()).sum();
    if bytes + form.len() > MOST {
        return None;
    }
    forms.insert(suffix(state), (now, form));
    Some(ON_NODE.to_owned())
}

/// Whether a browser that is given the fields of `form` posts them as they came: as UTF-8, and none without a name.
fn is_repeatable(form: &[u8]) -> bool {
    let lost = [char::REPLACEMENT_CHARACTER, '\0'];
    form_urlencoded::parse(form)
        .all(|(name, value)| !name.is_empty() && !name.contains(lost) && !value.contains(lost))
}

/// The fields of the form that was posted before the sign-in, if it is still there.
pub(super) async fn take(
    rules: &Rules,
    exchange: &Exchange<'_>,
    host: &impl Host,
    pending: &Pending,
) -> Option<Vec<(String, String)>> {
    let form = match pending.form.as_deref()? {
        ON_NODE => {
            let forms = host.node_state::<Forms>();
            let mut forms = forms.0.lock().unwrap_or_else(PoisonError::into_inner);
            forms.remove(&suffix(&pending.state))?.1
        }
        IN_STORE => {
            let ring = &exchange.environment.session_keys;
            let store = rules.storage.as_ref()?;
            let name = suffix(&pending.state);
            let form = (Aside::Form, name.as_str());
            let taken = store.take_aside(rules, ring, host, form).await;
            unpacked(&taken?)?
        }
        text => unpacked(&URL_SAFE_NO_PAD.decode(text).ok()?)?,
    };
    Some(form_urlencoded::parse(&form).into_owned().collect())
}

fn unpacked(packed: &[u8]) -> Option<Bytes> {
    let mut form = Vec::new();
    let limit = u64::try_from(LONGEST).ok()?;
    let mut decoder = DeflateDecoder::new(packed).take(limit);
    decoder.read_to_end(&mut form).ok()?;
    Some(form.into())
}
