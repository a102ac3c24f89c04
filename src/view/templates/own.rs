//! The user's templates on disk, in `$LIMA_HOME/_templates`.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::names::{Home, TEMPLATES_DIR};
use crate::store;

const ENDING: &str = ".yaml";

/// Whether a file of this name is a template. Names that begin with `_` or `.` are parts of others and scratch files.
pub fn is_template(file: &str) -> bool {
    let name = file.strip_suffix(ENDING).unwrap_or_default();
    !name.is_empty() && !name.starts_with(['.', '_']) && !name.contains(['/', '\0'])
}

/// Makes or replaces one; durable when it returns.
pub fn define(home: &Home, file: &str, text: &[u8]) -> Result<()> {
    let path = path(home, file)?;
    let dir = home.path().join(TEMPLATES_DIR);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(&dir))?;
    store::replace(&path, text, 0o600)
}

pub fn remove(home: &Home, file: &str) -> Result<()> {
    let path = path(home, file)?;
    fs::remove_file(&path).map_err(Error::io(&path))?;
    store::sync_dir(&home.path().join(TEMPLATES_DIR))
}

/// Renames one, onto another one if there is one.
pub fn rename(home: &Home, from: &str, to: &str) -> Result<()> {
    let (from, to) = (path(home, from)?, path(home, to)?);
    fs::rename(&from, &to).map_err(Error::io(&from))?;
    store::sync_dir(&home.path().join(TEMPLATES_DIR))
}

fn path(home: &Home, file: &str) -> Result<PathBuf> {
    if !is_template(file) {
        return Err(Error::invalid(format!("template {file:?}"), "is no valid name"));
    }
    Ok(home.path().join(TEMPLATES_DIR).join(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::{read, user_templates};

    #[test]
    fn the_users_are_made_replaced_renamed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        define(&home, "own.yaml", b"cpus: 1\n").unwrap();
        define(&home, "own.yaml", b"cpus: 2\n").unwrap();
        assert_eq!(read(&home, "own").unwrap(), "cpus: 2\n");
        rename(&home, "own.yaml", "mine.yaml").unwrap();
        assert_eq!(user_templates(&home).unwrap().into_keys().collect::<Vec<_>>(), ["mine"]);
        remove(&home, "mine.yaml").unwrap();
        assert!(user_templates(&home).unwrap().is_empty());
    }

    #[test]
    fn nothing_else_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        for file in ["../x.yaml", "_x.yaml", "x.yml", ".x.yaml", ".yaml", "x", "a/b.yaml"] {
            assert_eq!(define(&home, file, b"").unwrap_err().errno(), libc::EINVAL, "{file}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
