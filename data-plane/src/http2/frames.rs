//! The frames of HTTP/2 in one direction of a connection, as their bytes pass.

/// What a client says before its first frame (RFC 9113 §3.4).
pub(super) const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// Kinds of frames (RFC 9113 §6).
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const CONTINUATION: u8 = 9;

/// There has been none so far.
const NONE: u8 = u8::MAX;

/// The flag of the last frame of a head (RFC 9113 §6.2, §6.10).
const END_HEADERS: u8 = 4;

/// How much has come of the last head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Head {
    /// All of it, or no more than a part of its only frame.
    Whole,
    /// Some of its frames.
    Begun,
    /// A part of the last of several.
    Ending,
}

impl Head {
    /// The same once the head of `frame` has passed.
    pub(super) const fn with(self, frame: Frame) -> Self {
        let is_last = frame.flags & END_HEADERS != 0;
        match (frame.kind, is_last, self) {
            (HEADERS, false, _) | (CONTINUATION, false, Self::Begun) => Self::Begun,
            (CONTINUATION, true, Self::Begun) => Self::Ending,
            _ => Self::Whole,
        }
    }

    /// The same once the payload of the last frame has passed.
    pub(super) const fn through(self) -> Self {
        match self {
            Self::Begun => Self::Begun,
            Self::Whole | Self::Ending => Self::Whole,
        }
    }
}

/// What is known of a frame once its head has passed (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Frame {
    pub(super) length: u32,
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
}

/// The frames in one direction of a connection, wherever its bytes are cut.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that come before the next head.
    pub(super) before: usize,
    head: [u8; 9],
    /// How much of that has passed.
    passed: usize,
}

impl Frames {
    /// Those that begin behind so many bytes.
    pub(super) const fn behind(before: usize) -> Self {
        Self {
            before,
            head: [NONE; 9],
            passed: 0,
        }
    }

    /// Whether no frame has passed in part.
    pub(super) const fn is_between(&self) -> bool {
        self.before == 0 && self.passed == 0
    }

    /// Whether a part is missing of what a connection begins with, or of a frame of a head.
    pub(super) const fn is_within_head(&self) -> bool {
        let [_, _, _, kind, ..] = self.head;
        self.before > 0 && matches!(kind, HEADERS | CONTINUATION | NONE)
    }

    /// Takes away from `bytes` what comes before the next head.
    pub(super) fn skip(&mut self, bytes: &mut &[u8]) {
        let skipped = self.before.min(bytes.len());
        self.before -= skipped;
        *bytes = bytes.split_at(skipped).1;
    }

    /// The next frame whose head ends in `bytes`, which begin with it, or with the rest of it: these it takes away.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let (passing, rest) = bytes.split_at(bytes.len().min(self.head.len() - self.passed));
        let head = self.head.iter_mut().skip(self.passed);
        head.zip(passing).for_each(|(to, from)| *to = *from);
        self.passed += passing.len();
        *bytes = rest;
        if self.passed < self.head.len() {
            return None;
        }
        self.passed = 0;
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.before = usize::try_from(length).unwrap_or(usize::MAX);
        Some(Frame {
            length,
            kind,
            flags,
            // Without the bit that is reserved.
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as it passes.
    fn bytes(kind: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_found_wherever_their_bytes_are_cut() {
        let all = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            bytes(4, &[]),
            bytes(DATA, &[0; 300]),
            bytes(6, &[1; 8]),
        ]
        .concat();
        let frame = |length, kind| Frame {
            length,
            kind,
            flags: 0,
            stream: 1,
        };
        let expected = [frame(0, 4), frame(300, DATA), frame(8, 6)];
        for size in 1..=all.len() {
            let mut frames = Frames::behind(PREFACE);
            let mut found = Vec::new();
            for mut part in all.chunks(size) {
                loop {
                    frames.skip(&mut part);
                    let Some(frame) = frames.next(&mut part) else {
                        break;
                    };
                    found.push(frame);
                }
                assert!(part.is_empty());
            }
            assert_eq!(found, expected, "{size}");
            assert!(frames.is_between());
        }
        let mut frames = Frames::behind(0);
        frames.next(&mut &all[PREFACE..=PREFACE]);
        assert!(!frames.is_between());
    }

    #[test]
    fn what_is_missing_of_a_frame_is_missing_of_a_head_if_it_is_one_of_a_head() {
        let is_within_head = |passed: &[u8]| {
            let mut frames = Frames::behind(0);
            let mut rest = passed;
            loop {
                frames.skip(&mut rest);
                if frames.next(&mut rest).is_none() {
                    return frames.is_within_head();
                }
            }
        };
        for (kind, of_head) in [
            (HEADERS, true),
            (CONTINUATION, true),
            (DATA, false),
            (6, false),
        ] {
            let all = bytes(kind, &[1; 8]);
            for length in 0..=all.len() {
                // Before its kind is known it may be any.
                let expected = of_head && (9..all.len()).contains(&length);
                assert_eq!(is_within_head(&all[..length]), expected, "{kind} {length}");
            }
        }
        assert!(Frames::behind(PREFACE).is_within_head());
    }

    #[test]
    fn a_head_is_unfinished_until_the_last_byte_of_its_last_frame() {
        let of = |kind, flags| Frame {
            length: 1,
            kind,
            flags,
            stream: 1,
        };
        let whole = Head::Whole.with(of(HEADERS, END_HEADERS));
        assert_eq!(whole, Head::Whole);
        let begun = whole.with(of(HEADERS, 1));
        assert_eq!(begun, Head::Begun);
        let begun = begun.with(of(CONTINUATION, 0));
        assert_eq!(begun, Head::Begun);
        let ending = begun.with(of(CONTINUATION, END_HEADERS));
        assert_eq!(ending, Head::Ending);
        assert_eq!(begun.through(), Head::Begun);
        assert_eq!(ending.through(), Head::Whole);
        assert_eq!(ending.with(of(DATA, 0)), Head::Whole);
        assert_eq!(ending.with(of(HEADERS, 0)), Head::Begun);
    }
}
