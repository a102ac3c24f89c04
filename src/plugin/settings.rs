//! The flags of `docker-machine create -d limafs`, and the document that they make.

use std::path::PathBuf;

use limafs_driver_machine::flags::{Flag, Setting};

use crate::config::{self, expand_path};
use crate::error::{Error, Result};
use crate::store;

const CPUS: &str = "limafs-cpus";
const MEMORY: &str = "limafs-memory";
const DISK: &str = "limafs-disk";
const VM_TYPE: &str = "limafs-vm-type";
const TEMPLATE: &str = "limafs-template";
const IMAGE: &str = "limafs-image";
const CONFIG: &str = "limafs-config";
const HOME: &str = "limafs-home";

/// docker-machine brings Docker itself, and what is mounted would be the host's that runs it.
const OWN: &str = "containerd: {system: false, user: false}\nmounts: []\n";

pub fn flags() -> Vec<Flag> {
    let text = |name: &str, usage: &str, default: &str| flag(name, usage, Setting::Text(default.into()));
    vec![
        flag(CPUS, "CPUs; 0 for what the template says", Setting::Int(0)),
        text(MEMORY, "Memory, such as 4GiB", ""),
        text(DISK, "Size of the disk, such as 100GiB", ""),
        text(VM_TYPE, "Driver of the VM, such as qemu", ""),
        text(TEMPLATE, "Template to start from", "default"),
        text(IMAGE, "Image to start from instead: a URL or a path", ""),
        text(CONFIG, "A lima.yaml to start from instead", ""),
        text(HOME, "Where instances are kept; default $LIMA_HOME or ~/.lima", ""),
    ]
}

fn flag(name: &str, usage: &str, default: Setting) -> Flag {
    let variable = name.to_ascii_uppercase().replace('-', "_");
    Flag { name: name.into(), usage: usage.into(), variable, default }
}

/// What was asked for. Flags of docker-machine itself are not ours.
#[derive(Debug, Default)]
pub struct Wishes {
    pub home: PathBuf,
    config: Option<PathBuf>,
    template: String,
    image: String,
    /// Fields of the document.
    fields: Vec<(&'static str, String)>,
}

impl Wishes {
    pub fn of(given: &[(String, Setting)]) -> Result<Self> {
        let text = |name: &str| match given.iter().find(|(key, _)| key == name) {
            Some((_, Setting::Text(text))) => text.trim().to_owned(),
            _ => String::new(),
        };
        let cpus = given.iter().find_map(|(key, value)| match value {
            Setting::Int(cpus) if key == CPUS && *cpus != 0 => Some(cpus.to_string()),
            _ => None,
        });
        let fields = [("cpus", cpus.unwrap_or_default()), ("memory", text(MEMORY)), ("disk", text(DISK))];
        let fields = fields.into_iter().chain([("vmType", text(VM_TYPE))]);
        let fields = fields.filter(|(_, value)| !value.is_empty()).collect();
        let config =
            Some(text(CONFIG)).filter(|file| !file.is_empty()).map(|file| absolute(CONFIG, &file)).transpose()?;
        let home = match text(HOME) {
            home if home.is_empty() => default_home()?,
            home => absolute(HOME, &home)?,
        };
        Ok(Self { home, config, template: text(TEMPLATE), image: text(IMAGE), fields })
    }

    /// The lima.yaml, with what it builds upon still to be put into it.
    pub fn document(&self) -> Result<String> {
        let mut text = match (&self.config, self.image.as_str()) {
            (Some(file), _) => read(file)?,
            (None, "") => format!("base: template:{}\n{OWN}", self.template_name()?),
            (None, image) => format!("images:\n- location: {}\n{OWN}", serde_json::json!(image)),
        };
        for (field, value) in &self.fields {
            text = config::edit::set(&text, field, value)?;
        }
        Ok(text)
    }

    fn template_name(&self) -> Result<&str> {
        let is_fine = |char: char| char.is_ascii_alphanumeric() || "._-/".contains(char);
        match self.template.as_str() {
            "" => Ok("default"),
            name if name.chars().all(is_fine) => Ok(name),
            name => Err(Error::invalid(TEMPLATE, format!("{name:?} is no template's name"))),
        }
    }
}

fn read(file: &std::path::Path) -> Result<String> {
    let bytes = store::read_small(file)?.ok_or_else(|| Error::Missing { what: file.display().to_string() })?;
    String::from_utf8(bytes).map_err(|_| Error::invalid(CONFIG, format!("{} is not UTF-8", file.display())))
}

/// A plugin has no current directory that its user would know.
fn absolute(flag: &str, path: &str) -> Result<PathBuf> {
    let user = user_dir()?;
    expand_path(path, &user).ok_or_else(|| Error::invalid(flag, format!("{path:?} is not an absolute path")))
}

fn default_home() -> Result<PathBuf> {
    match std::env::var_os("LIMA_HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(home.into()),
        None => Ok(user_dir()?.join(".lima")),
    }
}

fn user_dir() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(PathBuf::from).ok_or_else(|| Error::invalid("HOME", "is not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(settings: &[(&str, &str)]) -> Vec<(String, Setting)> {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), Setting::Text((*value).into()));
        settings.iter().map(text).collect()
    }

    #[test]
    fn flags_become_a_document() {
        let mut given = given(&[(MEMORY, "3GiB"), (TEMPLATE, "debian"), (HOME, "/h"), ("swarm-host", "x")]);
        given.push((CPUS.into(), Setting::Int(3)));
        let wishes = Wishes::of(&given).unwrap();
        assert_eq!(wishes.home, PathBuf::from("/h"));
        let expected = format!("base: template:debian\n{OWN}cpus: 3\nmemory: 3GiB\n");
        assert_eq!(wishes.document().unwrap(), expected);
    }

    #[test]
    fn an_image_and_a_document_take_the_template_s_place() {
        let wishes = Wishes::of(&given(&[(IMAGE, "/a: b\"c"), (HOME, "/h"), (TEMPLATE, "debian")])).unwrap();
        assert_eq!(wishes.document().unwrap(), format!("images:\n- location: \"/a: b\\\"c\"\n{OWN}"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("foo.yaml");
        std::fs::write(&file, "cpus: 1 # one\n").unwrap();
        let wishes = Wishes::of(&given(&[(CONFIG, file.to_str().unwrap()), (HOME, "/h"), (DISK, "9GiB")])).unwrap();
        assert_eq!(wishes.document().unwrap(), "cpus: 1 # one\ndisk: 9GiB\n");
    }

    #[test]
    fn what_would_be_syntax_is_refused() {
        let wishes = Wishes::of(&given(&[(TEMPLATE, "a\nvmType: b"), (HOME, "/h")])).unwrap();
        assert!(wishes.document().unwrap_err().to_string().starts_with("limafs-template: "));
        assert!(Wishes::of(&given(&[(CONFIG, "foo.yaml"), (HOME, "/h")])).is_err());
    }
}
