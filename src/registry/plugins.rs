//! docker-machine's plugins as drivers, where no other driver has their name.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use limafs_driver::Driver;

use super::discovery::Places;

/// Where docker-machine looks for them.
const VARIABLE: &str = "PATH";

/// Names and programs: where Lima's drivers are comes before the rest.
pub fn find(places: &Places) -> Vec<(String, PathBuf)> {
    let path = env::var_os(VARIABLE).unwrap_or_default();
    let dirs: Vec<PathBuf> = places.dirs().chain(env::split_paths(&path)).collect();
    limafs_driver_machine::find(&dirs)
}

pub fn driver(name: &str, program: &Path) -> Arc<dyn Driver> {
    Arc::new(limafs_driver_machine::Machine::new(name.to_owned(), program.to_owned()))
}
