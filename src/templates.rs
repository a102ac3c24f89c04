//! Templates by name: those that are part of the program, and the user's in `$LIMA_HOME/_templates/`.
//! Reads files, never writes one; knows nothing of what is in a template.

mod embedded;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::names::{Home, TEMPLATES_DIR};

pub use embedded::EMBEDDED;

const ENDING: &str = ".yaml";
/// A document larger than this is refused anyway.
const SIZE_MAX: u64 = 1 << 20;

/// The user's own templates by name. Names that begin with `_` or `.` are parts of others and scratch files.
pub fn user_templates(home: &Home) -> Result<BTreeMap<String, PathBuf>> {
    let dir = home.path().join(TEMPLATES_DIR);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::io(&dir)(error)),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(Error::io(&dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(ENDING));
        if let Some(name) = name.filter(|name| is_name(name) && path.is_file()) {
            found.insert(name.to_owned(), path.clone());
        }
    }
    Ok(found)
}

/// File name and text of every template that can be read, sorted; the user's own come before ours.
pub fn all(home: &Home) -> Vec<(String, String)> {
    let ours = EMBEDDED.iter().map(|(name, _)| *name).filter(|name| !name.contains('/'));
    let mut names: Vec<String> = ours.map(str::to_owned).collect();
    names.extend(user_templates(home).unwrap_or_default().into_keys());
    names.sort();
    names.dedup();
    names.into_iter().filter_map(|name| read(home, &name).ok().map(|text| (format!("{name}{ENDING}"), text))).collect()
}

/// The text of a template; the user's own comes before ours. A name may have slashes, such as `_images/debian-13`: those
/// are parts that others build upon, and templates that are not for everyday use.
pub fn read(home: &Home, name: &str) -> Result<String> {
    let name = name.strip_suffix(ENDING).unwrap_or(name);
    if !name.split('/').all(is_component) {
        return Err(Error::invalid(format!("template {name:?}"), "is no valid name"));
    }
    let path = home.path().join(TEMPLATES_DIR).join(format!("{name}{ENDING}"));
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => return read_own(&path, meta.len()),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(error) => return Err(Error::io(&path)(error)),
    }
    let embedded = EMBEDDED.iter().find(|(own, _)| *own == name);
    let (_, text) = embedded.ok_or_else(|| Error::Missing { what: format!("template {name:?}") })?;
    Ok((*text).to_owned())
}

/// What a document is built upon: a template, or one of their parts in a directory or with a hidden name. `name` is a
/// path within the templates; `.yaml` goes without saying.
pub fn part(home: &Home, name: &str) -> Result<Vec<u8>> {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
    if !name.split('/').all(plain) {
        return Err(Error::invalid(format!("template {name:?}"), "is no valid name"));
    }
    // A number behind a dot is a version.
    let ending = name.rsplit('/').next().and_then(|file| file.rsplit_once('.')).map(|(_, ending)| ending);
    let ending = ending.filter(|ending| !ending.starts_with(|c: char| c.is_ascii_digit()));
    let file = if ending.is_some() { name.to_owned() } else { format!("{name}{ENDING}") };
    match crate::store::read_small(&home.path().join(TEMPLATES_DIR).join(file))? {
        Some(bytes) => Ok(bytes),
        None => read(home, name).map(String::into_bytes),
    }
}

fn read_own(path: &Path, size: u64) -> Result<String> {
    if size > SIZE_MAX {
        return Err(Error::TooBig { what: path.display().to_string(), limit: SIZE_MAX as usize });
    }
    fs::read_to_string(path).map_err(Error::io(path))
}

/// A single component that is no part and not hidden.
fn is_name(name: &str) -> bool {
    is_component(name) && !name.starts_with('_')
}

fn is_component(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests;
