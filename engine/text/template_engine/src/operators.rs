//! The operators of templates, on texts whose authors they keep, and with Python's results.

use std::cmp::Ordering;

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use crate::call::{add, Call};
use crate::limits::{charge, failure};
use crate::objects::{List, Map, Namespace};
use crate::print::to_text;
use crate::text::{slice_indices, Text};
use crate::values::{
    compare, entries, equal, integer, is_text, items, lookup, number, text, type_name,
};

/// Adds the operators as filters, under names that templates can't spell: compile.rs has them
/// called.
pub fn add_operators(env: &mut Environment<'static>) {
    add(env, "+", plus);
    add(env, "-", |call| arithmetic(call, "-", i128::checked_sub, |a, b| a - b));
    add(env, "*", times);
    add(env, "/", divide);
    add(env, "//", |call| arithmetic(call, "//", floor_divide, |a, b| (a / b).floor()));
    add(env, "%", |call| arithmetic(call, "%", modulo, |a, b| a - b * (a / b).floor()));
    add(env, "**", |call| arithmetic(call, "**", power, f64::powf));
    add(env, "negative", negative);
    add(env, "==", |call| Ok(Value::from(equal(call.value(0), call.value(1))?)));
    add(env, "!=", |call| Ok(Value::from(!equal(call.value(0), call.value(1))?)));
    add(env, "<", |call| ordered(call, |order| order == Ordering::Less));
    add(env, "<=", |call| ordered(call, |order| order != Ordering::Greater));
    add(env, ">", |call| ordered(call, |order| order == Ordering::Greater));
    add(env, ">=", |call| ordered(call, |order| order != Ordering::Less));
    add(env, "~", |call| {
        let mut text = to_text(call.value(0))?;
        text.push(&to_text(call.value(1))?);
        text.into_value()
    });
    add(env, "a in b", |call| Ok(Value::from(contains(call.value(1), call.value(0))?)));
    add(env, "a[b]", item);
    add(env, "a[b:c:d]", slice);
    add(env, "[a]", |call| List::new(call.values().to_vec()));
    add(env, "{a:b}", |call| {
        let pairs = call.values().chunks_exact(2);
        Map::new(pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    });
    add(env, "a.b=c", |call| match call.value(1).downcast_object_ref::<Namespace>() {
        Some(namespace) => {
            namespace.set(call.value(2).as_str().unwrap_or(""), call.value(0).clone())?;
            Ok(Value::UNDEFINED)
        }
        None => Err(failure(format!("{} has no attributes to set", type_name(call.value(1))))),
    });
    add(env, "for a", |call| match call.value(0) {
        loop_over if loop_over.kind() == ValueKind::Undefined => List::new(Vec::new()),
        loop_over => List::new(items(loop_over)?),
    });
}

fn impossible(call: &Call, operator: &str) -> Error {
    let (a, b) = (type_name(call.value(0)), type_name(call.value(1)));
    failure(format!("{a} {operator} {b} is not possible"))
}

fn ordered(call: &Call, holds: fn(Ordering) -> bool) -> Result<Value, Error> {
    Ok(Value::from(holds(compare(call.value(0), call.value(1))?)))
}

fn integers(call: &Call) -> Option<(i128, i128)> {
    Some((integer(call.value(0))?.into(), integer(call.value(1))?.into()))
}

fn integer_value(number: i128) -> Result<Value, Error> {
    match i64::try_from(number) {
        Ok(number) => Ok(Value::from(number)),
        Err(_) => Err(failure("a whole number has more than 64 bits")),
    }
}

fn arithmetic(
    call: &Call,
    operator: &str,
    exact: fn(i128, i128) -> Option<i128>,
    real: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    if let Some((a, b)) = integers(call) {
        if let Some(result) = exact(a, b) {
            return integer_value(result);
        }
        if operator != "**" {
            return Err(failure("division by zero"));
        }
    }
    match (number(call.value(0)), number(call.value(1))) {
        (Some(_), Some(b)) if b == 0.0 && matches!(operator, "//" | "%") => {
            Err(failure("division by zero"))
        }
        (Some(a), Some(b)) => Ok(Value::from(real(a, b))),
        _ => Err(impossible(call, operator)),
    }
}

fn floor_divide(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}

fn modulo(a: i128, b: i128) -> Option<i128> {
    Some(a - b * floor_divide(a, b)?)
}

fn power(a: i128, b: i128) -> Option<i128> {
    a.checked_pow(u32::try_from(b).ok()?)
}

fn divide(call: &Call) -> Result<Value, Error> {
    match (number(call.value(0)), number(call.value(1))) {
        (Some(_), Some(b)) if b == 0.0 => Err(failure("division by zero")),
        (Some(a), Some(b)) => Ok(Value::from(a / b)),
        _ => Err(impossible(call, "/")),
    }
}

fn negative(call: &Call) -> Result<Value, Error> {
    match (integer(call.value(0)), number(call.value(0))) {
        (Some(a), _) => integer_value(-i128::from(a)),
        (None, Some(a)) => Ok(Value::from(-a)),
        _ => Err(failure(format!("-{} is not possible", type_name(call.value(0))))),
    }
}

fn plus(call: &Call) -> Result<Value, Error> {
    let (a, b) = (call.value(0), call.value(1));
    if is_text(a) && is_text(b) {
        let mut sum = text(a)?;
        sum.push(&text(b)?);
        return sum.into_value();
    }
    if a.kind() == ValueKind::Seq && b.kind() == ValueKind::Seq {
        let mut sum = items(a)?;
        sum.extend(items(b)?);
        return List::new(sum);
    }
    arithmetic(call, "+", i128::checked_add, |a, b| a + b)
}

fn times(call: &Call) -> Result<Value, Error> {
    let repeated = match (integer(call.value(0)), integer(call.value(1))) {
        (None, Some(count)) => Some((call.value(0), count)),
        (Some(count), None) => Some((call.value(1), count)),
        _ => None,
    };
    if let Some((value, count)) = repeated {
        let count = usize::try_from(count).unwrap_or(0);
        if is_text(value) {
            let (one, mut product) = (text(value)?, Text::default());
            charge(one.plain.len().saturating_mul(count))?;
            (0..if one.plain.is_empty() { 0 } else { count }).for_each(|_| product.push(&one));
            return product.into_value();
        }
        if value.kind() == ValueKind::Seq {
            let one = items(value)?;
            charge(one.len().saturating_mul(24).saturating_mul(count))?;
            let count = if one.is_empty() { 0 } else { count };
            return List::new((0..count).flat_map(|_| one.iter().cloned()).collect());
        }
    }
    arithmetic(call, "*", i128::checked_mul, |a, b| a * b)
}

pub fn contains(container: &Value, wanted: &Value) -> Result<bool, Error> {
    match container.kind() {
        ValueKind::String => Ok(text(container)?.plain.contains(&text(wanted)?.plain)),
        ValueKind::Map => {
            Ok(entries(container)?.iter().any(|(key, _)| equal(key, wanted).unwrap_or(false)))
        }
        _ => {
            for item in items(container)? {
                if equal(&item, wanted)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

fn item(call: &Call) -> Result<Value, Error> {
    let (value, key) = (call.value(0), call.value(1));
    match (value.kind(), integer(key)) {
        (ValueKind::Undefined, _) => Err(Error::from(ErrorKind::UndefinedError)),
        (ValueKind::String, Some(index)) => {
            let stop = if index == -1 { None } else { index.checked_add(1) };
            let character = text(value)?.step_through(Some(index), stop, 1);
            match character.plain.chars().count() {
                1 => character.into_value(),
                _ => Ok(Value::UNDEFINED),
            }
        }
        (ValueKind::Seq, Some(index)) => {
            let length = value.len().unwrap_or(0) as i64;
            let index = if index < 0 { index.saturating_add(length) } else { index };
            match usize::try_from(index) {
                Ok(index) => Ok(value.get_item_by_index(index).unwrap_or_default()),
                Err(_) => Ok(Value::UNDEFINED),
            }
        }
        (ValueKind::Map | ValueKind::Plain, _) => lookup(value, key),
        _ => Ok(Value::UNDEFINED),
    }
}

fn slice(call: &Call) -> Result<Value, Error> {
    let bound = |index: usize| match call.value(index) {
        none if none.is_none() || none.is_undefined() => Ok(None),
        bound => integer(bound).map(Some).ok_or_else(|| failure("a slice's bound is no integer")),
    };
    let (start, stop, step) = (bound(1)?, bound(2)?, bound(3)?.unwrap_or(1));
    if step == 0 {
        return Err(failure("a slice's step is zero"));
    }
    // The compiler writes 0 where a slice has no start, and templates mean [::-1].
    let start = start.filter(|start| step > 0 || *start != 0);
    let value = call.value(0);
    match value.kind() {
        ValueKind::String => text(value)?.step_through(start, stop, step).into_value(),
        ValueKind::Seq => {
            let items = items(value)?;
            let taken = slice_indices(items.len(), start, stop, step);
            List::new(taken.map(|i| items[i].clone()).collect())
        }
        _ => Err(failure(format!("{} can't be sliced", type_name(value)))),
    }
}
