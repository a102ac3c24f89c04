//! What is kept of a machine, in docker-machine's own layout, so that docker-machine can look at it:
//!
//! ```text
//! DIR/machine/machines/lima-NAME/config.json   the plugin's own JSON as `Driver`
//! DIR/machine/machines/lima-NAME/...           what the plugin keeps: keys, disks
//! DIR/machine/created                          the machine was made to its end
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use limafs_driver::{Error, Instance, Result};
use serde_json::{Value, json};

/// Of docker-machine's file.
const CONFIG_VERSION: u32 = 3;
const FILE_MAX: u64 = 4 << 20;

/// Where one instance's machine is kept.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    machine: String,
}

impl Store {
    pub fn of(instance: &Instance) -> Self {
        Self { root: instance.dir.join("machine"), machine: instance.hostname.clone() }
    }

    /// What a new machine's plugin is told of itself.
    pub fn bare(&self) -> Value {
        json!({ "MachineName": self.machine, "StorePath": self.root })
    }

    /// What the plugin said of itself last; `None` when there is no machine.
    pub fn driver(&self) -> Result<Option<Value>> {
        let path = self.config();
        let mut text = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(FILE_MAX).read_to_end(&mut text).map_err(Error::io(&path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path)(error)),
        };
        let mut config: Value =
            serde_json::from_slice(&text).map_err(|error| Error::failed(path.display().to_string(), error))?;
        let mut driver = config["Driver"].take();
        if let Some(place) = driver.get_mut("StorePath") {
            // The home may have been moved.
            *place = json!(self.root);
        }
        Ok(Some(driver))
    }

    /// Keeps what the plugin says of itself; durable when it returns.
    pub fn keep(&self, name: &str, driver: &Value) -> Result<()> {
        let config = json!({
            "ConfigVersion": CONFIG_VERSION,
            "Driver": driver,
            "DriverName": name,
            "HostOptions": { "AuthOptions": { "StorePath": self.machine_dir() }, "EngineOptions": {}, "SwarmOptions": {} },
            "Name": self.machine,
        });
        let text = serde_json::to_vec_pretty(&config).map_err(|error| Error::failed("config.json", error))?;
        make_dir(&self.machine_dir())?;
        replace(&self.config(), &text)
    }

    pub fn is_created(&self) -> bool {
        self.created().exists()
    }

    pub fn set_created(&self) -> Result<()> {
        replace(&self.created(), b"")
    }

    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(&self.root)(error)),
            _ => Ok(()),
        }
    }

    fn machine_dir(&self) -> PathBuf {
        self.root.join("machines").join(&self.machine)
    }

    fn config(&self) -> PathBuf {
        self.machine_dir().join("config.json")
    }

    fn created(&self) -> PathBuf {
        self.root.join("created")
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io(dir))
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = path.with_extension("new");
    let written = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    written().map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_kept_as_docker_machine_does_and_moves_with_its_home() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance { hostname: "lima-foo".into(), dir: dir.path().into(), ..Instance::default() };
        let store = Store::of(&instance);
        assert_eq!(store.driver().unwrap(), None);
        store.keep("paper", &json!({"MachineName": "lima-foo", "StorePath": "/elsewhere", "Size": 5})).unwrap();
        let text = fs::read(dir.path().join("machine/machines/lima-foo/config.json")).unwrap();
        let config: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&config["ConfigVersion"], &config["Name"]), (&json!(3), &json!("lima-foo")));
        assert_eq!(config["Driver"]["Size"], 5);
        let driver = store.driver().unwrap().unwrap();
        assert_eq!(driver["StorePath"], json!(dir.path().join("machine")));
        assert!(!store.is_created());
        store.set_created().unwrap();
        assert!(store.is_created());
        store.remove().unwrap();
        assert!(!store.is_created() && store.driver().unwrap().is_none());
        store.remove().unwrap();
    }
}
