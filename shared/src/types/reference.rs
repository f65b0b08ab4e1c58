//! References to secrets: `{vault://env/NAME}`, `{vault://file/path/key}`.

/// Where a secret is to be read. Its text is `{vault://VAULT/SECRET}` or `{vault://VAULT/SECRET/KEY}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reference<'a> {
    /// A backend, or the prefix of a configured vault.
    pub vault: &'a str,
    /// All that follows the vault, slashes included.
    pub path: &'a str,
    /// What is put before the path, in place of what the vault says: `?prefix=`.
    pub prefix: Option<&'a str>,
}

/// Whether `text` stands for a secret and is none itself.
pub fn is_reference(text: &str) -> bool {
    inner(text).is_some()
}

fn inner(text: &str) -> Option<&str> {
    text.strip_prefix("{vault://")?
        .strip_suffix('}')
        .filter(|inner| !inner.is_empty())
}

impl<'a> Reference<'a> {
    /// Reads a reference; `None` if `text` is none, or lacks a vault or a secret.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (vault, path) = inner(text)?.split_once('/')?;
        // Of the options behind a question mark, how long secrets live says nothing here.
        let (path, options) = path.split_once('?').unwrap_or((path, ""));
        let mut options = options.split('&');
        (!vault.is_empty() && !path.is_empty()).then_some(Self {
            vault,
            path,
            prefix: options.find_map(|option| option.strip_prefix("prefix=")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_vault_and_a_secret() {
        let parsed = Reference::parse("{vault://env/my-secret/key}");
        let expected = Reference {
            vault: "env",
            path: "my-secret/key",
            prefix: None,
        };
        assert_eq!(parsed, Some(expected));
        let parsed = Reference::parse("{vault://env/a?ttl=3&prefix=b-}").unwrap();
        assert_eq!((parsed.path, parsed.prefix), ("a", Some("b-")));
        for text in [
            "",
            "{vault://}",
            "{vault://env}",
            "{vault:///x}",
            "{vault://env/}",
            "vault://env/x",
        ] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
        assert!(is_reference("{vault://env}") && !is_reference("{vault://}"));
    }
}
