//! `/audit/requests`: who asked for which write, when, and whether it took effect. Those that did are in the
//! history; the newest of those that did not are kept in memory, and each is a line of the log.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use axum::extract::ConnectInfo;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::snapshot::Revision;
use uuid::Uuid;

use super::Admin;
use super::error::Refusal;
use super::listener::Peer;
use super::page::Page;
use super::place::{Place, name_of};
use crate::config::Config;
use crate::difference::Difference;
use crate::history::{Entry, HistoryFault, Origin};

/// How many refused writes are kept.
const KEPT: usize = 1000;

/// Most bytes of a path, and of a method, that are kept.
const PATH: usize = 1024;
const METHOD: usize = 32;

/// A write that had no effect.
#[derive(Clone, Debug)]
struct Refused {
    /// Counted from 1, for as long as the process lives.
    number: u64,
    id: Uuid,
    /// The newest revision at that time.
    revision: Revision,
    at: UnixTime,
    origin: Origin,
    status: StatusCode,
}

/// The newest writes that had no effect, the newest last.
#[derive(Debug, Default)]
pub(super) struct RefusedWrites(Mutex<VecDeque<Refused>>);

/// A request, as far as it is known who asks for what.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) origin: Origin,
    /// Whether it is to change something.
    pub(super) writes: bool,
}

impl Asked {
    /// What the head of `request` tells. Who asks, and for which workspace, is found out later.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let peer = request.extensions().get::<ConnectInfo<Peer>>();
        let origin = Origin {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            client_ip: peer.map(|ConnectInfo(Peer(address))| address.ip()),
            ..Origin::system()
        };
        let reads = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS
        );
        Self {
            origin,
            writes: !reads,
        }
    }
}

fn cut(text: &mut String, longest: usize) {
    if text.len() > longest {
        let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
}

impl RefusedWrites {
    /// Notes what was asked if it is a write that had no effect: answered with `status` while `revision` was
    /// the newest.
    pub(super) fn note(&self, asked: Asked, status: StatusCode, revision: Revision) {
        if !asked.writes || status.is_success() || status == StatusCode::NOT_MODIFIED {
            return;
        }
        let mut origin = asked.origin;
        cut(&mut origin.path, PATH);
        cut(&mut origin.method, METHOD);
        tracing::info!(
            user = origin.user.as_deref().unwrap_or_default(),
            method = origin.method,
            path = origin.path,
            client_ip = origin.client_ip.map(tracing::field::display),
            status = status.as_u16(),
            "write refused"
        );
        let mut writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = writes.back();
        let refused = Refused {
            number: last.map_or(1, |last| last.number + 1),
            id: Uuid::new_v4(),
            // Two that come at the same time may have seen revisions in another order.
            revision: last.map_or(revision, |last| last.revision.max(revision)),
            at: UnixTime::now(),
            origin,
            status,
        };
        if writes.len() == KEPT {
            writes.pop_front();
        }
        writes.push_back(refused);
    }

    /// Those of `place`, the newest first.
    fn of(&self, place: &Place) -> Vec<Refused> {
        let writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |write: &&Refused| {
            place
                .narrowed()
                .is_none_or(|workspace| workspace == write.origin.workspace)
        };
        writes.iter().rev().filter(own).cloned().collect()
    }
}

/// A page of writes, the newest first. At one revision the commit comes before what was refused after it, so
/// an offset is a revision and the number of a refused write, which is 0 for the commit.
pub(super) fn list(admin: &Admin, place: &Place, query: Option<&str>) -> Result<Value, Refusal> {
    let config = admin.publisher.config();
    let (mut page, start) = Page::parse(query)?;
    let [from, number] = start.unwrap_or([u64::MAX; 2]);
    let is_before = |write: &Refused| {
        write.revision.0 > from
            || (write.revision.0 == from && (number == 0 || write.number > number))
    };
    let refused = admin.refused.of(place).into_iter();
    let mut refused = refused.skip_while(is_before).peekable();
    let mut revision = config.revision().min(Revision(from));
    loop {
        while let Some(write) = refused.next_if(|write| write.revision >= revision) {
            let offset = [write.revision.0, write.number];
            if !page.push(offset, || show_refused(&config, &write)) {
                return Ok(page.reply(&place.path));
            }
        }
        if revision.0 == 0 {
            return Ok(page.reply(&place.path));
        }
        let entry = match admin.publisher.history().entry(revision) {
            Err(HistoryFault::TooOld(_)) | Ok(None) => None,
            Ok(entry) => entry,
            Err(fault) => return Err(fault.into()),
        };
        let Some(entry) = entry else {
            // Here the history begins; all that is left was refused before.
            revision = Revision(0);
            continue;
        };
        let concerns = place.narrowed().is_none_or(|workspace| {
            let difference = Difference::of_entry(&entry).within(Some(workspace));
            !difference.is_empty()
        });
        if concerns && !page.push([revision.0, 0], || show_commit(&config, &entry)) {
            return Ok(page.reply(&place.path));
        }
        revision = Revision(revision.0 - 1);
    }
}

/// A commit as Kong's audit log shows requests.
fn show_commit(config: &Config, entry: &Entry) -> Value {
    let id = format!("{:032x}", entry.revision.0);
    show(config, &entry.origin, entry.at, &id, Ok(entry.revision))
}

fn show_refused(config: &Config, write: &Refused) -> Value {
    let id = write.id.simple().to_string();
    show(config, &write.origin, write.at, &id, Err(write.status))
}

fn show(
    config: &Config,
    origin: &Origin,
    at: UnixTime,
    id: &str,
    outcome: Result<Revision, StatusCode>,
) -> Value {
    let system = origin.method.is_empty();
    json!({
        "request_id": id,
        "revision": outcome.ok(),
        "refused": outcome.is_err(),
        "status": outcome.err().map(|status| status.as_u16()).or(origin.status),
        "request_timestamp": at.as_secs(),
        "method": origin.method,
        "path": origin.path,
        "client_ip": origin.client_ip,
        "rbac_user_name": if system { Some("control plane") } else { origin.user.as_deref() },
        "workspace": origin.workspace,
        "workspace_name": name_of(config, origin.workspace),
    })
}
