//! Long header values of the last requests on a connection. Most clients send the same cookie or token again, and
//! comparing it costs less than parsing and judging it again.

use std::ops::Range;
use std::rc::Rc;

use plugins::glance::Made;

use super::characters::text_length;
use super::kind::Kind;

/// A long text, and what filters have made of it.
pub(super) struct LongText {
    text: Box<[u8]>,
    made: Made,
}

shared::unsaid!(LongText);

/// Those of the fields that most clients repeat.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeated {
    cookie: Option<Rc<LongText>>,
    authorization: Option<Rc<LongText>>,
}

impl Repeated {
    /// What was made of that of the field of `kind`.
    pub(super) fn made(&self, kind: Kind) -> Option<&Made> {
        let text = match kind {
            Kind::COOKIE => self.cookie.as_ref()?,
            Kind::AUTHORIZATION => self.authorization.as_ref()?,
            _ => return None,
        };
        Some(&text.made)
    }
}

/// Those that a connection keeps.
#[derive(Debug, Default)]
pub(super) struct LongTexts {
    repeated: Repeated,
    others: [Option<Rc<LongText>>; 2],
    turn: usize,
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
        let Repeated {
            cookie,
            authorization,
        } = &self.repeated;
        let all = [cookie, authorization].into_iter().chain(&self.others);
        all.flatten().map(|known| known.text.len()).sum()
    }

    /// How long the text is that `bytes` begin with, the value of a field of `kind`. If it is the very one that came before,
    /// it is noted `again`.
    pub(super) fn length(&mut self, kind: Kind, bytes: &[u8], again: &mut Repeated) -> usize {
        let (known, again) = match kind {
            Kind::COOKIE => (&mut self.repeated.cookie, &mut again.cookie),
            Kind::AUTHORIZATION => (&mut self.repeated.authorization, &mut again.authorization),
            _ => return self.length_of_other(bytes),
        };
        *again = None;
        if let Some(known) = known
            && let Some(more) = bytes.strip_prefix(&*known.text)
        {
            let more = text_length(more);
            *again = (more == 0).then(|| Rc::clone(known));
            return known.text.len() + more;
        }
        let length = text_length(bytes);
        if let Some(text) = kept(bytes, length) {
            *known = Some(text);
        }
        length
    }

    /// The same of a field that is asked for nothing more.
    fn length_of_other(&mut self, bytes: &[u8]) -> usize {
        let Some((start, rest)) = bytes.split_at_checked(Self::KEPT.start) else {
            return text_length(bytes);
        };
        let length = text_length(start);
        if length < start.len() {
            return length;
        }
        let mut known = self.others.iter().flatten();
        if let Some(more) = known.find_map(|known| bytes.strip_prefix(&*known.text)) {
            return bytes.len() - more.len() + text_length(more);
        }
        let length = bytes.len() - rest.len() + text_length(rest);
        if let Some(text) = kept(bytes, length) {
            self.turn = (self.turn + 1) % self.others.len();
            if let Some(slot) = self.others.get_mut(self.turn) {
                *slot = Some(text);
            }
        }
        length
    }
}

/// The text of this `length` that `bytes` begin with, if it is whole and is to be kept.
fn kept(bytes: &[u8], length: usize) -> Option<Rc<LongText>> {
    let is_whole = bytes.get(length) == Some(&b'\r');
    let text = bytes.get(..length)?;
    (is_whole && LongTexts::KEPT.contains(&length)).then(|| {
        Rc::new(LongText {
            text: text.into(),
            made: Made::default(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_came_before_is_looked_at_like_a_new_one() {
        let mut texts = LongTexts::default();
        for kind in [Kind::OTHER, Kind::COOKIE, Kind::AUTHORIZATION] {
            let mut check = |text: &str, length: usize| {
                let found = texts.length(kind, text.as_bytes(), &mut Repeated::default());
                assert_eq!(found, length);
            };
            for length in [127, 128, 129, 300, 8191, 8192] {
                for letter in ["a", "b", "a", "a", "c", "a"] {
                    let text = letter.repeat(length);
                    for end in ["\r\n", "\n", "\0", ""] {
                        check(&format!("{text}{end}"), length);
                        check(&format!("{text}\u{e9} {end}"), length + 3);
                        let broken = format!("{}\u{7f}{text}", &text[..length / 2]);
                        check(&broken, length / 2);
                    }
                }
            }
        }
        assert!(texts.room() > 0);
        texts.forget();
        assert_eq!(texts.room(), 0);
    }

    #[test]
    fn what_was_made_of_a_text_is_found_with_the_very_same_alone() {
        let mut texts = LongTexts::default();
        // What was made of it before, if it came before; what is made of it now is kept.
        let mut made_of = |kind: Kind, text: &str, now: u8| {
            let mut again = Repeated::default();
            texts.length(kind, format!("{text}\r\n").as_bytes(), &mut again);
            let made = again.made(kind)?;
            let before = made.find::<u8>(7).map(|made| *made);
            assert!(made.find::<u8>(8).is_none() && made.find::<u16>(7).is_none());
            made.keep(7, Rc::new(now));
            Some(before)
        };
        let long = "a".repeat(200);
        for kind in [Kind::COOKIE, Kind::AUTHORIZATION] {
            for _ in 0..2 {
                assert_eq!(made_of(kind, "short", 0), None);
            }
            assert_eq!(made_of(kind, &long, 1), None);
            assert_eq!(made_of(kind, &long, 2), Some(None));
            assert_eq!(made_of(kind, &long, 3), Some(Some(2)));
            for other in [format!("{long}a"), "b".repeat(200)] {
                assert_eq!(made_of(kind, &other, 4), None);
            }
            assert_eq!(made_of(kind, &long, 5), None);
            assert_eq!(made_of(kind, &long, 6), Some(None));
        }
        assert_eq!(made_of(Kind::COOKIE, &long, 7), Some(Some(6)));
        for _ in 0..2 {
            assert_eq!(made_of(Kind::OTHER, &long, 8), None);
        }
    }
}
