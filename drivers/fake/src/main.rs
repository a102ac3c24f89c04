//! The fake driver as a program of its own.

use std::process::ExitCode;

use limafs_driver_fake::Fake;

fn main() -> ExitCode {
    limafs_driver::serve(Fake::new())
}
