//! The gateway's own cookies among those of a request, told by their seal: whichever plugin set one, for whichever route
//! of a host, no upstream is to see it. Whoever has it is its user.

use std::collections::HashMap;

use crate::credentials::cookies::parts;
use crate::sessions::seal;
use crate::sessions::session_keys::KeyRing;

/// What is left of `cookies`, the values of all `Cookie` fields of a request, without those that a key of `ring` has
/// sealed; in one value, byte for byte. `None`: there is none of them.
pub fn without<'a, I: Iterator<Item = &'a [u8]>>(
    cookies: impl Fn() -> I,
    ring: &KeyRing,
) -> Option<Vec<u8>> {
    let all = || cookies().flat_map(parts);
    // The sealed ones by their names, with how many chunks each has. A client may send many, and many others.
    let mut sealed: HashMap<&[u8], u8> = HashMap::new();
    for (_, name, value) in all() {
        if let Some(chunks) = self::sealed(value, ring) {
            let most = sealed.entry(name).or_default();
            *most = chunks.max(*most);
        }
    }
    if sealed.is_empty() {
        return None;
    }
    let mut left = Vec::new();
    for (whole, name, value) in all() {
        let continues = match name {
            [first @ .., digit @ b'2'..=b'9'] => {
                let chunks = sealed.get(first);
                chunks.is_some_and(|chunks| digit - b'0' <= *chunks)
            }
            _ => false,
        };
        if continues || self::sealed(value, ring).is_some() {
            continue;
        }
        if !left.is_empty() {
            left.extend_from_slice(b"; ");
        }
        left.extend_from_slice(whole);
    }
    Some(left)
}

/// In how many chunks a key of `ring` has sealed what begins with `value`, if it has.
fn sealed(value: &[u8], ring: &KeyRing) -> Option<u8> {
    let (chunks, key) = seal::claims(value)?;
    ring.keys
        .iter()
        .any(|known| known.id == key)
        .then_some(chunks)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::sessions::seal::{Binding, Sizes};
    use crate::sessions::session_keys::KeyRing;
    use crate::testing::{key_ring, session_key};

    fn value(ring: &KeyRing, length: usize) -> String {
        let sizes = Sizes {
            chunk: 3_800,
            most: 9,
        };
        let binding = Binding::of(&["any"], None, Uuid::nil());
        let text = vec![7; length];
        seal::seal(ring, &binding, "any", &text, sizes, 1, [9; 12]).unwrap()
    }

    #[test]
    fn rule_69_what_was_sealed_here_is_left_out_whatever_it_is_called() {
        let ring = key_ring();
        let own = value(&ring, 20);
        let long = value(&ring, 4_000);
        let (first, second) = long.split_at(3_800);
        let elsewhere = value(
            &KeyRing {
                keys: vec![session_key(2)],
            },
            20,
        );
        let check = |cookies: &[&str], expected: Option<&str>| {
            let left = without(|| cookies.iter().map(|text| text.as_bytes()), &ring);
            let left = left.map(|left| String::from_utf8(left).unwrap());
            assert_eq!(left.as_deref(), expected, "{cookies:?}");
        };
        check(&[], None);
        for theirs in [
            "a=1",
            "session=",
            "session=AQ",
            "AQ; session=AQEBAQEB",
            " ; x;y=;=z",
            &format!("session={elsewhere}"),
            &format!("session=x{own}"),
            &format!("session2={second}"),
        ] {
            check(&[theirs, "b=2"], None);
        }
        check(&[&format!("session={own}")], Some(""));
        check(
            &[
                &format!("a=1;s1={own} ; b = \"2\""),
                "c",
                &format!("__Host-x={own}"),
            ],
            Some("a=1; b = \"2\"; c"),
        );
        // Further chunks say nothing by themselves: the first tells how many there are.
        check(
            &[&format!("s3=theirs; s2={second}; s={first}; s22=b; ss2=c")],
            Some("s3=theirs; s22=b; ss2=c"),
        );
        // Of several with one name the longest counts, wherever it stands.
        for cookies in [
            format!("s={own};s={first};s2={second};s3=theirs"),
            format!("s2={second};s={first};s3=theirs;s={own}"),
        ] {
            check(&[&cookies], Some("s3=theirs"));
        }
        // As many of both as a head has room for.
        let claim = &own[..16];
        let claims: Vec<String> = (0..1_500)
            .map(|number| format!("a{number}={claim}"))
            .collect();
        let claims = claims.join(";");
        let others = "b;".repeat(16_000);
        let left = "b; ".repeat(16_000);
        let left = left.trim_end_matches("; ");
        check(&[&claims, &others], Some(left));
    }
}
