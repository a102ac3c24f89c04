//! Plugins on this machine: programs named `docker-machine-driver-NAME`. Found by looking, never by running them.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "docker-machine-driver-";

/// The plugins in some directories, sorted by name; the first of a name counts. A directory that is not there has none,
/// and of those that are not safe nothing is taken.
pub fn find(dirs: &[PathBuf]) -> Vec<(String, PathBuf)> {
    let mut found = BTreeMap::new();
    for dir in dirs.iter().filter(|dir| dir.is_absolute()) {
        let Ok(dir) = fs::canonicalize(dir) else { continue };
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            if !is_name(name) || found.contains_key(name) {
                continue;
            }
            match check(&entry.path()) {
                Ok(Some(path)) => drop(found.insert(name.to_owned(), path)),
                Ok(None) => {}
                Err(why) => tracing::warn!("{} is not run: {why}", entry.path().display()),
            }
        }
    }
    found.into_iter().collect()
}

/// Why a plugin that was found may not be run any more; `None` when it may be.
pub fn fault(program: &Path) -> Option<String> {
    match check(program) {
        Ok(Some(_)) => None,
        Ok(None) => Some("is no program".into()),
        Err(why) => Some(why),
    }
}

/// A name that a `vmType` can have.
fn is_name(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 76 && name.split(['-', '_', '.']).all(is_word)
}

/// The program behind a path, links resolved; `None` when it is none. Neither it nor a directory on the way to it may be
/// writable by others.
fn check(path: &Path) -> Result<Option<PathBuf>, String> {
    let path = fs::canonicalize(path).map_err(|error| error.to_string())?;
    let meta = fs::metadata(&path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Ok(None);
    }
    for part in path.ancestors() {
        let meta = fs::metadata(part).map_err(|error| error.to_string())?;
        if !is_safe(&meta) {
            return Err(format!("{} can be written by others", part.display()));
        }
    }
    Ok(Some(path))
}

/// Ours or root's, and of those that others may write only directories in which they may not touch what is ours.
fn is_safe(meta: &Metadata) -> bool {
    const STICKY: u32 = 0o1000;
    let is_ours = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
    is_ours && (meta.mode() & 0o022 == 0 || meta.is_dir() && meta.mode() & STICKY != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.canonicalize().unwrap()
    }

    #[test]
    fn h01_h04_only_programs_of_that_name_are_found_and_the_first_counts() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let paper = program(first.path(), "docker-machine-driver-paper", 0o755);
        program(second.path(), "docker-machine-driver-paper", 0o755);
        let stone = program(second.path(), "docker-machine-driver-stone", 0o755);
        for (name, mode) in [
            ("docker-machine-driver-plain", 0o644),
            ("docker-machine-driver-", 0o755),
            ("docker-machine", 0o755),
            ("docker-machine-driver-a b", 0o755),
        ] {
            program(first.path(), name, mode);
        }
        fs::create_dir(first.path().join("docker-machine-driver-dir")).unwrap();
        let missing = first.path().join("missing");
        let dirs = [missing, PathBuf::new(), PathBuf::from("bin"), first.path().into(), second.path().into()];
        assert_eq!(find(&dirs), [("paper".to_owned(), paper), ("stone".to_owned(), stone)]);
    }

    #[test]
    fn h12_s25_what_others_may_write_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        program(&open, "docker-machine-driver-paper", 0o755);
        assert_eq!(find(std::slice::from_ref(&open)).len(), 1);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(find(&[open]), []);
        program(dir.path(), "docker-machine-driver-stone", 0o775);
        assert_eq!(find(&[dir.path().into()]), []);
    }
}
