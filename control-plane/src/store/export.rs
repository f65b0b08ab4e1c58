//! The whole configuration in one file, sealed like the store: what is left when the store is not.
//!
//! A file is named after what it holds, so that names sort by age and the same state is never written
//! twice.

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::entity::definition;
use shared::snapshot::{Key, Revision};
use shared::telemetry::chain;
use uuid::Uuid;

use super::files::write_whole;
use super::room::Room;
use super::seal::{Sealer, SecretsKey};
use super::{Found, StoreError, file_error};
use crate::config::{Change, Config, Stored};

/// What a file begins with. It is also what the rest is sealed to.
const MAGIC: &[u8] = b"wardgate export 1\n";

/// How many of the regular files are kept.
pub const KEPT: usize = 3;

/// The directory, below that of the regular files, of those that an operator has asked for.
pub const ON_DEMAND: &str = "on-demand";

/// How many of those are kept.
pub const KEPT_ON_DEMAND: usize = 10;

/// The ending of a file's name.
const ENDING: &str = "export";

/// zstd's level. Higher ones cost more and are not smaller: most of a record is identifiers.
const COMPRESSION: i32 = 1;

/// A configuration that was exported.
#[derive(Debug)]
pub struct Export {
    /// The generation that it was.
    pub generation: u64,
    /// When it was written.
    pub at: UnixTime,
    /// The records, at their revision.
    pub config: Config,
}

/// The first line of the content.
#[derive(Deserialize, Serialize)]
struct Heading {
    generation: u64,
    revision: Revision,
    at: UnixTime,
    records: usize,
}

/// The beginning of each further line. The record follows as the last member, as it is kept.
#[derive(Deserialize, Serialize)]
struct Name {
    kind: String,
    id: Uuid,
}

/// What is between a line's name and its record, in the place of the name's closing brace.
const RECORD: &[u8] = b",\"record\":";

/// Writes `config` to a file of `directory` and removes all but the newest `kept` there. Also returns whether that
/// state was not there already.
pub fn write(
    (directory, kept): (&Path, usize),
    key: &SecretsKey,
    generation: u64,
    config: &Config,
    now: UnixTime,
) -> Result<(PathBuf, bool), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| file_error("making", directory, source))?;
    let name = format!("{generation:06}-{:012}.{ENDING}", config.revision().0);
    let path = directory.join(name);
    if path.exists() {
        return Ok((path, false));
    }
    let failed = |source| file_error("writing", &path, source);
    Room::of(directory)
        .and_then(|room| room.check().map_err(io::Error::other))
        .map_err(failed)?;
    let content = pack(generation, config, now).map_err(failed)?;
    let sealed = Sealer::new(key).seal(MAGIC, &content);
    write_whole(&path, &[MAGIC, &sealed]).map_err(failed)?;
    prune(directory, kept)?;
    Ok((path, true))
}

/// Why the content of an export cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// It is not packed as written.
    #[error("its content does not unpack")]
    Packed(#[from] io::Error),
    /// A heading, a name or a record.
    #[error("a line is not JSON as written")]
    Json(#[from] serde_json::Error),
    /// A line is no name with a record.
    #[error("a line does not hold a record")]
    Line,
    /// A later version wrote it.
    #[error("it holds `{0}`, which this version does not know; use a newer one")]
    Kind(String),
    /// Lines are missing, or there are more.
    #[error("{found} records instead of {told}")]
    Count {
        /// How many there are.
        found: usize,
        /// How many there were.
        told: usize,
    },
}

/// The content of an export. What is there also if nobody has ever changed it is left out.
pub(super) fn pack(generation: u64, config: &Config, now: UnixTime) -> io::Result<Vec<u8>> {
    let config = config.everywhere().unfounded();
    let heading = Heading {
        generation,
        revision: config.revision(),
        at: now,
        records: config.len(),
    };
    let mut encoder = zstd::Encoder::new(Vec::new(), COMPRESSION)?;
    serde_json::to_writer(&mut encoder, &heading)?;
    for (key, record) in config.records() {
        let name = serde_json::to_vec(&Name {
            kind: key.kind.to_owned(),
            id: key.id,
        })?;
        let open = name.strip_suffix(b"}").unwrap_or(&name);
        for part in [b"\n", open, RECORD, record.json(), b"}"] {
            encoder.write_all(part)?;
        }
    }
    encoder.finish()
}

/// Reads a file that [`write()`] made.
pub fn read(path: &Path, key: &SecretsKey) -> Result<Export, StoreError> {
    let refused = |what: &str| StoreError::Export {
        path: path.display().to_string(),
        what: what.to_owned(),
    };
    let bytes = fs::read(path).map_err(|source| file_error("reading", path, source))?;
    let sealed = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| refused("it is no export of this program"))?;
    let content = Sealer::new(key).open(MAGIC, sealed).ok_or_else(|| {
        refused("it was changed or cut, or sealed with another key than secrets_key_file has")
    })?;
    unpack(&content).map_err(|error| refused(&chain(&error).to_string()))
}

/// Reads what [`pack`] wrote.
pub(super) fn unpack(content: &[u8]) -> Result<Export, Unreadable> {
    let mut lines = BufReader::new(zstd::Decoder::new(content)?);
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| {
        line.clear();
        let read = lines.read_until(b'\n', line)?;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok::<_, Unreadable>(read > 0)
    };
    next(&mut line)?;
    let heading: Heading = serde_json::from_slice(&line)?;
    let mut puts = Vec::new();
    while next(&mut line)? {
        puts.push(parse(&line)?);
    }
    if puts.len() != heading.records {
        return Err(Unreadable::Count {
            found: puts.len(),
            told: heading.records,
        });
    }
    let change = Change {
        puts,
        removes: Vec::new(),
    };
    Ok(Export {
        generation: heading.generation,
        at: heading.at,
        config: Config::default().evolve(&change, heading.revision),
    })
}

/// The record in a line.
fn parse(line: &[u8]) -> Result<(Key, Stored), Unreadable> {
    let at = memchr::memmem::find(line, RECORD).ok_or(Unreadable::Line)?;
    let (name, record) = line.split_at(at);
    let json = record
        .strip_prefix(RECORD)
        .and_then(|json| json.strip_suffix(b"}"))
        .ok_or(Unreadable::Line)?;
    let name: Name = serde_json::from_slice(&[name, b"}"].concat())?;
    let entity = definition(&name.kind).ok_or(Unreadable::Kind(name.kind))?;
    let key = Key {
        kind: entity.kind,
        id: name.id,
    };
    Ok((key, Stored::parse(json)?))
}

/// The exports of a directory, oldest first.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(file_error("reading", directory, source)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == ENDING));
    paths.sort();
    Ok(paths)
}

/// Bytes of a file.
pub fn size(path: &Path) -> Result<u64, StoreError> {
    let found = fs::metadata(path).map_err(|source| file_error("reading", path, source))?;
    Ok(found.len())
}

/// All exports: the regular ones of `directory` and those that were asked for.
pub fn all(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut all = list(directory)?;
    all.extend(list(&directory.join(ON_DEMAND))?);
    Ok(all)
}

/// Generation and revision, as a file's name has them.
pub fn position(path: &Path) -> Option<(u64, u64)> {
    let (generation, revision) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((generation.parse().ok()?, revision.parse().ok()?))
}

/// The highest generation that the names in a directory speak of.
pub(super) fn newest_generation(directory: &Path) -> Result<u64, StoreError> {
    let exports = all(directory)?;
    let generations = exports.iter().filter_map(|path| position(path));
    Ok(generations
        .map(|(generation, _)| generation)
        .max()
        .unwrap_or(0))
}

/// Refuses a store that is older than an export of it: damage at the end of sled's file looks to sled
/// like a commit that never happened, and so does a store that somebody put back by hand. One that was begun anew is
/// older than any of before, whenever that was.
pub fn check_not_behind(directory: &Path, found: &Found) -> Result<(), StoreError> {
    check_none_ahead(&all(directory)?, found)
}

/// Refuses a store that lacks what any of `exports` holds.
pub fn check_none_ahead(exports: &[PathBuf], found: &Found) -> Result<(), StoreError> {
    let newest = exports
        .iter()
        .filter_map(|path| Some((position(path)?, path)))
        .filter(|((generation, revision), _)| found.lacks(*generation, Revision(*revision)))
        .max();
    match newest {
        Some((_, path)) => Err(StoreError::Behind {
            generation: found.generation,
            revision: found.revision,
            path: path.display().to_string(),
        }),
        None => Ok(()),
    }
}

fn prune(directory: &Path, kept: usize) -> Result<(), StoreError> {
    let exports = list(directory)?;
    let old = exports.len().saturating_sub(kept);
    for path in exports.iter().take(old) {
        fs::remove_file(path).map_err(|source| file_error("removing", path, source))?;
    }
    Ok(())
}
