//! A driver by name: one return type, whether it is built in or a program of its own. Built in are those of the cargo
//! features; programs are found as Lima finds them, and run only when they are asked or used.

mod discovery;
#[cfg(feature = "machine")]
mod plugins;
mod safety;
mod trial;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{Driver, Remote};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::drivers::{self, Choice, Found, Known, Names, Place, Source, Stamp, Tried, Words};
use crate::error::{Error, Result};
use discovery::Places;

/// So long a start waits to learn how the drivers are: one that hangs must not hold up all instances for longer.
const CHOICE: Duration = Duration::from_secs(10);

/// A value of a built-in driver for one instance.
type Make = fn() -> Arc<dyn Driver>;

const BUILT_IN: &[(&str, Make)] = &[
    #[cfg(feature = "qemu")]
    ("qemu", || Arc::new(limafs_driver_qemu::Qemu::new())),
    #[cfg(feature = "vz")]
    ("vz", || Arc::new(limafs_driver_vz::Vz::vfkit())),
    #[cfg(feature = "vz")]
    ("krunkit", || Arc::new(limafs_driver_vz::Vz::krunkit())),
    #[cfg(feature = "wsl2")]
    ("wsl2", || Arc::new(limafs_driver_wsl2::Wsl2::new())),
    #[cfg(feature = "fake")]
    ("fake", || Arc::new(limafs_driver_fake::Fake::new())),
];

/// The drivers of this machine.
#[derive(Debug, Clone)]
pub struct Registry {
    places: Places,
}

impl Registry {
    /// With the places of this process: its environment and where its program is.
    pub fn of_process() -> Self {
        Self { places: Places::of_process() }
    }

    /// A new driver value for the instance in `dir`, not configured yet. `name` is an own name or an alias.
    pub fn driver(&self, name: &str, dir: &Path) -> Result<Arc<dyn Driver>> {
        let found = self.find();
        let Names { aliases, .. } = self.names();
        let own = aliases.get(name).map_or(name, String::as_str);
        if let Some(why) = drivers::fault(own, &found, &aliases) {
            return Err(Error::invalid("vmType", why));
        }
        match (built_in(own), found.into_iter().find(|driver| driver.name == own).map(|driver| driver.place)) {
            (Some(driver), _) => Ok(driver),
            (None, Some(Place::Program(program))) => {
                Ok(Arc::new(Remote::guarded(own, program, Some(dir.to_owned()), safety::fault)))
            }
            #[cfg(feature = "machine")]
            (None, Some(Place::Plugin(program))) => Ok(plugins::driver(own, &program)),
            (None, _) => Err(Error::failed("vmType", format!("the driver {own:?} went away"))),
        }
    }

    /// The driver for an instance that names none, tried out as far as the choice depends on it.
    pub async fn choose(&self) -> Choice {
        let known = self.untried();
        if drivers::is_open(&known) { drivers::choose(&self.survey(CHOICE).await) } else { drivers::choose(&known) }
    }

    /// All drivers, tried at the same time. One that has not said how it is within `limit` stays untried.
    pub async fn survey(&self, limit: Duration) -> Vec<Known> {
        let mut known = self.untried();
        let mut trials = JoinSet::new();
        for (index, driver) in known.iter().enumerate() {
            let (registry, found) = (self.clone(), driver.found.clone());
            trials.spawn(async move { (index, registry.try_out(found).await) });
        }
        let deadline = Instant::now() + limit;
        // What is late ends with the set.
        while let Ok(Some(done)) = timeout_at(deadline, trials.join_next()).await {
            // One that fell over stays untried.
            if let Ok((index, tried)) = done {
                known[index].tried = Some(tried);
            }
        }
        known
    }

    fn untried(&self) -> Vec<Known> {
        self.find().into_iter().map(|found| Known { found, tried: None }).collect()
    }
}

#[async_trait]
impl Source for Registry {
    fn names(&self) -> Names {
        let mut aliases = aliases();
        // A program's own name comes before another's alias.
        for program in self.find() {
            aliases.remove(&program.name);
        }
        Names { chosen: None, aliases }
    }

    fn find(&self) -> Vec<Found> {
        let words = |make: &Make| {
            let driver = make();
            Some(Words { about: driver.about(), info: driver.info() })
        };
        let found = |(name, make): &(&str, Make)| Found {
            name: (*name).to_owned(),
            place: Place::BuiltIn,
            stamp: None,
            refused: None,
            words: words(make),
        };
        let mut all: Vec<Found> = BUILT_IN.iter().map(found).collect();
        for program in discovery::find(&self.places) {
            if all.iter().all(|known| known.name != program.name) {
                let discovery::Program { name, path, refused } = program;
                let stamp = stamp(&path);
                all.push(Found { name, place: Place::Program(path), stamp, refused, words: None });
            }
        }
        #[cfg(feature = "machine")]
        for (name, path) in plugins::find(&self.places) {
            if all.iter().all(|known| known.name != name) {
                let driver = plugins::driver(&name, &path);
                let words = Some(Words { about: driver.about(), info: driver.info() });
                let stamp = stamp(&path);
                all.push(Found { name, place: Place::Plugin(path), stamp, refused: None, words });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn watched(&self) -> Vec<PathBuf> {
        discovery::watched(&self.places)
    }

    async fn try_out(&self, found: Found) -> Tried {
        match (&found.refused, &found.place, built_in(&found.name)) {
            (Some(why), ..) => trial::refused(why),
            (None, Place::BuiltIn, Some(driver)) => trial::built_in(driver).await,
            (None, Place::Program(program), _) => trial::program(program).await,
            #[cfg(feature = "machine")]
            (None, Place::Plugin(program), _) => plugins::try_out(&found.name, program).await,
            #[cfg(not(feature = "machine"))]
            (None, Place::Plugin(_), _) => trial::refused("plugins are not built in"),
            (None, Place::BuiltIn, None) => trial::refused("it is not built in"),
        }
    }
}

/// Of the file that a path leads to; `None` where it leads nowhere.
fn stamp(path: &Path) -> Option<Stamp> {
    std::fs::metadata(path).ok().map(|meta| Stamp::of(&meta))
}

/// Of the built-in drivers; programs are known by their own names alone.
fn aliases() -> std::collections::BTreeMap<String, String> {
    let all: Vec<(&str, Vec<String>)> = BUILT_IN.iter().map(|(name, make)| (*name, make().about().aliases)).collect();
    drivers::aliases(all.iter().map(|(name, aliases)| (*name, aliases.as_slice())))
}

fn built_in(name: &str) -> Option<Arc<dyn Driver>> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, make)| make())
}

#[cfg(test)]
mod tests;
