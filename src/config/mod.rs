//! lima.yaml: parse, fill, validate, expand. Pure: text and values in, values and faults out; opens no file, knows no tokio.

mod deprecated;
mod expand;
mod fill;
mod parse;
mod read;
mod remarks;
mod size;
mod suggest;
mod template;
mod tree;
mod validate;

use std::path::PathBuf;

use limafs_driver::Config;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::Name;

use fill::fill;
use parse::{Parsed, parse};
use validate::validate;

pub use expand::message;
pub use size::{expand_path, format_size, size};

/// What a document is filled and expanded with.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub name: &'a Name,
    /// The instance directory.
    pub dir: PathBuf,
    pub host: &'a Host,
}

/// A document that passed: as it was written, and as it will run.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub written: Config,
    pub filled: Config,
    /// Unknown keys, deprecated fields; with line and column.
    pub warnings: Vec<String>,
}

/// Parses, fills, expands and validates a whole lima.yaml. Reports every fault together, as `Error::Document`.
pub fn load(text: &[u8], context: &Context) -> Result<Loaded> {
    let Parsed { config: mut written, tree, mut warnings, mut faults } = parse(text)?;
    deprecated::move_fields(&mut written, &mut warnings);
    let filled = fill(&written, context, &mut warnings);
    validate(&written, &filled, &mut faults, &mut warnings);
    if let Err(error) = message(&filled, context, 0) {
        warnings.add("message", error.to_string());
    }
    if faults.is_empty() {
        Ok(Loaded { written, filled, warnings: warnings.into_lines(&tree) })
    } else {
        Err(Error::Document(faults.into_lines(&tree)))
    }
}

/// The filled configuration as YAML.
pub fn to_yaml(filled: &Config) -> Result<String> {
    serde_yaml::to_string(filled).map_err(|error| Error::failed("effective.yaml", error))
}

#[cfg(test)]
mod tests;
