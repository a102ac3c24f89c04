//! A plugin of docker-machine's as a driver's program, for limafs and for Lima: called by a link `lima-driver-NAME`, it hosts
//! `docker-machine-driver-NAME`, which lies beside the link or in `PATH`.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use limafs_driver_machine::Machine;

const PREFIX: &str = "lima-driver-";

fn main() -> ExitCode {
    let program = PathBuf::from(env::args_os().next().unwrap_or_default());
    let Some(name) = program.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_prefix(PREFIX)) else {
        eprintln!("{}: to be called as {PREFIX}NAME, for the plugin docker-machine-driver-NAME", program.display());
        return ExitCode::from(2);
    };
    match plugin(&program, name) {
        Some(plugin) => limafs_driver::serve(Machine::new(name.to_owned(), plugin)),
        None => {
            eprintln!("{PREFIX}{name}: no docker-machine-driver-{name} beside it or in PATH that is safe to run");
            ExitCode::FAILURE
        }
    }
}

fn plugin(program: &Path, name: &str) -> Option<PathBuf> {
    let beside = program.parent().and_then(|dir| std::path::absolute(dir).ok());
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = beside.into_iter().chain(env::split_paths(&path)).collect();
    limafs_driver_machine::find(&dirs).into_iter().find(|(known, _)| known == name).map(|(_, plugin)| plugin)
}
