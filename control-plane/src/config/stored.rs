//! A record as it is kept in memory: its JSON, a fifth of what its fields would take.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use shared::entity::{DEFAULT_WORKSPACE, Definition, Entity as _, Route};
use uuid::Uuid;

use super::{Fields, WORKSPACE_FIELD, hosts, workspace_of};

/// A record as it is kept. A clone shares the bytes.
#[derive(Clone, Eq, PartialEq)]
pub struct Stored {
    json: Arc<[u8]>,
    workspace: Uuid,
}

impl Stored {
    /// Keeps `fields`.
    pub fn of(fields: &Fields) -> Self {
        let json =
            serde_json::to_vec(fields).expect("fields that were parsed can be written again");
        Self {
            json: json.into(),
            workspace: workspace_of(fields),
        }
    }

    /// Keeps what was written as JSON before.
    ///
    /// # Errors
    ///
    /// If that is no JSON object.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let fields = pick(json, |name| name == WORKSPACE_FIELD)?;
        Ok(Self {
            json: json.into(),
            workspace: workspace_of(&fields),
        })
    }

    /// The record as JSON.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// How long that is.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.json.len()).unwrap_or(u64::MAX)
    }

    /// The workspace that it is in.
    pub const fn workspace(&self) -> Uuid {
        self.workspace
    }

    /// The record as JSON, without the field that says where it is.
    pub fn shown(&self) -> Cow<'_, [u8]> {
        // Only what is elsewhere says where.
        if self.workspace == DEFAULT_WORKSPACE {
            return Cow::Borrowed(&self.json);
        }
        let json = serde_json::to_vec(&self.fields());
        Cow::Owned(json.expect("fields that were parsed can be written again"))
    }

    /// The record's fields, without the one that says where it is.
    pub fn fields(&self) -> Fields {
        let mut fields: Fields =
            serde_json::from_slice(&self.json).expect("what is kept was JSON when it came");
        fields.shift_remove(WORKSPACE_FIELD);
        fields
    }

    /// Those of its fields that an index is kept of.
    pub(super) fn indexed(&self, definition: &Definition) -> Fields {
        self.pick(|name| {
            definition.unique.iter().any(|set| set.contains(&name))
                || definition.foreign_keys().any(|(field, _)| field == name)
                || (definition.kind == Route::KIND && name == hosts::FIELD)
        })
    }

    /// Those of its fields whose names are wanted. The others are passed over, which is faster.
    pub fn pick(&self, wanted: impl Fn(&str) -> bool) -> Fields {
        pick(&self.json, wanted).expect("what is kept was JSON when it came")
    }
}

/// Values may be secrets.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("bytes", &self.json.len())
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

fn pick(json: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Fields, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let fields = Pick(wanted).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(fields)
}

/// Reads an object's wanted fields.
struct Pick<W>(W);

impl<'de, W: Fn(&str) -> bool> DeserializeSeed<'de> for Pick<W> {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, W: Fn(&str) -> bool> Visitor<'de> for Pick<W> {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if (self.0)(&name) {
                fields.insert(name.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}
