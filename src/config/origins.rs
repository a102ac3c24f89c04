//! The filled configuration with the origin of each value beside it, as comments: `lima.yaml:12`, `built in`.
//! Reads the documents again, and so is for those who ask; never changes what the text is read as.

use std::collections::BTreeMap;

use super::layers::{Layer, Stack};
use super::parse::own_tree;
use super::tree::{Node, Position, Tree};
use super::{Assembled, Context, assemble, to_yaml};
use crate::error::{Error, Result};

/// Free-form maps: the highest document that has a key gives its whole value.
const TABLES: &[&str] = &["vmOpts", "osOpts", "env", "param", "hostResolver.hosts"];

/// Lists that hold each text once, and whether the lowest document comes first.
const UNIQUE: &[(&str, bool)] = &[("mountTypesUnsupported", false), ("caCerts.files", true), ("caCerts.certs", true)];

/// What a plain guest gets whatever was written.
const PLAIN: &[&str] = &["mounts", "timezone", "containerd.system", "containerd.user"];

/// New and old place of what `deprecated` moves.
const MOVED: &[(&str, &str)] = &[("vmOpts.qemu.cpuType", "cpuType"), ("vmOpts.vz.rosetta", "rosetta")];

/// What [`to_yaml`] makes of a document that [`super::load`] accepts, with a comment behind each scalar and each empty
/// list or map.
pub fn yaml_with_origins(text: &[u8], context: &Context) -> Result<String> {
    let Assembled { filled, stack, .. } = assemble(text, context)?;
    let yaml = to_yaml(&filled)?;
    let tree = own_tree(&yaml).map_err(|why| Error::failed("effective.origins.yaml", why))?;
    let is_plain = filled.plain == Some(true);
    let mut origins = Origins { stack: &stack, is_plain, yaml: &yaml, of_line: BTreeMap::new() };
    origins.walk("", &tree);
    let (mut result, mut copied) = (String::new(), 0);
    for (end, origin) in origins.of_line {
        result.push_str(&format!("{} # {origin}", &yaml[copied..end]));
        copied = end;
    }
    Ok(result + &yaml[copied..])
}

struct Origins<'a> {
    stack: &'a Stack,
    is_plain: bool,
    /// The result.
    yaml: &'a str,
    /// By the end of the line on which a value begins: in block style no line begins two.
    of_line: BTreeMap<usize, String>,
}

impl Origins<'_> {
    fn walk(&mut self, field: &str, tree: &Tree) {
        match &tree.node {
            Node::List(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    self.walk(&format!("{field}[{index}]"), item);
                }
            }
            Node::Map(entries) if !entries.is_empty() => {
                for entry in entries {
                    let dot = if field.is_empty() { "" } else { "." };
                    self.walk(&format!("{field}{dot}{}", entry.key), &entry.value);
                }
            }
            value => {
                let origin = self.origin(field, value);
                let told = origin.map_or("built in".into(), |(layer, at)| format!("{}:{}", layer.file(), at.line));
                self.of_line.insert(self.end_of_first_line(tree.source.start), told);
            }
        }
    }

    /// Before a value is its key or dash. Where there is only space, the value is a block of text, and a comment may
    /// only follow the `|` above it.
    fn end_of_first_line(&self, start: usize) -> usize {
        let above = &self.yaml[..start];
        if above.rsplit('\n').next().is_none_or(|before| before.trim_matches(' ').is_empty()) {
            return above.trim_end().len();
        }
        start + self.yaml[start..].find('\n').unwrap_or(self.yaml.len() - start)
    }

    /// Where `field` of the result, whose value is `value`, was written; `None` where it was not.
    fn origin(&self, field: &str, value: &Node) -> Option<(Layer, Position)> {
        if self.is_plain && PLAIN.contains(&field) {
            return self.scalar("plain", &Node::Bool(true));
        }
        if let Some((list, from_below)) = UNIQUE.iter().find(|(list, _)| is_below(field, list)) {
            return self.of_unique(list, *from_below, value);
        }
        if let Some(table) = TABLES.iter().find(|table| is_below(field, table)) {
            return self.of_table(table, field);
        }
        if is_below(field, "dns") {
            let has_any = |layer: &Layer| self.find(*layer, "dns[0]").is_some();
            return Layer::ALL.into_iter().find(has_any).and_then(|layer| self.at(layer, field));
        }
        self.scalar(field, value)
    }

    /// The highest document that has a value for it. A mount's place goes with the highest entry: where that has none, it
    /// is the location's.
    fn scalar(&self, field: &str, value: &Node) -> Option<(Layer, Position)> {
        let mut candidates = self.stack.candidates(field);
        if field.starts_with("mounts[") && field.ends_with("].mountPoint") {
            candidates.truncate(1);
        }
        candidates.into_iter().find_map(|(layer, path)| {
            let (written, at) = self.find(layer, &path).or_else(|| self.named(layer, &path))?;
            counts(&written.node, value).then_some((layer, at))
        })
    }

    /// An additional disk may be written as its name alone.
    fn named(&self, layer: Layer, path: &str) -> Option<(&Tree, Position)> {
        let item = path.strip_suffix(".name").filter(|item| item.starts_with("additionalDisks["))?;
        self.find(layer, item).filter(|(tree, _)| !matches!(tree.node, Node::Map(_)))
    }

    fn of_unique(&self, list: &str, from_below: bool, value: &Node) -> Option<(Layer, Position)> {
        let mut layers = Layer::ALL;
        if from_below {
            layers.reverse();
        }
        let Node::Text(text) = value else { return None };
        layers.into_iter().find_map(|layer| {
            let (Tree { node: Node::List(items), .. }, _) = self.find(layer, list)? else { return None };
            let same = |item: &&Tree| matches!(&item.node, Node::Text(written) if written == text);
            items.iter().find(same).map(|item| (layer, item.at))
        })
    }

    fn of_table(&self, table: &str, field: &str) -> Option<(Layer, Position)> {
        // Drivers' names have no dots; the keys of the other tables may, but their values are scalars.
        let key = match field[table.len() + 1..].split(['.', '[']).next() {
            Some(driver) if table.ends_with("Opts") => format!("{table}.{driver}"),
            _ => field.to_owned(),
        };
        let layer = Layer::ALL.into_iter().find(|layer| self.find(*layer, &key).is_some());
        let moved = || {
            let (new, old) = MOVED.iter().find(|(new, _)| is_below(field, new))?;
            let old = format!("{old}{}", &field[new.len()..]);
            Layer::ALL.into_iter().find_map(|layer| self.at(layer, &old))
        };
        layer.and_then(|layer| self.at(layer, field)).or_else(moved)
    }

    fn at(&self, layer: Layer, field: &str) -> Option<(Layer, Position)> {
        self.find(layer, field).map(|(_, at)| (layer, at))
    }

    fn find(&self, layer: Layer, field: &str) -> Option<(&Tree, Position)> {
        self.stack.tree(layer).find(field)
    }
}

/// Whether what was written is what became `value`: null, and the words for "not written" where there is a default, are
/// not.
fn counts(written: &Node, value: &Node) -> bool {
    match (written, value) {
        (Node::Null, _) => false,
        (Node::Text(word), Node::Text(value)) if word.is_empty() || word == "default" => word == value,
        (Node::Int(0), Node::Int(value)) => *value == 0,
        _ => true,
    }
}

fn is_below(field: &str, parent: &str) -> bool {
    field.strip_prefix(parent).is_some_and(|rest| rest.starts_with(['.', '[']))
}
