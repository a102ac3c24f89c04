//! The tree on a real mount, used by the real shell tools; instances without a VM and of the pretend driver.

#[path = "../common/mod.rs"]
mod common;

mod announce;
mod bases;
mod daemon;
mod documents;
mod lifecycle;
mod names;
mod reading;
mod scratch;
mod semantics;
mod users;
mod waits;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut all = vec![];
    all.extend(names::cases());
    all.extend(documents::cases());
    all.extend(bases::cases());
    all.extend(scratch::cases());
    all.extend(lifecycle::cases());
    all.extend(semantics::cases());
    all.extend(reading::cases());
    all.extend(waits::cases());
    all.extend(announce::cases());
    all.extend(daemon::cases());
    all.extend(users::cases());
    common::run("mounted", common::suite::lacks_fuse(), 2, all)
}
