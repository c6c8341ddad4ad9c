//! Values as text: as Python's `str` and `repr` have them, and as its `json.dumps`.

use minijinja::value::{Value, ValueKind};
use minijinja::Error;

use crate::limits::{charge, failure};
use crate::text::Text;
use crate::values::{entries, is_text, items, type_name};

/// What a template prints of a value: `str(value)`.
pub fn to_text(value: &Value) -> Result<Text, Error> {
    if is_text(value) {
        return crate::values::text(value);
    }
    let mut text = Text::default();
    if !value.is_undefined() {
        push_repr(value, &mut text)?;
    }
    charge(text.plain.len())?;
    Ok(text)
}

fn push_repr(value: &Value, out: &mut Text) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number_repr(value)),
        ValueKind::String => out.push(&text_repr(&crate::values::text(value)?)),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push_str("[");
            for (i, item) in items(value)?.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                push_repr(item, out)?;
            }
            out.push_str("]");
        }
        ValueKind::Map => {
            out.push_str("{");
            for (i, (key, value)) in entries(value)?.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                push_repr(key, out)?;
                out.push_str(": ");
                push_repr(value, out)?;
            }
            out.push_str("}");
        }
        _ => return Err(failure(format!("{} has no text", type_name(value)))),
    }
    Ok(())
}

fn text_repr(text: &Text) -> Text {
    let quote = if text.plain.contains('\'') && !text.plain.contains('"') { '"' } else { '\'' };
    let mut out = Text::written(quote);
    out.push(&text.map_pieces(|piece, out| {
        for c in piece.chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\\' => out.push_str("\\\\"),
                c if c == quote => out.extend(['\\', c]),
                c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                    out.push_str(&format!("\\x{:02x}", c as u32))
                }
                c if c != ' ' && c.is_whitespace() => out.push_str(&format!("\\u{:04x}", c as u32)),
                c => out.push(c),
            }
        }
    }));
    out.push_str(&quote.to_string());
    out
}

/// A number as both Python and its JSON write it.
fn number_repr(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    if number.is_nan() || number.is_infinite() {
        return number.to_string().to_lowercase(); // "nan", "inf", "-inf"
    }
    // The shortest digits that read as this number; Python decides differently when to write an
    // exponent.
    let scientific = format!("{:e}", number);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// How JSON is laid out: the arguments of Python's `json.dumps`.
pub struct JsonStyle {
    pub indent: Option<usize>,
    pub item_separator: String,
    pub key_separator: String,
    pub ascii: bool,
    pub sort_keys: bool,
}

impl JsonStyle {
    pub fn to_json(&self, value: &Value) -> Result<Text, Error> {
        let mut text = Text::default();
        self.push(value, 0, &mut text)?;
        charge(text.plain.len())?;
        Ok(text)
    }

    fn push(&self, value: &Value, level: usize, out: &mut Text) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&json_number(value)),
            ValueKind::String => self.push_text(&crate::values::text(value)?, out),
            ValueKind::Seq => {
                let items = items(value)?;
                out.push_str("[");
                for (i, item) in items.iter().enumerate() {
                    self.begin_item(i, level + 1, out)?;
                    self.push(item, level + 1, out)?;
                }
                self.end(items.len(), level, "]", out)?;
            }
            ValueKind::Map => {
                let mut entries = entries(value)?
                    .into_iter()
                    .map(|(key, value)| Ok((json_key(&key)?, value)))
                    .collect::<Result<Vec<(Text, Value)>, Error>>()?;
                if self.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.plain.cmp(&b.plain));
                }
                out.push_str("{");
                for (i, (key, value)) in entries.iter().enumerate() {
                    self.begin_item(i, level + 1, out)?;
                    self.push_text(key, out);
                    out.push_str(&self.key_separator);
                    self.push(value, level + 1, out)?;
                }
                self.end(entries.len(), level, "}", out)?;
            }
            _ => return Err(failure(format!("{} has no JSON", type_name(value)))),
        }
        Ok(())
    }

    fn begin_item(&self, index: usize, level: usize, out: &mut Text) -> Result<(), Error> {
        if index > 0 {
            out.push_str(&self.item_separator);
        }
        self.new_line(level, out)
    }

    fn end(&self, size: usize, level: usize, close: &str, out: &mut Text) -> Result<(), Error> {
        if size > 0 {
            self.new_line(level, out)?;
        }
        out.push_str(close);
        Ok(())
    }

    fn new_line(&self, level: usize, out: &mut Text) -> Result<(), Error> {
        if let Some(indent) = self.indent {
            let spaces = indent.saturating_mul(level);
            charge(spaces)?;
            out.push_str("\n");
            out.push_str(&" ".repeat(spaces));
        }
        Ok(())
    }

    fn push_text(&self, text: &Text, out: &mut Text) {
        out.push_str("\"");
        out.push(&text.map_pieces(|piece, out| {
            for c in piece.chars() {
                match c {
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\u{8}' => out.push_str("\\b"),
                    '\u{c}' => out.push_str("\\f"),
                    c if (c as u32) < 0x20 || (self.ascii && !c.is_ascii()) => {
                        for unit in c.encode_utf16(&mut [0; 2]) {
                            out.push_str(&format!("\\u{:04x}", unit));
                        }
                    }
                    c => out.push(c),
                }
            }
        }));
        out.push_str("\"");
    }
}

fn json_number(value: &Value) -> String {
    match number_repr(value).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        number => number.into(),
    }
}

fn json_key(key: &Value) -> Result<Text, Error> {
    match key.kind() {
        ValueKind::String => crate::values::text(key),
        ValueKind::None => Ok(Text::written("null")),
        ValueKind::Bool => Ok(Text::written(if key.is_true() { "true" } else { "false" })),
        _ => Ok(Text::written(json_number(key))),
    }
}
