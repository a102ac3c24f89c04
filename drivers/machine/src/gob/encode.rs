//! Writing values. All types that a value needs are defined in messages of their own before it, which every reader of
//! gob takes, unlike the value in pieces that Go makes of an interface.

use super::wire::{put_bytes, put_int, put_uint};
use super::{BOOL, BYTES, Error, FIRST_OWN, INT, INTERFACE, Result, STRING, UINT, Value};

/// A type of ours; a `static`, which is known by its place.
#[derive(Debug)]
pub enum Shape {
    Bool,
    Int,
    Uint,
    Text,
    Bytes,
    Struct(&'static str, &'static [(&'static str, &'static Shape)]),
    List(&'static Shape),
    Map(&'static str, &'static Shape, &'static Shape),
    /// One of several, by the names under which they are registered.
    Interface(&'static [(&'static str, &'static Shape)]),
}

/// One direction of a connection, as whoever writes sees it.
#[derive(Debug, Default)]
pub struct Encoder {
    /// In the order of their ids.
    defined: Vec<&'static Shape>,
}

impl Encoder {
    /// The messages, with their lengths, that are `value`. After an error nothing has changed for the reader as long as
    /// nothing is sent; the connection is of no more use.
    pub fn encode(&mut self, shape: &'static Shape, value: &Value) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.define_all(shape, value, &mut out)?;
        let mut message = Vec::new();
        self.framed(shape, value, &mut message)?;
        put_bytes(&mut out, &message);
        Ok(out)
    }

    /// Defines what is new of a type and, in interfaces, of a value.
    fn define_all(&mut self, shape: &'static Shape, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        self.define(shape, out)?;
        match (shape, value) {
            (Shape::List(of), Value::List(items)) => items.iter().try_for_each(|item| self.define_all(of, item, out)),
            (Shape::Map(_, key, of), Value::Map(pairs)) => pairs.iter().try_for_each(|(name, value)| {
                self.define_all(key, name, out)?;
                self.define_all(of, value, out)
            }),
            (Shape::Struct(_, fields), Value::Struct(_)) => fields.iter().try_for_each(|(name, shape)| {
                value.field(name).map_or(Ok(()), |value| self.define_all(shape, value, out))
            }),
            (Shape::Interface(known), Value::Interface(Some((name, value)))) => {
                self.define_all(registered(known, name)?, value, out)
            }
            _ => Ok(()),
        }
    }

    fn define(&mut self, shape: &'static Shape, out: &mut Vec<u8>) -> Result<i64> {
        if let Ok(id) = self.id(shape) {
            return Ok(id);
        }
        // Before its parts, as Go does.
        let id = FIRST_OWN + self.defined.len() as i64;
        self.defined.push(shape);
        let mut parts = Vec::new();
        let definition = self.definition(shape, id, &mut parts)?;
        let mut message = Vec::new();
        put_int(&mut message, -id);
        self.value(&WIRE_TYPE, &definition, &mut message)?;
        put_bytes(out, &message);
        out.extend(parts);
        Ok(id)
    }

    fn definition(&mut self, shape: &'static Shape, id: i64, parts: &mut Vec<u8>) -> Result<Value> {
        let common = |name: &str| ("CommonType", fields([("Name", Value::Text(name.into())), ("Id", Value::Int(id))]));
        let (kind, value) = match shape {
            Shape::List(of) => ("SliceT", fields([common(""), ("Elem", Value::Int(self.define(of, parts)?))])),
            Shape::Map(name, key, of) => {
                let (key, of) = (self.define(key, parts)?, self.define(of, parts)?);
                ("MapT", fields([common(name), ("Key", Value::Int(key)), ("Elem", Value::Int(of))]))
            }
            Shape::Struct(name, members) => {
                let mut list = Vec::new();
                for (name, shape) in *members {
                    let id = self.define(shape, parts)?;
                    list.push(fields([("Name", Value::Text((*name).into())), ("Id", Value::Int(id))]));
                }
                ("StructT", fields([common(name), ("Field", Value::List(list))]))
            }
            _ => return Err(Error::Misfit("a type that needs no definition")),
        };
        Ok(fields([(kind, value)]))
    }

    /// The type, then the value; one that is no struct has a zero before it.
    fn framed(&self, shape: &'static Shape, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        put_int(out, self.id(shape)?);
        self.bare(shape, value, out)
    }

    fn bare(&self, shape: &'static Shape, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        if !matches!(shape, Shape::Struct(..)) {
            put_uint(out, 0);
        }
        self.value(shape, value, out)
    }

    fn value(&self, shape: &'static Shape, value: &Value, out: &mut Vec<u8>) -> Result<()> {
        match (shape, value) {
            (Shape::Bool, Value::Bool(flag)) => put_uint(out, (*flag).into()),
            (Shape::Int, Value::Int(number)) => put_int(out, *number),
            (Shape::Uint, Value::Uint(number)) => put_uint(out, *number),
            (Shape::Text, Value::Text(text)) => put_bytes(out, text.as_bytes()),
            (Shape::Bytes, Value::Bytes(bytes)) => put_bytes(out, bytes),
            (Shape::Struct(_, members), Value::Struct(_)) => return self.structure(members, value, out),
            (Shape::List(of), Value::List(items)) => {
                put_uint(out, items.len() as u64);
                return items.iter().try_for_each(|item| self.value(of, item, out));
            }
            (Shape::Map(_, key, of), Value::Map(pairs)) => {
                put_uint(out, pairs.len() as u64);
                return pairs.iter().try_for_each(|(name, value)| {
                    self.value(key, name, out)?;
                    self.value(of, value, out)
                });
            }
            (Shape::Interface(_), Value::Interface(None)) => put_uint(out, 0),
            (Shape::Interface(known), Value::Interface(Some((name, value)))) => {
                let shape = registered(known, name)?;
                let mut inner = Vec::new();
                self.bare(shape, value, &mut inner)?;
                put_bytes(out, name.as_bytes());
                put_int(out, self.id(shape)?);
                put_bytes(out, &inner);
            }
            _ => return Err(Error::Misfit("another kind of value")),
        }
        Ok(())
    }

    fn structure(&self, members: &[(&str, &'static Shape)], value: &Value, out: &mut Vec<u8>) -> Result<()> {
        let mut step = 1;
        for (name, shape) in members {
            match value.field(name).filter(|value| !is_zero(value)) {
                Some(value) => {
                    put_uint(out, step);
                    self.value(shape, value, out)?;
                    step = 1;
                }
                None => step += 1,
            }
        }
        put_uint(out, 0);
        Ok(())
    }

    fn id(&self, shape: &'static Shape) -> Result<i64> {
        let place = || self.defined.iter().position(|known| std::ptr::eq(*known, shape));
        let own = || place().map(|index| FIRST_OWN + index as i64);
        fixed(shape).or_else(own).ok_or(Error::Misfit("a type that was not defined"))
    }
}

fn registered(known: &[(&str, &'static Shape)], name: &str) -> Result<&'static Shape> {
    let found = known.iter().find(|(known, _)| *known == name);
    found.map(|(_, shape)| *shape).ok_or(Error::Misfit("a type that is not registered"))
}

fn fixed(shape: &Shape) -> Option<i64> {
    Some(match shape {
        Shape::Bool => BOOL,
        Shape::Int => INT,
        Shape::Uint => UINT,
        Shape::Text => STRING,
        Shape::Bytes => BYTES,
        Shape::Interface(_) => INTERFACE,
        _ => return None,
    })
}

/// What a struct does not send.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Int(number) => *number == 0,
        Value::Uint(number) => *number == 0,
        Value::Text(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(items) => items.is_empty(),
        Value::Map(pairs) => pairs.is_empty(),
        Value::Interface(value) => value.is_none(),
        Value::Struct(_) => false,
    }
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Struct(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

static COMMON: Shape = Shape::Struct("", &[("Name", &Shape::Text), ("Id", &Shape::Int)]);
static FIELD: Shape = Shape::Struct("", &[("Name", &Shape::Text), ("Id", &Shape::Int)]);
static FIELDS: Shape = Shape::List(&FIELD);
static LIST: Shape = Shape::Struct("", &[("CommonType", &COMMON), ("Elem", &Shape::Int)]);
static STRUCT: Shape = Shape::Struct("", &[("CommonType", &COMMON), ("Field", &FIELDS)]);
static MAP: Shape = Shape::Struct("", &[("CommonType", &COMMON), ("Key", &Shape::Int), ("Elem", &Shape::Int)]);
/// The type of a type's definition. Arrays are never defined; their field only takes up its place.
static WIRE_TYPE: Shape =
    Shape::Struct("", &[("ArrayT", &Shape::Int), ("SliceT", &LIST), ("StructT", &STRUCT), ("MapT", &MAP)]);
