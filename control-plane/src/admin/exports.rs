//! `/clustering/exports`: the store as a file, sealed under its key, while the control plane runs.

use std::path::PathBuf;

use axum::body::Body;
use bytes::BytesMut;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::telemetry::chain;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::error::Refusal;
use super::{Admin, Answer};
use crate::exporter::{Exported, Exporter};
use crate::store::StoreError;

/// A page about exports.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Page {
    /// `/clustering/exports`
    All,
    /// `/clustering/exports/{name}`
    One(String),
}

impl Page {
    pub(super) const fn methods(&self) -> &'static [Method] {
        match self {
            Self::All => &[Method::GET, Method::HEAD, Method::OPTIONS, Method::POST],
            Self::One(_) => &[Method::GET, Method::HEAD, Method::OPTIONS],
        }
    }
}

pub(super) async fn read(admin: &Admin, page: &Page) -> Result<Answer, Refusal> {
    let exporter = admin.exporter.clone().ok_or(Refusal::NotFound)?;
    let all = listed(exporter).await?;
    let Page::One(name) = page else {
        let data: Vec<Value> = all.iter().map(show).collect();
        return Ok(Answer::ok(json!({ "data": data, "next": null })));
    };
    let one = all.into_iter().find(|one| name_of(one) == *name);
    let path = one.ok_or(Refusal::NotFound)?.path;
    Ok(Answer {
        written: Some(content(path).await?),
        content_type: Some("application/octet-stream"),
        ..Answer::ok(Value::Null)
    })
}

/// Exports the present state.
pub(super) async fn write(admin: &Admin) -> Result<Answer, Refusal> {
    let exporter = admin.exporter.clone().ok_or(Refusal::NotFound)?;
    let writing = tokio::task::spawn_blocking(move || exporter.on_demand(UnixTime::now()));
    let written = writing.await.map_err(|_| Refusal::Unexpected)?;
    let written = written.map_err(|error| failed(&error))?;
    tracing::info!(path = %written.path.display(), "store exported on demand");
    Ok(Answer::new(StatusCode::CREATED, show(&written)))
}

async fn listed(exporter: Exporter) -> Result<Vec<Exported>, Refusal> {
    let listing = tokio::task::spawn_blocking(move || exporter.list());
    let listed = listing.await.map_err(|_| Refusal::Unexpected)?;
    listed.map_err(|error| failed(&error))
}

fn show(one: &Exported) -> Value {
    let (generation, revision) = one.position;
    json!({
        "name": name_of(one),
        "path": one.path,
        "generation": generation,
        "revision": revision,
        "bytes": one.bytes,
        "on_demand": one.on_demand,
    })
}

fn name_of(one: &Exported) -> String {
    let name = one.path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The bytes of a file, read while they are sent.
async fn content(path: PathBuf) -> Result<Body, Refusal> {
    // It may have made room for a newer one meanwhile.
    let file = File::open(path).await.map_err(|_| Refusal::NotFound)?;
    let pieces = futures::stream::try_unfold(file, async |mut file| {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (piece.freeze(), file)))
    });
    Ok(Body::from_stream(pieces))
}

/// Bytes of a file that are read at a time.
const PIECE: usize = 64 * 1024;

fn failed(error: &StoreError) -> Refusal {
    let why = chain(error);
    tracing::error!(error = %why, "store not exported");
    Refusal::Unavailable(format!("the store is not exported: {why}"))
}
