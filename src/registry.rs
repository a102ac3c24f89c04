//! A driver by name: one return type, whether it is built in or, later, a program of its own.

use std::sync::Arc;

use limafs_driver::Driver;

use crate::error::{Error, Result};

/// A value of a built-in driver for one instance.
type Make = fn() -> Arc<dyn Driver>;

const BUILT_IN: &[(&str, Make)] = &[
    #[cfg(feature = "qemu")]
    ("qemu", || Arc::new(limafs_driver_qemu::Qemu::new())),
    #[cfg(feature = "fake")]
    ("fake", || Arc::new(limafs_driver_fake::Fake::new())),
];

/// Names of the drivers that there are.
pub fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

/// A new driver value, not configured yet. A docker-machine plugin is a driver where no other has its name.
pub fn driver(name: &str) -> Result<Arc<dyn Driver>> {
    if let Some((_, make)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Ok(make());
    }
    match plugin(name) {
        Some(driver) => Ok(driver),
        None => {
            let known: Vec<String> = names().into_iter().map(str::to_owned).chain(plugins()).collect();
            Err(Error::invalid("vmType", format!("there is no driver {name:?} ({})", known.join(", "))))
        }
    }
}

/// Names of docker-machine's plugins.
#[cfg(feature = "machine")]
fn plugins() -> Vec<String> {
    limafs_driver_machine::find(&plugin_dirs()).into_iter().map(|(name, _)| name).collect()
}

#[cfg(feature = "machine")]
fn plugin(name: &str) -> Option<Arc<dyn Driver>> {
    let found = limafs_driver_machine::find(&plugin_dirs());
    let (name, program) = found.into_iter().find(|(known, _)| known == name)?;
    Some(Arc::new(limafs_driver_machine::Machine::new(name, program)))
}

/// Where plugins are looked for: as for Lima's drivers first, then where docker-machine does.
#[cfg(feature = "machine")]
fn plugin_dirs() -> Vec<std::path::PathBuf> {
    let listed = |variable| std::env::var_os(variable).map(|list| std::env::split_paths(&list).collect::<Vec<_>>());
    let prefix = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.parent()?.to_owned()));
    let beside = prefix.iter().flat_map(|prefix| ["libexec/lima", "lib/lima"].map(|dir| prefix.join(dir)));
    let drivers = listed("LIMA_DRIVERS_PATH").unwrap_or_default();
    drivers.into_iter().chain(beside).chain(listed("PATH").unwrap_or_default()).collect()
}

#[cfg(not(feature = "machine"))]
fn plugins() -> Vec<String> {
    Vec::new()
}

#[cfg(not(feature = "machine"))]
fn plugin(_: &str) -> Option<Arc<dyn Driver>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_driver_is_refused_with_the_known_ones() {
        let error = driver("vbox").err().expect("no such driver");
        assert_eq!(error.errno(), libc::EINVAL);
        assert!(error.to_string().starts_with("vmType: there is no driver \"vbox\" ("));
    }

    #[test]
    fn each_driver_knows_its_own_name() {
        for name in names() {
            assert_eq!(driver(name).unwrap().info().name, name);
        }
    }
}
