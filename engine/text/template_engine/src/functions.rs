//! The functions that templates may call.

use std::cell::{Cell, RefCell};

use minijinja::value::{Rest, Value};
use minijinja::{Environment, Error, State};

use crate::call::{Body, Call};
use crate::limits::{charge, failure};
use crate::objects::{List, Map, Namespace};
use crate::print::to_text;
use crate::time::{strftime, LocalTime};
use crate::values::{entries, integer, text};

thread_local! {
    static NOW: Cell<LocalTime> = Cell::new(LocalTime::default());
    static RAISED: RefCell<Option<String>> = RefCell::new(None);
}

/// What `strftime_now` tells in renderings on this thread from here on.
pub fn set_now(now: LocalTime) {
    NOW.with(|cell| cell.set(now));
}

/// What `raise_exception` was called with on this thread since the last call.
pub fn take_raised() -> Option<String> {
    RAISED.with(|raised| raised.borrow_mut().take())
}

pub fn add_functions(env: &mut Environment<'static>) {
    add(env, "range", range);
    add(env, "dict", |call| {
        let mut all = match call.values().first() {
            Some(map) => entries(map)?,
            None => Vec::new(),
        };
        all.extend(call.all_named()?);
        Map::new(all)
    });
    add(env, "namespace", |call| {
        let namespace = Namespace::default();
        for (name, value) in call.all_named()? {
            namespace.set(name.as_str().unwrap_or(""), value)?;
        }
        Ok(Value::from_object(namespace))
    });
    add(env, "raise_exception", |call| {
        let message = to_text(call.value(0))?.plain;
        RAISED.with(|raised| *raised.borrow_mut() = Some(message.clone()));
        Err(failure(message))
    });
    add(env, "strftime_now", |call| {
        let format = text(call.value(0))?.plain;
        strftime(&NOW.with(Cell::get), &format).map(Value::from)
    });
}

fn add(env: &mut Environment<'static>, name: &'static str, body: Body) {
    env.add_function(name, move |state: &State, values: Rest<Value>| {
        body(&Call::new(state, &values))
    });
}

fn range(call: &Call) -> Result<Value, Error> {
    let numbers = call.values().iter().map(integer).collect::<Option<Vec<i64>>>();
    let (start, stop, step) = match numbers.as_deref() {
        Some([stop]) => (0, *stop, 1),
        Some([start, stop]) => (*start, *stop, 1),
        Some([start, stop, step]) if *step != 0 => (*start, *stop, *step),
        _ => return Err(failure("range() takes one to three whole numbers")),
    };
    let mut numbers = Vec::new();
    let mut next = start;
    while if step > 0 { next < stop } else { next > stop } {
        charge(24)?;
        numbers.push(Value::from(next));
        next = next.saturating_add(step);
    }
    List::new(numbers)
}
