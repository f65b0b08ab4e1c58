//! JSON of others, read so that nobody can read it otherwise: of two members with one name that differ each reader
//! would believe its own, and depth costs stack (RFC 8259 §4, RFC 8725 §2.4).

use std::fmt;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Most arrays and objects around a value.
const DEEPEST: usize = 64;

/// The object that `bytes` are.
pub(super) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Below(DEEPEST).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Reads a value with no more than so many arrays and objects in one another.
#[derive(Clone, Copy)]
struct Below(usize);

impl Below {
    fn inside<E: de::Error>(self) -> Result<Self, E> {
        let left = self.0.checked_sub(1);
        left.map(Self).ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Below {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Below {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(inside)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut values = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inside)?;
            // Keycloak says twice who issued a signed authorization response. What is said alike is read alike.
            if values.get(&name).is_some_and(|before| *before != value) {
                return Err(de::Error::custom("two members with one name"));
            }
            values.insert(name, value);
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_31_an_answer_is_one_object_that_all_read_alike() {
        let check = |text: &str, read: bool| {
            assert_eq!(object(text.as_bytes()).is_some(), read, "{text}");
        };
        check(
            r#"{"a": [1, -2, 1.5, "x", true, null], "b": {"a": 1}}"#,
            true,
        );
        for text in ["[]", "null", "1", "\"x\"", "", "{} {}", "{", "\u{feff}{}"] {
            check(text, false);
        }
        check(r#"{"a": 1, "a": 2}"#, false);
        check(r#"{"a": 1, "\u0061": 2}"#, false);
        check(r#"{"b": [{"a": 1, "a": "1"}]}"#, false);
        check(r#"{"a": {"b": 1}, "a": {"b": 2}}"#, false);
        check(r#"{"iss": "a", "code": "b", "iss": "a"}"#, true);
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        check(&nested(63), true);
        check(&nested(64), false);
        check(&nested(100_000), false);
    }

    #[test]
    fn numbers_beyond_64_bits_are_the_nearest_doubles() {
        let text = r#"{"kept": [18446744073709551615, -9223372036854775808, 9007199254740993], "id": 12345678901234567890123, "x": 0.1}"#;
        let read = object(text.as_bytes()).unwrap();
        let kept = "[18446744073709551615,-9223372036854775808,9007199254740993]";
        assert_eq!(read["kept"].to_string(), kept);
        assert_eq!(read["id"].as_f64(), Some(1.234_567_890_123_456_8e22));
        assert!(!read["id"].is_u64());
        assert_eq!(read["x"].to_string(), "0.1");
    }

    #[test]
    fn what_is_read_is_what_others_read() {
        let text = r#"{"a": [1, -2, 1.5, 18446744073709551615, "x\n", true, null], "b": {}}"#;
        let expected: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(object(text.as_bytes()), Some(expected));
    }
}
