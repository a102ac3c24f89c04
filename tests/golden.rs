//! What documents become, compared whole with files that are kept: `effective.yaml` and what is told beside it.
//!
//! ```text
//! tests/golden/NAME.yaml               lima.yaml of instance foo
//!              NAME.default.yaml       _config/default.yaml, if there is one
//!              NAME.override.yaml      _config/override.yaml, likewise
//!              NAME.effective.yaml     expected: effective.yaml, then warnings and message as comments; or the faults
//! ```
//! After a change that is meant to show, `LIMAFS_GOLDEN=write cargo test --test golden` writes the expected files anew;
//! the difference is for a person to read before it is committed.
#![allow(clippy::unwrap_used, reason = "a test: what cannot be read fails it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use limafs::config::{self, Context, Layers};
use limafs::error::Error;
use limafs::host::{Host, HostUser};
use limafs::names::Name;

const REGENERATE: &str = "LIMAFS_GOLDEN";
const PORT: u16 = 60022;

/// A host that is the same everywhere.
fn host() -> Host {
    let user = HostUser { name: "jane".into(), uid: 501, home: "/home/jane".into(), comment: "Jane Roe".into() };
    Host {
        user,
        os: "Linux".into(),
        arch: "x86_64".into(),
        cpus: 8,
        memory: 16 << 30,
        timezone: "Europe/Berlin".into(),
        machine_id: "0123456789abcdef".into(),
        drivers: Default::default(),
    }
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// File names without `.yaml`, sorted.
fn stems() -> BTreeSet<String> {
    let names = fs::read_dir(dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.strip_suffix(".yaml").unwrap_or_else(|| panic!("{name} is no .yaml")).to_owned()).collect()
}

/// Names of the documents: those without a dot.
fn documents() -> BTreeSet<String> {
    stems().into_iter().filter(|stem| !stem.contains('.')).collect()
}

fn read(stem: &str) -> Option<Vec<u8>> {
    fs::read(dir().join(format!("{stem}.yaml"))).ok()
}

/// All that limafs says of a document.
fn outcome(name: &str) -> String {
    let layer = |layer: &str| read(&format!("{name}.{layer}")).map(Into::into);
    let layers = Layers { overrides: layer("override"), defaults: layer("default") };
    let (instance, host) = (Name::parse("foo").unwrap(), host());
    let context = Context { name: &instance, dir: "/home/jane/.lima/foo".into(), host: &host, layers };
    let loaded = match config::load(&read(name).unwrap(), &context) {
        Ok(loaded) => loaded,
        Err(Error::Document(lines)) => return comments("refused", &lines),
        Err(error) => panic!("{name}: {error}"),
    };
    let message = config::message(&loaded.filled, &context, PORT).unwrap_or_else(|error| format!("({error})"));
    let message: Vec<String> = message.lines().map(str::to_owned).collect();
    let yaml = config::to_yaml(&loaded.filled).unwrap();
    yaml + &comments("warning", &loaded.warnings) + &comments("message", &message)
}

fn comments(word: &str, lines: &[String]) -> String {
    lines.iter().map(|line| format!("# {word}: {line}\n")).collect()
}

/// The first line in which they differ, for people.
fn difference(expected: &str, found: &str) -> Option<String> {
    let (mut old, mut new) = (expected.lines(), found.lines());
    for number in 1.. {
        let pair = (old.next(), new.next());
        if pair.0 != pair.1 {
            return Some(format!("line {number}: expected {:?}, found {:?}", pair.0, pair.1));
        }
        if pair.0.is_none() {
            break;
        }
    }
    (expected != found).then(|| "they end differently".into())
}

#[test]
fn documents_become_what_is_kept() {
    let write = std::env::var_os(REGENERATE).is_some_and(|word| word == "write");
    let mut differences = Vec::new();
    for name in documents() {
        let found = outcome(&name);
        let path = dir().join(format!("{name}.effective.yaml"));
        if write {
            fs::write(&path, found).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        differences.extend(difference(&expected, &found).map(|line| format!("{}: {line}", path.display())));
    }
    let hint = format!("if that is meant: {REGENERATE}=write cargo test --test golden");
    assert!(differences.is_empty(), "{}\n{hint}", differences.join("\n"));
}

#[test]
fn an_effective_yaml_is_a_document_that_becomes_itself() {
    // But for what variables leave behind: params that nobody names any more, braces that would be expanded again.
    for name in documents().into_iter().filter(|name| name != "variables") {
        let Some(text) = read(&format!("{name}.effective")).filter(|text| !text.starts_with(b"#")) else { continue };
        let (instance, host) = (Name::parse("foo").unwrap(), host());
        let dir = "/home/jane/.lima/foo".into();
        let context = Context { name: &instance, dir, host: &host, layers: Layers::default() };
        let again = config::load(&text, &context).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = config::to_yaml(&again.filled).unwrap();
        let kept = String::from_utf8(text).unwrap();
        let kept: String =
            kept.lines().filter(|line| !line.starts_with("# ")).map(|line| format!("{line}\n")).collect();
        assert_eq!(difference(&kept, &again), None, "{name}");
    }
}

#[test]
fn origins_change_nothing_of_what_a_document_is_read_as() {
    let (instance, host) = (Name::parse("foo").unwrap(), host());
    for name in documents() {
        let layer = |layer: &str| read(&format!("{name}.{layer}")).map(Into::into);
        let layers = Layers { overrides: layer("override"), defaults: layer("default") };
        let context = Context { name: &instance, dir: "/home/jane/.lima/foo".into(), host: &host, layers };
        let text = read(&name).unwrap();
        let Ok(loaded) = config::load(&text, &context) else { continue };
        let yaml = config::to_yaml(&loaded.filled).unwrap();
        let with_origins = config::yaml_with_origins(&text, &context).unwrap();
        let values = |text: &str| serde_yaml::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(values(&with_origins), values(&yaml), "{name}");
        assert!(with_origins.contains(" # lima.yaml:") && with_origins.contains(" # built in"), "{name}");
    }
}

#[test]
fn every_file_belongs_to_a_document() {
    let documents = documents();
    assert!(documents.len() >= 10, "{documents:?}");
    for stem in stems() {
        let (name, kind) = stem.split_once('.').unwrap_or((&stem, "effective"));
        assert!(documents.contains(name), "{stem}.yaml belongs to no document");
        assert!(["default", "override", "effective"].contains(&kind), "{stem}.yaml is not read");
    }
}
