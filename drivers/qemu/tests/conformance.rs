//! The cases of all drivers, with a real QEMU whose guest is a boot sector that sleeps.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use limafs_driver::conformance::Subject;
use limafs_driver::{Driver, Firmware, Instance, Remote};
use limafs_driver_qemu::Qemu;

struct Qemus {
    dir: tempfile::TempDir,
    port: u16,
    /// Its program, where it is not in process.
    program: Option<PathBuf>,
}

impl Qemus {
    fn new(program: Option<&str>) -> Option<Self> {
        if !cfg!(target_arch = "x86_64") || Command::new("qemu-system-x86_64").arg("-version").output().is_err() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        // Real mode: hlt, and again; no power button.
        let mut sector = vec![0xf4, 0xeb, 0xfd];
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        fs::write(dir.path().join("image"), sector).unwrap();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        Some(Self { dir, port, program: program.map(PathBuf::from) })
    }
}

impl Subject for Qemus {
    fn driver(&self) -> Arc<dyn Driver> {
        match &self.program {
            Some(program) => Arc::new(Remote::new("qemu", program.clone(), Some(self.dir.path().into()))),
            None => Arc::new(Qemu::new()),
        }
    }

    fn instance(&self) -> Instance {
        let mut instance = Instance {
            name: "x".into(),
            dir: self.dir.path().into(),
            arch: "x86_64".into(),
            cpus: 1,
            memory: 64 << 20,
            disk: 1 << 20,
            ssh_local_port: self.port,
            ..Instance::default()
        };
        instance.config.firmware = Some(Firmware { legacy_bios: Some(true), images: None });
        instance
    }
}

mod in_process {
    use super::*;

    limafs_driver::conformance!(Qemus::new(None));
}

mod over_its_socket {
    use super::*;

    limafs_driver::conformance!(Qemus::new(Some(env!("CARGO_BIN_EXE_lima-driver-qemu"))));
}
