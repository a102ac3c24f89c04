//! Reading values. One that is split over several messages is read anew from its beginning when the next one is there:
//! nobody else has to remember how far it came.

use std::collections::HashMap;
use std::sync::Arc;

use super::wire::Reader;
use super::{
    BOOL, BYTES, DEPTH_MAX, Error, FIELDS_MAX, INT, INTERFACE, MESSAGE_MAX, PIECES_MAX, Result, STRING, TYPES_MAX,
    UINT, VALUES_MAX, Value,
};

/// The type of a type's definition, and the first id that a peer may define.
const WIRE_TYPE: i64 = 16;
const FIRST_OF_PEERS: i64 = 64;

/// What is known of a type.
#[derive(Debug, Clone)]
enum Kind {
    Struct(Arc<[(String, i64)]>),
    List(i64),
    Map(i64, i64),
    /// Arrays, and types with a marshaler.
    Other,
}

/// One direction of a connection, as whoever reads sees it.
#[derive(Debug)]
pub struct Decoder {
    types: HashMap<i64, Kind>,
    /// The messages of a value that is not whole yet, and where each ends.
    pieces: Vec<u8>,
    ends: Vec<usize>,
}

/// Why an attempt at a value ended.
enum Stop {
    /// It goes on in the next message.
    More,
    Fault(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fault(error)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self { types: built_in(), pieces: Vec::new(), ends: Vec::new() }
    }
}

impl Decoder {
    /// Takes a message, without its length; a value when one is whole. After an error nothing more can be read.
    pub fn push(&mut self, message: &[u8]) -> Result<Option<Value>> {
        if message.len() > MESSAGE_MAX - self.pieces.len() || self.ends.len() == PIECES_MAX {
            return Err(Error::Excess("bytes"));
        }
        if self.pieces.is_empty() && Reader::new(message).int()? < 0 {
            self.definition(message)?;
            return Ok(None);
        }
        self.pieces.extend_from_slice(message);
        self.ends.push(self.pieces.len());
        let mut attempt = Attempt::new(&self.types, &self.pieces, &self.ends);
        match attempt.whole() {
            Ok(value) => {
                let defined = attempt.defined;
                self.types.extend(defined);
                self.pieces.clear();
                self.ends.clear();
                Ok(Some(value))
            }
            Err(Stop::More) => Ok(None),
            Err(Stop::Fault(error)) => Err(error),
        }
    }

    fn definition(&mut self, message: &[u8]) -> Result<()> {
        let mut attempt = Attempt::new(&self.types, message, &[]);
        let id = attempt.reader.int()?;
        match attempt.define(id) {
            Ok(()) if attempt.reader.is_empty() => {}
            Ok(()) | Err(Stop::More) => return Err(Error::Corrupt("something follows a type's definition")),
            Err(Stop::Fault(error)) => return Err(error),
        }
        let defined = attempt.defined;
        self.types.extend(defined);
        Ok(())
    }
}

/// One reading of what there is.
struct Attempt<'a> {
    types: &'a HashMap<i64, Kind>,
    /// What the value itself defines on its way.
    defined: HashMap<i64, Kind>,
    reader: Reader<'a>,
    ends: &'a [usize],
    depth: usize,
    values: usize,
}

impl<'a> Attempt<'a> {
    fn new(types: &'a HashMap<i64, Kind>, bytes: &'a [u8], ends: &'a [usize]) -> Self {
        Self { types, defined: HashMap::new(), reader: Reader::new(bytes), ends, depth: 0, values: 0 }
    }

    fn whole(&mut self) -> Result<Value, Stop> {
        let id = self.reader.int()?;
        let value = self.framed(id)?;
        match self.reader.is_empty() {
            true => Ok(value),
            false => Err(Error::Corrupt("something follows a value").into()),
        }
    }

    /// A value by itself: one that is no struct has a zero before it.
    fn framed(&mut self, id: i64) -> Result<Value, Stop> {
        let is_struct = matches!(self.kind(id), Some(Kind::Struct(_)));
        if !is_struct && self.reader.uint()? != 0 {
            return Err(Error::Corrupt("a value does not begin with zero").into());
        }
        self.value(id)
    }

    fn value(&mut self, id: i64) -> Result<Value, Stop> {
        self.depth += 1;
        self.values += 1;
        if self.depth > DEPTH_MAX || self.values > VALUES_MAX {
            return Err(Error::Excess("values").into());
        }
        let value = match id {
            BOOL => Value::Bool(self.reader.uint()? != 0),
            INT => Value::Int(self.reader.int()?),
            UINT => Value::Uint(self.reader.uint()?),
            BYTES => Value::Bytes(self.reader.bytes()?.to_vec()),
            STRING => Value::Text(self.reader.text()?),
            INTERFACE => Value::Interface(self.interface()?),
            _ => self.composed(id)?,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn composed(&mut self, id: i64) -> Result<Value, Stop> {
        match self.kind(id).cloned().ok_or(Error::Undefined(id))? {
            Kind::Struct(fields) => self.structure(&fields),
            Kind::List(of) => {
                let count = self.reader.count()?;
                let items = (0..count).map(|_| self.value(of));
                Ok(Value::List(items.collect::<Result<_, _>>()?))
            }
            Kind::Map(key, of) => {
                let count = self.reader.count()?;
                let pairs = (0..count).map(|_| Ok::<_, Stop>((self.value(key)?, self.value(of)?)));
                Ok(Value::Map(pairs.collect::<Result<_, _>>()?))
            }
            Kind::Other => Err(Error::Unsupported(id).into()),
        }
    }

    /// Fields say how far they are from the last one; zero ends them.
    fn structure(&mut self, fields: &[(String, i64)]) -> Result<Value, Stop> {
        let mut values = Vec::new();
        let mut next = 0_usize;
        loop {
            let step = self.reader.uint()?;
            if step == 0 {
                return Ok(Value::Struct(values));
            }
            let step = usize::try_from(step).map_err(|_| Error::Corrupt("no such field"))?;
            let index = next.checked_add(step - 1).ok_or(Error::Corrupt("no such field"))?;
            let (name, id) = fields.get(index).ok_or(Error::Corrupt("no such field"))?;
            values.push((name.clone(), self.value(*id)?));
            next = index + 1;
        }
    }

    /// Types that are new are defined between the name and the value, and Go ends the message after each of them. Where
    /// it did not, how long the rest is comes first. That number, like the one before the value, is of no use: it counts
    /// what lies before the end of a message only.
    fn interface(&mut self) -> Result<Option<(String, Box<Value>)>, Stop> {
        let name = self.reader.text()?;
        if name.is_empty() {
            return Ok(None);
        }
        let id = loop {
            if self.reader.is_empty() {
                return Err(Stop::More);
            }
            let id = self.reader.int()?;
            if id >= 0 {
                break id;
            }
            self.define(id)?;
            if !self.ends.contains(&self.reader.at()) {
                self.reader.uint()?;
            }
        };
        self.reader.uint()?;
        Ok(Some((name, Box::new(self.framed(id)?))))
    }

    fn define(&mut self, negated: i64) -> Result<(), Stop> {
        let id = negated.checked_neg().filter(|id| *id >= FIRST_OF_PEERS).ok_or(Error::Corrupt("a type's number"))?;
        if self.kind(id).is_some() {
            return Err(Error::Corrupt("a type is defined twice").into());
        }
        if self.types.len() + self.defined.len() >= TYPES_MAX {
            return Err(Error::Excess("types").into());
        }
        let definition = self.value(WIRE_TYPE)?;
        self.defined.insert(id, kind(&definition)?);
        Ok(())
    }

    fn kind(&self, id: i64) -> Option<&Kind> {
        self.types.get(&id).or_else(|| self.defined.get(&id))
    }
}

/// A zero is not sent; a type without a number is none.
fn kind(definition: &Value) -> Result<Kind> {
    let id = |of: &Value, field: &str| of.field(field).and_then(Value::int).unwrap_or(0);
    if let Some(list) = definition.field("SliceT") {
        return Ok(Kind::List(id(list, "Elem")));
    }
    if let Some(map) = definition.field("MapT") {
        return Ok(Kind::Map(id(map, "Key"), id(map, "Elem")));
    }
    let Some(structure) = definition.field("StructT") else { return Ok(Kind::Other) };
    let fields = match structure.field("Field") {
        Some(Value::List(fields)) => fields.as_slice(),
        _ => &[],
    };
    if fields.len() > FIELDS_MAX {
        return Err(Error::Excess("fields"));
    }
    let name = |field: &Value| field.field("Name").and_then(Value::text).unwrap_or_default().to_owned();
    Ok(Kind::Struct(fields.iter().map(|field| (name(field), id(field, "Id"))).collect()))
}

/// The types of which definitions are made; both sides know them.
fn built_in() -> HashMap<i64, Kind> {
    const COMMON: (&str, i64) = ("CommonType", 18);
    let fields =
        |fields: &[(&str, i64)]| Kind::Struct(fields.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect());
    let with_marshalers = [
        ("ArrayT", 17),
        ("SliceT", 19),
        ("StructT", 20),
        ("MapT", 23),
        ("GobEncoderT", 24),
        ("BinaryMarshalerT", 24),
        ("TextMarshalerT", 24),
    ];
    HashMap::from([
        (WIRE_TYPE, fields(&with_marshalers)),
        (17, fields(&[COMMON, ("Elem", INT), ("Len", INT)])),
        (18, fields(&[("Name", STRING), ("Id", INT)])),
        (19, fields(&[COMMON, ("Elem", INT)])),
        (20, fields(&[COMMON, ("Field", 22)])),
        (21, fields(&[("Name", STRING), ("Id", INT)])),
        (22, Kind::List(21)),
        (23, fields(&[COMMON, ("Key", INT), ("Elem", INT)])),
        (24, fields(&[COMMON])),
    ])
}
