//! The driver with a stand-in for wsl.exe: a real process that keeps distributions in a directory, knows wsl.exe's
//! options and no others, and answers as recorded, as UTF-16LE, in the language that it is told.
//!
//! This program is wsl.exe and wslpath as well, by the name under which it is started.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bench;
mod conformance;
mod program;
mod tests;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::Arguments;

use crate::bench::{MACHINE, install};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().collect();
    let me = Path::new(&words[0]);
    match me.file_name().and_then(|name| name.to_str()) {
        Some("wsl.exe") => program::wsl(me.parent().unwrap(), &words[1..]),
        Some("wslpath") => program::wslpath(&words[1..]),
        _ if env::var_os(MACHINE).is_some() => {
            let trials = tests::all().into_iter().chain(conformance::all()).collect();
            libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
        }
        _ => with_stand_ins(),
    }
}

/// Runs the tests in a process that finds the stand-ins, for the driver as a program of its own.
fn with_stand_ins() -> ExitCode {
    let dir = tempfile::tempdir().unwrap();
    let me = env::current_exe().unwrap();
    install(&me, dir.path());
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([dir.path().to_owned()].into_iter().chain(env::split_paths(&others))).unwrap();
    let mut command = Command::new(me);
    command.args(env::args_os().skip(1)).env("PATH", path).env(MACHINE, dir.path());
    if command.status().unwrap().success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
