//! Expressions of Lua 5.1, as far as templates need them: literals, operators, the tables of a request
//! and a handful of functions. What an expression costs is bounded by its length: there are no loops.

use super::Facts;
use super::parse::parse;
use super::value::{Function, Table, Value};

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    Constant(Value),
    /// A name that nobody has given a value: `nil`, and an error to call or to index.
    Unknown(String),
    Index(Box<Expression>, Box<Expression>),
    Call(Box<Expression>, Vec<Expression>),
    /// `text:name(…)`: a function of `string`, with the text as its first argument.
    Method(Box<Expression>, Function, Vec<Expression>),
    Unary(Unary, Box<Expression>),
    Binary(Binary, Box<Expression>, Box<Expression>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unary {
    Not,
    Minus,
    Length,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Binary {
    Or,
    And,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    Unequal,
    Concat,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
}

impl Expression {
    /// Reads an expression; the error says what is wrong with it.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        parse(text)
    }

    /// Its value for a request; the error is Lua's.
    pub(super) fn value(&self, facts: &Facts) -> Result<Value, String> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Unknown(_) => Ok(Value::Nil),
            Self::Index(table, key) => {
                let (table_value, key) = (table.value(facts)?, key.value(facts)?);
                match table_value {
                    Value::Table(table) => Ok(facts.look_up(&table, &key)),
                    other => Err(format!(
                        "attempt to index {} (a {} value)",
                        table.described(),
                        other.kind()
                    )),
                }
            }
            Self::Call(called, arguments) => match called.value(facts)? {
                Value::Function(function) => function.call(&values(arguments, facts)?),
                other => Err(format!(
                    "attempt to call {} (a {} value)",
                    called.described(),
                    other.kind()
                )),
            },
            Self::Method(text, function, arguments) => {
                let text = text.value(facts)?;
                if !matches!(text, Value::Text(_)) {
                    return Err(format!("attempt to index a {} value", text.kind()));
                }
                let mut all = vec![text];
                all.extend(values(arguments, facts)?);
                function.call(&all)
            }
            Self::Unary(operator, operand) => {
                let operand = operand.value(facts)?;
                match operator {
                    Unary::Not => Ok(Value::Boolean(!operand.is_true())),
                    Unary::Minus => Ok(Value::Number(-operand.arithmetic()?)),
                    Unary::Length => operand.length(),
                }
            }
            Self::Binary(operator, left, right) => binary(*operator, left, right, facts),
        }
    }

    /// What errors call it.
    fn described(&self) -> String {
        match self {
            Self::Unknown(name) => format!("global '{name}'"),
            Self::Index(_, key) => match &**key {
                Self::Constant(Value::Text(name)) => format!("field '{name}'"),
                _ => "field '?'".to_owned(),
            },
            _ => "a value".to_owned(),
        }
    }
}

fn values(list: &[Expression], facts: &Facts) -> Result<Vec<Value>, String> {
    list.iter().map(|one| one.value(facts)).collect()
}

fn binary(
    operator: Binary,
    left: &Expression,
    right: &Expression,
    facts: &Facts,
) -> Result<Value, String> {
    let left = left.value(facts)?;
    match operator {
        Binary::Or if left.is_true() => return Ok(left),
        Binary::And if !left.is_true() => return Ok(left),
        _ => {}
    }
    let right = right.value(facts)?;
    let compared = |order: fn(std::cmp::Ordering) -> bool| {
        let ordering = left.compare(&right)?;
        Ok(Value::Boolean(ordering.is_some_and(order)))
    };
    let computed = |operation: fn(f64, f64) -> f64| {
        let (left, right) = (left.arithmetic()?, right.arithmetic()?);
        Ok(Value::Number(operation(left, right)))
    };
    match operator {
        Binary::Or | Binary::And => Ok(right),
        Binary::Less => compared(std::cmp::Ordering::is_lt),
        Binary::LessOrEqual => compared(std::cmp::Ordering::is_le),
        Binary::Greater => compared(std::cmp::Ordering::is_gt),
        Binary::GreaterOrEqual => compared(std::cmp::Ordering::is_ge),
        Binary::Equal => Ok(Value::Boolean(left == right)),
        Binary::Unequal => Ok(Value::Boolean(left != right)),
        Binary::Concat => Ok(Value::Text(left.concatenable()? + &right.concatenable()?)),
        Binary::Add => computed(|a, b| a + b),
        Binary::Subtract => computed(|a, b| a - b),
        Binary::Multiply => computed(|a, b| a * b),
        Binary::Divide => computed(|a, b| a / b),
        Binary::Modulo => computed(|a, b| a - (a / b).floor() * b),
        Binary::Power => computed(f64::powf),
    }
}

impl Facts {
    /// What `table` holds under `key`.
    fn look_up(&self, table: &Table, key: &Value) -> Value {
        let listed = |values: Vec<Value>| match values.len() {
            0 => Value::Nil,
            1 => values.into_iter().next().unwrap_or(Value::Nil),
            _ => Value::Table(Table::List(values)),
        };
        match (table, key) {
            (Table::Headers, Value::Text(name)) => {
                let name = name.to_ascii_lowercase().replace('_', "-");
                let values = self.headers.get_all(name).iter().map(|value| {
                    Value::Text(String::from_utf8_lossy(value.as_bytes()).into_owned())
                });
                listed(values.collect())
            }
            (Table::Query, Value::Text(name)) => {
                let values = self.query.values(name).map(|value| match value {
                    Some(value) => Value::Text(value.to_owned()),
                    None => Value::Boolean(true),
                });
                listed(values.collect())
            }
            (Table::Captures, Value::Text(name)) => {
                let mut named = self.captures.named.iter();
                let found = named.find(|(known, _)| known == name);
                captured(found.map(|(_, value)| value))
            }
            (Table::Captures, Value::Number(number)) => match place(*number) {
                Some(0) => captured(Some(&self.captures.whole)),
                Some(place) => captured(self.captures.numbered.get(place - 1)),
                None => Value::Nil,
            },
            (Table::List(values), Value::Number(number)) => place(*number)
                .and_then(|place| values.get(place.checked_sub(1)?).cloned())
                .unwrap_or(Value::Nil),
            (Table::Strings, Value::Text(name)) => {
                Function::of_strings(name).map_or(Value::Nil, Value::Function)
            }
            // Nothing here puts anything into `shared`.
            _ => Value::Nil,
        }
    }
}

/// A group that took no part is not there.
fn captured(text: Option<&String>) -> Value {
    match text {
        Some(text) if !text.is_empty() => Value::Text(text.clone()),
        _ => Value::Nil,
    }
}

/// The place in a list that a number means.
fn place(number: f64) -> Option<usize> {
    let whole = number.fract() == 0.0 && (0.0..=1e6).contains(&number);
    whole.then(|| format!("{number:.0}").parse().ok()).flatten()
}
