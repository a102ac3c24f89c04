//! Imports run down the floors of ARCHITECTURE.md only, and each outside crate is known to its own room alone.
#![allow(clippy::unwrap_used, reason = "a test of sources: what cannot be read fails it")]

use std::fs;
use std::path::{Path, PathBuf};

/// The lowest floor first. A module may use those on its own floor and below.
const FLOORS: &[&[&str]] = &[
    &["error", "names"],
    &[
        "schema",
        "started",
        "status",
        "host",
        "config",
        "templates",
        "images",
        "store",
        "disks",
        "drivers",
        "networks",
        "usernet",
        "jobs",
        "sftp",
    ],
    &["cidata", "registry"],
    &["hostagent", "agent"],
    &["view", "plugin"],
    &["fuse"],
    &["main", "lib", "doctor", "bin"],
];

/// What a module never uses although the floors would let it: its own kind's words or an outside crate's.
const NEVER: &[(&str, &[&str])] = &[
    ("error", &["tokio::", "fuser::"]),
    ("names", &["tokio::", "fuser::", "fs::"]),
    ("config", &["tokio::", "std::fs", "fuser::", "crate::store", "crate::images"]),
    ("cidata", &["tokio::", "std::fs", "crate::store"]),
    ("store", &["fuser::", "tokio::"]),
    ("disks", &["fuser::", "tokio::"]),
    ("drivers", &["fuser::", "tokio::", "std::fs"]),
    ("usernet", &["fuser::", "tokio::"]),
    ("jobs", &["fuser::", "tokio::"]),
    ("sftp", &["fuser::", "std::fs", "crate::store"]),
    ("registry", &["crate::hostagent", "fuser::"]),
    ("agent", &["crate::hostagent", "crate::registry", "fuser::"]),
    ("hostagent", &["fuser::", "crate::agent"]),
    ("view", &["fuser::", "crate::hostagent", "crate::registry", "crate::plugin"]),
    ("plugin", &["fuser::", "crate::hostagent"]),
];

/// An outside crate and the only rooms that may name it.
/// `unsafe` beside main and fuse: agent marks descriptors close-on-exec, hostagent gives freed memory back and
/// watches a timer's descriptor.
const ONLY: &[(&str, &[&str])] = &[
    ("fuser::", &["fuse"]),
    ("russh::", &["hostagent"]),
    ("reqwest::", &["images"]),
    ("unsafe {", &["main", "fuse", "agent", "hostagent"]),
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Source files under `dir` with the module (the first directory or file name under src) that each belongs to.
fn sources(dir: &Path, module: Option<&str>, found: &mut Vec<(String, PathBuf)>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let module = module.unwrap_or(&stem);
        if path.is_dir() {
            sources(&path, Some(module), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((module.to_owned(), path));
        }
    }
}

/// Tests beside the code, in files of their own, may look at what their module may not.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| Path::new(&part).file_stem().is_some_and(|stem| stem == "tests"))
}

fn all_sources() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), None, &mut found);
    found.retain(|(_, path)| !is_test(path));
    found
}

/// Lines of code with their numbers: no comments, and nothing after `#[cfg(test)]`.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    let code = lines.take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    code.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(n, line)| (n, line.to_owned())).collect()
}

/// Modules of ours that a line names: `crate::x`, and in `main`, `limafs::x`.
fn imported(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for prefix in ["crate::", "limafs::"] {
        for (at, _) in line.match_indices(prefix) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &line[at + prefix.len()..];
            if let Some(list) = rest.strip_prefix('{') {
                names.extend(list.split(',').map(first_word));
            } else {
                names.push(first_word(rest));
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn no_import_runs_upward() {
    let mut wrong = Vec::new();
    for (module, path) in all_sources() {
        let own = floor(&module).unwrap_or_else(|| panic!("src/{module} is on no floor: give it one in {}", file!()));
        for (number, line) in code(&path) {
            for name in imported(&line) {
                if floor(&name).is_some_and(|floor| floor > own) {
                    wrong.push(format!("{}:{number}: {module} uses {name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that run upward:\n{}", wrong.join("\n"));
}

#[test]
fn nobody_uses_what_is_not_theirs() {
    let mut wrong = Vec::new();
    for (module, path) in all_sources() {
        let never = NEVER.iter().filter(|(who, _)| *who == module).flat_map(|(_, words)| words.iter());
        let others = ONLY.iter().filter(|(_, rooms)| !rooms.contains(&module.as_str())).map(|(word, _)| word);
        let words: Vec<&&str> = never.chain(others).collect();
        for (number, line) in code(&path) {
            for word in words.iter().filter(|word| names_crate(&line, word)) {
                wrong.push(format!("{}:{number}: {module} uses {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "used where it must not be:\n{}", wrong.join("\n"));
}

/// Whether the line has the word as a path of its own (`tokio::` but not `my_tokio::`).
fn names_crate(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn drivers_know_only_their_api() {
    let drivers = Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers");
    for entry in fs::read_dir(drivers).unwrap() {
        let manifest = fs::read_to_string(entry.unwrap().path().join("Cargo.toml")).unwrap();
        let ours = manifest.lines().filter(|line| line.starts_with("limafs"));
        let strange: Vec<&str> =
            ours.filter(|line| !line.starts_with("limafs-driver.") && !line.starts_with("limafs-driver ")).collect();
        assert!(strange.is_empty(), "a driver depends on {strange:?}");
    }
}
