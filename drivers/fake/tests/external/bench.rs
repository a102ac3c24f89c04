//! Programs of drivers, good and bad, in directories of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use limafs_driver::{Driver, Instance, Remote};

/// A directory with a program and an instance.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub program: PathBuf,
    pub name: &'static str,
}

impl Bench {
    fn empty(name: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("x")).unwrap();
        Self { program: dir.path().join(format!("lima-driver-{name}")), dir, name }
    }

    /// The fake driver's program.
    pub fn fake() -> Self {
        let bench = Self::empty("fake");
        symlink(env!("CARGO_BIN_EXE_lima-driver-fake"), &bench.program).unwrap();
        bench
    }

    /// The stand-in that behaves as told.
    pub fn hostile(told: &str) -> Self {
        let bench = Self::empty("hostile");
        symlink(env!("CARGO_BIN_EXE_lima-driver-hostile"), &bench.program).unwrap();
        fs::write(bench.program.with_extension("json"), told).unwrap();
        bench
    }

    pub fn script(text: &str) -> Self {
        let bench = Self::empty("script");
        bench.write_script(text);
        bench
    }

    /// Another file in the place of the program.
    pub fn write_script(&self, text: &str) {
        let new = self.program.with_extension("new");
        fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, &self.program).unwrap();
    }

    pub fn instance_dir(&self) -> PathBuf {
        self.dir.path().join("x")
    }

    pub fn remote(&self) -> Remote {
        Remote::new(self.name, self.program.clone(), Some(self.instance_dir()))
    }

    pub async fn configured(&self) -> Remote {
        let remote = self.remote();
        remote.configure(self.instance()).await.unwrap();
        remote
    }

    pub fn instance(&self) -> Instance {
        Instance { name: "x".into(), dir: self.instance_dir(), arch: "x86_64".into(), cpus: 1, ..Instance::default() }
    }

    pub fn has(&self, name: &str) -> bool {
        self.instance_dir().join(name).exists()
    }

    /// The server's process, from its pid file.
    pub fn server(&self) -> Option<i32> {
        fs::read_to_string(self.instance_dir().join(format!("{}.drv.pid", self.name))).ok()?.parse().ok()
    }
}

/// Whether the process is there and no zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Processes that have a path below `dir` among their arguments.
pub fn processes_of(dir: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let needle = dir.to_string_lossy().into_owned();
    let of_dir = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&needle)
    };
    pids.filter(of_dir).collect()
}

pub async fn until(mut truth: impl FnMut() -> bool, what: &str) {
    let start = Instant::now();
    while !truth() {
        assert!(start.elapsed() < Duration::from_secs(90), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
