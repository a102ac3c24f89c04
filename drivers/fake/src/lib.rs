//! A driver whose VM is a sleeping process. For tests only: it boots no guest, has no ssh, and can be told to fail.
//!
//! `vmOpts.fake` in lima.yaml: `fail: [start, stop, ...]` operations that fail; `hang: [...]` operations that never end;
//! `ignorePowerdown: true` a guest that does not hear `stop`. The words are the trait's.
//! SIGTERM to the process is a guest that powers itself off; any other end is a crash.

mod process;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{Accelerator, Driver, Error, Info, Instance, Result, Vm, VmEvent};
use rustix::process::Signal;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::process::Process;

/// Runs one instance as a sleeping process.
#[derive(Debug, Default)]
pub struct Fake {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    dir: PathBuf,
    orders: Orders,
    running: Option<Running>,
}

#[derive(Debug, Clone)]
struct Running {
    process: Arc<Process>,
    events: mpsc::Sender<VmEvent>,
    /// Whether a stop was asked for.
    stopping: Arc<AtomicBool>,
}

/// `vmOpts.fake`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Orders {
    fail: Vec<String>,
    hang: Vec<String>,
    ignore_powerdown: bool,
}

impl Fake {
    pub fn new() -> Self {
        Self::default()
    }

    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fails or hangs where lima.yaml says so.
    async fn obey(&self, operation: &str) -> Result<()> {
        let orders = self.state(|state| state.orders.clone());
        if orders.hang.iter().any(|word| word == operation) {
            std::future::pending::<()>().await;
        }
        if orders.fail.iter().any(|word| word == operation) {
            return Err(Error::failed(format!("fake {operation}"), "as it was told to"));
        }
        Ok(())
    }

    /// Watches a process until it ends, in a task of its own: the VM outlives this value.
    fn watch(&self, process: Process) -> Vm {
        let (events, receiver) = mpsc::channel(16);
        let running = Running { process: Arc::new(process), events, stopping: Arc::default() };
        self.state(|state| state.running = Some(running.clone()));
        let pid = running.process.pid();
        tokio::spawn(async move {
            running.process.gone().await;
            let event = running.process.ending(running.stopping.load(Ordering::Relaxed));
            // Nobody may be listening any more.
            let _ = running.events.send(event).await;
        });
        let accelerator = Accelerator { name: "none".into(), reason: "the VM is a pretended one".into() };
        Vm { pid: Some(pid), accelerator: Some(accelerator), events: receiver }
    }

    fn running(&self) -> Option<Running> {
        if let Some(running) = self.state(|state| state.running.clone()).filter(|it| it.process.is_alive()) {
            return Some(running);
        }
        let process = Process::find(&self.state(|state| state.dir.clone()))?;
        self.watch(process);
        self.state(|state| state.running.clone())
    }

    async fn signal(&self, signal: Signal, event: VmEvent) -> Result<()> {
        let running = self.running().ok_or(Error::NotRunning)?;
        running.process.signal(signal).map_err(Error::io("signal"))?;
        // Nobody may be listening any more.
        let _ = running.events.send(event).await;
        Ok(())
    }

    /// What the console of a guest would be.
    fn console(&self, line: &str) {
        let path = self.state(|state| state.dir.join("serial.log"));
        let log = fs::File::options().create(true).append(true).mode(0o600).open(path);
        // A console that is lost costs a test its console and nothing else.
        let _ = log.and_then(|mut log| writeln!(log, "fake: {line}"));
    }
}

#[async_trait]
impl Driver for Fake {
    fn info(&self) -> Info {
        Info { name: "fake".into(), ..Info::default() }
    }

    async fn configure(&self, instance: Instance) -> Result<Instance> {
        let options = instance.config.vm_opts.as_ref().and_then(|options| options.get("fake")).cloned();
        let orders = serde_json::from_value(options.unwrap_or_else(|| serde_json::json!({})))
            .map_err(|error| Error::invalid("vmOpts.fake", error.to_string()))?;
        self.state(|state| {
            state.dir = instance.dir.clone();
            state.orders = orders;
        });
        Ok(instance)
    }

    async fn validate(&self) -> Result<()> {
        self.obey("validate").await
    }

    async fn create(&self) -> Result<()> {
        self.obey("create").await
    }

    async fn create_disk(&self) -> Result<()> {
        self.obey("createDisk").await?;
        let dir = self.state(|state| state.dir.clone());
        if !dir.join("disk").exists() {
            fs::rename(dir.join("image"), dir.join("disk")).map_err(Error::io(dir.join("image")))?;
        }
        Ok(())
    }

    async fn start(&self) -> Result<Vm> {
        self.obey("start").await?;
        let process = Process::spawn(&self.state(|state| state.dir.clone()))?;
        let vm = self.watch(process);
        self.console("booting");
        Ok(vm)
    }

    async fn attach(&self) -> Result<Option<Vm>> {
        self.obey("attach").await?;
        let Some(process) = Process::find(&self.state(|state| state.dir.clone())) else { return Ok(None) };
        let paused = process.is_paused();
        let vm = self.watch(process);
        if paused && let Some(running) = self.state(|state| state.running.clone()) {
            // The channel is new and has room.
            let _ = running.events.try_send(VmEvent::Paused);
        }
        Ok(Some(vm))
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        self.obey("stop").await?;
        let Some(Running { process, stopping, .. }) = self.running() else { return Ok(()) };
        stopping.store(true, Ordering::Relaxed);
        self.console("powering down");
        if !self.state(|state| state.orders.ignore_powerdown) {
            process.signal(Signal::TERM).map_err(Error::io("signal"))?;
            process.signal(Signal::CONT).map_err(Error::io("signal"))?;
        }
        if timeout(grace, process.gone()).await.is_err() {
            return self.kill().await;
        }
        Ok(())
    }

    async fn kill(&self) -> Result<()> {
        self.obey("kill").await?;
        let Some(Running { process, .. }) = self.running() else { return Ok(()) };
        process.signal(Signal::KILL).map_err(Error::io("signal"))?;
        process.gone().await;
        Ok(())
    }

    async fn pause(&self) -> Result<()> {
        self.obey("pause").await?;
        self.signal(Signal::STOP, VmEvent::Paused).await
    }

    async fn resume(&self) -> Result<()> {
        self.obey("resume").await?;
        self.signal(Signal::CONT, VmEvent::Resumed).await
    }

    async fn reset(&self) -> Result<()> {
        self.obey("reset").await?;
        self.console("booting");
        self.signal(Signal::CONT, VmEvent::Reset).await
    }

    /// There is no ssh: such a VM is ready as soon as it runs.
    async fn ssh_address(&self) -> Result<String> {
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn configured(dir: &std::path::Path, orders: serde_json::Value) -> Fake {
        let driver = Fake::new();
        let mut instance = Instance { name: "foo".into(), dir: dir.to_owned(), ..Instance::default() };
        instance.config.vm_opts = Some([("fake".to_owned(), orders)].into());
        driver.configure(instance).await.unwrap();
        driver
    }

    #[tokio::test]
    async fn a_vm_starts_pauses_and_is_stopped_cleanly() {
        let dir = tempfile::tempdir().unwrap();
        let driver = configured(dir.path(), serde_json::json!({})).await;
        let mut vm = driver.start().await.unwrap();
        driver.pause().await.unwrap();
        assert_eq!(vm.events.recv().await, Some(VmEvent::Paused));
        driver.resume().await.unwrap();
        assert_eq!(vm.events.recv().await, Some(VmEvent::Resumed));
        driver.stop(Duration::from_secs(10)).await.unwrap();
        assert_eq!(vm.events.recv().await, Some(VmEvent::Exited { clean: true, reason: "shut down".into() }));
        driver.stop(Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn another_value_finds_a_running_vm() {
        let dir = tempfile::tempdir().unwrap();
        let first = configured(dir.path(), serde_json::json!({})).await;
        let vm = first.start().await.unwrap();
        let second = configured(dir.path(), serde_json::json!({})).await;
        assert_eq!(second.attach().await.unwrap().unwrap().pid, vm.pid);
        second.kill().await.unwrap();
        assert!(second.attach().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn it_fails_where_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let driver = configured(dir.path(), serde_json::json!({"fail": ["start"]})).await;
        assert!(driver.start().await.err().unwrap().to_string().contains("fake start"));
        assert!(driver.attach().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_guest_that_ignores_the_button_is_killed_after_the_grace() {
        let dir = tempfile::tempdir().unwrap();
        let driver = configured(dir.path(), serde_json::json!({"ignorePowerdown": true})).await;
        let mut vm = driver.start().await.unwrap();
        driver.stop(Duration::from_millis(1)).await.unwrap();
        assert_eq!(vm.events.recv().await, Some(VmEvent::Exited { clean: false, reason: "killed by signal 9".into() }));
    }
}
