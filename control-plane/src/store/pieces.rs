//! Splits values into pieces. sled never syncs the separate files that it uses for values above its segment size, so no
//! value ever gets that large.

use sled::transaction::{ConflictableTransactionError, TransactionalTree};

use super::Fault;

/// Largest piece, in bytes; below sled's 8 KiB with room for its own headers.
const PIECE: usize = 7 * 1024;

type Result = std::result::Result<(), ConflictableTransactionError<()>>;

/// A piece's name: the value's, the number of the piece and how many there are.
fn piece_name(name: &[u8], at: u16, of: u16) -> Vec<u8> {
    let mut piece = name.to_vec();
    piece.extend_from_slice(&at.to_be_bytes());
    piece.extend_from_slice(&of.to_be_bytes());
    piece
}

/// Length of what [`piece_name`] appends.
const SUFFIX: usize = 4;

/// The name of the value that a key's piece belongs to.
pub(super) fn name_of(key: &[u8]) -> &[u8] {
    split(key).map_or(key, |(name, ..)| name)
}

pub(super) fn put(tree: &TransactionalTree, name: &[u8], value: &[u8]) -> Result {
    let of = u16::try_from(value.len().div_ceil(PIECE)).map_err(|_| {
        let error = std::io::Error::other("a record is larger than the store takes");
        ConflictableTransactionError::Storage(sled::Error::from(error))
    })?;
    for (at, piece) in (0..of).zip(value.chunks(PIECE)) {
        tree.insert(piece_name(name, at, of), piece)?;
    }
    Ok(())
}

pub(super) fn remove(tree: &TransactionalTree, name: &[u8], pieces: usize) -> Result {
    let of = u16::try_from(pieces).unwrap_or(u16::MAX);
    for at in 0..of {
        tree.remove(piece_name(name, at, of))?;
    }
    Ok(())
}

/// One value, put together again.
pub(super) fn read(tree: &sled::Tree, name: &[u8]) -> std::result::Result<Option<Vec<u8>>, Fault> {
    let mut value = Vec::new();
    let (mut found, mut whole) = (0, 0);
    for piece in tree.scan_prefix(name) {
        let (key, piece) = piece?;
        let Some((own, at, of)) = split(&key).filter(|(own, ..)| *own == name) else {
            continue;
        };
        if at != found || own.len() != name.len() {
            return Err(Fault::damaged("a piece of a value is missing"));
        }
        found += 1;
        whole = of;
        value.extend_from_slice(&piece);
    }
    if found != whole {
        return Err(Fault::damaged("the last piece of a value is missing"));
    }
    Ok((whole > 0).then_some(value))
}

/// Every value of a tree with its name, put together again.
pub(super) fn walk(
    tree: &sled::Tree,
) -> impl Iterator<Item = std::result::Result<(Vec<u8>, Vec<u8>), Fault>> {
    let mut pieces = tree.iter();
    std::iter::from_fn(move || {
        let first = pieces.next()?;
        let whole = || -> std::result::Result<_, Fault> {
            let (key, piece) = first?;
            let mut value = piece.to_vec();
            let split_first = split(&key);
            let (name, at, of) =
                split_first.ok_or_else(|| Fault::damaged("a key is not as written"))?;
            if at != 0 {
                return Err(Fault::damaged("the first piece of a value is missing"));
            }
            let name = name.to_vec();
            for expected in 1..of {
                let missing = || Fault::damaged("the last piece of a value is missing");
                let (key, piece) = pieces.next().ok_or_else(missing)??;
                if split(&key) != Some((&name, expected, of)) {
                    return Err(Fault::damaged("a piece of a value is missing"));
                }
                value.extend_from_slice(&piece);
            }
            Ok((name, value))
        };
        Some(whole())
    })
}

fn split(key: &[u8]) -> Option<(&[u8], u16, u16)> {
    let (name, suffix) = key.split_at_checked(key.len().checked_sub(SUFFIX)?)?;
    let (at, of) = suffix.split_first_chunk::<2>()?;
    Some((
        name,
        u16::from_be_bytes(*at),
        u16::from_be_bytes(of.try_into().ok()?),
    ))
}
