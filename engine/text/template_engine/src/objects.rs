//! Lists, maps and namespaces of templates.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::limits::{charge, failure, MAX_DEPTH};
use crate::text::Text;
use crate::values::{items, number, type_name};

#[derive(Debug)]
pub struct List {
    items: Vec<Value>,
    depth: u32,
}

impl List {
    /// An error for what would be too deep.
    pub fn new(items: Vec<Value>) -> Result<Value, Error> {
        charge(items.len() * 24 + 64)?;
        let depth = depth_around(&items)?;
        Ok(Value::from_object(List { items, depth }))
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &State<'_, '_>,
        _method: &str,
        _args: &[Value],
    ) -> Result<Value, Error> {
        Err(Error::from(ErrorKind::UnknownMethod))
    }
}

/// A map in the order of its making, as Python's are.
#[derive(Debug)]
pub struct Map {
    pub entries: Vec<(Value, Value)>,
    places: HashMap<String, usize>,
    depth: u32,
}

impl Map {
    /// Later entries replace earlier ones of the same key. An error for what would be too deep, and
    /// for keys that are neither text nor numbers.
    pub fn new(entries: Vec<(Value, Value)>) -> Result<Value, Error> {
        charge(entries.len() * 128 + 64)?;
        let mut map = Map { entries: Vec::new(), places: HashMap::new(), depth: 0 };
        for (key, value) in entries {
            let name = key_name(&key)
                .ok_or_else(|| failure(format!("{} can't be a key", type_name(&key))))?;
            match map.places.get(&name) {
                Some(place) => map.entries[*place].1 = value,
                None => {
                    map.places.insert(name, map.entries.len());
                    map.entries.push((key, value));
                }
            }
        }
        let values: Vec<Value> = map.entries.iter().map(|(_, value)| value.clone()).collect();
        map.depth = depth_around(&values)?;
        Ok(Value::from_object(map))
    }
}

impl Object for Map {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let place = self.places.get(&key_name(key)?)?;
        Some(self.entries[*place].1.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.entries.iter().map(|(key, _)| key.clone()).collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.entries.len())
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &State<'_, '_>,
        _method: &str,
        _args: &[Value],
    ) -> Result<Value, Error> {
        Err(Error::from(ErrorKind::UnknownMethod)) // not an entry: schemas have one named "items"
    }
}

/// What equal keys have in common; who wrote them does not matter.
fn key_name(key: &Value) -> Option<String> {
    match key.kind() {
        ValueKind::String => Some(format!("s{}", Text::unmark(key.as_str()?).plain)),
        ValueKind::Number | ValueKind::Bool => Some(format!("n{}", number(key)?)),
        ValueKind::None => Some("none".into()),
        _ => None,
    }
}

/// Jinja's `namespace()`: the one thing that a template can change. It holds data only, so that
/// nothing can come to hold itself.
#[derive(Debug, Default)]
pub struct Namespace(Mutex<HashMap<String, Value>>);

impl Namespace {
    pub fn set(&self, name: &str, value: Value) -> Result<(), Error> {
        if !is_data(&value) {
            return Err(failure(format!("a namespace can't hold {}", type_name(&value))));
        }
        charge(64)?;
        self.0.lock().unwrap().insert(name.into(), value);
        Ok(())
    }
}

impl Object for Namespace {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.lock().unwrap().get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}

/// The depth of what would hold these.
fn depth_around(values: &[Value]) -> Result<u32, Error> {
    let depth = 1 + values.iter().map(depth).max().unwrap_or(0);
    if depth > MAX_DEPTH {
        return Err(failure(format!("values are nested more than {MAX_DEPTH} levels deep")));
    }
    Ok(depth)
}

fn depth(value: &Value) -> u32 {
    if let Some(list) = value.downcast_object_ref::<List>() {
        return list.depth;
    }
    if let Some(map) = value.downcast_object_ref::<Map>() {
        return map.depth;
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Map => MAX_DEPTH / 2, // the engine's own constants
        _ => 0,
    }
}

fn is_data(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq => items(value).map_or(false, |items| items.iter().all(is_data)),
        ValueKind::Map => match value.downcast_object_ref::<Map>() {
            Some(map) => map.entries.iter().all(|(_, value)| is_data(value)),
            None => false,
        },
        ValueKind::Undefined
        | ValueKind::None
        | ValueKind::Bool
        | ValueKind::Number
        | ValueKind::String => true,
        _ => false,
    }
}
