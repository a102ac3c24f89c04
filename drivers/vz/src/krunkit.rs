//! The krunkit driver as a program of its own, for limafs and for Lima.

use std::process::ExitCode;

use limafs_driver_vz::Vz;

fn main() -> ExitCode {
    limafs_driver::serve(Vz::krunkit())
}
