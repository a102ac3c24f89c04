//! A document that stands alone: bases merged into it, scripts of other files put in place, as Lima does at create.
//! Fetches nothing: it says what it lacks, and is asked again when that is there.
//!
//! ```text
//! text --embed--> Fetch(request) --the caller reads or downloads--> library --embed--> ... --> Done(text)
//! ```

mod combine;
mod locator;
mod render;
mod splice;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use limafs_driver::Config;
use serde_json::{Map, Value};

use super::parse::parse_tree;
use super::read::read;
use crate::error::{Error, Result};
use crate::names::LIMA_YAML;
use locator::Source;

pub use super::parse::MOST_BYTES;
pub use locator::Place;

/// So many other documents and files at most, and so many bytes in all of them.
const MOST_FILES: usize = 32;
const MOST_BYTES_IN_ALL: usize = 4 << 20;

/// What is combined may not have more, so that combining ends soon.
const MOST_VALUES: usize = 20_000;

/// Something to be read or downloaded, of at most [`MOST_BYTES`], its digest verified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    pub place: Place,
    pub digest: Option<String>,
}

/// What was fetched so far.
pub type Library = BTreeMap<Request, Vec<u8>>;

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The document that stands alone; byte for byte what was given where it did already.
    Done(Vec<u8>),
    /// Lacks this; ask again when the library has it.
    Fetch(Request),
}

/// Embeds what `text` builds upon, as far as `library` goes. `first` is a base before those that it names; `home` is the
/// host user's.
pub fn embed(text: &[u8], first: Option<&Path>, home: &Path, library: &Library) -> Result<Step> {
    // What is no YAML is told with all its other faults when it is loaded.
    let Ok((tree, source)) = parse_tree(text, LIMA_YAML) else { return Ok(Step::Done(text.to_owned())) };
    let old = value::of(&tree, source);
    let mut new = old.clone();
    let mut embedder = Embedder { library, home, included: Vec::new() };
    match embedder.stand_alone(&mut new, first) {
        Ok(false) => return Ok(Step::Done(text.to_owned())),
        Ok(true) => {}
        Err(Stop::Lacks(request)) => return may_grow(library).map(|()| Step::Fetch(request)),
        Err(Stop::Fault(error)) => return Err(error),
    }
    refuse_misfits(LIMA_YAML, &tree, source)?;
    splice::splice(source, &tree, &old, &new).map(|text| Step::Done(text.into_bytes()))
}

/// Whether one more file may be fetched.
fn may_grow(library: &Library) -> Result<()> {
    if library.len() >= MOST_FILES {
        return Err(Error::invalid(LIMA_YAML, format!("is made of more than {MOST_FILES} files")));
    }
    if library.values().map(Vec::len).sum::<usize>() > MOST_BYTES_IN_ALL {
        return Err(Error::TooBig { what: "what lima.yaml is built upon".into(), limit: MOST_BYTES_IN_ALL });
    }
    Ok(())
}

/// Why embedding does not go on.
enum Stop {
    Lacks(Request),
    Fault(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fault(error)
    }
}

type Flow<T> = std::result::Result<T, Stop>;

struct Embedder<'a> {
    library: &'a Library,
    home: &'a Path,
    /// Every base so far, with the one that it was found in.
    included: Vec<(Source, Option<Source>)>,
}

impl Embedder<'_> {
    /// Returns whether there was anything to do.
    fn stand_alone(&mut self, document: &mut Value, first: Option<&Path>) -> Flow<bool> {
        let mut bases = take_bases(document);
        self.anchor(bases.iter_mut().chain(files(document)), None)?;
        if let Some(path) = first {
            bases.insert(0, Value::String(path.to_string_lossy().into_owned()));
        }
        let (has_bases, has_files) = (!bases.is_empty(), files(document).next().is_some());
        self.merge_bases(document, bases, None)?;
        if has_bases {
            combine::combine(document);
        }
        self.embed_files(document)?;
        Ok(has_bases || has_files)
    }

    /// Depth first: what a base builds upon is merged into it before it is merged into `document`.
    fn merge_bases(&mut self, document: &mut Value, bases: Vec<Value>, within: Option<&Source>) -> Flow<()> {
        if !bases.is_empty() && document.is_null() {
            *document = Value::Object(Map::new());
        }
        for base in bases {
            let (source, bytes) = self.open(&base)?;
            self.include(&source, within)?;
            let name = source.to_string();
            let (tree, text) = parse_tree(&bytes, &name)?;
            refuse_misfits(&name, &tree, text)?;
            let mut value = value::of(&tree, text);
            let mut below = take_bases(&mut value);
            self.anchor(below.iter_mut().chain(files(&mut value)), Some(&source))?;
            self.merge_bases(&mut value, below, Some(&source))?;
            value::merge(document, value);
            if value::count(document) > MOST_VALUES {
                let why = format!("makes too many values of this document (more than {MOST_VALUES})");
                return Err(Error::invalid(format!("base {name}"), why).into());
            }
        }
        Ok(())
    }

    /// Notes a base; refuses one that was merged before, as Lima does.
    fn include(&mut self, source: &Source, within: Option<&Source>) -> Result<()> {
        if self.included.iter().any(|(known, _)| known == source) {
            let mut chain = vec![source.to_string()];
            let mut at = within;
            while let Some(parent) = at {
                chain.insert(0, parent.to_string());
                if parent == source {
                    let why = format!("loop: {}", chain.join(" -> "));
                    return Err(Error::invalid("base", why));
                }
                at = self.included.iter().find(|(known, _)| known == parent).and_then(|(_, within)| within.as_ref());
            }
            return Err(Error::invalid("base", format!("{source} is included twice")));
        }
        self.included.push((source.clone(), within.cloned()));
        Ok(())
    }

    /// Makes locators independent of the document that they are in.
    fn anchor<'v>(&self, locators: impl Iterator<Item = &'v mut Value>, within: Option<&Source>) -> Result<()> {
        for locator in locators {
            let (url, digest) = parts(locator);
            let source = Source::parse(&url, digest.is_some(), within, self.home)?;
            let place = Value::String(source.to_string());
            *locator = match digest {
                Some(digest) => {
                    Value::Object([("url".into(), place), ("digest".into(), digest.into())].into_iter().collect())
                }
                None => place,
            };
        }
        Ok(())
    }

    fn embed_files(&self, document: &mut Value) -> Flow<()> {
        for (field, entry) in entries(document) {
            let Some(locator) = entry.get("file").filter(|file| is_locator(file)) else { continue };
            let (_, bytes) = self.open(locator)?;
            let key = key_of_text(field, entry);
            if entry.get(key).is_some_and(|text| !text.is_null()) {
                return Err(Error::invalid(format!("{field}.{key}"), "cannot be set beside file").into());
            }
            let text = String::from_utf8(bytes).map_or_else(|error| value::binary(&error.into_bytes()), Value::String);
            // In its place, so that the entry reads as it did.
            *entry = std::mem::take(entry)
                .into_iter()
                .filter(|(name, _)| name != key)
                .map(|(name, value)| if name == "file" { (key.to_owned(), text.clone()) } else { (name, value) })
                .collect();
        }
        Ok(())
    }

    /// The bytes behind an anchored locator, through GitHub's links and redirects.
    fn open(&self, locator: &Value) -> Flow<(Source, Vec<u8>)> {
        let (url, digest) = parts(locator);
        let mut source = Source::parse(&url, digest.is_some(), None, self.home)?;
        for _ in 0..MOST_FILES {
            let request = Request { place: source.place(), digest: digest.clone() };
            let Some(bytes) = self.library.get(&request) else { return Err(Stop::Lacks(request)) };
            match source.points_to(bytes)? {
                Some(next) => source = next,
                None => return Ok((source, bytes.clone())),
            }
        }
        Err(Error::invalid(url, "loop of links").into())
    }
}

/// Takes `base` out of a document: none, one or many locators.
fn take_bases(document: &mut Value) -> Vec<Value> {
    let base = document.as_object_mut().and_then(|map| map.shift_remove("base")).unwrap_or_default();
    match base {
        Value::Array(list) => list.into_iter().filter(is_locator).collect(),
        one => Some(one).filter(is_locator).into_iter().collect(),
    }
}

/// Whether anything is named; an empty one is left for validation to judge.
fn is_locator(value: &Value) -> bool {
    !parts(value).0.is_empty()
}

/// URL and digest.
fn parts(locator: &Value) -> (String, Option<String>) {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match locator {
        Value::Object(map) => (map.get("url").and_then(text).unwrap_or_default(), map.get("digest").and_then(text)),
        value => (text(value).unwrap_or_default(), None),
    }
}

/// Provision entries and probes, with their fields.
fn entries(document: &mut Value) -> impl Iterator<Item = (&'static str, &mut Map<String, Value>)> {
    let lists = document.as_object_mut().into_iter().flat_map(|map| map.iter_mut());
    let lists = lists.filter_map(|(key, value)| {
        let field = ["provision", "probes"].into_iter().find(|field| field == key)?;
        Some((field, value.as_array_mut()?))
    });
    lists.flat_map(|(field, list)| list.iter_mut().filter_map(move |entry| Some((field, entry.as_object_mut()?))))
}

/// The locators of their files.
fn files(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    entries(document).filter_map(|(_, entry)| entry.get_mut("file").filter(|file| is_locator(file)))
}

/// The key that holds the text of an entry itself.
fn key_of_text(field: &str, entry: &Map<String, Value>) -> &'static str {
    match entry.get("mode").and_then(Value::as_str) {
        Some("data") if field == "provision" => "content",
        Some("yq") if field == "provision" => "expression",
        _ => "script",
    }
}

/// Values that are not of their field's type are told where they were written, not where they end up.
fn refuse_misfits(file: &str, tree: &super::tree::Tree, text: &str) -> Result<()> {
    let misfits = read::<Config>(tree, text).misfits;
    if misfits.is_empty() {
        return Ok(());
    }
    let line = |misfit: super::read::Misfit| format!("{file}: {}: {}: {}", misfit.at, misfit.field, misfit.why);
    Err(Error::Document(misfits.into_iter().map(line).collect()))
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.place.fmt(f)
    }
}

#[cfg(test)]
mod tests;
