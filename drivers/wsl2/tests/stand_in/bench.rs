//! A machine with wsl.exe, an instance directory on drive W:, and a driver on it; nothing of it outlives the test.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use limafs_driver::{Driver, Instance, Vm, VmEvent};
use limafs_driver_wsl2::Wsl2;
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Bench {
    machine: TempDir,
    pub driver: Wsl2,
    /// Beside the machine's: which instance this is, since keepers are found among all processes.
    pub name: String,
    place: &'static str,
}

impl Bench {
    /// With an instance whose image is there.
    pub async fn new() -> Self {
        Self::at("windows", "{}").await
    }

    /// With the home in a directory of another name, `windows` being the drive's.
    pub async fn at(place: &'static str, config: &str) -> Self {
        let machine = tempfile::tempdir().unwrap();
        let name = machine.path().file_name().unwrap().to_string_lossy().replace('.', "t").to_lowercase();
        let me = std::env::current_exe().unwrap();
        for program in ["wsl.exe", "wslpath"] {
            std::os::unix::fs::symlink(&me, machine.path().join(program)).unwrap();
        }
        let bench = Self { driver: wsl2(&machine), machine, name, place };
        fs::create_dir_all(bench.dir().join("cidata")).unwrap();
        bench.write("image", &archive());
        let script = "#!/bin/sh\necho \"booted from $LIMA_CIDATA_MNT\"\ncat \"$LIMA_CIDATA_MNT/secret\"\n";
        bench.write("cidata/boot.sh", script.as_bytes());
        bench.write("cidata/secret", b"a secret\n");
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
        self.machine.path().join(self.place).join("foo")
    }

    pub fn machine(&self) -> PathBuf {
        self.machine.path().to_owned()
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

    /// Another value, as after the hostagent's death.
    pub async fn another(&self) -> Wsl2 {
        let other = wsl2(&self.machine);
        other.configure(self.instance("{}")).await.unwrap();
        other
    }

    pub async fn status(&self) -> Instance {
        self.driver.inspect_status(self.instance("{}")).await.unwrap()
    }
}

impl Drop for Bench {
    /// Its keepers see that their distribution is gone.
    fn drop(&mut self) {
        let Ok(entries) = fs::read_dir(self.machine().join("distributions")) else { return };
        for entry in entries.flatten() {
            // One that was never imported has no state.
            let _ = fs::remove_file(entry.path().join("state"));
        }
    }
}

fn wsl2(machine: &TempDir) -> Wsl2 {
    Wsl2::with_programs(machine.path().join("wsl.exe"), machine.path().join("wslpath"))
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
