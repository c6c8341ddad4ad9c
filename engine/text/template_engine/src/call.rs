//! The arguments of filters, methods and functions.

use minijinja::value::{Rest, Value};
use minijinja::{Environment, Error, State};

use crate::limits::failure;

/// One call: values by position, and arguments by name.
pub struct Call<'a> {
    pub state: &'a State<'a, 'a>,
    values: &'a [Value],
    named: Option<&'a Value>,
}

static UNDEFINED: Value = Value::UNDEFINED;

pub type Body = fn(&Call) -> Result<Value, Error>;

/// Adds a filter.
pub fn add(env: &mut Environment<'static>, name: &'static str, body: Body) {
    env.add_filter(name, move |state: &State, values: Rest<Value>| {
        body(&Call::new(state, &values))
    });
}

impl<'a> Call<'a> {
    pub fn new(state: &'a State<'a, 'a>, values: &'a [Value]) -> Call<'a> {
        match values.split_last() {
            Some((named, values)) if named.is_kwargs() => {
                Call { state, values, named: Some(named) }
            }
            _ => Call { state, values, named: None },
        }
    }

    /// The same without the value that a filter is applied to.
    pub fn without_first(&self) -> Call<'a> {
        Call { state: self.state, values: self.values.get(1..).unwrap_or(&[]), named: self.named }
    }

    pub fn values(&self) -> &'a [Value] {
        self.values
    }

    /// The value at a position; undefined if there is none.
    pub fn value(&self, position: usize) -> &'a Value {
        self.values.get(position).unwrap_or(&UNDEFINED)
    }

    /// An argument that is given by position or by name; None for none at all.
    pub fn argument(&self, position: usize, name: &str) -> Option<Value> {
        self.values.get(position).cloned().or_else(|| self.named(name))
    }

    pub fn named(&self, name: &str) -> Option<Value> {
        self.named?.get_attr(name).ok().filter(|value| !value.is_undefined())
    }

    /// The arguments by name.
    pub fn all_named(&self) -> Result<Vec<(Value, Value)>, Error> {
        self.named.map_or(Ok(Vec::new()), crate::values::entries)
    }

    /// A text argument.
    pub fn text(&self, position: usize, name: &str) -> Result<Option<crate::text::Text>, Error> {
        match self.argument(position, name) {
            Some(value) if !value.is_none() => Ok(Some(crate::values::text(&value)?)),
            _ => Ok(None),
        }
    }

    /// A whole number.
    pub fn integer(&self, position: usize, name: &str) -> Result<Option<i64>, Error> {
        match self.argument(position, name) {
            Some(value) if !value.is_none() => match crate::values::integer(&value) {
                Some(number) => Ok(Some(number)),
                None => Err(failure(format!("argument '{name}' is no whole number"))),
            },
            _ => Ok(None),
        }
    }

    pub fn is_true(&self, position: usize, name: &str) -> bool {
        self.argument(position, name).map_or(false, |value| value.is_true())
    }
}
