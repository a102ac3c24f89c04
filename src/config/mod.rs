//! lima.yaml: parse, embed, merge, fill, validate, expand. Pure: text and values in, values and faults out; opens no file, knows no tokio.

mod deprecated;
pub mod document;
pub mod edit;
pub mod embed;
mod expand;
mod fill;
mod layers;
mod merge;
mod origins;
mod parse;
pub mod partial;
mod read;
mod remarks;
mod size;
mod suggest;
mod template;
mod tree;
mod validate;

use std::path::{Path, PathBuf};

use limafs_driver::Config;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::Name;

use fill::fill;
use layers::{Stack, Stacked};
use remarks::Remarks;
use validate::validate;

pub use expand::message;
pub use layers::Layers;
pub use origins::yaml_with_origins;
pub use size::{expand_path, format_size, size};

/// What a document is filled and expanded with.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub name: &'a Name,
    /// The instance directory.
    pub dir: PathBuf,
    pub host: &'a Host,
    /// What applies to every instance of the home.
    pub layers: Layers,
}

/// A document that passed: as it was written, and as it will run.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub written: Config,
    pub filled: Config,
    /// Whether any of the documents names the driver.
    pub names_driver: bool,
    /// Unknown keys, deprecated fields; with document, line and column.
    pub warnings: Vec<String>,
}

/// Parses, merges, fills, expands and validates a whole lima.yaml. Reports every fault together, as `Error::Document`
/// of lines that name their file.
pub fn load(text: &[u8], context: &Context) -> Result<Loaded> {
    let Assembled { written, filled, names_driver, stack, mut faults, mut warnings } = assemble(text, context)?;
    validate(&written, &filled, &mut faults, &mut warnings);
    if let Err(error) = message(&filled, context, 0) {
        warnings.say("message", error.to_string());
    }
    if faults.is_empty() {
        return Ok(Loaded { written, filled, names_driver, warnings: warnings.into_lines(&stack) });
    }
    // What is missing may be there under a misspelt key, so the warnings belong to the answer.
    let warnings = warnings.into_lines(&stack).into_iter().map(|warning| format!("warning: {warning}"));
    Err(Error::Document(faults.into_lines(&stack).into_iter().chain(warnings).collect()))
}

/// A document with all that is above and below it, before anybody judges it.
struct Assembled {
    written: Config,
    filled: Config,
    names_driver: bool,
    stack: Stack,
    faults: Remarks,
    warnings: Remarks,
}

fn assemble(text: &[u8], context: &Context) -> Result<Assembled> {
    let Stacked { written, mut merged, mut stack, faults, mut warnings } = context.layers.stack(text)?;
    deprecated::move_fields(&mut merged, &mut warnings);
    let names_driver = merged.vm_type.as_deref().is_some_and(|word| !word.is_empty() && word != "default");
    let filled = fill(merged, &written, context, &mut stack, &mut warnings);
    Ok(Assembled { written, filled, names_driver, stack, faults, warnings })
}

/// What only this machine can tell of a document that [`load`] accepts, asked when it is written and never again: whether
/// the locations of its mounts are directories, and whether there is the driver that it names. A directory that is not there
/// yet may come; for that `is_directory` has no answer. `lacks_driver` says what is wrong with a driver.
pub fn check_host(
    text: &[u8],
    context: &Context,
    is_directory: impl Fn(&Path) -> Option<bool>,
    lacks_driver: impl Fn(&str) -> Option<String>,
) -> Result<()> {
    let Assembled { filled, names_driver, stack, .. } = assemble(text, context)?;
    let mut faults = Remarks::default();
    if let Some(why) = filled.vm_type.as_deref().filter(|_| names_driver).and_then(lacks_driver) {
        faults.add("vmType", why);
    }
    for (index, mount) in filled.mounts.iter().flatten().enumerate() {
        let location = mount.location.as_deref().unwrap_or_default();
        if is_directory(Path::new(location)) == Some(false) {
            faults.add(format!("mounts[{index}].location"), format!("{location:?} is not a directory"));
        }
    }
    for (index, item) in filled.provision.iter().flatten().enumerate() {
        let Some(playbook) = item.playbook.as_deref() else { continue };
        if is_directory(Path::new(playbook)) != Some(false) {
            faults.add(format!("provision[{index}].playbook"), format!("{playbook:?} is no file of this host"));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Document(faults.into_lines(&stack)))
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

/// Reads back what [`to_yaml`] wrote.
pub fn from_yaml(text: &[u8]) -> Result<Config> {
    Ok(parse::parse(text, layers::Layer::Written)?.config)
}

#[cfg(test)]
pub mod tests;
