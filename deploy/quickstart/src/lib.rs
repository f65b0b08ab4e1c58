//! What the demo is made of besides the two planes: an OpenID provider with a login page and an
//! upstream that shows what reaches it.

mod page;
pub mod provider;
pub mod upstream;
