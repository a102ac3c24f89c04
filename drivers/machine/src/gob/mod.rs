//! Go's gob, as far as docker-machine's plugins speak it: integers, booleans, texts, bytes, structs, slices, maps and
//! interfaces. No floats, arrays or types with a marshaler of their own.
//!
//! The peer is not trusted with our memory: a message, a value of several messages, the types of a connection, the
//! nesting and the number of values all have bounds. A codec of our own, because `gobwire` 0.1.0, the one crate with
//! interfaces, expands the type of an interface's value into a tree: twenty types, each with two fields of the next, take
//! 500 bytes on the wire and 280 MB of memory, and one more doubles that. Here a type is looked at only where a value of
//! it is.

mod decode;
mod encode;
mod wire;

#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use encode::{Encoder, Shape};
pub use wire::{Prefix, prefix};

/// Bytes of one message, and of a value that is split over several.
pub const MESSAGE_MAX: usize = 4 << 20;
/// Messages that one value may be split over.
const PIECES_MAX: usize = 64;
/// Types that a peer may define on one connection, and fields of one.
const TYPES_MAX: usize = 512;
const FIELDS_MAX: usize = 256;
const DEPTH_MAX: usize = 32;
/// Values within one.
const VALUES_MAX: usize = 64 << 10;

/// The ids of the types that need no definition.
const BOOL: i64 = 1;
const INT: i64 = 2;
const UINT: i64 = 3;
const BYTES: i64 = 5;
const STRING: i64 = 6;
const INTERFACE: i64 = 8;
/// The first id that Go gives to another type; a peer may begin with 64.
const FIRST_OWN: i64 = 65;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(String),
    Bytes(Vec<u8>),
    /// The fields that are not zero, by name.
    Struct(Vec<(String, Value)>),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
    /// The name under which the type is registered and its value; `None` is nil.
    Interface(Option<(String, Box<Value>)>),
}

impl Value {
    /// A field of a struct; `None` where it is zero.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Struct(fields) => fields.iter().find(|(field, _)| field == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the bytes are no gob: {0}")]
    Corrupt(&'static str),
    #[error("the value has too much of something: {0}")]
    Excess(&'static str),
    #[error("type {0} is not defined")]
    Undefined(i64),
    #[error("type {0} is of a kind that no plugin uses")]
    Unsupported(i64),
    #[error("a value does not fit its type {0}")]
    Misfit(&'static str),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
