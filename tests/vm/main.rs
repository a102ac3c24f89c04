//! Real guests under real QEMU: the images of contrib/make-guest-image. At most two run at once.

#[path = "../common/mod.rs"]
mod common;

mod boot;
mod containerd;
mod disks;
mod files;
mod forwards;
mod guest;
mod guestagent;
mod jobs;
mod kills;
mod mounts;
mod networks;
mod outside;
mod provision;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut all = vec![];
    all.extend(boot::cases());
    all.extend(provision::cases());
    all.extend(containerd::cases());
    all.extend(disks::cases());
    all.extend(mounts::cases());
    all.extend(files::cases());
    all.extend(jobs::cases());
    all.extend(kills::cases());
    all.extend(networks::cases());
    all.extend(outside::cases());
    all.extend(guestagent::cases());
    all.extend(forwards::cases());
    common::run("vm", common::suite::lacks_guest(), 2, all)
}
