//! Values of expressions, and the functions that all of them may call.

use std::cmp::Ordering;

use super::World;

/// A value of Lua.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    Boolean(bool),
    Number(f64),
    Text(String),
    Table(Table),
    /// By its whole name.
    Function(&'static str),
}

/// A table that expressions may look into.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Table {
    /// One of the scope, or of Lua's libraries.
    Named(&'static str),
    /// Several values of one name.
    List(Vec<Value>),
}

/// The functions that there are in every scope.
pub(super) const FUNCTIONS: [&str; 8] = [
    "type",
    "tostring",
    "tonumber",
    "string.lower",
    "string.upper",
    "string.len",
    "string.reverse",
    "string.sub",
];

impl From<Vec<Value>> for Value {
    /// Nothing, the only value, or all of them.
    fn from(mut values: Vec<Value>) -> Self {
        match values.len() {
            0 => Self::Nil,
            1 => values.remove(0),
            _ => Self::Table(Table::List(values)),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Value {
    /// All but `nil` and `false` are true.
    pub(super) const fn is_true(&self) -> bool {
        !matches!(self, Self::Nil | Self::Boolean(false))
    }

    /// What `type` says.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Boolean(_) => "boolean",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::Table(_) => "table",
            Self::Function(_) => "function",
        }
    }

    /// As a template shows it: of several values the first, and nothing for `nil`.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Nil => String::new(),
            Self::Table(Table::List(values)) => values.first().map(Self::shown).unwrap_or_default(),
            _ => self.text(),
        }
    }

    /// What `tostring` says.
    fn text(&self) -> String {
        match self {
            Self::Nil => "nil".to_owned(),
            Self::Boolean(truth) => truth.to_string(),
            Self::Number(number) => decimal(*number),
            Self::Text(text) => text.clone(),
            Self::Table(_) | Self::Function(_) => self.kind().to_owned(),
        }
    }

    /// What `tonumber` says.
    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => {
                let text = text.trim();
                let digits = text.trim_start_matches(['+', '-']);
                if let Some(digits) = digits
                    .strip_prefix("0x")
                    .or_else(|| digits.strip_prefix("0X"))
                {
                    let value = f64::from(u32::from_str_radix(digits, 16).ok()?);
                    return Some(if text.starts_with('-') { -value } else { value });
                }
                // Rust reads `inf` and `nan`, too.
                let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
                numeric.then(|| text.parse().ok()).flatten()
            }
            _ => None,
        }
    }

    /// A number to calculate with.
    pub(super) fn arithmetic(&self) -> Result<f64, String> {
        let wrong = || format!("attempt to perform arithmetic on a {} value", self.kind());
        self.number().ok_or_else(wrong)
    }

    /// A text to put others behind.
    pub(super) fn concatenable(&self) -> Result<String, String> {
        match self {
            Self::Text(_) | Self::Number(_) => Ok(self.text()),
            _ => Err(format!("attempt to concatenate a {} value", self.kind())),
        }
    }

    /// What `#` says.
    pub(super) fn length(&self) -> Result<Self, String> {
        let length = match self {
            Self::Text(text) => text.len(),
            Self::Table(Table::List(values)) => values.len(),
            Self::Table(_) => 0,
            _ => return Err(format!("attempt to get length of a {} value", self.kind())),
        };
        Ok(Self::Number(f64::from(
            u32::try_from(length).unwrap_or(u32::MAX),
        )))
    }

    /// Which is the smaller; nothing if one is not a number.
    pub(super) fn compare(&self, other: &Self) -> Result<Option<Ordering>, String> {
        match (self, other) {
            (Self::Number(left), Self::Number(right)) => Ok(left.partial_cmp(right)),
            (Self::Text(left), Self::Text(right)) => Ok(Some(left.cmp(right))),
            _ => Err(format!(
                "attempt to compare {} with {}",
                self.kind(),
                other.kind()
            )),
        }
    }
}

/// A number with 14 digits, whole where it is whole.
fn decimal(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return format!("{number:.0}");
    }
    let rounded: f64 = format!("{number:.13e}").parse().unwrap_or(number);
    rounded.to_string()
}

/// The value of a function for `arguments`.
pub(super) fn call(
    function: &str,
    arguments: &[Value],
    world: &impl World,
) -> Result<Value, String> {
    let first = arguments.first();
    let text = || match first {
        Some(value @ (Value::Text(_) | Value::Number(_))) => Ok(value.text()),
        other => Err(format!(
            "bad argument #1 (string expected, got {})",
            other.map_or("no value", Value::kind)
        )),
    };
    let given = || first.ok_or("bad argument #1 (value expected)");
    Ok(match function {
        "type" => Value::Text(given()?.kind().to_owned()),
        "tostring" => Value::Text(given()?.text()),
        "tonumber" => given()?.number().map_or(Value::Nil, Value::Number),
        "string.lower" => Value::Text(text()?.to_ascii_lowercase()),
        "string.upper" => Value::Text(text()?.to_ascii_uppercase()),
        "string.len" => Value::Text(text()?).length()?,
        "string.reverse" => Value::Text(text()?.chars().rev().collect()),
        "string.sub" => {
            let place = |number: usize, default: f64| match arguments.get(number) {
                Some(value) => value.arithmetic(),
                None => Ok(default),
            };
            Value::Text(part(&text()?, place(1, 1.0)?, place(2, -1.0)?))
        }
        _ => world.call(function, arguments),
    })
}

/// The bytes from place `first` to `last`, counted from 1, or from the end where negative.
fn part(text: &str, first: f64, last: f64) -> String {
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    let place = |number: f64| {
        let place = format!("{:.0}", number.clamp(-1e9, 1e9).trunc());
        let place: i64 = place.parse().unwrap_or(0);
        if place < 0 { length + place + 1 } else { place }
    };
    let skipped = usize::try_from(place(first).max(1) - 1).unwrap_or(usize::MAX);
    let end = usize::try_from(place(last).clamp(0, length)).unwrap_or(0);
    let bytes = text.as_bytes().get(skipped..end).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}
