//! The version of Kong that both planes speak as, and that of this program.

/// What the Admin API and the plugins tell: that of the Kong whose contract this is.
pub const KONG_VERSION: &str = "3.9.1";

/// The same as a product token (RFC 9110 §10.1.5), for `Server` and `Via`.
pub const KONG_PRODUCT: &str = "kong/3.9.1";

/// The version of this program, as nodes tell it: what it was built as (`WARDGATE_VERSION`).
pub const VERSION: &str = match option_env!("WARDGATE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

#[cfg(test)]
mod tests {
    use super::{KONG_PRODUCT, KONG_VERSION};

    #[test]
    fn both_tell_the_same() {
        assert_eq!(KONG_PRODUCT, format!("kong/{KONG_VERSION}"));
    }
}
