//! Bytes that are not UTF-8 in texts: a header field may hold any above 0x7F (RFC 9110 §5.5, `obs-text`), and what a filter
//! makes of it goes on as it came. Each such byte stands as a character that no text has assigned, and so do those of a
//! text that does hold one of these characters: nothing is lost either way.

use std::borrow::Cow;

/// What byte 0 would stand as: those from 0x80 on are the last characters of the last private plane.
const FIRST: u32 = 0x0010_FF00;

/// `bytes` as a text.
pub(crate) fn from_bytes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes)
        && !text.contains(stands_in)
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if stands_in(character) {
                let mut buffer = [0; 4];
                text.extend(character.encode_utf8(&mut buffer).bytes().map(stand_in));
            } else {
                text.push(character);
            }
        }
        text.extend(chunk.invalid().iter().copied().map(stand_in));
    }
    Cow::Owned(text)
}

/// The bytes that `text` was made of.
pub(crate) fn to_bytes(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(stands_in) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(bytes)
}

/// `text` for where only UTF-8 may stand, such as JSON: what is none shows as U+FFFD.
pub(crate) fn shown(text: &str) -> String {
    String::from_utf8_lossy(&to_bytes(text)).into_owned()
}

fn byte(character: char) -> Option<u8> {
    let byte = u32::from(character).checked_sub(FIRST)?;
    u8::try_from(byte).ok().filter(|byte| !byte.is_ascii())
}

fn stands_in(character: char) -> bool {
    byte(character).is_some()
}

/// What `byte`, which is no ASCII, stands as.
fn stand_in(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_lost(
            bytes: Vec<u8>,
            odd in proptest::collection::vec(0x0010_FF00_u32..0x0011_0000, 0..4),
        ) {
            let odd: String = odd.into_iter().filter_map(char::from_u32).collect();
            let bytes = [&bytes, odd.as_bytes(), &bytes].concat();
            let text = from_bytes(&bytes);
            prop_assert_eq!(&*to_bytes(&text), &bytes);
        }
    }

    #[test]
    fn what_is_utf_8_is_the_same_text() {
        assert!(matches!(
            from_bytes("grün".as_bytes()),
            Cow::Borrowed("grün")
        ));
        assert_eq!(shown(&from_bytes(b"gr\xFCn")), "gr\u{FFFD}n");
    }
}
