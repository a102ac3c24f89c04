//! The functions of templates. All are pure.

use std::cmp::Ordering;

use super::printf::printf;
use super::value::Value;

/// The answer of `and` and `or` as soon as an argument decides it.
pub fn shortcut(name: &str, arguments: &[Value]) -> Option<Value> {
    let last = arguments.last()?;
    let decides = match name {
        "and" => !last.is_true(),
        "or" => last.is_true(),
        _ => false,
    };
    decides.then(|| last.clone())
}

pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let value = match (name, arguments) {
        ("and" | "or", [.., last]) => {
            let decided = arguments.iter().find(|value| value.is_true() == (name == "or"));
            decided.unwrap_or(last).clone()
        }
        ("not", [value]) => Value::Bool(!value.is_true()),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            let mut equals = false;
            for other in rest {
                equals |= equal(first, other)?;
            }
            Value::Bool(equals)
        }
        ("ne", [a, b]) => Value::Bool(!equal(a, b)?),
        ("lt", [a, b]) => Value::Bool(order(a, b)?.is_lt()),
        ("le", [a, b]) => Value::Bool(order(a, b)?.is_le()),
        ("gt", [a, b]) => Value::Bool(order(a, b)?.is_gt()),
        ("ge", [a, b]) => Value::Bool(order(a, b)?.is_ge()),
        ("len", [value]) => Value::Int(len(value)? as i64),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("print", values) => Value::text(print(values)),
        ("println", values) => Value::text(values.iter().map(Value::to_string).collect::<Vec<_>>().join(" ") + "\n"),
        ("printf", [Value::Text(format), values @ ..]) => Value::text(printf(format, values)?),
        ("and" | "or" | "not" | "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "len" | "index" | "printf", _) => {
            return Err(format!("wrong arguments for {name}"));
        }
        _ => return Err(format!("function {name:?} is not defined")),
    };
    Ok(value)
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Missing, Value::Missing) => Ok(true),
        (Value::Missing, _) | (_, Value::Missing) => Ok(false),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        _ => order(a, b).map(Ordering::is_eq),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => Ok(a.total_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        _ => Err(format!("cannot compare a {} with a {}", a.kind(), b.kind())),
    }
}

fn len(value: &Value) -> Result<usize, String> {
    match value {
        Value::Text(text) => Ok(text.len()),
        Value::List(items) => Ok(items.len()),
        Value::Map(map) => Ok(map.len()),
        other => Err(format!("a {} has no len", other.kind())),
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, String> {
    keys.iter().try_fold(value.clone(), |value, key| match (&value, key) {
        (Value::Map(map), Value::Text(key)) => Ok(map.get(&**key).cloned().unwrap_or(Value::Missing)),
        (Value::List(items), Value::Int(index)) => {
            let item = usize::try_from(*index).ok().and_then(|index| items.get(index));
            item.cloned().ok_or_else(|| format!("index {index} is out of range"))
        }
        _ => Err(format!("cannot index a {} with a {}", value.kind(), key.kind())),
    })
}

/// Go puts a space between two operands when neither is text.
fn print(values: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in values.iter().enumerate() {
        let text = |value: &Value| matches!(value, Value::Text(_));
        if at > 0 && !text(value) && !text(&values[at - 1]) {
            out.push(' ');
        }
        out.push_str(&value.to_string());
    }
    out
}
