//! `mode: yq` of lima.yaml: applies an expression to a file of YAML, JSON or INI. The expressions are jq's, which is the
//! part that most of yq's have in common with it: paths, `=`, `|=`, `+=`, `|`, `del`, `select`. Comments of a file are
//! not kept; styles, tags and anchors of YAML cannot be told.

mod expression;
mod formats;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;

pub use formats::Format;

const FILE_MAX: u64 = 8 << 20;
const CPU_SECONDS: u64 = 1;
const MEMORY_MAX: u64 = 512 << 20;

#[derive(Debug)]
pub struct Task {
    pub expression: String,
    /// Absent: begins with nothing.
    pub file: Option<PathBuf>,
    pub input: Format,
    pub output: Format,
    /// Replaces the file; otherwise the result goes to standard output.
    pub is_in_place: bool,
}

/// What went wrong, as a sentence.
pub type Failure = String;

/// Ends the process if the expression takes too much time or memory.
pub fn run(task: &Task) -> Result<(), Failure> {
    let text = match &task.file {
        Some(file) => read(file).map_err(|error| format!("{}: {error}", file.display()))?,
        None => String::new(),
    };
    limit();
    let result = apply(&task.expression, &text, task.input, task.output)?;
    match task.file.as_deref().filter(|_| task.is_in_place) {
        Some(file) => replace(file, &result).map_err(|error| format!("{}: {error}", file.display())),
        None => io::stdout().write_all(result.as_bytes()).map_err(|error| error.to_string()),
    }
}

/// A text with the expression applied to it.
pub fn apply(expression: &str, text: &str, input: Format, output: Format) -> Result<String, Failure> {
    let value: Value = formats::parse(text, input)?;
    formats::print(&expression::evaluate(expression, &value)?, output)
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX { Err(io::Error::other("is too large")) } else { Ok(text) }
}

/// An expression can go on for ever: then the kernel ends us.
fn limit() {
    // Beyond the first comes SIGXCPU, whose name says why; beyond the second SIGKILL.
    let limits = [(Resource::Cpu, CPU_SECONDS, CPU_SECONDS + 1), (Resource::As, MEMORY_MAX, MEMORY_MAX)];
    for (resource, current, maximum) in limits {
        // Fails where less is allowed already.
        setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) }).ok();
    }
}

/// The new file has the owner and the permissions of the old one.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let file = fs::canonicalize(file)?;
    let old = fs::metadata(&file)?;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".limafs");
    let temporary = file.with_file_name(name);
    let write = || {
        let mut new = File::create_new(&temporary)?;
        new.set_permissions(old.permissions())?;
        fchown(&new, Some(old.uid()), Some(old.gid()))?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        fs::rename(&temporary, &file)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_permissions_and_left_alone_where_the_expression_fails() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("daemon.json");
        fs::write(&file, "{\"a\": 1}").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&file, &apply(".b = 2", &read(&file).unwrap(), Format::Json, Format::Json).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\n  \"a\": 1,\n  \"b\": 2\n}\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert!(apply(".b = ", "{}", Format::Json, Format::Json).is_err());
    }
}
