//! The cases of all drivers, with stand-ins: in process, and through the drivers' own programs. Without the one that
//! asks for a healthy driver: these are so on macOS only.

use std::path::PathBuf;
use std::sync::Arc;

use libtest_mimic::Trial;
use limafs_driver::conformance::{self, Subject};
use limafs_driver::{Driver, Instance, Remote};
use limafs_driver_vz::Vz;

use crate::bench::Bench;
use crate::programs::Behaviour;

#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    make: fn() -> Vz,
    program: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind { name: "vz", make: Vz::vfkit, program: env!("CARGO_BIN_EXE_lima-driver-vz") },
    Kind { name: "krunkit", make: Vz::krunkit, program: env!("CARGO_BIN_EXE_lima-driver-krunkit") },
];

struct Vms {
    bench: Bench,
    kind: Kind,
    in_process: bool,
}

impl Subject for Vms {
    fn driver(&self) -> Arc<dyn Driver> {
        let Kind { name, make, program } = self.kind;
        match self.in_process {
            true => Arc::new(make()),
            false => Arc::new(Remote::new(name, PathBuf::from(program), Some(self.bench.dir()))),
        }
    }

    fn instance(&self) -> Instance {
        self.bench.instance("{}")
    }
}

macro_rules! cases {
    ($($case:ident,)*) => {
        /// Each case for each driver, twice.
        pub fn all() -> Vec<Trial> {
            let mut trials = Vec::new();
            $(for (kind, in_process) in KINDS.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
                let how = if in_process { "in_process" } else { "over_its_socket" };
                let name = format!("{}::{how}::{}", kind.name, stringify!($case));
                trials.push(Trial::test(name, move || {
                    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                    runtime.block_on(async {
                        let told = Behaviour { ignore_stop: true, ..Behaviour::default() };
                        let bench = Bench::with(kind.make, "{}", &told).await;
                        conformance::$case(&Vms { bench, kind, in_process }).await;
                    });
                    Ok(())
                }));
            })*
            trials
        }
    };
}

cases!(
    what_is_not_configured_does_not_start,
    configuring_keeps_the_instance_and_may_be_repeated,
    without_a_vm_there_is_nothing_to_attach_and_nothing_to_end,
    a_vm_starts_once_and_is_killed,
    a_guest_that_does_not_stop_is_killed_after_its_grace,
    a_vm_that_was_killed_starts_again,
    a_vm_outlives_its_driver_value_and_is_attached,
    a_vm_is_paused_and_goes_on,
    what_a_driver_cannot_do_is_said_to_be_so,
    the_status_of_an_instance_keeps_the_rest_of_it,
);
