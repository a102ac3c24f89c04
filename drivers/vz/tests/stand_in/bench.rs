//! An instance directory with all that a start needs, and a driver on it; nothing of it outlives the test.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use limafs_driver::{Driver, Instance, Vm, VmEvent};
use limafs_driver_vz::Vz;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::programs::{BEHAVIOUR, Behaviour};

pub const DEADLINE: Duration = Duration::from_secs(90);

pub struct Bench {
    home: TempDir,
    pub port: u16,
    make: fn() -> Vz,
    /// Its VM is ended with the test.
    pub driver: Vz,
}

impl Bench {
    pub async fn new(make: fn() -> Vz) -> Self {
        Self::with(make, "{}", &Behaviour::default()).await
    }

    pub async fn with(make: fn() -> Vz, config: &str, told: &Behaviour) -> Self {
        let home = tempfile::Builder::new().prefix("vz").tempdir().unwrap();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let bench = Self { home, port, make, driver: make() };
        fs::create_dir(bench.dir()).unwrap();
        bench.tell(told);
        for name in ["image", "cidata.iso"] {
            fs::write(bench.dir().join(name), vec![0; 4096]).unwrap();
        }
        bench.driver.configure(bench.instance(config)).await.unwrap();
        bench.driver.validate().await.unwrap();
        bench.driver.create_disk().await.unwrap();
        bench
    }

    pub fn dir(&self) -> PathBuf {
        self.home.path().join("foo")
    }

    pub fn tell(&self, told: &Behaviour) {
        fs::write(self.dir().join(BEHAVIOUR), serde_json::to_vec(told).unwrap()).unwrap();
    }

    pub fn instance(&self, config: &str) -> Instance {
        Instance {
            name: "foo".into(),
            dir: self.dir(),
            arch: std::env::consts::ARCH.into(),
            cpus: 2,
            memory: 1 << 30,
            disk: 1 << 20,
            ssh_local_port: self.port,
            config: serde_json::from_str(config).unwrap(),
            ..Instance::default()
        }
    }

    /// Another value, as after the hostagent's death.
    pub async fn another(&self) -> Vz {
        let other = (self.make)();
        other.configure(self.instance("{}")).await.unwrap();
        other
    }

    /// What the guest's ssh says first.
    pub async fn banner(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let mut bytes = [0; 64];
        let count = tokio::time::timeout(DEADLINE, stream.read(&mut bytes)).await.unwrap().unwrap();
        String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
    }

    /// Nothing of the VM is left.
    pub fn assert_clean(&self) {
        for name in ["vz.pid", "krunkit.pid", "vfkit.sock", "krunkit.sock", "ga.sock", "net.sock", "net-services.sock"]
        {
            assert!(!self.dir().join(name).exists(), "{name} is still there");
        }
        assert!(processes(&self.dir().to_string_lossy()).is_empty());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for pid in processes(&self.dir().to_string_lossy()) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Pids of live processes that have `text` in their arguments.
pub fn processes(text: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_it = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(text)
    };
    pids.filter(is_it).collect()
}

pub async fn next(vm: &mut Vm) -> VmEvent {
    tokio::time::timeout(DEADLINE, vm.events.recv()).await.unwrap().unwrap()
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
