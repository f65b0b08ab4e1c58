//! The fields of a head where they lie in its bytes: found and judged in one pass, passed on by copying.
//!
//! Most heads pass a gateway without anybody asking for more than a few of their fields. So they become values
//! only where somebody wants to change them: see [`Headers`](super::headers::Headers).

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use plugins::glance::Made;

use super::characters::name_length;
use super::head::MAX_FIELDS;
use super::kind::Kind;
use super::long_texts::{LongTexts, Repeated};
use super::{FramingError, members};

/// Fields that there is room for at once.
const USUAL: usize = 16;

/// The fields of one head, in order, their names in lower case.
#[derive(Clone)]
pub(crate) struct Fields {
    head: Bytes,
    all: Vec<Field>,
    /// All kinds that occur.
    kinds: Kind,
    /// Those that are left out.
    dropped: Kind,
    /// Whether each line is written as we would write it, and can be copied as it is.
    plain: bool,
    connection: Connection,
    /// Long values that came before by the same connection.
    again: Repeated,
}

shared::unsaid!(Fields);

/// What the `Connection` fields of a head name (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Connection {
    /// `close`.
    pub(crate) close: bool,
    /// `keep-alive`.
    pub(crate) keep_alive: bool,
    /// Other fields.
    pub(crate) fields: bool,
}

impl Connection {
    fn add(&mut self, value: &[u8]) {
        // As nearly every server writes it.
        if value == b"keep-alive" {
            self.keep_alive = true;
            return;
        }
        for member in members(value) {
            if member.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if member.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else {
                self.fields = true;
            }
        }
    }
}

/// Where a field's parts lie.
#[derive(Clone, Copy, Debug)]
struct Field {
    start: usize,
    name_end: usize,
    value_start: usize,
    value_end: usize,
    kind: Kind,
}

/// What [`find`] has found in a head.
#[derive(Debug)]
pub(crate) struct Found {
    all: Vec<Field>,
    kinds: Kind,
    plain: bool,
    connection: Connection,
    again: Repeated,
}

thread_local! {
    /// Lists of fields that are no longer needed: each request takes two.
    static SPARE: RefCell<Vec<Vec<Field>>> = const { RefCell::new(Vec::new()) };
}

/// Most lists that a core keeps.
const SPARES: usize = 64;

impl Drop for Fields {
    fn drop(&mut self) {
        let mut all = std::mem::take(&mut self.all);
        if all.capacity() != USUAL {
            return;
        }
        all.clear();
        // At the end of a thread nothing is kept.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(all);
            }
        });
    }
}

/// Finds and judges the fields that lie in `input` from `start` up to the empty line that ends the head, and writes
/// their names in lower case. Says where the head ends.
pub(super) fn find(
    input: &mut [u8],
    start: usize,
    texts: &mut LongTexts,
) -> Result<(Found, usize), FramingError> {
    let mut found = Found {
        all: SPARE
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| Vec::with_capacity(USUAL)),
        kinds: Kind::OTHER,
        plain: true,
        connection: Connection::default(),
        again: Repeated::default(),
    };
    let mut at = start;
    loop {
        let line = input.get_mut(at..).unwrap_or_default();
        if line.starts_with(b"\r\n") {
            return Ok((found, at + 2));
        }
        let (field, plain, next) = field(line, at, texts, &mut found.again)?;
        if found.all.len() == MAX_FIELDS {
            return Err(FramingError::HeadTooLarge);
        }
        if field.kind == Kind::CONNECTION {
            let value = text(input, field.value_start, field.value_end);
            found.connection.add(value);
        }
        found.kinds = found.kinds.and(field.kind);
        found.plain &= plain;
        found.all.push(field);
        at = next;
    }
}

/// The field that `line` begins with, which lies at `at`; whether it is plain; where the next line begins.
fn field(
    line: &mut [u8],
    at: usize,
    texts: &mut LongTexts,
    again: &mut Repeated,
) -> Result<(Field, bool, usize), FramingError> {
    let length = name_length(line);
    let line: &[u8] = line;
    let (name, rest) = line.split_at(length);
    let [b':', rest @ ..] = rest else {
        return Err(FramingError::Head(
            "not a field name, or no colon behind it",
        ));
    };
    if name.is_empty() {
        return Err(FramingError::Head("a field without a name"));
    }
    let kind = Kind::of_text(name);
    let (text, end) = rest.split_at(texts.length(kind, rest, again));
    if !end.starts_with(b"\r\n") {
        return Err(FramingError::Head(match end.first() {
            Some(b'\n') => "a line ends in a bare line feed",
            Some(_) => "a control character in a field's value",
            None => "the head ends early",
        }));
    }
    let (begins, value) = match text {
        // As nearly every client writes it.
        [b' ', value @ ..] if value.first().is_some_and(|byte| !is_space(*byte)) => (1, value),
        _ => {
            let begins = text.iter().take_while(|byte| is_space(**byte)).count();
            (begins, text.get(begins..).unwrap_or_default())
        }
    };
    let behind = value
        .iter()
        .rev()
        .take_while(|byte| is_space(**byte))
        .count();
    let value_start = length + 1 + begins;
    let value_end = length + 1 + text.len() - behind;
    let field = Field {
        start: at,
        name_end: at + length,
        value_start: at + value_start,
        value_end: at + value_end,
        kind,
    };
    // One space before the value, and the line's end right behind it.
    let plain = begins == 1 && behind == 0 && text.first() == Some(&b' ') && !value.is_empty();
    Ok((field, plain, at + length + 1 + text.len() + 2))
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

impl Fields {
    /// The bytes of the head that they are in.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// The fields that were `found` in `head`.
    pub(crate) fn new(head: Bytes, found: Found) -> Self {
        Self {
            head,
            all: found.all,
            kinds: found.kinds,
            dropped: Kind::OTHER,
            plain: found.plain,
            connection: found.connection,
            again: found.again,
        }
    }

    /// What the `Connection` of the head has named, whether or not it is left out.
    pub(crate) const fn connection(&self) -> Connection {
        self.connection
    }

    /// Leaves out the fields of `kinds`, as if they had not come.
    pub(crate) const fn leave_out(&mut self, kinds: Kind) {
        self.kinds = self.kinds.without(kinds);
        self.dropped = self.dropped.and(kinds);
    }

    /// Leaves out the fields whose names `dropped` tells, as if they had not come.
    pub(crate) fn leave_out_named(&mut self, dropped: impl Fn(&[u8]) -> bool) {
        let mut kinds = Kind::OTHER;
        for field in &mut self.all {
            if dropped(text(&self.head, field.start, field.name_end)) {
                field.kind = Kind::LEFT_OUT;
            }
            kinds = kinds.and(field.kind);
        }
        self.dropped = self.dropped.and(Kind::LEFT_OUT);
        self.kinds = kinds.without(self.dropped);
    }

    /// Whether any field is of one of `kinds`.
    pub(crate) const fn has(&self, kinds: Kind) -> bool {
        self.kinds.is_any_of(kinds)
    }

    /// Whether each line can be copied as it is.
    pub(crate) const fn is_plain(&self) -> bool {
        self.plain
    }

    /// The values of the fields of one of `kinds`.
    pub(crate) fn of(&self, kinds: Kind) -> Values<'_> {
        Values {
            fields: self,
            left: if self.has(kinds) { &self.all[..] } else { &[] }.iter(),
            kinds,
            name: None,
        }
    }

    /// The value of the field of `kind`, which has one name, if there is one such field.
    pub(crate) fn sole(&self, kind: Kind) -> Option<&[u8]> {
        if !self.has(kind) {
            return None;
        }
        let mut fields = self.all.iter().filter(|field| field.kind == kind);
        let sole = fields.next()?;
        fields.next().is_none().then(|| self.value(sole))
    }

    /// What was made of the value of a field of `kind`, if that came before by the same connection.
    pub(crate) fn made(&self, kind: Kind) -> Option<&Made> {
        self.again.made(kind)
    }

    /// The values of the fields called `name`, which is of `kind`.
    pub(crate) fn called<'a>(&'a self, kind: Kind, name: &'a HeaderName) -> Values<'a> {
        let possible = kind == Kind::OTHER || self.has(kind);
        Values {
            fields: self,
            left: if possible { &self.all[..] } else { &[] }.iter(),
            kinds: kind,
            name: Some(name.as_str().as_bytes()),
        }
    }

    /// Names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.left(Kind::OTHER)
            .map(|field| (self.name(field), self.value(field)))
    }

    /// Copies the lines of all fields but those of `kinds`. Call only if they are plain.
    pub(crate) fn copy_without(&self, kinds: Kind, to: &mut BytesMut) {
        // Lines that follow each other are copied as one.
        let mut run = 0..0;
        for field in self.left(kinds) {
            if run.end != field.start {
                to.extend_from_slice(self.text(run.start, run.end));
                run.start = field.start;
            }
            run.end = field.value_end + 2;
        }
        to.extend_from_slice(self.text(run.start, run.end));
    }

    /// The fields as values that share the head's memory, with room for some more. Long values are made by
    /// `make`, from the head and a part of it.
    pub(crate) fn to_map(
        &self,
        mut room: HeaderMap,
        mut make: impl FnMut(&Bytes, &[u8]) -> Option<HeaderValue>,
    ) -> HeaderMap {
        room.reserve(self.all.len() + ADDED);
        for (name, value) in self.iter() {
            let name = HeaderName::from_bytes(name).expect("a name that was judged is one");
            let value = make(&self.head, value).expect("a value that was judged is one");
            room.append(name, value);
        }
        room
    }

    /// The fields that are left without `kinds`.
    fn left(&self, kinds: Kind) -> impl Iterator<Item = &Field> {
        let dropped = self.dropped.and(kinds);
        let all = self.all.iter();
        all.filter(move |field| !field.kind.is_any_of(dropped))
    }

    fn name(&self, field: &Field) -> &[u8] {
        self.text(field.start, field.name_end)
    }

    fn value(&self, field: &Field) -> &[u8] {
        self.text(field.value_start, field.value_end)
    }

    fn text(&self, start: usize, end: usize) -> &[u8] {
        text(&self.head, start, end)
    }
}

fn text(head: &[u8], start: usize, end: usize) -> &[u8] {
    head.get(start..end).unwrap_or_default()
}

/// Values of fields of one kind.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    fields: &'a Fields,
    left: std::slice::Iter<'a, Field>,
    kinds: Kind,
    /// Which of that kind; none for all.
    name: Option<&'a [u8]>,
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let fields = self.fields;
        let fits = |field: &&Field| {
            let kind = field.kind;
            (kind == self.kinds || kind.is_any_of(self.kinds))
                && !kind.is_any_of(fields.dropped)
                && self.name.is_none_or(|name| fields.name(field) == name)
        };
        self.left.find(fits).map(|field| fields.value(field))
    }
}

/// Fields that the gateway adds: room for them is made at once.
const ADDED: usize = 6;

/// A part of `head` as a value.
pub(crate) fn shared(head: &Bytes, part: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(head.slice_ref(part)).ok()
}

#[cfg(test)]
impl Fields {
    /// Those of `lines`, without the empty one behind them.
    pub(crate) fn read(lines: &str) -> Result<Self, FramingError> {
        let mut head = BytesMut::from(&*format!("{lines}\r\n"));
        let (found, length) = find(&mut head, 0, &mut LongTexts::default())?;
        if length < head.len() {
            return Err(FramingError::Head("the head ends early"));
        }
        Ok(Self::new(head.freeze(), found))
    }
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;

    fn listed<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(String, Vec<u8>)> {
        fields
            .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec()))
            .collect()
    }

    #[test]
    fn what_is_left_out_is_nowhere() {
        let text = "A: 1\r\nConnection: close\r\nB: 2\r\nC: 3\r\nDate: x\r\n";
        let mut fields = Fields::read(text).unwrap();
        fields.leave_out(Kind::HOP_BY_HOP);
        assert!(fields.is_plain() && fields.has(Kind::DATE) && !fields.has(Kind::CONNECTION));
        assert_eq!(fields.of(Kind::CONNECTION).count(), 0);
        assert_eq!(
            fields.called(Kind::CONNECTION, &header::CONNECTION).count(),
            0
        );
        let b = HeaderName::from_static("b");
        assert_eq!(fields.called(Kind::OTHER, &b).collect::<Vec<_>>(), [b"2"]);
        let mut copy = BytesMut::new();
        fields.copy_without(Kind::DATE, &mut copy);
        assert_eq!(copy, "a: 1\r\nb: 2\r\nc: 3\r\n");
        let map = fields.to_map(HeaderMap::new(), shared);
        let names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["a", "b", "c", "date"]);
    }

    #[test]
    fn what_is_left_out_by_name_is_nowhere() {
        let text = "A: 1\r\nDate: x\r\nB: 2\r\nA: 3\r\nVia: y\r\n";
        let mut fields = Fields::read(text).unwrap();
        fields.leave_out(Kind::VIA);
        fields.leave_out_named(|name| name == b"a" || name == b"date");
        assert!(!fields.has(Kind::DATE) && !fields.has(Kind::VIA));
        let a = HeaderName::from_static("a");
        assert_eq!(fields.called(Kind::OTHER, &a).count(), 0);
        let mut copy = BytesMut::new();
        fields.copy_without(Kind::OTHER, &mut copy);
        assert_eq!(copy, "b: 2\r\n");
        assert_eq!(listed(fields.iter()), [("b".to_owned(), b"2".to_vec())]);
    }

    #[test]
    fn a_line_that_we_would_write_in_another_way_is_not_plain() {
        for line in ["a:b", "a:  b", "a: b ", "a:\tb", "a:", "a: "] {
            let fields = Fields::read(&format!("{line}\r\n")).unwrap();
            assert!(!fields.is_plain(), "{line:?}");
        }
    }

    #[test]
    fn a_head_has_1000_fields_at_most() {
        assert!(Fields::read(&"x: y\r\n".repeat(MAX_FIELDS)).is_ok());
        let one_more = Fields::read(&"x: y\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(one_more.unwrap_err(), FramingError::HeadTooLarge);
    }

    proptest! {
        /// Another parser, which takes more than we do, finds the same wherever we find anything.
        #[test]
        fn fields_are_read_in_no_way_of_our_own(
            lines in "([aX:_-]{0,3}(:|: |:\t| :|)[aB:,\t \u{e9}\u{1}\u{7f}]{0,4}(\r\n|\r\n|\r\n|\n|\r|\r\n )){0,4}",
        ) {
            let Ok(fields) = Fields::read(&lines) else { return Ok(()) };
            let mut others = [httparse::EMPTY_HEADER; 8];
            let text = format!("{lines}\r\n");
            let parsed = httparse::parse_headers(text.as_bytes(), &mut others).unwrap();
            prop_assert!(parsed.is_complete());
            let (length, others) = parsed.unwrap();
            prop_assert_eq!(length, text.len());
            let lower: Vec<_> = others
                .iter()
                .map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()))
                .collect();
            prop_assert_eq!(&listed(fields.iter()), &lower);
            // As values they are the same, and so is what is copied.
            let map = fields.to_map(HeaderMap::new(), shared);
            prop_assert_eq!(map.len(), lower.len());
            if fields.is_plain() {
                let mut copy = BytesMut::new();
                fields.copy_without(Kind::OTHER, &mut copy);
                let copy = str::from_utf8(&copy).unwrap();
                let again = Fields::read(copy).unwrap();
                prop_assert_eq!(listed(again.iter()), lower);
            }
        }
    }
}
