//! The cases of all drivers. They run over the socket, as the driver does: its VM ends with its process.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use limafs_driver::conformance::Subject;
use limafs_driver::{Driver, Instance, Remote};

struct Examples(tempfile::TempDir);

impl Subject for Examples {
    fn driver(&self) -> Arc<dyn Driver> {
        let program = env!("CARGO_BIN_EXE_lima-driver-example").into();
        Arc::new(Remote::new("example", program, Some(self.0.path().into())))
    }

    fn instance(&self) -> Instance {
        let config = serde_json::from_str(r#"{"vmOpts": {"example": {"program": ["sleep", "1000"]}}}"#).unwrap();
        let dir = self.0.path().into();
        Instance { name: "x".into(), dir, arch: std::env::consts::ARCH.into(), cpus: 1, config, ..Instance::default() }
    }
}

limafs_driver::conformance!(Some(Examples(tempfile::tempdir().unwrap())));
