//! Texts that know who wrote each of their characters: the template, or the request.
//!
//! Where a text is a value of the template engine, or its output, what was given by the request
//! stands between GIVEN_BEGIN and GIVEN_END. The engine's own operations on strings know nothing of
//! these marks, so none of them is used: all that takes or makes a string goes through `Text`.

use std::ops::Range;

use minijinja::value::Value;
use minijinja::Error;

use crate::limits;

/// Noncharacters of Unicode: the caller lets no other text hold them.
pub const GIVEN_BEGIN: char = '\u{FDD0}';
pub const GIVEN_END: char = '\u{FDD1}';

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Text {
    pub plain: String,
    /// Bytes of `plain` that were given: ascending, neither empty nor touching one another.
    given: Vec<Range<usize>>,
}

impl Text {
    /// What the template wrote.
    pub fn written(plain: impl Into<String>) -> Text {
        Text { plain: plain.into(), given: Vec::new() }
    }

    /// Reads a text with marks. Marks without a partner, which only a template could write, are
    /// dropped.
    pub fn unmark(marked: &str) -> Text {
        if !marked.contains(|c| c == GIVEN_BEGIN || c == GIVEN_END) {
            return Text::written(marked);
        }
        let mut text = Text { plain: String::with_capacity(marked.len()), given: Vec::new() };
        let mut begin = None;
        for c in marked.chars() {
            match c {
                GIVEN_BEGIN => begin = Some(text.plain.len()),
                GIVEN_END => {
                    if let Some(begin) = begin.take() {
                        let end = text.plain.len();
                        text.add_given(begin..end);
                    }
                }
                c => text.plain.push(c),
            }
        }
        text
    }

    /// The text with its marks.
    pub fn mark(&self) -> String {
        let mut marked = String::with_capacity(self.plain.len() + self.given.len() * 6);
        let mut written = 0;
        for given in &self.given {
            marked.push_str(&self.plain[written..given.start]);
            marked.push(GIVEN_BEGIN);
            marked.push_str(&self.plain[given.clone()]);
            marked.push(GIVEN_END);
            written = given.end;
        }
        marked.push_str(&self.plain[written..]);
        marked
    }

    /// As a value of the engine; an error once this rendering has made too much of them.
    pub fn into_value(self) -> Result<Value, Error> {
        limits::charge(self.plain.len() + 32)?;
        Ok(Value::from(if self.given.is_empty() { self.plain } else { self.mark() }))
    }

    fn add_given(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        match self.given.last_mut() {
            Some(last) if last.end >= range.start => last.end = range.end,
            _ => self.given.push(range),
        }
    }

    pub fn push(&mut self, other: &Text) {
        self.push_slice(other, 0..other.plain.len());
    }

    /// Adds what the template wrote.
    pub fn push_str(&mut self, written: &str) {
        self.plain.push_str(written);
    }

    /// Adds a part of another text. REQUIRES: `bytes` of it are whole characters.
    pub fn push_slice(&mut self, other: &Text, bytes: Range<usize>) {
        let shift = self.plain.len();
        self.plain.push_str(&other.plain[bytes.clone()]);
        let first = other.given.partition_point(|given| given.end <= bytes.start);
        for given in &other.given[first..] {
            if given.start >= bytes.end {
                break;
            }
            let start = given.start.max(bytes.start) - bytes.start + shift;
            let end = given.end.min(bytes.end) - bytes.start + shift;
            self.add_given(start..end);
        }
    }

    pub fn slice(&self, bytes: Range<usize>) -> Text {
        let mut text = Text::default();
        text.push_slice(self, bytes);
        text
    }

    /// The text in pieces that each have one author: [text, whether it was given].
    pub fn pieces(&self) -> impl Iterator<Item = (&str, bool)> {
        let ends = self.given.iter().flat_map(|given| [given.start, given.end]);
        let mut begin = 0;
        ends.chain([self.plain.len()])
            .enumerate()
            .map(move |(i, end)| {
                let piece = (&self.plain[begin..end], i % 2 == 1);
                begin = end;
                piece
            })
            .filter(|(piece, _)| !piece.is_empty())
    }

    /// Replaces each piece; what comes of it has the piece's author.
    pub fn map_pieces(&self, mut replace: impl FnMut(&str, &mut String)) -> Text {
        let mut text = Text::default();
        for (piece, is_given) in self.pieces() {
            let begin = text.plain.len();
            replace(piece, &mut text.plain);
            let end = text.plain.len();
            if is_given {
                text.add_given(begin..end);
            }
        }
        text
    }

    /// The text's characters by their index, as slices of Python have it. REQUIRES: `step` != 0.
    pub fn step_through(&self, start: Option<i64>, stop: Option<i64>, step: i64) -> Text {
        let starts: Vec<usize> = self.plain.char_indices().map(|(at, _)| at).collect();
        let end_of = |i: usize| starts.get(i + 1).copied().unwrap_or(self.plain.len());
        let mut text = Text::default();
        for i in slice_indices(starts.len(), start, stop, step) {
            text.push_slice(self, starts[i]..end_of(i));
        }
        text
    }
}

/// The indices that Python's `[start:stop:step]` takes of so many items. REQUIRES: `step` != 0.
pub fn slice_indices(
    length: usize,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = usize> {
    let length = length as i64;
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |index: i64| {
        let index = if index < 0 { index.saturating_add(length) } else { index };
        index.max(lowest).min(highest)
    };
    let first = start.map_or(if step > 0 { lowest } else { highest }, clamp);
    let last = stop.map_or(if step > 0 { highest } else { lowest }, clamp);
    let mut next = first;
    std::iter::from_fn(move || {
        let taken = next;
        let is_left = if step > 0 { taken < last } else { taken > last };
        next = next.saturating_add(step);
        is_left.then(|| taken as usize)
    })
}
