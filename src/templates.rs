//! Templates by name: those that are part of the program, and the user's in `$LIMA_HOME/_templates/`.
//! Reads files, never writes one; knows nothing of what is in a template.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::names::{Home, TEMPLATES_DIR};

/// Name and text of each template of ours, sorted by name.
pub const EMBEDDED: &[(&str, &str)] =
    &[("local", include_str!("../templates/local.yaml")), ("local-fast", include_str!("../templates/local-fast.yaml"))];

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
    let mut names: Vec<String> = EMBEDDED.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.extend(user_templates(home).unwrap_or_default().into_keys());
    names.sort();
    names.dedup();
    names.into_iter().filter_map(|name| read(home, &name).ok().map(|text| (format!("{name}{ENDING}"), text))).collect()
}

/// The text of a template; the user's own comes before ours.
pub fn read(home: &Home, name: &str) -> Result<String> {
    let name = name.strip_suffix(ENDING).unwrap_or(name);
    if !is_name(name) {
        return Err(Error::invalid(format!("template {name:?}"), "is no valid name"));
    }
    if let Some(path) = user_templates(home)?.remove(name) {
        let size = fs::metadata(&path).map_err(Error::io(&path))?.len();
        if size > SIZE_MAX {
            return Err(Error::TooBig { what: path.display().to_string(), limit: SIZE_MAX as usize });
        }
        return fs::read_to_string(&path).map_err(Error::io(&path));
    }
    let embedded = EMBEDDED.iter().find(|(own, _)| *own == name);
    let (_, text) = embedded.ok_or_else(|| Error::Missing { what: format!("template {name:?}") })?;
    Ok((*text).to_owned())
}

/// A single component that is not hidden.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['.', '_']) && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use limafs_driver::Config;

    fn home_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(TEMPLATES_DIR)).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(TEMPLATES_DIR).join(name), text).unwrap();
        }
        let home = Home::at(dir.path());
        (dir, home)
    }

    #[test]
    fn embedded_templates_are_sorted_and_name_an_image() {
        assert!(EMBEDDED.is_sorted_by_key(|(name, _)| *name));
        for (name, text) in EMBEDDED {
            let config: Config = serde_yaml::from_str(text).unwrap();
            let image = &config.images.unwrap()[0];
            assert!(image.location.as_deref().unwrap().starts_with("~/"), "{name}");
            assert_eq!(image.arch, config.arch, "{name}");
        }
    }

    #[test]
    fn every_file_of_templates_is_embedded() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter_map(|name| name.strip_suffix(ENDING).map(str::to_owned)).collect();
        names.sort();
        assert_eq!(names, EMBEDDED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn a_home_without_templates_has_ours() {
        let home = Home::at("/nonexistent");
        assert!(user_templates(&home).unwrap().is_empty());
        assert_eq!(read(&home, "local").unwrap(), EMBEDDED[0].1);
        assert_eq!(read(&home, "local.yaml").unwrap(), EMBEDDED[0].1);
    }

    #[test]
    fn the_users_template_comes_before_ours() {
        let files =
            [("local.yaml", "cpus: 1\n"), ("own.yaml", "cpus: 2\n"), ("_part.yaml", ""), (".x.yaml", ""), ("y", "")];
        let (_dir, home) = home_with(&files);
        assert_eq!(user_templates(&home).unwrap().into_keys().collect::<Vec<_>>(), ["local", "own"]);
        assert_eq!(read(&home, "local").unwrap(), "cpus: 1\n");
        assert_eq!(read(&home, "own").unwrap(), "cpus: 2\n");
    }

    #[test]
    fn unknown_templates_are_missing_and_bad_names_refused() {
        let (_dir, home) = home_with(&[("own.yaml", "")]);
        assert_eq!(read(&home, "nothing").unwrap_err().to_string(), "template \"nothing\" does not exist");
        for name in ["", "../own", "/etc/passwd", "_part", "a/b"] {
            assert_eq!(read(&home, name).unwrap_err().errno(), libc::EINVAL, "{name:?}");
        }
    }
}
