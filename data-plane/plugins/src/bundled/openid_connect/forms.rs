//! Forms that were posted without a session: kept over the sign-in, then posted again by the browser.
//!
//! A small form travels in the sign-in's cookie, so that any node gives it back. A large one is kept where
//! sessions are stored, sealed. Where they live in cookies, or if it is too large for the store as well, it stays
//! on the node, and is put aside with the control plane, sealed, for the node that the sign-in ends on. If that finds it
//! gone all the same, the browser asks for the page by GET.
//!
//! ```text
//! in the sign-in's cookie          where the form is
//! text in base64                   this is the form
//! @ or =, and a name               under that name, on a node or where sessions are stored
//! nothing, or =                    the same as the version before names it, by the sign-in
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use futures::channel::oneshot;
use futures::future::select;
use http::Method;
use shared::clock::UnixTime;
use shared::digest::sha256;

use super::flow::Pending;
use super::logout::{Origin, origin};
use super::request;
use super::rules::Rules;
use super::session::random_text;
use super::session_store::Aside;
use super::under_way::suffix;
use crate::exchange::{Exchange, Parsing};
use crate::host::Host;
use crate::sessions::seal;
use crate::succession::{Succeeded, counted, number};

/// Longest form that is kept, in bytes.
const LONGEST: usize = 64 * 1024;

/// Longest form in a cookie, compressed and in base64.
const LONGEST_IN_COOKIE: usize = 2400;

/// Most bytes that a node keeps: anybody can have it keep them.
const MOST: usize = 16 * 1024 * 1024;

/// How long a node keeps a form, whatever `authorization_rolling_timeout` says.
const KEPT: Duration = Duration::from_mins(10);

/// How long a sign-in waits until its form is put aside.
const PUT_ASIDE: Duration = Duration::from_secs(1);

/// What stands in the cookie for a form that stays on the node, before its name.
const ON_NODE: &str = "@";

/// And for one that is stored where sessions are.
const IN_STORE: &str = "=";

/// The large forms of a node, packed, by their names. One that was taken leaves its name, with nothing: a process before this
/// one, or after it, may have it still.
#[derive(Default)]
pub struct Forms(Mutex<Kept>);

type Kept = HashMap<String, (UnixTime, Vec<u8>)>;

/// Drops what is too old: how many bytes are kept.
fn sweep(forms: &mut Kept, now: UnixTime) -> usize {
    forms.retain(|_, (since, _)| now.saturating_since(*since) < KEPT);
    let each = forms
        .iter()
        .map(|(name, (_, form))| name.len() + form.len());
    each.sum()
}

shared::unsaid!(Forms);

impl Forms {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of all, for want of memory. Those that a control plane holds, which are most, are not lost.
    pub fn let_go(&self) {
        *self.lock() = Kept::default();
    }

    /// Keeps a form, if there is room for it in `most` bytes.
    fn keep(&self, name: String, packed: Vec<u8>, most: usize, now: UnixTime) {
        let mut forms = self.lock();
        if sweep(&mut forms, now) + name.len() + packed.len() <= most {
            forms.insert(name, (now, packed));
        }
    }

    fn take(&self, name: &str) -> Option<Vec<u8>> {
        let mut forms = self.lock();
        let (_, packed) = forms.get_mut(name)?;
        Some(std::mem::take(packed)).filter(|packed| !packed.is_empty())
    }
}

impl Succeeded for Forms {
    fn give(&self, now: UnixTime) -> Vec<u8> {
        let mut given = Vec::new();
        let mut forms = self.lock();
        sweep(&mut forms, now);
        for (name, (since, packed)) in forms.iter() {
            given.extend(since.as_millis().to_be_bytes());
            for part in [name.as_bytes(), packed] {
                given.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                given.extend(part);
            }
        }
        given
    }

    fn take(&self, mut given: &[u8], now: UnixTime) {
        let given = &mut given;
        let mut forms = self.lock();
        let mut bytes = sweep(&mut forms, now);
        while let (Some(since), Some(name), Some(packed)) =
            (number(given), counted(given), counted(given))
        {
            let Ok(name) = str::from_utf8(name) else {
                continue;
            };
            if let Some((_, ours)) = forms.get_mut(name) {
                // Taken there, or here.
                if packed.is_empty() {
                    *ours = Vec::new();
                }
                continue;
            }
            let all = bytes + name.len() + packed.len();
            if all > MOST {
                continue;
            }
            bytes = all;
            let since = UnixTime::from_millis(since).min(now);
            forms.insert(name.to_owned(), (since, packed.to_vec()));
        }
    }
}

/// Where a form is.
#[derive(Debug, Eq, PartialEq)]
enum Place<'a> {
    /// Here it is.
    Cookie(&'a str),
    /// On a node, under this name.
    Node(Cow<'a, str>),
    /// Where sessions are stored, under this name.
    Store(Cow<'a, str>),
}

impl<'a> Place<'a> {
    /// Where the form is that a sign-in remembers, if it does.
    fn of(pending: &'a Pending) -> Option<Self> {
        let noted = pending.form.as_deref()?;
        let own = || Cow::Owned(suffix(&pending.state));
        let named = |name: &'a str| match name {
            "" => own(),
            name => Cow::Borrowed(name),
        };
        Some(if noted.is_empty() {
            Self::Node(own())
        } else if let Some(name) = noted.strip_prefix(ON_NODE) {
            Self::Node(named(name))
        } else if let Some(name) = noted.strip_prefix(IN_STORE) {
            Self::Store(named(name))
        } else {
            Self::Cookie(noted)
        })
    }
}

/// What a sign-in has to remember that takes the place of another, of the form that was posted for that one.
pub(super) fn carried(before: &Pending) -> Option<String> {
    Some(match Place::of(before)? {
        Place::Cookie(text) => text.to_owned(),
        Place::Node(name) => format!("{ON_NODE}{name}"),
        Place::Store(name) => format!("{IN_STORE}{name}"),
    })
}

/// What a form is called on its way to another node: the control plane learns nothing of the sign-in from it.
fn key(name: &str) -> [u8; 32] {
    sha256(format!("form of {name}").as_bytes())
}

/// What it is sealed as there. No cookie has such a name.
fn sealed_as(name: &str) -> String {
    format!("=form put aside {name}")
}

/// Keeps the form that the request posts, if it may be posted again: it is not another site's. Answers
/// what the sign-in has to remember of it.
pub(super) async fn keep(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
) -> Option<String> {
    let asked = rules.config.sign_in.preserve_post
        && exchange.request.method == Method::POST
        && request::is_form(&exchange.request.headers);
    // Posted again it would come from our own page, and pass for our users' doing.
    if !asked || origin(exchange) != Origin::Ours {
        return None;
    }
    let form = exchange.body.read(LONGEST, Parsing::Nothing).await.ok()?;
    if !is_repeatable(&form) {
        return None;
    }
    let packed = pack(&form)?;
    let text = URL_SAFE_NO_PAD.encode(&packed);
    if text.len() <= LONGEST_IN_COOKIE {
        return Some(text);
    }
    let name = random_text::<12>(host);
    if let Some(store) = &rules.storage {
        let ring = &exchange.environment.session_keys;
        let form = (Aside::Form, name.as_str());
        let keeping = store.put_aside(rules, ring, host, form, &packed, KEPT);
        if keeping.await.is_ok() {
            return Some(format!("{IN_STORE}{name}"));
        }
    }
    put_aside(rules, exchange, host, &name, &packed).await;
    let forms = host.node_state::<Forms>();
    forms.keep(name.clone(), packed, host.room(MOST), host.now());
    Some(format!("{ON_NODE}{name}"))
}

/// Puts a form aside for the node that its sign-in ends on, and waits until it is there, but not for long: a provider that
/// knows its user sends the browser on at once.
async fn put_aside(
    rules: &Rules,
    exchange: &Exchange<'_>,
    host: &impl Host,
    name: &str,
    packed: &[u8],
) {
    let mut nonce = [0; 12];
    host.random(&mut nonce);
    let ring = &exchange.environment.session_keys;
    let (content, seconds) = ((packed, 1), host.now().as_secs());
    let sealed_as = sealed_as(name);
    let sealed = seal::seal_bytes(ring, &rules.binding, &sealed_as, content, seconds, nonce);
    // Without a key no sign-in begins.
    let Ok(sealed) = sealed else { return };
    let (key, its_host) = (key(name), host.clone());
    let (kept, waiting) = oneshot::channel();
    host.spawn(Box::pin(async move {
        its_host.put_aside(key, sealed).await;
        // Who no longer waits has gone on.
        _ = kept.send(());
    }));
    select(waiting, pin!(host.sleep(PUT_ASIDE))).await;
}

/// Takes a form that stays on a node: this, or the one that its sign-in began on.
async fn take_from_node(
    rules: &Rules,
    exchange: &Exchange<'_>,
    host: &impl Host,
    name: &str,
) -> Option<Vec<u8>> {
    let here = host.node_state::<Forms>().take(name);
    let key = key(name);
    if let Some(packed) = here {
        host.forget_aside(key);
        return Some(packed);
    }
    let sealed = host.take_aside(key).await?;
    let ring = &exchange.environment.session_keys;
    let now = host.now().as_secs();
    let opened = seal::open_bytes(ring, &rules.binding, &sealed_as(name), sealed, now)?;
    Some(opened.plaintext.to_vec())
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
    let packed = match Place::of(pending)? {
        Place::Node(name) => take_from_node(rules, exchange, host, &name).await?,
        Place::Store(name) => {
            let ring = &exchange.environment.session_keys;
            let store = rules.storage.as_ref()?;
            let form = (Aside::Form, &*name);
            store.take_aside(rules, ring, host, form).await?
        }
        Place::Cookie(text) => URL_SAFE_NO_PAD.decode(text).ok()?,
    };
    let form = unpack(&packed, LONGEST)?;
    Some(form_urlencoded::parse(&form).into_owned().collect())
}

/// `text` in few bytes (RFC 1951).
pub(super) fn pack(text: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).ok()?;
    encoder.finish().ok()
}

/// What was packed, and no more than `most` bytes of it.
pub(super) fn unpack(packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut decoder = DeflateDecoder::new(packed).take(u64::try_from(most).ok()?);
    decoder.read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_kept_as_far_as_there_is_room() {
        let (forms, now) = (Forms::default(), UnixTime::from_secs(1_000));
        let keep = |name: &str, most, now| forms.keep(name.to_owned(), vec![7; 10], most, now);
        keep("a", 22, now);
        keep("b", 22, now);
        keep("c", 22, now);
        assert_eq!(forms.take("c"), None);
        assert_eq!(forms.take("a"), Some(vec![7; 10]));
        assert_eq!(forms.take("a"), None);
        // What is too old makes room.
        keep("d", 11, now.saturating_add(KEPT));
        assert_eq!((forms.take("b"), forms.take("d").is_some()), (None, true));
        forms.let_go();
        assert_eq!(forms.take("d"), None);
    }

    #[test]
    fn the_next_process_goes_on_with_forms_but_for_those_that_were_taken() {
        let now = UnixTime::from_secs(1_000);
        let later = now.saturating_add(KEPT / 2);
        let (before, after) = (Forms::default(), Forms::default());
        let take_over = |given: &[u8], now| Succeeded::take(&after, given, now);
        for name in ["a", "b", "c"] {
            before.keep(name.to_owned(), vec![7; 10], MOST, now);
        }
        let given = before.give(now);
        take_over(&given[..given.len() - 1], now);
        assert_eq!(after.lock().len(), 2, "what is cut off is left");
        take_over(&given, now);
        assert_eq!(after.take("a"), Some(vec![7; 10]));
        // It is told again, as the process before ends: what has been taken on either side is gone.
        assert_eq!(before.take("b"), Some(vec![7; 10]));
        before.keep("d".to_owned(), vec![8; 10], MOST, later);
        take_over(&before.give(later), later);
        assert_eq!((after.take("a"), after.take("b")), (None, None));
        assert_eq!(after.take("d"), Some(vec![8; 10]));
        // None is kept for longer for having been told.
        let end = now.saturating_add(KEPT);
        after.keep("e".to_owned(), vec![9], MOST, end);
        assert_eq!(after.take("c"), None);
        // There is no room for more than one process has.
        let (full, next) = (Forms::default(), Forms::default());
        for number in 0..5 {
            full.keep(number.to_string(), vec![7; MOST / 4 - 1], usize::MAX, now);
        }
        Succeeded::take(&next, &full.give(now), now);
        assert_eq!(next.lock().len(), 4);
    }
}
