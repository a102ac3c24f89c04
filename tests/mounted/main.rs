//! The tree on a real mount, used by the real shell tools; instances without a VM and of the pretend driver.

#[path = "../common/mod.rs"]
mod common;

mod announce;
mod bases;
mod config;
mod daemon;
mod disks;
mod documents;
mod drivers;
mod foreign;
mod guest;
mod images;
mod jobs;
mod keys;
mod knobs;
mod life;
mod lifecycle;
mod names;
mod outside;
mod pending;
mod reading;
mod scratch;
mod semantics;
mod templates;
mod users;
mod waits;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut all = vec![];
    all.extend(names::cases());
    all.extend(documents::cases());
    all.extend(bases::cases());
    all.extend(scratch::cases());
    all.extend(knobs::cases());
    all.extend(lifecycle::cases());
    all.extend(life::cases());
    all.extend(foreign::cases());
    all.extend(guest::cases());
    all.extend(jobs::cases());
    all.extend(semantics::cases());
    all.extend(pending::cases());
    all.extend(reading::cases());
    all.extend(waits::cases());
    all.extend(announce::cases());
    all.extend(daemon::cases());
    all.extend(templates::cases());
    all.extend(config::cases());
    all.extend(keys::cases());
    all.extend(users::cases());
    all.extend(disks::cases());
    all.extend(drivers::cases());
    all.extend(outside::cases());
    all.extend(images::cases());
    all.extend(words::cases());
    common::run("mounted", common::suite::lacks_fuse(), 2, all)
}
