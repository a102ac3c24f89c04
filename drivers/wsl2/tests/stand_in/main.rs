//! The driver with a stand-in for wsl.exe: a real process that keeps distributions in a directory, knows wsl.exe's
//! options and no others, and answers as recorded, as UTF-16LE, in the language that it is told.
//!
//! This program is wsl.exe and wslpath as well, by the name under which it is started.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bench;
mod program;
mod tests;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let me = Path::new(&words[0]);
    match me.file_name().and_then(|name| name.to_str()) {
        Some("wsl.exe") => program::wsl(me.parent().unwrap(), &words[1..]),
        Some("wslpath") => program::wslpath(&words[1..]),
        _ => libtest_mimic::run(&Arguments::from_args(), tests::all()).exit_code(),
    }
}
