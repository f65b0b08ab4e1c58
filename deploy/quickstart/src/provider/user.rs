//! The people who can sign in at the demo provider.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::{Map, Value, json};

/// Somebody who can sign in. The password is a demo's or a test's and may be printed.
#[derive(Clone, Debug)]
pub struct User {
    /// The name typed into the login page, and `preferred_username`.
    pub username: String,
    /// The password typed into the login page.
    pub password: String,
    /// The `sub` claim.
    pub subject: String,
    /// The `name` claim.
    pub name: String,
    /// The `groups` claim.
    pub groups: Vec<String>,
}

impl User {
    /// A user whose password is `<username>-password` and whose subject is `sub-<username>`.
    pub fn named(username: &str, name: &str, groups: &[&str]) -> Self {
        Self {
            username: username.to_owned(),
            password: format!("{username}-password"),
            subject: format!("sub-{username}"),
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        }
    }

    /// The demo's users.
    pub fn demo() -> Vec<Self> {
        vec![
            Self::named("alice", "Alice Liddell", &["staff", "admins"]),
            Self::named("bob", "Bob Stone", &["staff"]),
        ]
    }

    /// Whether `password` is this user's.
    pub(super) fn has_password(&self, password: &str) -> bool {
        verify_slices_are_equal(self.password.as_bytes(), password.as_bytes()).is_ok()
    }

    /// The claims that `scope` allows (OpenID Connect Core §5.4), and the groups, always.
    pub(super) fn claims(&self, scope: &str) -> Map<String, Value> {
        let mut claims = Map::new();
        claims.insert("sub".into(), json!(self.subject));
        claims.insert("groups".into(), json!(self.groups));
        let granted = |wanted: &str| scope.split(' ').any(|word| word == wanted);
        if granted("profile") {
            claims.insert("name".into(), json!(self.name));
            claims.insert("preferred_username".into(), json!(self.username));
        }
        if granted("email") {
            claims.insert(
                "email".into(),
                json!(format!("{}@demo.example", self.username)),
            );
            claims.insert("email_verified".into(), json!(true));
        }
        claims
    }
}
