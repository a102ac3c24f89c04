//! The cases of all drivers, with the fake one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::sync::Arc;

use limafs_driver::conformance::Subject;
use limafs_driver::{Driver, Instance, Remote};
use limafs_driver_fake::Fake;

struct Fakes {
    dir: tempfile::TempDir,
    /// Its program, where it is not in process.
    program: Option<PathBuf>,
}

impl Subject for Fakes {
    fn driver(&self) -> Arc<dyn Driver> {
        match &self.program {
            Some(program) => Arc::new(Remote::new("fake", program.clone(), Some(self.dir.path().into()))),
            None => Arc::new(Fake::new()),
        }
    }

    fn instance(&self) -> Instance {
        let config = serde_json::from_str(r#"{"vmOpts": {"fake": {"ignorePowerdown": true}}}"#).unwrap();
        let (dir, arch) = (self.dir.path().into(), std::env::consts::ARCH.into());
        Instance { name: "x".into(), dir, arch, cpus: 1, memory: 1 << 30, disk: 1 << 30, config, ..Instance::default() }
    }
}

mod in_process {
    use super::*;

    limafs_driver::conformance!(Some(Fakes { dir: tempfile::tempdir().unwrap(), program: None }));
}

mod over_its_socket {
    use super::*;

    limafs_driver::conformance!(Some(Fakes {
        dir: tempfile::tempdir().unwrap(),
        program: Some(env!("CARGO_BIN_EXE_lima-driver-fake").into()),
    }));
}
