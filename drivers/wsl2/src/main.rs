//! The WSL2 driver as a program of its own, for limafs and for Lima.

use std::process::ExitCode;

use limafs_driver_wsl2::Wsl2;

fn main() -> ExitCode {
    limafs_driver::serve(Wsl2::new())
}
