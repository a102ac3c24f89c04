//! A driver by name: one return type, whether it is built in or, later, a program of its own.

use std::sync::Arc;

use limafs_driver::Driver;

use crate::error::{Error, Result};

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

/// Names of the drivers that there are.
pub fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

/// A new driver value, not configured yet.
pub fn driver(name: &str) -> Result<Arc<dyn Driver>> {
    match BUILT_IN.iter().find(|(known, _)| *known == name) {
        Some((_, make)) => Ok(make()),
        None => Err(Error::invalid("vmType", format!("there is no driver {name:?} ({})", names().join(", ")))),
    }
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
