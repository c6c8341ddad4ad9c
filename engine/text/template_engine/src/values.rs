//! What Python's operators ask of values.

use minijinja::value::{Value, ValueKind};
use minijinja::Error;

use crate::limits::{charge, failure};
use crate::objects::Map;
use crate::text::Text;

/// The values that a loop over this one takes: a map's keys, a text's characters.
pub fn items(value: &Value) -> Result<Vec<Value>, Error> {
    if let Some(marked) = value.as_str() {
        let text = Text::unmark(marked);
        charge(text.plain.len() * 32)?;
        let characters = text.plain.char_indices();
        return characters.map(|(at, c)| text.slice(at..at + c.len_utf8()).into_value()).collect();
    }
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            charge(items.len() * 24)?;
            Ok(items)
        }
        _ => Err(failure(format!("{} can't be iterated over", type_name(value)))),
    }
}

/// A map's value for a key, whoever wrote that; undefined if there is none.
pub fn lookup(map: &Value, key: &Value) -> Result<Value, Error> {
    let plain = if is_text(key) { Value::from(text(key)?.plain) } else { key.clone() };
    Ok(map.get_item(&plain).unwrap_or_default())
}

/// A map's entries.
pub fn entries(value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    if let Some(map) = value.downcast_object_ref::<Map>() {
        charge(map.entries.len() * 48)?;
        return Ok(map.entries.clone());
    }
    if value.kind() != ValueKind::Map {
        return Err(failure(format!("{} is no mapping", type_name(value))));
    }
    items(value)?.into_iter().map(|key| Ok((key.clone(), value.get_item(&key)?))).collect()
}

/// A number, with truth as 1 and 0; None for all else.
pub fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(value.is_true() as i64 as f64),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// A whole number; None for all else.
pub fn integer(value: &Value) -> Option<i64> {
    match value.kind() {
        ValueKind::Bool => Some(value.is_true() as i64),
        ValueKind::Number if value.is_integer() => value.as_i64(),
        _ => None,
    }
}

pub fn is_text(value: &Value) -> bool {
    value.kind() == ValueKind::String
}

/// A value that must be a text.
pub fn text(value: &Value) -> Result<Text, Error> {
    match value.as_str() {
        Some(marked) if is_text(value) => {
            charge(marked.len())?;
            Ok(Text::unmark(marked))
        }
        _ => Err(failure(format!("a text is wanted, not {}", type_name(value)))),
    }
}

/// What a value is, for messages of errors.
pub fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "an undefined value",
        ValueKind::None => "none",
        ValueKind::Bool => "a boolean",
        ValueKind::Number => "a number",
        ValueKind::String => "a text",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "a mapping",
        _ => "an object",
    }
}

/// Python's `==`, whoever wrote the texts.
pub fn equal(a: &Value, b: &Value) -> Result<bool, Error> {
    charge(8)?;
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(a == b);
    }
    match (a.kind(), b.kind()) {
        (ValueKind::String, ValueKind::String) => Ok(text(a)?.plain == text(b)?.plain),
        (ValueKind::Seq, ValueKind::Seq) => {
            let (a, b) = (items(a)?, items(b)?);
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(&b) {
                if !equal(a, b)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (ValueKind::Map, ValueKind::Map) => {
            let (a, size) = (entries(a)?, b.len());
            if Some(a.len()) != size {
                return Ok(false);
            }
            for (key, value) in &a {
                if !equal(value, &lookup(b, key)?)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (a, b) => Ok(a == b && matches!(a, ValueKind::None | ValueKind::Undefined)),
    }
}

/// Python's order of numbers and of texts; an error for all else.
pub fn compare(a: &Value, b: &Value) -> Result<std::cmp::Ordering, Error> {
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Greater));
    }
    if is_text(a) && is_text(b) {
        return Ok(text(a)?.plain.cmp(&text(b)?.plain));
    }
    Err(failure(format!("{} and {} have no order", type_name(a), type_name(b))))
}
