//! Jinja's filters.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error};

use crate::call::{add, Call};
use crate::limits::{charge, failure};
use crate::list_filters::{add_list_filters, attribute};
use crate::methods::{capitalize, join, map_items, replace, strip, title};
use crate::objects::List;
use crate::print::{to_text, JsonStyle};
use crate::text::Text;
use crate::values::{integer, is_text, items, number, text, type_name};

pub fn add_filters(env: &mut Environment<'static>) {
    add(env, "first", |call| {
        Ok(items(call.value(0))?.first().cloned().unwrap_or(Value::UNDEFINED))
    });
    add(env, "last", |call| Ok(items(call.value(0))?.last().cloned().unwrap_or(Value::UNDEFINED)));
    add(env, "list", |call| List::new(items(call.value(0))?));
    for name in ["length", "count"] {
        add(env, name, length);
    }
    add(env, "trim", |call| strip(&to_text(call.value(0))?, &call.without_first(), true, true));
    add(env, "replace", |call| replace(&to_text(call.value(0))?, &call.without_first()));
    add(env, "string", |call| to_text(call.value(0))?.into_value());
    add(env, "safe", |call| Ok(call.value(0).clone()));
    add(env, "upper", |call| each(call, |piece| piece.to_uppercase()));
    add(env, "lower", |call| each(call, |piece| piece.to_lowercase()));
    for name in ["escape", "e"] {
        add(env, name, |call| each(call, escape));
    }
    add(env, "capitalize", |call| capitalize(&to_text(call.value(0))?).into_value());
    add(env, "title", |call| title(&to_text(call.value(0))?).into_value());
    add(env, "indent", indent);
    add(env, "int", |call| {
        let default = call.integer(1, "default")?.unwrap_or(0);
        Ok(Value::from(to_integer(call.value(0))?.unwrap_or(default)))
    });
    add(env, "float", |call| {
        let value = call.value(0);
        let parsed =
            if is_text(value) { text(value)?.plain.trim().parse().ok() } else { number(value) };
        Ok(Value::from(parsed.unwrap_or(0.0)))
    });
    add(env, "abs", |call| match (integer(call.value(0)), number(call.value(0))) {
        (Some(number), _) => Ok(Value::from(number.saturating_abs())),
        (None, Some(number)) => Ok(Value::from(number.abs())),
        _ => Err(failure(format!("{} is no number", type_name(call.value(0))))),
    });
    for name in ["default", "d"] {
        add(env, name, default);
    }
    add(env, "join", joined);
    add(env, "items", |call| match call.value(0) {
        undefined if undefined.is_undefined() => List::new(Vec::new()),
        map => map_items(map),
    });
    add_list_filters(env);
    add(env, "tojson", to_json);
}

fn each(call: &Call, replace: fn(&str) -> String) -> Result<Value, Error> {
    let text = to_text(call.value(0))?;
    text.map_pieces(|piece, out| out.push_str(&replace(piece))).into_value()
}

fn escape(piece: &str) -> String {
    let escaped = piece.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.replace('\'', "&#39;").replace('"', "&#34;")
}

fn length(call: &Call) -> Result<Value, Error> {
    let value = call.value(0);
    match value.kind() {
        ValueKind::String => Ok(Value::from(text(value)?.plain.chars().count())),
        ValueKind::Seq | ValueKind::Map | ValueKind::Undefined => {
            Ok(Value::from(value.len().unwrap_or(0)))
        }
        _ => Err(failure(format!("{} has no length", type_name(value)))),
    }
}

fn to_integer(value: &Value) -> Result<Option<i64>, Error> {
    if is_text(value) {
        let plain = text(value)?.plain;
        let real = || plain.trim().parse::<f64>().ok().map(|number| number as i64);
        return Ok(plain.trim().parse().ok().or_else(real));
    }
    Ok(integer(value).or_else(|| number(value).map(|number| number as i64)))
}

fn default(call: &Call) -> Result<Value, Error> {
    let value = call.value(0);
    let missing = value.is_undefined() || (call.is_true(2, "boolean") && !value.is_true());
    if !missing {
        return Ok(value.clone());
    }
    Ok(call.argument(1, "default_value").unwrap_or_else(|| Value::from("")))
}

fn joined(call: &Call) -> Result<Value, Error> {
    let separator = call.argument(1, "d").map_or(Ok(Text::default()), |value| to_text(&value))?;
    let mut values = items(call.value(0))?;
    if let Some(path) = call.text(2, "attribute")? {
        values = values.iter().map(|v| attribute(v, &path.plain)).collect::<Result<_, Error>>()?;
    }
    join(&values, &separator)
}

fn indent(call: &Call) -> Result<Value, Error> {
    let text = to_text(call.value(0))?;
    let prefix = match call.argument(1, "width") {
        Some(width) if is_text(&width) => to_text(&width)?,
        _ => {
            let width = usize::try_from(call.integer(1, "width")?.unwrap_or(4)).unwrap_or(0);
            charge(width)?;
            Text::written(" ".repeat(width))
        }
    };
    let (first, blank) = (call.is_true(2, "first"), call.is_true(3, "blank"));
    let mut result = Text::default();
    let mut begin = 0;
    for (i, line) in text.plain.split_inclusive('\n').enumerate() {
        if if i == 0 { first } else { blank || line != "\n" } {
            charge(prefix.plain.len())?;
            result.push(&prefix);
        }
        result.push_slice(&text, begin..begin + line.len());
        begin += line.len();
    }
    result.into_value()
}

/// As Hugging Face has it: Python's json.dumps, without escapes for HTML.
fn to_json(call: &Call) -> Result<Value, Error> {
    let indent = call.integer(2, "indent")?.map(|width| usize::try_from(width).unwrap_or(0));
    let mut style = JsonStyle {
        indent,
        item_separator: if indent.is_some() { "," } else { ", " }.into(),
        key_separator: ": ".into(),
        ascii: call.is_true(1, "ensure_ascii"),
        sort_keys: call.is_true(4, "sort_keys"),
    };
    if let Some(separators) = call.argument(3, "separators").filter(|s| !s.is_none()) {
        if let [item, key] = items(&separators)?.as_slice() {
            style.item_separator = text(item)?.plain;
            style.key_separator = text(key)?.plain;
        }
    }
    style.to_json(call.value(0))?.into_value()
}
