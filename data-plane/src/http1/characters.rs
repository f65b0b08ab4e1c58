//! What each byte of a head may be part of, as lookup tables: a lookup costs less than comparisons.

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
