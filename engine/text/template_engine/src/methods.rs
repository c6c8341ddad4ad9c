//! Python's methods of texts, maps and lists.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::call::Call;
use crate::limits::{charge, failure};
use crate::objects::List;
use crate::print::to_text;
use crate::text::Text;
use crate::values::{entries, equal, is_text, items, lookup, text, type_name};

/// What the engine calls for every method that a value does not have itself.
pub fn call_method(
    state: &State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let call = Call::new(state, arguments);
    match value.kind() {
        ValueKind::String => text_method(text(value)?, name, &call),
        ValueKind::Map => map_method(value, name, &call),
        ValueKind::Seq => list_method(value, name, &call),
        _ => None,
    }
    .unwrap_or_else(|| {
        let what = format!("{} has no method '{name}'", type_name(value));
        Err(Error::new(ErrorKind::UnknownMethod, what))
    })
}

type Answer = Option<Result<Value, Error>>;

fn text_method(text: Text, name: &str, call: &Call) -> Answer {
    Some(match name {
        "strip" => strip(&text, call, true, true),
        "lstrip" => strip(&text, call, true, false),
        "rstrip" => strip(&text, call, false, true),
        "split" => split(&text, call),
        "rsplit" => rsplit(&text, call),
        "splitlines" => splitlines(&text),
        "replace" => replace(&text, call),
        "startswith" => affix(call, |affix| text.plain.starts_with(affix)),
        "endswith" => affix(call, |affix| text.plain.ends_with(affix)),
        "removeprefix" => cut(&text, call, |plain, affix| {
            plain.strip_prefix(affix).map(|_| affix.len()..plain.len())
        }),
        "removesuffix" => {
            cut(&text, call, |plain, affix| plain.strip_suffix(affix).map(|rest| 0..rest.len()))
        }
        "find" => find(&text, call, |plain, wanted| plain.find(wanted)),
        "rfind" => find(&text, call, |plain, wanted| plain.rfind(wanted)),
        "count" => wanted(call).map(|wanted| Value::from(text.plain.matches(&*wanted).count())),
        "join" => match call.values().first() {
            Some(values) => items(values).and_then(|values| join(&values, &text)),
            None => Err(Error::from(ErrorKind::MissingArgument)),
        },
        "upper" => text.map_pieces(|piece, out| out.push_str(&piece.to_uppercase())).into_value(),
        "lower" => text.map_pieces(|piece, out| out.push_str(&piece.to_lowercase())).into_value(),
        "capitalize" => capitalize(&text).into_value(),
        "title" => title(&text).into_value(),
        "isdigit" | "isnumeric" | "isdecimal" => every(&text, char::is_numeric),
        "isalpha" => every(&text, char::is_alphabetic),
        "isalnum" => every(&text, char::is_alphanumeric),
        "isspace" => every(&text, is_space),
        _ => return None,
    })
}

fn map_method(map: &Value, name: &str, call: &Call) -> Answer {
    Some(match name {
        "items" => map_items(map),
        "keys" => items(map).and_then(List::new),
        "values" => entries(map)
            .and_then(|entries| List::new(entries.into_iter().map(|(_, value)| value).collect())),
        "get" => lookup(map, call.value(0)).map(|value| match value.is_undefined() {
            false => value,
            true => call.argument(1, "default").unwrap_or_else(|| Value::from(())),
        }),
        _ => return None,
    })
}

fn list_method(list: &Value, name: &str, call: &Call) -> Answer {
    let places = || -> Result<Vec<usize>, Error> {
        let mut places = Vec::new();
        for (place, item) in items(list)?.iter().enumerate() {
            if equal(item, call.value(0))? {
                places.push(place);
            }
        }
        Ok(places)
    };
    Some(match name {
        "count" => places().map(|places| Value::from(places.len())),
        "index" => places().and_then(|places| match places.first() {
            Some(place) => Ok(Value::from(*place)),
            None => Err(failure("the list does not hold what index() wants")),
        }),
        _ => return None,
    })
}

/// The map's entries as lists of two.
pub fn map_items(map: &Value) -> Result<Value, Error> {
    let pairs = entries(map)?.into_iter().map(|(key, value)| List::new(vec![key, value]));
    List::new(pairs.collect::<Result<Vec<Value>, Error>>()?)
}

/// Whitespace as Python has it.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Without the characters of the first argument, or whitespace, at its ends.
pub fn strip(text: &Text, call: &Call, start: bool, end: bool) -> Result<Value, Error> {
    let set: Option<Vec<char>> = call.text(0, "chars")?.map(|set| set.plain.chars().collect());
    let dropped = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
    let mut kept = text.plain.as_str();
    if start {
        kept = kept.trim_start_matches(dropped);
    }
    let begin = text.plain.len() - kept.len();
    if end {
        kept = kept.trim_end_matches(dropped);
    }
    text.slice(begin..begin + kept.len()).into_value()
}

fn list_of(pieces: Vec<Text>) -> Result<Value, Error> {
    List::new(pieces.into_iter().map(Text::into_value).collect::<Result<Vec<Value>, Error>>()?)
}

fn most_splits(call: &Call) -> Result<usize, Error> {
    Ok(call
        .integer(1, "maxsplit")?
        .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)))
}

fn split(text: &Text, call: &Call) -> Result<Value, Error> {
    let most = most_splits(call)?;
    let mut pieces = Vec::new();
    let mut begin = 0;
    if let Some(separator) = call.text(0, "sep")? {
        let separator = not_empty(separator.plain)?;
        for (at, _) in text.plain.match_indices(&separator).take(most) {
            pieces.push(text.slice(begin..at));
            begin = at + separator.len();
        }
        pieces.push(text.slice(begin..text.plain.len()));
        return list_of(pieces);
    }
    loop {
        let rest = text.plain[begin..].trim_start_matches(is_space);
        begin = text.plain.len() - rest.len();
        if rest.is_empty() {
            return list_of(pieces);
        }
        let last = pieces.len() >= most;
        let end = if last { None } else { rest.find(is_space) };
        let length = end.unwrap_or_else(|| rest.trim_end_matches(is_space).len());
        pieces.push(text.slice(begin..begin + length));
        begin = if end.is_some() { begin + length } else { text.plain.len() };
    }
}

fn rsplit(text: &Text, call: &Call) -> Result<Value, Error> {
    let separator = match call.text(0, "sep")? {
        Some(separator) => not_empty(separator.plain)?,
        None => return Err(failure("rsplit() needs a separator")),
    };
    let mut pieces = Vec::new();
    let mut end = text.plain.len();
    for (at, _) in text.plain.rmatch_indices(&separator).take(most_splits(call)?) {
        pieces.push(text.slice(at + separator.len()..end));
        end = at;
    }
    pieces.push(text.slice(0..end));
    pieces.reverse();
    list_of(pieces)
}

fn splitlines(text: &Text) -> Result<Value, Error> {
    let mut pieces = Vec::new();
    let mut begin = 0;
    while begin < text.plain.len() {
        let rest = &text.plain[begin..];
        let length = rest.find(['\n', '\r']).unwrap_or(rest.len());
        pieces.push(text.slice(begin..begin + length));
        begin += length + if rest[length..].starts_with("\r\n") { 2 } else { 1 };
    }
    list_of(pieces)
}

pub fn replace(text: &Text, call: &Call) -> Result<Value, Error> {
    let (old, new) = match (call.text(0, "old")?, call.text(1, "new")?) {
        (Some(old), Some(new)) => (old, new),
        _ => return Err(Error::from(ErrorKind::MissingArgument)),
    };
    let most = call.integer(2, "count")?.unwrap_or(-1);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut result = Text::default();
    let mut begin = 0;
    for (at, found) in text.plain.match_indices(&old.plain).take(most) {
        charge(new.plain.len() + 8)?;
        result.push_slice(text, begin..at);
        result.push(&new);
        begin = at + found.len();
    }
    result.push_slice(text, begin..text.plain.len());
    result.into_value()
}

fn not_empty(separator: String) -> Result<String, Error> {
    match separator.is_empty() {
        false => Ok(separator),
        true => Err(failure("the separator is empty")),
    }
}

fn wanted(call: &Call) -> Result<String, Error> {
    match call.text(0, "sub")? {
        Some(wanted) => Ok(wanted.plain),
        None => Err(Error::from(ErrorKind::MissingArgument)),
    }
}

fn affix(call: &Call, holds: impl Fn(&str) -> bool) -> Result<Value, Error> {
    let affixes = match call.value(0) {
        affix if is_text(affix) => vec![affix.clone()],
        affixes => items(affixes)?,
    };
    for affix in affixes {
        if holds(&text(&affix)?.plain) {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn cut(
    text: &Text,
    call: &Call,
    kept: fn(&str, &str) -> Option<std::ops::Range<usize>>,
) -> Result<Value, Error> {
    let range = kept(&text.plain, &wanted(call)?).unwrap_or(0..text.plain.len());
    text.slice(range).into_value()
}

/// The index of a character, or -1.
fn find(text: &Text, call: &Call, place: fn(&str, &str) -> Option<usize>) -> Result<Value, Error> {
    let at = place(&text.plain, &wanted(call)?);
    Ok(Value::from(at.map_or(-1, |at| text.plain[..at].chars().count() as i64)))
}

pub fn join(values: &[Value], separator: &Text) -> Result<Value, Error> {
    let mut result = Text::default();
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            charge(separator.plain.len())?;
            result.push(separator);
        }
        result.push(&to_text(value)?);
    }
    result.into_value()
}

pub fn capitalize(text: &Text) -> Text {
    let mut is_first = true;
    text.map_pieces(|piece, out| {
        for c in piece.chars() {
            match std::mem::replace(&mut is_first, false) {
                true => out.extend(c.to_uppercase()),
                false => out.extend(c.to_lowercase()),
            }
        }
    })
}

pub fn title(text: &Text) -> Text {
    let mut in_word = false;
    text.map_pieces(|piece, out| {
        for c in piece.chars() {
            match std::mem::replace(&mut in_word, c.is_alphabetic()) {
                false => out.extend(c.to_uppercase()),
                true => out.extend(c.to_lowercase()),
            }
        }
    })
}

fn every(text: &Text, holds: fn(char) -> bool) -> Result<Value, Error> {
    Ok(Value::from(!text.plain.is_empty() && text.plain.chars().all(holds)))
}
