//! Values that cannot be printed.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret: wiped when dropped, `[redacted]` wherever it would be printed, and not serializable.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value. Each call is a place to look at in a review.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// `Debug` for types that hold what nobody may read in a log: tells their name, and that there is more.
#[macro_export]
macro_rules! unsaid {
    ($name:ident $(<$lifetime:lifetime>)?) => {
        impl $(<$lifetime>)? ::std::fmt::Debug for $name $(<$lifetime>)? {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(concat!(stringify!($name), " { .. }"))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::Secret;

    struct Token<'a>(&'a str);

    crate::unsaid!(Token<'a>);

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(secret.expose(), "hunter2");
        let token = Token(secret.expose());
        assert_eq!(
            (format!("{token:?}").as_str(), token.0),
            ("Token { .. }", "hunter2")
        );
    }
}
