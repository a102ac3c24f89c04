//! The documents that make up a configuration, and where in which of them a field of the result comes from.

use std::sync::Arc;

use limafs_driver::Config;

use super::merge::merge;
use super::parse::{Parsed, parse};
use super::remarks::Remarks;
use super::tree::{Node, Position, Tree};
use crate::error::Result;
use crate::names::{CONFIG_DIR, DEFAULT_YAML, LIMA_YAML, OVERRIDE_YAML};

/// The texts of the home that apply to every instance, as they were read; `None` where there is no such file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// `_config/override.yaml`
    pub overrides: Option<Arc<[u8]>>,
    /// `_config/default.yaml`
    pub defaults: Option<Arc<[u8]>>,
}

/// One of the documents; the highest priority first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    Override,
    Written,
    Default,
}

/// Joined with the highest priority first.
const JOINED: &[&str] =
    &["images", "additionalDisks", "firmware.images", "provision", "containerd.archives", "probes", "copyToHost"];

/// The entries of the joined list that one entry of the result was made of, lowest priority first.
pub type Sources = Vec<Vec<usize>>;

/// What was read of each document.
pub struct Stack {
    trees: [Tree; 3],
    /// Of the result's `mounts` and `networks`, once they are filled.
    pub mounts: Sources,
    pub networks: Sources,
    /// The entries of the joined list that the result's `portForwards` are; `None` where they are all.
    pub forwards: Option<Vec<usize>>,
}

/// All documents as one, with the remarks on reading them.
pub struct Stacked {
    pub written: Config,
    pub merged: Config,
    pub stack: Stack,
    pub faults: Remarks,
    pub warnings: Remarks,
}

impl Layer {
    pub const ALL: [Self; 3] = [Self::Override, Self::Written, Self::Default];

    /// How the document is called in a sentence.
    pub fn file(self) -> String {
        match self {
            Self::Override => format!("{CONFIG_DIR}/{OVERRIDE_YAML}"),
            Self::Written => LIMA_YAML.into(),
            Self::Default => format!("{CONFIG_DIR}/{DEFAULT_YAML}"),
        }
    }
}

impl Layers {
    /// Reads and merges `text` with what is above and below it.
    pub fn stack(&self, text: &[u8]) -> Result<Stacked> {
        let read = |text: &Option<Arc<[u8]>>, layer| parse(text.as_deref().unwrap_or_default(), layer);
        let mut above = read(&self.overrides, Layer::Override)?;
        let own = parse(text, Layer::Written)?;
        let mut below = read(&self.defaults, Layer::Default)?;
        for document in [&mut above, &mut below] {
            leave_bases(document);
        }
        let (mut faults, mut warnings) = (own.faults, own.warnings);
        for document in [above.faults, below.faults] {
            faults.extend(document);
        }
        for document in [above.warnings, below.warnings] {
            warnings.extend(document);
        }
        let merged = merge(above.config, merge(own.config.clone(), below.config));
        let trees = [above.tree, own.tree, below.tree];
        let stack = Stack { trees, mounts: Sources::new(), networks: Sources::new(), forwards: None };
        Ok(Stacked { written: own.config, merged, stack, faults, warnings })
    }
}

/// Only what is made into an instance is built upon others.
fn leave_bases(document: &mut Parsed) {
    if document.config.base.take().is_some_and(|bases| !bases.is_empty()) {
        document.warnings.add_in(document.layer, &document.tree, "base", "is not used here");
    }
}

impl Stack {
    /// The document that `field` of the result comes from, its path there, and its place if it is written.
    pub fn locate(&self, field: &str) -> (Layer, String, Option<Position>) {
        let candidates = self.candidates(field);
        let place = |(layer, path): &(Layer, String)| {
            let (found, whole) = self.tree(*layer).locate(path);
            (*layer, path.clone(), found, whole)
        };
        let places: Vec<_> = candidates.iter().map(place).collect();
        let whole = places.iter().find(|(_, _, _, whole)| *whole);
        let own = places.iter().find(|(layer, ..)| *layer == Layer::Written);
        match whole.or(own).or(places.first()) {
            Some((layer, path, found, _)) => (*layer, path.clone(), *found),
            None => (Layer::Written, field.to_owned(), None),
        }
    }

    pub fn tree(&self, layer: Layer) -> &Tree {
        &self.trees[layer as usize]
    }

    /// The document of an entry of a list that was joined with the lowest priority first.
    pub fn layer_from_below(&self, list: &str, index: usize) -> Option<(Layer, usize)> {
        self.nth(list, index, Layer::ALL.into_iter().rev())
    }

    /// The documents that may have written a field, and its path there; the highest priority first.
    pub fn candidates(&self, field: &str) -> Vec<(Layer, String)> {
        let Some((list, index, rest)) = entry(field) else {
            return Layer::ALL.map(|layer| (layer, field.to_owned())).into();
        };
        let path = |(layer, index): (Layer, usize)| (layer, format!("{list}[{index}]{rest}"));
        let sources = match list {
            "mounts" => self.mounts.get(index),
            "networks" => self.networks.get(index),
            "portForwards" => {
                let kept = |kept: &Vec<usize>| kept.get(index).copied().unwrap_or(index);
                let index = self.forwards.as_ref().map_or(index, kept);
                return self.nth(list, index, Layer::ALL.into_iter()).map(path).into_iter().collect();
            }
            _ if JOINED.contains(&list) => {
                return self.nth(list, index, Layer::ALL.into_iter()).map(path).into_iter().collect();
            }
            _ => return Layer::ALL.map(|layer| (layer, field.to_owned())).into(),
        };
        let sources = sources.into_iter().flatten().rev();
        sources.filter_map(|index| self.layer_from_below(list, *index)).map(path).collect()
    }

    /// The document and index there of an entry of the joined list.
    fn nth(&self, list: &str, mut index: usize, layers: impl Iterator<Item = Layer>) -> Option<(Layer, usize)> {
        for layer in layers {
            let count = match self.tree(layer).get(list).map(|tree| &tree.node) {
                Some(Node::List(items)) => items.len(),
                _ => 0,
            };
            if index < count {
                return Some((layer, index));
            }
            index -= count;
        }
        None
    }
}

/// `mounts[1].writable` as the list, the index and the rest.
fn entry(field: &str) -> Option<(&str, usize, &str)> {
    let (list, behind) = field.split_once('[')?;
    let (index, rest) = behind.split_once(']')?;
    Some((list, index.parse().ok()?, rest))
}
