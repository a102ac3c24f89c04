//! The cases of all drivers, with distributions of the stand-in: in process, and through the driver's own program.

use std::path::PathBuf;
use std::sync::Arc;

use libtest_mimic::Trial;
use limafs_driver::conformance::{self, Subject};
use limafs_driver::{Driver, Instance, Remote};

use crate::bench::Bench;

struct Distributions {
    bench: Bench,
    /// Its program, where it is not in process.
    program: Option<PathBuf>,
}

impl Subject for Distributions {
    fn driver(&self) -> Arc<dyn Driver> {
        match &self.program {
            Some(program) => Arc::new(Remote::new("wsl2", program.clone(), Some(self.bench.dir()))),
            None => Arc::new(self.bench.new_driver()),
        }
    }

    fn instance(&self) -> Instance {
        self.bench.instance("{}")
    }
}

macro_rules! cases {
    ($($case:ident,)*) => {
        /// Each case twice.
        pub fn all() -> Vec<Trial> {
            let mut trials = Vec::new();
            $(for program in [None, Some(env!("CARGO_BIN_EXE_lima-driver-wsl2"))] {
                let how = if program.is_some() { "over_its_socket" } else { "in_process" };
                let name = format!("{how}::{}", stringify!($case));
                trials.push(Trial::test(name, move || {
                    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                    runtime.block_on(async {
                        let bench = if program.is_some() { Bench::in_path().await } else { Bench::new().await };
                        conformance::$case(&Distributions { bench, program: program.map(PathBuf::from) }).await;
                    });
                    Ok(())
                }));
            })*
            trials
        }
    };
}

cases!(
    it_says_what_it_is_before_it_is_configured,
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
