//! From the text of an expression to the expression, by Lua's grammar and precedence (Lua 5.1 §2.5.6).

use super::Scope;
use super::expression::{Binary, Expression, Unary};
use super::value::{FUNCTIONS, Table, Value};

/// How deep expressions may lie in each other.
const DEEPEST: usize = 50;

/// How many tokens an expression has at most: operators and keys that follow each other nest to the left, which
/// [`DEEPEST`] does not count.
const LONGEST: usize = 500;

/// Names of Lua and Kong that are not served: to use one would be an error with every request.
const NOT_SERVED: [&str; 24] = [
    "assert",
    "cjson",
    "error",
    "function",
    "io",
    "ipairs",
    "kong",
    "load",
    "loadstring",
    "math",
    "ngx",
    "next",
    "os",
    "pairs",
    "pcall",
    "print",
    "rawget",
    "require",
    "select",
    "setmetatable",
    "table",
    "unpack",
    "while",
    "xpcall",
];

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Number(f64),
    Text(String),
    Symbol(&'static str),
}

/// Symbols, the longer ones before those that they begin with.
const SYMBOLS: [&str; 22] = [
    "..", "==", "~=", "<=", ">=", "<", ">", "(", ")", "[", "]", ".", ":", ",", "+", "-", "*", "/",
    "%", "^", "#", "=",
];

/// Reads an expression; the error says what is wrong with it.
pub(super) fn parse(text: &str, scope: &Scope) -> Result<Expression, String> {
    let tokens = tokens(text)?;
    if tokens.len() > LONGEST {
        return Err(format!("more than {LONGEST} tokens"));
    }
    let mut parser = Parser {
        scope: *scope,
        tokens: tokens.into_iter().rev().collect(),
        depth: 0,
    };
    let expression = parser.expression(0)?;
    match parser.tokens.last() {
        None => Ok(expression),
        Some(token) => Err(format!("unexpected {}", shown(token))),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("'{name}'"),
        Token::Number(number) => format!("'{number}'"),
        Token::Text(text) => format!("'{text}'"),
        Token::Symbol(symbol) => format!("'{symbol}'"),
    }
}

/// `text` without the spaces and the comments that it begins with.
fn skip(text: &str) -> &str {
    let mut rest = text.trim_start();
    while let Some(comment) = rest.strip_prefix("--") {
        let (inner, end) = match comment.strip_prefix("[[") {
            Some(inner) => (inner, "]]"),
            None => (comment, "\n"),
        };
        let (_, behind) = inner.split_once(end).unwrap_or_default();
        rest = behind.trim_start();
    }
    rest
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = skip(text);
    while let Some(first) = rest.chars().next() {
        // No number follows a dot, and headers and captures are called `3scale_id` and `1`, too (OURS).
        let key = first.is_ascii_digit() && tokens.last() == Some(&Token::Symbol("."));
        let (token, length) = if first.is_ascii_alphabetic() || first == '_' || key {
            let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            let end = rest.find(word).unwrap_or(rest.len());
            (
                Token::Name(rest.get(..end).unwrap_or_default().to_owned()),
                end,
            )
        } else if first.is_ascii_digit() {
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
                .unwrap_or(rest.len());
            let digits = rest.get(..end).unwrap_or_default();
            let number = digits
                .parse()
                .map_err(|_| format!("malformed number '{digits}'"))?;
            (Token::Number(number), end)
        } else if matches!(first, '"' | '\'') {
            quoted(rest, first)?
        } else if let Some(inner) = rest.strip_prefix("[[") {
            let end = inner.find("]]").ok_or("unfinished long string")?;
            let inner = inner.get(..end).unwrap_or_default();
            (Token::Text(inner.to_owned()), end + 4)
        } else {
            let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
            let symbol = symbol.ok_or_else(|| format!("unexpected '{first}'"))?;
            (Token::Symbol(symbol), symbol.len())
        };
        tokens.push(token);
        rest = skip(rest.get(length..).unwrap_or_default());
    }
    Ok(tokens)
}

/// A text in quotes, and how long it is with them.
fn quoted(text: &str, quote: char) -> Result<(Token, usize), String> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(escaped) if !escaped.is_ascii_alphanumeric() => value.push(escaped),
                _ => return Err("unknown escape in a text".to_owned()),
            },
            _ if character == quote => return Ok((Token::Text(value), place + 1)),
            _ => value.push(character),
        }
    }
    Err("unfinished string".to_owned())
}

struct Parser {
    scope: Scope,
    /// The last one is the next.
    tokens: Vec<Token>,
    depth: usize,
}

impl Parser {
    fn takes(&mut self, symbol: &str) -> bool {
        let found = matches!(self.tokens.last(), Some(Token::Symbol(next)) if *next == symbol);
        if found {
            self.tokens.pop();
        }
        found
    }

    fn demand(&mut self, symbol: &str) -> Result<(), String> {
        if self.takes(symbol) {
            return Ok(());
        }
        let next = self.tokens.last().map_or("the end".to_owned(), shown);
        Err(format!("'{symbol}' expected near {next}"))
    }

    /// An expression whose operators bind stronger than `limit`.
    fn expression(&mut self, limit: u8) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("too deep".to_owned());
        }
        let unary = match self.tokens.last() {
            Some(Token::Name(name)) if name == "not" => Some(Unary::Not),
            Some(Token::Symbol("-")) => Some(Unary::Minus),
            Some(Token::Symbol("#")) => Some(Unary::Length),
            _ => None,
        };
        let mut left = match unary {
            Some(operator) => {
                self.tokens.pop();
                Expression::Unary(operator, Box::new(self.expression(8)?))
            }
            None => self.operand()?,
        };
        while let Some((operator, left_power, right_power)) = self.tokens.last().and_then(binary)
            && left_power > limit
        {
            self.tokens.pop();
            let right = self.expression(right_power)?;
            left = Expression::Binary(operator, Box::new(left), Box::new(right));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operand(&mut self) -> Result<Expression, String> {
        let next = self.tokens.pop().ok_or("an expression is missing")?;
        let mut operand = match next {
            Token::Number(number) => return Ok(Expression::Constant(Value::Number(number))),
            Token::Text(text) => return Ok(Expression::Constant(Value::Text(text))),
            Token::Symbol("(") => {
                let inner = self.expression(0)?;
                self.demand(")")?;
                inner
            }
            Token::Symbol(symbol) => return Err(format!("unexpected '{symbol}'")),
            Token::Name(name) => self.scope.global(&name)?,
        };
        loop {
            operand = if self.takes(".") {
                let Some(Token::Name(name)) = self.tokens.pop() else {
                    return Err("a name is expected behind '.'".to_owned());
                };
                self.scope
                    .entry(operand, Expression::Constant(Value::Text(name)))?
            } else if self.takes("[") {
                let key = self.expression(0)?;
                self.demand("]")?;
                self.scope.entry(operand, key)?
            } else if self.takes(":") {
                let Some(Token::Name(name)) = self.tokens.pop() else {
                    return Err("a name is expected behind ':'".to_owned());
                };
                let function = known(&FUNCTIONS, &format!("string.{name}"))
                    .ok_or_else(|| format!("the method '{name}' is not supported"))?;
                self.demand("(")?;
                Expression::Method(Box::new(operand), function, self.arguments()?)
            } else if self.takes("(") {
                Expression::Call(Box::new(operand), self.arguments()?)
            } else {
                return Ok(operand);
            };
        }
    }

    /// Arguments, up to the parenthesis that ends them.
    fn arguments(&mut self) -> Result<Vec<Expression>, String> {
        let mut arguments = Vec::new();
        if self.takes(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression(0)?);
            if !self.takes(",") {
                break;
            }
        }
        self.demand(")")?;
        Ok(arguments)
    }
}

impl Scope {
    fn functions(&self) -> impl Iterator<Item = &'static str> {
        FUNCTIONS.iter().chain(self.functions).copied()
    }

    /// What a name stands for.
    fn global(&self, name: &str) -> Result<Expression, String> {
        let constant = |value: Value| Ok(Expression::Constant(value));
        match name {
            "nil" => return constant(Value::Nil),
            "true" => return constant(Value::Boolean(true)),
            "false" => return constant(Value::Boolean(false)),
            "and" | "or" | "not" => return Err(format!("unexpected '{name}'")),
            _ => {}
        }
        if let Some(found) = self.named(name) {
            return constant(found);
        }
        if NOT_SERVED.contains(&name) {
            let known: Vec<&str> = self
                .tables
                .iter()
                .copied()
                .chain(self.functions())
                .collect();
            return Err(format!(
                "'{name}' is not supported; there are {}",
                known.join(", ")
            ));
        }
        Ok(Expression::Unknown(name.to_owned()))
    }

    /// The table or function with this whole name.
    fn named(&self, name: &str) -> Option<Value> {
        if let Some(table) = known(self.tables, name) {
            return Some(Value::Table(Table::Named(table)));
        }
        self.functions().find_map(|function| {
            let rest = function.strip_prefix(name)?;
            if rest.is_empty() {
                return Some(Value::Function(function));
            }
            let library = rest
                .starts_with('.')
                .then(|| function.get(..name.len()))??;
            Some(Value::Table(Table::Named(library)))
        })
    }

    /// What `table` holds under `key`: known at once where it is a library.
    fn entry(&self, table: Expression, key: Expression) -> Result<Expression, String> {
        if let Expression::Constant(Value::Table(Table::Named(library))) = &table
            && !self.tables.contains(library)
        {
            let Expression::Constant(Value::Text(name)) = &key else {
                return Err(format!("{library} is looked into by name only"));
            };
            let whole = format!("{library}.{name}");
            let found = self.named(&whole);
            let found = found.ok_or_else(|| format!("{whole} is not supported"))?;
            return Ok(Expression::Constant(found));
        }
        Ok(Expression::Index(Box::new(table), Box::new(key)))
    }
}

fn known(names: &[&'static str], name: &str) -> Option<&'static str> {
    names.iter().copied().find(|known| *known == name)
}

/// The operator that a token is, and how strongly it binds to the left and to the right.
fn binary(token: &Token) -> Option<(Binary, u8, u8)> {
    let (operator, power) = match token {
        Token::Name(name) if name == "or" => (Binary::Or, 1),
        Token::Name(name) if name == "and" => (Binary::And, 2),
        Token::Symbol(symbol) => match *symbol {
            "<" => (Binary::Less, 3),
            "<=" => (Binary::LessOrEqual, 3),
            ">" => (Binary::Greater, 3),
            ">=" => (Binary::GreaterOrEqual, 3),
            "==" => (Binary::Equal, 3),
            "~=" => (Binary::Unequal, 3),
            // These two group to the right.
            ".." => return Some((Binary::Concat, 5, 4)),
            "^" => return Some((Binary::Power, 10, 9)),
            "+" => (Binary::Add, 6),
            "-" => (Binary::Subtract, 6),
            "*" => (Binary::Multiply, 7),
            "/" => (Binary::Divide, 7),
            "%" => (Binary::Modulo, 7),
            _ => return None,
        },
        _ => return None,
    };
    Some((operator, power, power))
}
