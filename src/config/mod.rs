//! lima.yaml: parse, fill, validate, expand. Pure: text and values in, values and faults out; opens no file, knows no tokio.

mod deprecated;
pub mod edit;
mod expand;
mod fill;
mod parse;
pub mod partial;
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
use remarks::Remarks;
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
        warnings.say("message", error.to_string());
    }
    let warnings = warnings.into_lines(&tree);
    if faults.is_empty() {
        return Ok(Loaded { written, filled, warnings });
    }
    // What is missing may be there under a misspelt key, so the warnings belong to the answer.
    let warnings = warnings.into_iter().map(|warning| format!("warning: {warning}"));
    Err(Error::Document(faults.into_lines(&tree).into_iter().chain(warnings).collect()))
}

/// What only the disk can tell of a document that [`load`] accepts, asked when it is written and never again: whether the
/// locations of its mounts are directories. One that is not there yet may come.
pub fn check_host(text: &[u8], filled: &Config) -> Result<()> {
    let mut faults = Remarks::default();
    for (index, mount) in filled.mounts.iter().flatten().enumerate() {
        let location = mount.location.as_deref().unwrap_or_default();
        if std::fs::metadata(location).is_ok_and(|meta| !meta.is_dir()) {
            faults.add(format!("mounts[{index}].location"), format!("{location:?} is not a directory"));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Document(faults.into_lines(&parse(text)?.tree)))
}

/// Whether an instance that has a disk can become `new`. Both are filled.
pub fn check_change(old: &Config, new: &Config) -> Result<()> {
    if old.vm_type != new.vm_type {
        return Err(Error::invalid("vmType", "cannot be changed for an existing instance"));
    }
    let bytes = |config: &Config| config.disk.as_deref().and_then(size).unwrap_or_default();
    let (before, after) = (bytes(old), bytes(new));
    if after < before {
        let why = format!("shrinking the disk ({} -> {}) is not supported", format_size(before), format_size(after));
        return Err(Error::invalid("disk", why));
    }
    Ok(())
}

/// The filled configuration as YAML.
pub fn to_yaml(filled: &Config) -> Result<String> {
    // Folding would break long lines of scripts for the reader's eye.
    let options = serde_yaml::ser_options! { folded_wrap_chars: usize::MAX };
    serde_yaml::to_string_with_options(filled, options).map_err(|error| Error::failed("effective.yaml", error))
}

#[cfg(test)]
mod tests;
