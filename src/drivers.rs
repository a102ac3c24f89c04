//! Drivers as the tree, the doctor and the choice see them: what was found, what trying it came to, and which one runs
//! an instance whose lima.yaml names none. Plain data and pure functions; finding and trying are the registry's.

mod choice;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use limafs_driver::{About, Health, Info, Priority};

pub use choice::{Choice, choose, is_open};

/// How long a driver may take to say how it is.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What makes a program one that may be run.
pub const SAFE: &str = "have it be a program at an absolute path, and let nobody but you and root write to it and to the \
                        directories above it";

/// Where a driver's code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    BuiltIn,
    Program(PathBuf),
    /// A program of docker-machine's.
    Plugin(PathBuf),
}

/// What a driver says of itself.
#[derive(Debug, Clone, Default)]
pub struct Words {
    pub about: About,
    pub info: Info,
}

/// Which version of a file is at a path: another one has another inode, size or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    /// Bytes.
    size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

impl Stamp {
    pub fn of(meta: &impl MetadataExt) -> Self {
        Self { inode: meta.ino(), size: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// A driver that is there.
#[derive(Debug, Clone)]
pub struct Found {
    /// What `vmType` calls it.
    pub name: String,
    pub place: Place,
    /// Of its program.
    pub stamp: Option<Stamp>,
    /// Why its program is not run.
    pub refused: Option<String>,
    /// Of a program only once it was tried.
    pub words: Option<Words>,
}

impl Found {
    /// Whether both are the same program, or the same built-in driver, so that what trying one came to holds for the other.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.place, self.stamp, &self.refused) == (&other.place, other.stamp, &other.refused)
    }
}

/// What trying a driver came to.
#[derive(Debug, Clone)]
pub struct Tried {
    pub when: Timestamp,
    /// `None` where the driver tells nobody.
    pub health: Option<Health>,
    pub words: Option<Words>,
    /// What it wrote meanwhile, the latest lines.
    pub log: Vec<String>,
    /// The keys of `vmOpts.NAME` that it takes, where it lists them.
    pub options: Vec<DriverOption>,
}

/// A key of `vmOpts.NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverOption {
    pub name: String,
    pub default: String,
    pub usage: String,
}

/// Whether a driver keeps all that it has of an instance in the instance's directory. Programs may not.
pub fn is_local(name: &str) -> bool {
    matches!(name, "qemu" | "fake")
}

/// A driver with all that is known of it.
#[derive(Debug, Clone)]
pub struct Known {
    pub found: Found,
    pub tried: Option<Tried>,
}

impl Known {
    /// What it says of itself, if it was ever asked.
    pub fn words(&self) -> Option<&Words> {
        self.tried.as_ref().and_then(|tried| tried.words.as_ref()).or(self.found.words.as_ref())
    }

    pub fn health(&self) -> Option<&Health> {
        self.tried.as_ref()?.health.as_ref()
    }

    /// How much it is wished for as it is on this machine.
    pub fn priority(&self) -> Priority {
        let declared = self.words().map(|words| words.about.priority).unwrap_or_default();
        match self.health() {
            Some(health) if !(health.installed && health.healthy) => Priority::Unhealthy,
            _ if self.found.refused.is_some() => Priority::Unhealthy,
            _ => declared,
        }
    }
}

/// What a configuration is filled with: the driver of an instance that names none, and drivers' other names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// `None`: the one that Lima would take.
    pub chosen: Option<String>,
    /// Another name to the own one.
    pub aliases: BTreeMap<String, String>,
}

/// The registry, for those who may not know it.
#[async_trait]
pub trait Source: Send + Sync {
    /// What a configuration may know of the drivers without asking one.
    fn names(&self) -> Names;

    /// All drivers by name. Looks at directories only; runs nothing.
    fn find(&self) -> Vec<Found>;

    /// The directories in which one may appear.
    fn watched(&self) -> Vec<PathBuf>;

    /// Has a driver say how it is. Comes back within [`DEADLINE`].
    async fn try_out(&self, found: Found) -> Tried;
}

/// A word of the protocol's, as minikube's registry spells it.
pub fn priority_word(priority: Priority) -> String {
    match serde_json::to_value(priority) {
        Ok(serde_json::Value::String(word)) => word,
        // A variant without fields is a word.
        _ => String::new(),
    }
}

/// The own name to each other name; a driver's own name is never another's alias.
pub fn aliases<'a>(drivers: impl Iterator<Item = (&'a str, &'a [String])> + Clone) -> BTreeMap<String, String> {
    let own: Vec<&str> = drivers.clone().map(|(name, _)| name).collect();
    let mut aliases = BTreeMap::new();
    for (name, others) in drivers {
        for other in others.iter().filter(|other| !own.contains(&other.as_str())) {
            aliases.entry(other.clone()).or_insert_with(|| name.to_owned());
        }
    }
    aliases
}

/// The names in a sentence for who wrote one that there is not.
pub fn list(found: &[Found]) -> String {
    let usable: Vec<&str> = found.iter().filter(|driver| driver.refused.is_none()).map(|d| d.name.as_str()).collect();
    if usable.is_empty() { "there are none".into() } else { usable.join(", ") }
}

/// Why `name` is no driver that can be used; `None` when it is one.
pub fn fault(name: &str, found: &[Found], aliases: &BTreeMap<String, String>) -> Option<String> {
    let name = aliases.get(name).map_or(name, String::as_str);
    match found.iter().find(|driver| driver.name == name) {
        Some(Found { refused: None, .. }) => None,
        Some(Found { refused: Some(why), .. }) => Some(format!("the driver {name:?} is not used: {why}")),
        None => Some(format!("there is no driver {name:?} ({})", list(found))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, refused: Option<&str>) -> Found {
        Found {
            name: name.into(),
            place: Place::BuiltIn,
            stamp: None,
            refused: refused.map(str::to_owned),
            words: None,
        }
    }

    #[test]
    fn an_unknown_driver_is_told_with_the_list_of_those_that_there_are() {
        let all = [found("qemu", None), found("vz", None), found("bad", Some("/x may be changed by others"))];
        let aliases = BTreeMap::from([("qemu2".to_owned(), "qemu".to_owned())]);
        assert_eq!(fault("qemu", &all, &aliases), None);
        assert_eq!(fault("qemu2", &all, &aliases), None);
        assert_eq!(fault("vbox", &all, &aliases).unwrap(), "there is no driver \"vbox\" (qemu, vz)");
        assert_eq!(
            fault("bad", &all, &aliases).unwrap(),
            "the driver \"bad\" is not used: /x may be changed by others"
        );
        assert_eq!(fault("q", &[], &aliases).unwrap(), "there is no driver \"q\" (there are none)");
    }

    #[test]
    fn an_alias_leads_to_the_first_that_has_it_and_never_hides_a_name() {
        let (a, b) = (["x".to_owned(), "b".to_owned()], ["x".to_owned(), "y".to_owned()]);
        let all = [("a", &a[..]), ("b", &b[..])];
        let expected = [("x", "a"), ("y", "b")].map(|(alias, name)| (alias.to_owned(), name.to_owned()));
        assert_eq!(aliases(all.into_iter()), expected.into());
    }

    #[test]
    fn priorities_are_minikubes_words() {
        assert_eq!(priority_word(Priority::HighlyPreferred), "highly-preferred");
        assert_eq!(priority_word(Priority::Default), "default");
    }
}
