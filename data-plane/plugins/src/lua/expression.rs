//! An expression and its value.

use super::parse::parse;
use super::value::{Table, Value, call};
use super::{Scope, World};

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expression {
    Constant(Value),
    /// A name that nobody has given a value: `nil`, and an error to call or to index.
    Unknown(String),
    Index(Box<Expression>, Box<Expression>),
    Call(Box<Expression>, Vec<Expression>),
    /// `text:name(…)`: a function of `string`, with the text as its first argument.
    Method(Box<Expression>, &'static str, Vec<Expression>),
    Unary(Unary, Box<Expression>),
    Binary(Binary, Box<Expression>, Box<Expression>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unary {
    Not,
    Minus,
    Length,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Binary {
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
    pub(crate) fn compile(text: &str, scope: &Scope) -> Result<Self, String> {
        parse(text, scope)
    }

    /// Reads `return EXPRESSION`, a whole chunk of Lua.
    pub(crate) fn compile_chunk(text: &str, scope: &Scope) -> Result<Self, String> {
        let text = text.trim().trim_end_matches(';');
        match text.strip_prefix("return") {
            Some(rest) if !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') => {
                parse(rest, scope)
            }
            _ => Err("only 'return' with one expression is supported".to_owned()),
        }
    }

    /// Its value for a request; the error is Lua's.
    pub(crate) fn value(&self, world: &impl World) -> Result<Value, String> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Unknown(_) => Ok(Value::Nil),
            Self::Index(table, key) => {
                let (table_value, key) = (table.value(world)?, key.value(world)?);
                match table_value {
                    Value::Table(table) => Ok(look_up(&table, &key, world)),
                    other => Err(format!(
                        "attempt to index {} (a {} value)",
                        table.described(),
                        other.kind()
                    )),
                }
            }
            Self::Call(called, arguments) => match called.value(world)? {
                Value::Function(function) => call(function, &values(arguments, world)?, world),
                other => Err(format!(
                    "attempt to call {} (a {} value)",
                    called.described(),
                    other.kind()
                )),
            },
            Self::Method(text, function, arguments) => {
                let text = text.value(world)?;
                if !matches!(text, Value::Text(_)) {
                    return Err(format!("attempt to index a {} value", text.kind()));
                }
                let mut all = vec![text];
                all.extend(values(arguments, world)?);
                call(function, &all, world)
            }
            Self::Unary(operator, operand) => {
                let operand = operand.value(world)?;
                match operator {
                    Unary::Not => Ok(Value::Boolean(!operand.is_true())),
                    Unary::Minus => Ok(Value::Number(-operand.arithmetic()?)),
                    Unary::Length => operand.length(),
                }
            }
            Self::Binary(operator, left, right) => binary(*operator, left, right, world),
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

fn values(list: &[Expression], world: &impl World) -> Result<Vec<Value>, String> {
    list.iter().map(|one| one.value(world)).collect()
}

fn binary(
    operator: Binary,
    left: &Expression,
    right: &Expression,
    world: &impl World,
) -> Result<Value, String> {
    let left = left.value(world)?;
    match operator {
        Binary::Or if left.is_true() => return Ok(left),
        Binary::And if !left.is_true() => return Ok(left),
        _ => {}
    }
    let right = right.value(world)?;
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

/// What `table` holds under `key`.
fn look_up(table: &Table, key: &Value, world: &impl World) -> Value {
    match (table, key) {
        (Table::Named(name), _) => world.look_up(name, key),
        (Table::List(values), Value::Number(number)) => place(*number)
            .and_then(|place| values.get(place.checked_sub(1)?).cloned())
            .unwrap_or(Value::Nil),
        (Table::List(_), _) => Value::Nil,
    }
}

/// The place in a list that a number means.
pub(crate) fn place(number: f64) -> Option<usize> {
    let whole = number.fract() == 0.0 && (0.0..=1e6).contains(&number);
    whole.then(|| format!("{number:.0}").parse().ok()).flatten()
}
