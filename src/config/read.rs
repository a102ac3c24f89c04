//! Reads the schema's types out of a tree. A fault names its field and place; keys that no type asks for are noted.
//! Follows Lima where a value is not of the type: numbers pass for text and numeric text for numbers, `null` is zero.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::slice;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::suggest;
use super::tree::{Entry, NULL, Node, Position, Tree};

/// What came of reading a document.
pub struct Reading<T> {
    /// Nothing when there were too many misfits to go on.
    pub value: Option<T>,
    pub unknown: Vec<Unknown>,
    /// Each of these fields was left out of `value`.
    pub misfits: Vec<Misfit>,
}

/// A key that the schema does not have.
#[derive(Debug)]
pub struct Unknown {
    pub field: String,
    pub at: Position,
    pub meant: Option<&'static str>,
}

/// A value that is not of its field's type.
#[derive(Debug)]
pub struct Misfit {
    pub field: String,
    pub at: Position,
    pub why: String,
}

/// How many misfits of one document are reported.
const MOST_MISFITS: usize = 20;

/// Behind so many unknown keys the document is not a lima.yaml, and a search for each would only take time.
const MOST_SUGGESTIONS: usize = 100;

/// Reads all that can be read. serde stops at the first fault, so the document is read again without the field at fault.
pub fn read<T: DeserializeOwned>(tree: &Tree, source: &str) -> Reading<T> {
    let mut session = Session { source, skipped: Vec::new(), unknown: RefCell::default() };
    let mut misfits: Vec<Misfit> = Vec::new();
    loop {
        session.unknown.borrow_mut().clear();
        let reader = Reader { tree, path: Path::Root, session: &session, key: None };
        let fault = match T::deserialize(reader) {
            Ok(value) => return Reading { value: Some(value), unknown: session.unknown.into_inner(), misfits },
            Err(fault) => fault,
        };
        let (field, at) = fault.place.unwrap_or((String::new(), tree.at));
        let again = session.skipped.contains(&field);
        if !again {
            session.skipped.push(field.clone());
            misfits.push(Misfit { field, at, why: fault.why });
        }
        if again || misfits.len() >= MOST_MISFITS {
            return Reading { value: None, unknown: session.unknown.into_inner(), misfits };
        }
    }
}

struct Session<'a> {
    source: &'a str,
    /// Fields to read as `null`.
    skipped: Vec<String>,
    unknown: RefCell<Vec<Unknown>>,
}

#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// serde's error: a sentence, and the innermost field that it is about.
#[derive(Debug)]
struct Fault {
    why: String,
    place: Option<(String, Position)>,
}

impl Fault {
    fn at(self, path: &Path, at: Position) -> Self {
        Self { place: self.place.or_else(|| Some((path.to_string(), at))), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self { why: why.to_string(), place: None }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    tree: &'a Tree,
    path: Path<'a>,
    session: &'a Session<'a>,
    /// The key this is the value of, and the keys that would be known there.
    key: Option<(&'a Entry, &'static [&'static str])>,
}

impl<'a> Reader<'a> {
    fn node(&self) -> &'a Node {
        let skipped = &self.session.skipped;
        if !skipped.is_empty() && skipped.contains(&self.path.to_string()) { &NULL.node } else { &self.tree.node }
    }

    /// The scalar as it was written.
    fn written(&self) -> Cow<'a, str> {
        let written = self.session.source.get(self.tree.source.clone()).unwrap_or_default().trim();
        match self.node() {
            _ if !written.is_empty() => written.into(),
            Node::Bool(value) => value.to_string().into(),
            Node::Int(value) => value.to_string().into(),
            Node::Float(value) => value.to_string().into(),
            _ => written.into(),
        }
    }

    /// The value for a sentence: short, on one line.
    fn shown(&self) -> String {
        match self.node() {
            Node::Text(text) => {
                let short: String = text.chars().take(40).collect();
                format!("{short:?}{}", if short.len() < text.len() { "..." } else { "" })
            }
            Node::Null => "null".into(),
            Node::Bytes(bytes) => format!("{} bytes of binary", bytes.len()),
            Node::Bool(_) | Node::Int(_) | Node::Float(_) => self.written().into_owned(),
            Node::List(_) | Node::Map(_) => self.tree.kind().into(),
        }
    }

    fn fault(&self, why: impl fmt::Display) -> Fault {
        Fault { why: why.to_string(), place: None }.at(&self.path, self.tree.at)
    }

    fn expected(&self, what: &str) -> Fault {
        self.fault(format_args!("expected {what}, not {}", self.tree.kind()))
    }

    fn integer(&self, least: i64, most: i64) -> Result<i64, Fault> {
        let value = match self.node() {
            Node::Null => Some(0),
            Node::Int(value) => Some(*value),
            Node::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        let value = value.ok_or_else(|| self.fault(format_args!("invalid number {}", self.shown())))?;
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(self.fault(format_args!("invalid number {value} ({least} to {most})")))
    }

    fn visit_list<'de, V: Visitor<'de>>(self, items: &'a [Tree], visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(Items { parent: self, items: items.iter().enumerate() })
    }

    fn visit_map<'de, V: Visitor<'de>>(
        self,
        entries: &'a [Entry],
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_map(Entries { parent: self, entries: entries.iter(), next: None, known })
    }
}

macro_rules! integers {
    ($($method:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let most = i64::try_from(<$type>::MAX).unwrap_or(i64::MAX);
            visitor.visit_i64(self.integer(<$type>::MIN as i64, most)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let (path, at) = (self.path, self.tree.at);
        match self.node() {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Int(value) => visitor.visit_i64(*value),
            Node::Float(value) => visitor.visit_f64(*value),
            Node::Text(value) => visitor.visit_str(value),
            Node::Bytes(value) => visitor.visit_bytes(value),
            Node::List(items) => self.visit_list(items, visitor),
            Node::Map(entries) => self.visit_map(entries, &[], visitor),
        }
        .map_err(|fault| fault.at(&path, at))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node() {
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Null => visitor.visit_bool(false),
            _ => Err(self.fault(format_args!("invalid boolean {} (true or false)", self.shown()))),
        }
    }

    integers!(
        deserialize_i8 i8, deserialize_i16 i16, deserialize_i32 i32, deserialize_i64 i64,
        deserialize_u8 u8, deserialize_u16 u16, deserialize_u32 u32, deserialize_u64 u64
    );

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node() {
            Node::Text(text) => visitor.visit_str(text),
            Node::Null => visitor.visit_str(""),
            Node::Bool(_) | Node::Int(_) | Node::Float(_) => visitor.visit_str(&self.written()),
            // Only what takes any bytes takes these.
            Node::Bytes(bytes) => visitor.visit_bytes(bytes).map_err(|_: Fault| self.expected("text")),
            Node::List(_) | Node::Map(_) => Err(self.expected("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node() {
            Node::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node() {
            Node::List(items) => self.visit_list(items, visitor),
            Node::Null => self.visit_list(&[], visitor),
            _ => Err(self.expected("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        match self.node() {
            Node::List(items) if items.len() == len => self.visit_list(items, visitor),
            Node::List(items) => Err(self.fault(format_args!("expected a list of {len}, not of {}", items.len()))),
            _ => Err(self.expected(&format!("a list of {len}"))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.node() {
            Node::Map(entries) => self.visit_map(entries, known, visitor),
            Node::Null => self.visit_map(&[], known, visitor),
            _ => Err(self.expected("a map")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// Asked for the value of a key that the type does not have.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if let Some((entry, known)) = self.key {
            let mut unknown = self.session.unknown.borrow_mut();
            let suggests = unknown.len() < MOST_SUGGESTIONS;
            let meant = if suggests { suggest::nearest(&entry.key, known) } else { None };
            unknown.push(Unknown { field: self.path.to_string(), at: entry.at, meant });
        }
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple_struct enum identifier
    }
}

struct Items<'a> {
    parent: Reader<'a>,
    items: std::iter::Enumerate<slice::Iter<'a, Tree>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((index, tree)) = self.items.next() else {
            return Ok(None);
        };
        let path = Path::Index(&self.parent.path, index);
        let reader = Reader { tree, path, session: self.parent.session, key: None };
        seed.deserialize(reader).map(Some).map_err(|fault| fault.at(&path, tree.at))
    }
}

struct Entries<'a> {
    parent: Reader<'a>,
    entries: slice::Iter<'a, Entry>,
    next: Option<&'a Entry>,
    known: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.next = self.entries.next();
        let Some(entry) = self.next else {
            return Ok(None);
        };
        seed.deserialize(entry.key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let entry = self.next.ok_or_else(|| self.parent.fault("a value without a key"))?;
        let path = Path::Key(&self.parent.path, &entry.key);
        let key = Some((entry, self.known));
        let reader = Reader { tree: &entry.value, path, session: self.parent.session, key };
        seed.deserialize(reader).map_err(|fault| fault.at(&path, entry.value.at))
    }
}
