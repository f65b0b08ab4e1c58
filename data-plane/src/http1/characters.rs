//! What a byte of a head can be part of, by tables: to look there costs less than to compare.

use std::fmt;
use std::ops::Range;

/// The bytes of field names in lower case; 0 for what none can have (RFC 9110 §5.6.2).
static LOWER: [u8; 256] = lower_names();

/// Whether a byte can be part of text: a field's value, or a reason (RFC 9110 §5.5).
static TEXT: [bool; 256] = text();

/// How long the field name is that `line` begins with, which is written in lower case.
#[inline(never)] // For registers of its own.
pub(super) fn name_length(line: &mut [u8]) -> usize {
    let mut length = 0;
    for byte in line {
        let lower = LOWER.get(usize::from(*byte)).copied().unwrap_or_default();
        if lower == 0 {
            break;
        }
        *byte = lower;
        length += 1;
    }
    length
}

/// How long the text is that `bytes` begin with: up to the first byte that none can have.
#[inline(never)] // For registers of its own.
pub(super) fn text_length(bytes: &[u8]) -> usize {
    // Nearly every value is shorter than this.
    const CHUNK: usize = 32;
    let in_text = |bytes: &[u8]| bytes.iter().position(|byte| !fits_in_text(*byte));
    let (chunks, rest) = bytes.as_chunks::<CHUNK>();
    for (number, chunk) in chunks.iter().enumerate() {
        // Of long ones many bytes are looked at at once: without a branch.
        let fits = |chunk: &[u8; CHUNK]| chunk.iter().fold(0, |all, byte| all | misfit(*byte)) == 0;
        if number > 0 && fits(chunk) {
            continue;
        }
        if let Some(length) = in_text(chunk) {
            return number * CHUNK + length;
        }
    }
    bytes.len() - rest.len() + in_text(rest).unwrap_or(rest.len())
}

/// Texts of the last heads that came by a connection, as far as they are long. Most clients send the same cookie or
/// token again: to compare it costs less than to look at it anew.
#[derive(Default)]
pub(super) struct LongTexts {
    known: [Vec<u8>; 2],
    turn: usize,
}

impl fmt::Debug for LongTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LongTexts").finish_non_exhaustive()
    }
}

impl LongTexts {
    /// What is long, and what is too long to be kept.
    const KEPT: Range<usize> = 128..8 * 1024;

    /// Forgets them, and gives back their memory.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The memory that they take.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.known.iter().map(Vec::capacity).sum()
    }

    /// How long the text is that `bytes` begin with.
    pub(super) fn length(&mut self, bytes: &[u8]) -> usize {
        let Some((start, rest)) = bytes.split_at_checked(Self::KEPT.start) else {
            return text_length(bytes);
        };
        let length = text_length(start);
        if length < start.len() {
            length
        } else {
            self.length_of_long(bytes, rest)
        }
    }

    /// The same where `rest` follows on text.
    fn length_of_long(&mut self, bytes: &[u8], rest: &[u8]) -> usize {
        let mut known = self.known.iter();
        let same = known.find(|known| !known.is_empty() && bytes.starts_with(known));
        if let Some(more) = same.and_then(|known| bytes.get(known.len()..)) {
            return bytes.len() - more.len() + text_length(more);
        }
        let length = bytes.len() - rest.len() + text_length(rest);
        if let Some(text) = bytes.get(..length)
            && bytes.get(length) == Some(&b'\r')
            && Self::KEPT.contains(&length)
        {
            self.turn = (self.turn + 1) % self.known.len();
            if let Some(slot) = self.known.get_mut(self.turn) {
                slot.clear();
                slot.extend_from_slice(text);
            }
        }
        length
    }
}

/// Whether a byte can be part of text.
pub(super) fn fits_in_text(byte: u8) -> bool {
    TEXT.get(usize::from(byte)).copied().unwrap_or_default()
}

/// 0 for what can be part of text.
fn misfit(byte: u8) -> u8 {
    (u8::from(byte < b' ') & u8::from(byte != b'\t')) | u8::from(byte == 0x7f)
}

#[expect(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "all that a constant can do, and the compiler watches"
)]
const fn lower_names() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    while byte < 0x7f {
        table[byte as usize] = match byte {
            b'A'..=b'Z' => byte | 0x20,
            b'a'..=b'z'
            | b'0'..=b'9'
            | b'!'
            | b'#'..=b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'..=b'`'
            | b'|'
            | b'~' => byte,
            _ => 0,
        };
        byte += 1;
    }
    table
}

#[expect(
    clippy::indexing_slicing,
    reason = "all that a constant can do, and the compiler watches"
)]
const fn text() -> [bool; 256] {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = byte == 0x09;
        byte += 1;
    }
    table[0x7f] = false;
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_looked_at_like_a_short_one() {
        for length in [1, 31, 32, 33, 63, 64, 65, 100, 200] {
            let text = "a\t".repeat(length);
            let text = text.get(..length).unwrap();
            assert_eq!(text_length(text.as_bytes()), length);
            for byte in [0, b'\n', b'\r', 0x1f, 0x7f] {
                let broken = [text.as_bytes(), &[byte], b"more"].concat();
                assert_eq!(text_length(&broken), length, "{byte}");
            }
            let fits = [text.as_bytes(), &[0x80, 0xff, b' ', b'~']].concat();
            assert_eq!(text_length(&fits), length + 4);
        }
        for byte in 0..=0xff {
            assert_eq!(fits_in_text(byte), misfit(byte) == 0, "{byte}");
        }
    }

    #[test]
    fn a_text_that_came_before_is_looked_at_like_a_new_one() {
        let mut texts = LongTexts::default();
        for length in [127, 128, 129, 300, 8191, 8192] {
            for letter in ["a", "b", "a", "a", "c", "a"] {
                let text = letter.repeat(length);
                for end in ["\r\n", "\n", "\0", ""] {
                    assert_eq!(texts.length(format!("{text}{end}").as_bytes()), length);
                    let longer = format!("{text}\u{e9} {end}");
                    assert_eq!(texts.length(longer.as_bytes()), length + 3);
                    let broken = format!("{}\u{7f}{text}", &text[..length / 2]);
                    assert_eq!(texts.length(broken.as_bytes()), length / 2);
                }
            }
        }
    }

    #[test]
    fn a_name_is_a_token_in_lower_case() {
        let all = "!#$%&'*+-.^_`|~09azAZ";
        let mut line = format!("{all}: x").into_bytes();
        assert_eq!(name_length(&mut line), all.len());
        assert_eq!(line, format!("{}: x", all.to_lowercase()).into_bytes());
        for byte in b"\"(),/:;<=>?@[\\]{} \t\r\n\0\x7f\x80\xff" {
            assert_eq!(name_length(&mut [b'a', *byte]), 1, "{byte}");
        }
    }
}
