//! Expressions of Lua 5.1: literals, operators, some functions, and what a plugin lets them look at.
//!
//! Kong runs Lua where a configuration holds some. Here there are no statements, so that what an expression costs is
//! bounded by its length, and no way out of it.

mod expression;
mod parse;
mod value;

pub(crate) use self::expression::{Expression, place};
pub(crate) use self::value::{Table, Value};

/// What the expressions of a plugin may name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    /// Tables whose entries a [`World`] knows.
    pub(crate) tables: &'static [&'static str],
    /// Functions that a [`World`] knows, by their whole names.
    pub(crate) functions: &'static [&'static str],
}

/// What expressions look at when they get their value.
pub(crate) trait World {
    /// What a table of the scope holds under `key`.
    fn look_up(&self, table: &str, key: &Value) -> Value;

    /// The value of a function of the scope.
    fn call(&self, function: &str, arguments: &[Value]) -> Value;
}
