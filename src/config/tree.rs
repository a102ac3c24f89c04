//! A YAML document as a tree that remembers where each key and value was written.
//! Aliases and merge keys are resolved; decides nothing about lima.yaml.

use std::fmt;
use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Location, Spanned, Tagged};

/// Line and column, from 1; columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

#[derive(Debug)]
pub struct Tree {
    pub node: Node,
    pub at: Position,
    /// The value's bytes in the text, because a number may be wanted as it was written (`permissions: 0644`).
    pub source: Range<usize>,
}

#[derive(Debug)]
pub enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// What is `!!binary` and no UTF-8.
    Bytes(Vec<u8>),
    List(Vec<Tree>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub at: Position,
    pub value: Tree,
}

pub static NULL: Tree = Tree { node: Node::Null, at: Position { line: 1, column: 1 }, source: 0..0 };

impl Tree {
    /// Where `field` (`mounts[1].writable`) is written: its key, else the nearest parent's; `None` for the root.
    /// With it, whether all of the path is there and has a value.
    pub fn locate(&self, field: &str) -> (Option<Position>, bool) {
        let (tree, found, rest) = self.walk(field);
        (found, rest.is_empty() && !matches!(tree.node, Node::Null))
    }

    /// The value of `field`, if it is written.
    pub fn get(&self, field: &str) -> Option<&Tree> {
        let (tree, _, rest) = self.walk(field);
        rest.is_empty().then_some(tree)
    }

    /// The same, with the place of its key or item.
    pub fn find(&self, field: &str) -> Option<(&Tree, Position)> {
        let (tree, found, rest) = self.walk(field);
        found.filter(|_| rest.is_empty()).map(|at| (tree, at))
    }

    /// As far down the path as it goes: the value there, where it is written, and what is left of the path.
    fn walk<'a>(&self, field: &'a str) -> (&Tree, Option<Position>, &'a str) {
        let (mut tree, mut found, mut rest) = (self, None, field);
        while let Some((next, at, behind)) = tree.step(rest) {
            (tree, found, rest) = (next, Some(at), behind);
        }
        (tree, found, rest)
    }

    /// One segment down: the child, where it is written, and the rest of the path.
    fn step<'a>(&self, path: &'a str) -> Option<(&Tree, Position, &'a str)> {
        match &self.node {
            Node::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some((item, item.at, rest))
            }
            Node::Map(entries) => {
                let path = path.strip_prefix('.').unwrap_or(path);
                // Keys of free-form maps may hold dots, so the longest key that fits is the one.
                let fits = |entry: &&Entry| {
                    path.strip_prefix(entry.key.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                };
                let entry = entries.iter().filter(fits).max_by_key(|entry| entry.key.len())?;
                Some((&entry.value, entry.at, &path[entry.key.len()..]))
            }
            _ => None,
        }
    }

    /// What it is, for a sentence.
    pub fn kind(&self) -> &'static str {
        match self.node {
            Node::Null => "nothing",
            Node::Bool(_) => "a boolean",
            Node::Int(_) | Node::Float(_) => "a number",
            Node::Text(_) => "text",
            Node::Bytes(_) => "binary",
            Node::List(_) => "a list",
            Node::Map(_) => "a map",
        }
    }
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value: Tagged(node, tag), referenced, defined } = Spanned::deserialize(deserializer)?;
        let node = match node {
            Node::Text(coded) if tag.as_deref().is_some_and(is_binary) => decoded(&coded).map_err(de::Error::custom)?,
            node => node,
        };
        let span = defined.span();
        let start = span.byte_offset().unwrap_or(0) as usize;
        let source = start..start + span.byte_len().unwrap_or(0) as usize;
        Ok(Self { node, at: referenced.into(), source })
    }
}

/// The parser makes text of binary, if it can; that is left to us.
fn is_binary(tag: &str) -> bool {
    matches!(tag, "tag:yaml.org,2002:binary" | "!!binary" | "!binary")
}

fn decoded(coded: &str) -> Result<Node, &'static str> {
    let dense: String = coded.split_ascii_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(dense).map_err(|_| "invalid base64 behind !!binary")?;
    Ok(String::from_utf8(bytes).map_or_else(|error| Node::Bytes(error.into_bytes()), Node::Text))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push(Entry { key: key.value, at: key.referenced.into(), value: map.next_value()? });
        }
        Ok(Node::Map(entries))
    }
}
