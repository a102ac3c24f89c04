//! Finds the programs that are drivers, as Lima does: by their names in `LIMA_DRIVERS_PATH` and in the standard
//! directories. Looks at directories and modes only; runs nothing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::safety;
use crate::host;
use crate::names::{DRIVER_PREFIX, Name};

/// A list of directories and programs, as `PATH` is one.
const VARIABLE: &str = "LIMA_DRIVERS_PATH";
/// Below the prefix that our own program is installed under.
const STANDARD: [&str; 2] = ["libexec/lima", "lib/lima"];

/// Where drivers may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// `LIMA_DRIVERS_PATH`
    pub path: OsString,
    /// The directories of our own program: as it was called, and with symlinks resolved.
    pub selves: Vec<PathBuf>,
}

/// A program that is a driver by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    pub path: PathBuf,
    /// Why it is not to be run.
    pub refused: Option<String>,
}

impl Places {
    pub fn of_process() -> Self {
        let called = host::called().map(Path::to_owned);
        let resolved = env::current_exe().ok();
        let mut selves: Vec<PathBuf> = Vec::new();
        for dir in [called, resolved].into_iter().flatten().filter_map(|file| file.parent().map(Path::to_owned)) {
            if !selves.contains(&dir) {
                selves.push(dir);
            }
        }
        let places = Self { path: env::var_os(VARIABLE).unwrap_or_default(), selves };
        places.elements().for_each(|element| warn_of(&element));
        places
    }

    /// The standard directories that count: a missing or empty one does not.
    fn standard(&self) -> impl Iterator<Item = PathBuf> {
        let prefixes = self.selves.iter().filter_map(|dir| dir.parent());
        prefixes.flat_map(|prefix| STANDARD.map(|dir| prefix.join(dir)))
    }

    /// All directories that are looked through, in that order.
    #[cfg(feature = "machine")]
    pub fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        self.elements().chain(self.standard())
    }

    /// The elements of the variable; empty ones mean nothing.
    fn elements(&self) -> impl Iterator<Item = PathBuf> {
        env::split_paths(&self.path).filter(|element| !element.as_os_str().is_empty())
    }
}

/// An element that leads nowhere is a slip more often than not.
fn warn_of(element: &Path) {
    if !element.is_absolute() {
        tracing::warn!("{VARIABLE}: {} is not an absolute path and is not looked at", element.display());
    } else if let Err(error) = fs::metadata(element) {
        tracing::warn!("{VARIABLE}: {}: {error}", element.display());
    }
}

/// The programs by name. The first one that may be run has the name; one that may not be run is listed where there is no
/// other.
pub fn find(places: &Places) -> Vec<Program> {
    let mut found: Vec<Program> = Vec::new();
    for element in places.elements() {
        match element.is_absolute() {
            true => found.extend(in_element(&element)),
            false => found.extend(relative(&element)),
        }
    }
    for dir in places.standard() {
        found.extend(in_directory(&dir));
    }
    let mut first: Vec<Program> = Vec::new();
    for program in found {
        match first.iter_mut().find(|known| known.name == program.name) {
            Some(known) if known.refused.is_some() && program.refused.is_none() => *known = program,
            Some(_) => {}
            None => first.push(program),
        }
    }
    first
}

/// The directories whose changes may change what [`find`] finds; of one that is not there, what there is above it.
pub fn watched(places: &Places) -> Vec<PathBuf> {
    let elements = places.elements().filter(|element| element.is_absolute());
    let dirs = elements.chain(places.standard()).filter_map(|place| match place.is_dir() {
        true => Some(place),
        // A program of that name may come, or a directory, or those that it is to be in.
        false => place.ancestors().skip(1).find(|dir| dir.is_dir()).map(Path::to_owned),
    });
    let mut all: Vec<PathBuf> = dirs.collect();
    all.sort();
    all.dedup();
    all
}

fn in_element(element: &Path) -> Vec<Program> {
    match fs::metadata(element) {
        Ok(meta) if meta.is_dir() => in_directory(element),
        Ok(meta) if meta.permissions().mode() & 0o111 != 0 => program(element).into_iter().collect(),
        Ok(_) => Vec::new(),
        Err(_) => Vec::new(),
    }
}

/// What is relative depends on who starts us where, and is never followed.
fn relative(element: &Path) -> Option<Program> {
    let name = driver_name(element.file_name()?)?;
    Some(Program { name, path: element.to_owned(), refused: Some("its path is not absolute".into()) })
}

/// One level, by name.
fn in_directory(dir: &Path) -> Vec<Program> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let is_program = |entry: &fs::DirEntry| {
        // Of a symlink the mode says nothing; what it leads to is looked at when its safety is.
        let meta = fs::symlink_metadata(entry.path());
        meta.is_ok_and(|meta| !meta.is_dir() && meta.permissions().mode() & 0o111 != 0)
    };
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|entry| entry.ok().filter(is_program)).map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| program(path)).collect()
}

fn program(path: &Path) -> Option<Program> {
    let name = driver_name(path.file_name()?)?;
    Some(Program { name, path: path.to_owned(), refused: safety::fault(path) })
}

/// What `vmType` would call it.
fn driver_name(file: &OsStr) -> Option<String> {
    let name = file.to_str()?.strip_prefix(DRIVER_PREFIX)?;
    // Windows' programs are none here; other names could not be written as a vmType.
    (!name.ends_with(".exe") && Name::parse(name).is_ok()).then(|| name.to_owned())
}
