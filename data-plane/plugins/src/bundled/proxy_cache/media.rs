//! Media types, as `Content-Type` tells them and as a configuration asks for them.

/// A media type with its parameters (RFC 9110 §8.3.1), in lower case.
#[derive(Debug, PartialEq)]
pub(super) struct MediaType {
    kind: String,
    subtype: String,
    /// In the order of their names.
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Reads `text`; `None` if it is malformed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let name = match parts.next()? {
            "*" => "*/*",
            name => name,
        };
        let (kind, subtype) = name.split_once('/')?;
        let parameters = parts.map(|part| {
            let (name, value) = part.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        });
        let mut parameters: Vec<_> = parameters.collect::<Option<_>>()?;
        parameters.sort_unstable();
        let named = !kind.is_empty() && !subtype.is_empty();
        named.then(|| Self {
            kind: kind.to_owned(),
            subtype: subtype.to_owned(),
            parameters,
        })
    }

    /// Whether `other` is meant by this one, in which `*` stands for every kind or subtype.
    pub(super) fn includes(&self, other: &Self) -> bool {
        let means = |wanted: &str, given: &str| wanted == "*" || wanted == given;
        means(&self.kind, &other.kind)
            && means(&self.subtype, &other.subtype)
            && self.parameters == other.parameters
    }
}
