//! A machine with wsl.exe, an instance directory on drive W:, and a driver on it; nothing of it outlives the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use limafs_driver::{Driver, Instance, Vm, VmEvent};
use limafs_driver_wsl2::Wsl2;
use tempfile::TempDir;

use crate::program::HARMLESS;

/// In the environment of the tests: the directory of stand-ins with which `$PATH` begins.
pub const MACHINE: &str = "LIMAFS_TEST_STAND_INS";
pub const DEADLINE: Duration = Duration::from_secs(90);

pub struct Bench {
    /// Where wsl.exe is, and its distributions.
    machine: PathBuf,
    pub driver: Wsl2,
    /// No other instance has it: keepers are found among all processes.
    pub name: String,
    place: PathBuf,
    _dir: TempDir,
}

impl Bench {
    /// With an instance whose image is there.
    pub async fn new() -> Self {
        Self::at("windows", "{}").await
    }

    /// With the home in a directory of another name, `windows` being the drive's.
    pub async fn at(place: &str, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().to_owned();
        let me = std::env::current_exe().unwrap();
        install(&me, &machine);
        Self::of(dir, machine, place, config).await
    }

    /// With the wsl.exe that is in `$PATH`.
    pub async fn in_path() -> Self {
        let machine = PathBuf::from(std::env::var_os(MACHINE).unwrap());
        Self::of(tempfile::tempdir().unwrap(), machine, "windows", "{}").await
    }

    async fn of(dir: TempDir, machine: PathBuf, place: &str, config: &str) -> Self {
        let name = dir.path().file_name().unwrap().to_string_lossy().replace('.', "t").to_lowercase();
        let place = dir.path().join(place);
        let bench = Self { driver: wsl2(&machine), machine, name, place, _dir: dir };
        fs::create_dir_all(bench.dir().join("cidata")).unwrap();
        bench.write("image", &archive());
        let script = "#!/bin/sh\necho \"booted from $LIMA_CIDATA_MNT\"\ncat \"$LIMA_CIDATA_MNT/secret\"\n";
        bench.write("cidata/boot.sh", script.as_bytes());
        bench.write("cidata/secret", b"a secret\n");
        bench.write(&format!("cidata/{HARMLESS}"), b"");
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(bench.dir().join("cidata/boot.sh"), fs::Permissions::from_mode(0o700)).unwrap();
        bench.configure(config).await;
        bench
    }

    pub async fn configure(&self, config: &str) {
        self.driver.configure(self.instance(config)).await.unwrap();
    }

    pub fn instance(&self, config: &str) -> Instance {
        Instance {
            name: self.name.clone(),
            dir: self.dir(),
            arch: std::env::consts::ARCH.into(),
            cpus: 2,
            memory: 1 << 30,
            disk: 1 << 20,
            ssh_local_port: 60022,
            config: serde_json::from_str(config).unwrap(),
            ..Instance::default()
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.place.join("foo")
    }

    pub fn machine(&self) -> PathBuf {
        self.machine.clone()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir().join(name), bytes).unwrap();
    }

    pub fn speak(&self, language: &str) {
        fs::write(self.machine().join("language"), language).unwrap();
    }

    pub fn distribution(&self) -> PathBuf {
        self.machine().join("distributions").join(format!("lima-{}", self.name))
    }

    /// A distribution that somebody else made.
    pub fn have(&self, distribution: &str, state: &str) {
        let place = self.machine().join("distributions").join(distribution);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("state"), state).unwrap();
    }

    /// What wsl.exe was asked for.
    pub fn asked(&self, words: &str) -> usize {
        let log = fs::read_to_string(self.machine().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(words)).count()
    }

    pub fn new_driver(&self) -> Wsl2 {
        wsl2(&self.machine)
    }

    /// Another value, as after the hostagent's death.
    pub async fn another(&self) -> Wsl2 {
        let other = self.new_driver();
        other.configure(self.instance("{}")).await.unwrap();
        other
    }

    pub async fn status(&self) -> Instance {
        self.driver.inspect_status(self.instance("{}")).await.unwrap()
    }
}

impl Drop for Bench {
    /// Its keeper sees that its distribution is gone.
    fn drop(&mut self) {
        // One that was never imported has no state.
        let _ = fs::remove_file(self.distribution().join("state"));
    }
}

/// Puts the stand-ins into a directory.
pub fn install(me: &Path, machine: &Path) {
    for program in ["wsl.exe", "wslpath"] {
        std::os::unix::fs::symlink(me, machine.join(program)).unwrap();
    }
}

fn wsl2(machine: &Path) -> Wsl2 {
    Wsl2::with_programs(machine.join("wsl.exe"), machine.join("wslpath"))
}

/// A root file system with one file.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    archive.append_data(&mut header, "etc/hostname", &b"foo"[..]).unwrap();
    archive.into_inner().unwrap()
}

/// The events up to the end.
pub async fn rest(vm: &mut Vm) -> Vec<VmEvent> {
    let mut events = Vec::new();
    while let Some(event) = tokio::time::timeout(DEADLINE, vm.events.recv()).await.unwrap() {
        events.push(event);
    }
    events
}

pub fn exited(clean: bool, reason: &str) -> VmEvent {
    VmEvent::Exited { clean, reason: reason.into() }
}

pub async fn until(mut truth: impl FnMut() -> bool, what: &str) {
    let start = Instant::now();
    while !truth() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
