//! What keeps a session valid and what ends it: keys and what they seal, revocations, and the tenure of what it let in.

pub(crate) mod cookie;
pub(crate) mod facts;
pub mod revocations;
pub(crate) mod seal;
pub mod sealed_cookies;
pub mod session_keys;
pub mod tenure;
