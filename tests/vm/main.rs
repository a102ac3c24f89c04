//! Real guests under real QEMU: the images of contrib/make-guest-image. At most two run at once.

#[path = "../common/mod.rs"]
mod common;

mod boot;
mod disks;
mod files;
mod guest;
mod jobs;
mod kills;
mod provision;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut all = vec![];
    all.extend(boot::cases());
    all.extend(provision::cases());
    all.extend(disks::cases());
    all.extend(files::cases());
    all.extend(jobs::cases());
    all.extend(kills::cases());
    common::run("vm", common::suite::lacks_guest(), 2, all)
}
