//! Jinja's filters of lists: order, selection, mapping.

use std::cmp::Ordering;

use minijinja::value::Value;
use minijinja::{Environment, Error};

use crate::call::{add, Call};
use crate::limits::charge;
use crate::objects::List;
use crate::print::to_text;
use crate::values::{compare, entries, equal, is_text, items, text};

pub fn add_list_filters(env: &mut Environment<'static>) {
    add(env, "dictsort", |call| {
        let mut sorted = entries(call.value(0))?;
        sort_by(&mut sorted, |(key, _)| folded(key))?;
        let pairs = sorted.into_iter().map(|(key, value)| List::new(vec![key, value]));
        List::new(pairs.collect::<Result<Vec<Value>, Error>>()?)
    });
    add(env, "sort", sort);
    add(env, "unique", unique);
    add(env, "reverse", |call| match call.value(0) {
        value if is_text(value) => text(value)?.step_through(None, None, -1).into_value(),
        value => List::new(items(value)?.into_iter().rev().collect()),
    });
    add(env, "sum", |call| {
        let mut sum = Value::from(0);
        for item in items(call.value(0))? {
            sum = call.state.apply_filter("+", &[sum, item])?;
        }
        Ok(sum)
    });
    add(env, "max", |call| extreme(call, Ordering::Greater));
    add(env, "min", |call| extreme(call, Ordering::Less));
    add(env, "map", map);
    add(env, "select", |call| select(call, 1, |item| Ok(item.clone()), true));
    add(env, "reject", |call| select(call, 1, |item| Ok(item.clone()), false));
    add(env, "selectattr", |call| select_by_attribute(call, true));
    add(env, "rejectattr", |call| select_by_attribute(call, false));
}

/// What a path of names and indices, such as "function.name", leads to.
pub fn attribute(value: &Value, path: &str) -> Result<Value, Error> {
    let mut found = value.clone();
    for name in path.split('.') {
        found = match name.parse::<usize>() {
            Ok(index) => found.get_item_by_index(index).unwrap_or_default(),
            Err(_) => found.get_attr(name)?,
        };
    }
    Ok(found)
}

/// Jinja compares texts without regard to case where it sorts.
fn folded(key: &Value) -> Result<Value, Error> {
    match is_text(key) {
        true => Ok(Value::from(text(key)?.plain.to_lowercase())),
        false => Ok(key.clone()),
    }
}

fn sort_by<T>(values: &mut Vec<T>, key: impl Fn(&T) -> Result<Value, Error>) -> Result<(), Error> {
    let mut failed = None;
    let mut keyed = Vec::new();
    for value in values.drain(..) {
        keyed.push((key(&value)?, value));
    }
    keyed.sort_by(|(a, _), (b, _)| {
        compare(a, b).unwrap_or_else(|error| {
            failed = Some(error);
            Ordering::Equal
        })
    });
    values.extend(keyed.into_iter().map(|(_, value)| value));
    failed.map_or(Ok(()), Err)
}

fn sort(call: &Call) -> Result<Value, Error> {
    let mut values = items(call.value(0))?;
    let path = call.text(3, "attribute")?;
    let by_case = call.is_true(2, "case_sensitive");
    sort_by(&mut values, |value| {
        let key = path.as_ref().map_or(Ok(value.clone()), |path| attribute(value, &path.plain))?;
        if by_case {
            Ok(key)
        } else {
            folded(&key)
        }
    })?;
    if call.is_true(1, "reverse") {
        values.reverse();
    }
    List::new(values)
}

fn unique(call: &Call) -> Result<Value, Error> {
    let mut kept: Vec<(Value, Value)> = Vec::new();
    for value in items(call.value(0))? {
        let key = folded(&value)?;
        let mut is_new = true;
        for (known, _) in &kept {
            is_new = is_new && !equal(known, &key)?;
        }
        if is_new {
            kept.push((key, value));
        }
    }
    List::new(kept.into_iter().map(|(_, value)| value).collect())
}

fn extreme(call: &Call, wanted: Ordering) -> Result<Value, Error> {
    let mut best: Option<Value> = None;
    for value in items(call.value(0))? {
        let better = match &best {
            Some(best) => compare(&folded(&value)?, &folded(best)?)? == wanted,
            None => true,
        };
        if better {
            best = Some(value);
        }
    }
    Ok(best.unwrap_or(Value::UNDEFINED))
}

/// `map("filter", arguments...)` and `map(attribute="path", default=value)`.
fn map(call: &Call) -> Result<Value, Error> {
    let mut mapped = Vec::new();
    let path = call.named("attribute");
    for item in items(call.value(0))? {
        charge(64)?;
        mapped.push(if let Some(path) = &path {
            match attribute(&item, &to_text(path)?.plain)? {
                found if found.is_undefined() => call.named("default").unwrap_or(found),
                found => found,
            }
        } else {
            let name = text(call.value(1))?.plain;
            let mut arguments = vec![item];
            arguments.extend_from_slice(&call.values()[2..]);
            call.state.apply_filter(&name, &arguments)?
        });
    }
    List::new(mapped)
}

/// The items whose `key` passes (or fails) the test that the arguments from `position` on name;
/// without one, those whose key is true.
fn select(
    call: &Call,
    position: usize,
    key: impl Fn(&Value) -> Result<Value, Error>,
    wanted: bool,
) -> Result<Value, Error> {
    let mut selected = Vec::new();
    for item in items(call.value(0))? {
        charge(64)?;
        let value = key(&item)?;
        let passes = match call.values().get(position) {
            Some(test) => {
                let mut arguments = vec![value];
                arguments.extend_from_slice(&call.values()[position + 1..]);
                call.state.perform_test(&text(test)?.plain, &arguments)?
            }
            None => value.is_true(),
        };
        if passes == wanted {
            selected.push(item);
        }
    }
    List::new(selected)
}

fn select_by_attribute(call: &Call, wanted: bool) -> Result<Value, Error> {
    let path = text(call.value(1))?.plain;
    select(call, 2, |item| attribute(item, &path), wanted)
}
