//! Jinja's tests: what stands behind `is`.

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, State};

use crate::call::Call;
use crate::limits::failure;
use crate::objects::Namespace;
use crate::operators::contains;
use crate::values::{compare, equal, integer, text};

pub fn add_checks(env: &mut Environment<'static>) {
    use std::cmp::Ordering::{Equal, Greater, Less};
    use ValueKind::{Bool, Iterable, Map, Number, Seq, String, Undefined};
    add(env, "defined", |call| Ok(call.value(0).kind() != Undefined));
    add(env, "undefined", |call| Ok(call.value(0).kind() == Undefined));
    add(env, "none", |call| Ok(call.value(0).is_none()));
    add(env, "true", |call| Ok(call.value(0).kind() == Bool && call.value(0).is_true()));
    add(env, "false", |call| Ok(call.value(0).kind() == Bool && !call.value(0).is_true()));
    add(env, "boolean", |call| Ok(call.value(0).kind() == Bool));
    add(env, "number", |call| Ok(matches!(call.value(0).kind(), Number | Bool)));
    add(env, "integer", |call| Ok(call.value(0).kind() == Number && call.value(0).is_integer()));
    add(env, "float", |call| Ok(call.value(0).kind() == Number && !call.value(0).is_integer()));
    add(env, "string", |call| Ok(call.value(0).kind() == String));
    add(env, "mapping", |call| Ok(call.value(0).kind() == Map));
    for name in ["sequence", "iterable"] {
        add(env, name, |call| {
            Ok(matches!(call.value(0).kind(), Seq | Map | String | Iterable | Undefined))
        });
    }
    add(env, "callable", |call| {
        let value = call.value(0);
        Ok(value.kind() == ValueKind::Plain && value.downcast_object_ref::<Namespace>().is_none())
    });
    for name in ["eq", "equalto", "==", "sameas"] {
        add(env, name, |call| equal(call.value(0), call.value(1)));
    }
    for name in ["ne", "!="] {
        add(env, name, |call| Ok(!equal(call.value(0), call.value(1))?));
    }
    for name in ["lt", "lessthan", "<"] {
        add(env, name, |call| Ok(compare(call.value(0), call.value(1))? == Less));
    }
    for name in ["gt", "greaterthan", ">"] {
        add(env, name, |call| Ok(compare(call.value(0), call.value(1))? == Greater));
    }
    for name in ["le", "<="] {
        add(env, name, |call| Ok(matches!(compare(call.value(0), call.value(1))?, Less | Equal)));
    }
    for name in ["ge", ">="] {
        add(env, name, |call| {
            Ok(matches!(compare(call.value(0), call.value(1))?, Greater | Equal))
        });
    }
    add(env, "in", |call| contains(call.value(1), call.value(0)));
    add(env, "odd", |call| Ok(whole(call, 0)?.rem_euclid(2) == 1));
    add(env, "even", |call| Ok(whole(call, 0)?.rem_euclid(2) == 0));
    add(env, "divisibleby", |call| {
        Ok(whole(call, 0)?.checked_rem_euclid(whole(call, 1)?) == Some(0))
    });
    add(env, "lower", |call| {
        text(call.value(0)).map(|text| text.plain == text.plain.to_lowercase())
    });
    add(env, "upper", |call| {
        text(call.value(0)).map(|text| text.plain == text.plain.to_uppercase())
    });
}

fn whole(call: &Call, position: usize) -> Result<i64, Error> {
    integer(call.value(position)).ok_or_else(|| failure("a whole number is wanted"))
}

fn add(env: &mut Environment<'static>, name: &'static str, body: fn(&Call) -> Result<bool, Error>) {
    env.add_test(name, move |state: &State, values: Rest<Value>| body(&Call::new(state, &values)));
}
