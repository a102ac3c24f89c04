//! The QEMU driver as a program of its own, for limafs and for Lima.

use std::process::ExitCode;

use limafs_driver_qemu::Qemu;

fn main() -> ExitCode {
    limafs_driver::serve(Qemu::new())
}
