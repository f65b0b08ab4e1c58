//! The id of an exchange in logs and responses.

use std::fmt;
use std::ops::Deref;

use serde::{Serialize, Serializer};

/// 32 hexadecimal digits that no other exchange has (Kong 3.9, `X-Kong-Request-Id`). They protect nothing.
///
/// A value without memory of its own: every exchange has one, and most are never looked at.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// The digits of `value`. Formatting would cost ten times as much.
    pub fn new(value: u128) -> Self {
        let mut digits = [b'0'; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(value.to_be_bytes()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Self(digits)
    }

    /// The digits as bytes, which costs no look at them.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The digit of a number below 16.
const fn digit(value: u8) -> u8 {
    if value < 10 {
        b'0' + value
    } else {
        b'a' - 10 + value
    }
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        // Digits are always text.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::RequestId;

    #[test]
    fn a_number_is_written_as_formatting_would() {
        for value in [0, 1, 0x0123_4567_89ab_cdef, u128::MAX, u128::MAX / 7] {
            assert_eq!(&*RequestId::new(value), format!("{value:032x}"));
        }
    }
}
