//! The driver with stand-ins for vfkit, krunkit and gvproxy: real processes, which take their argument lists as
//! strictly as the real ones do, listen where they would, and can be told to die, hang and refuse.
//!
//! This program is all of them, by the name under which it is started. LIMAFS_TEST_VFKIT may name a program that
//! parses vfkit's command line with vfkit's own parser: the stand-in asks it first. LIMAFS_TEST_GVPROXY may name a
//! real gvproxy, which then takes the stand-in's place.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod arguments;
mod bench;
mod conformance;
mod programs;
mod tests;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::Arguments;

/// Set in the environment of the tests: `$PATH` begins with the stand-ins.
const READY: &str = "LIMAFS_TEST_STAND_INS";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().collect();
    let name = Path::new(&words[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.as_str() {
        "vfkit" | "krunkit" => programs::vfkit(&words[1..], name == "krunkit"),
        "gvproxy" => programs::gvproxy(&words[1..]),
        _ if env::var_os(READY).is_some() => {
            let trials = tests::all().into_iter().chain(conformance::all()).collect();
            libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
        }
        _ => with_stand_ins(),
    }
}

/// Runs the tests in a process that finds the stand-ins.
fn with_stand_ins() -> ExitCode {
    let dir = tempfile::tempdir().unwrap();
    let me = env::current_exe().unwrap();
    let gvproxy = env::var_os("LIMAFS_TEST_GVPROXY").map_or(me.clone(), PathBuf::from);
    for (name, target) in [("vfkit", &me), ("krunkit", &me), ("gvproxy", &gvproxy)] {
        std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
    }
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([dir.path().to_owned()].into_iter().chain(env::split_paths(&others))).unwrap();
    let status = Command::new(me).args(env::args_os().skip(1)).env("PATH", path).env(READY, "1").status().unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
