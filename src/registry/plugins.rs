//! docker-machine's plugins as drivers, where no other driver has their name.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use limafs_driver::Driver;
use limafs_driver_machine::Machine;
use limafs_driver_machine::flags::{Flag, Setting};
use tokio::time::timeout;

use super::discovery::Places;
use super::trial;
use crate::drivers::{DEADLINE, DriverOption, Tried};

/// More of a plugin's flags are not shown.
const MOST_OPTIONS: usize = 300;

/// Where docker-machine looks for them.
const VARIABLE: &str = "PATH";

/// Names and programs: where Lima's drivers are comes before the rest.
pub fn find(places: &Places) -> Vec<(String, PathBuf)> {
    let path = env::var_os(VARIABLE).unwrap_or_default();
    let dirs: Vec<PathBuf> = places.dirs().chain(env::split_paths(&path)).collect();
    limafs_driver_machine::find(&dirs)
}

/// As a built-in driver is tried, and then asked for its flags.
pub async fn try_out(name: &str, program: &Path) -> Tried {
    let machine = Arc::new(Machine::new(name.to_owned(), program.to_owned()));
    let mut tried = trial::built_in(machine.clone()).await;
    if tried.health.as_ref().is_some_and(|health| health.healthy) {
        match timeout(DEADLINE, machine.flags()).await {
            Ok(Ok(flags)) => tried.options = flags.iter().take(MOST_OPTIONS).map(option).collect(),
            Ok(Err(error)) => tried.log.push(trial::clean(&error.to_string())),
            Err(_) => tried.log.push("it does not say which flags it has".into()),
        }
    }
    tried
}

fn option(flag: &Flag) -> DriverOption {
    let default = match &flag.default {
        Setting::Text(text) => text.clone(),
        Setting::List(list) => list.join(","),
        Setting::Int(number) => number.to_string(),
        Setting::Bool(set) => set.to_string(),
    };
    let [name, default, usage] = [&flag.name, &default, &flag.usage].map(|text| trial::clean(text));
    DriverOption { name, default, usage }
}

pub fn driver(name: &str, program: &Path) -> Arc<dyn Driver> {
    Arc::new(Machine::new(name.to_owned(), program.to_owned()))
}
