//! The QEMU driver: one value runs one instance's VM as a QEMU process that outlives us.
//! Never keeps state that a new value could not find again: the process, its sockets and files are the state.
//!
//! ```text
//!  configure -> plan -> command_line -> process::spawn ---> QEMU
//!                                          |                 | limafs.qmp.sock, boot.sock, pidfd
//!                            attach ------>`-- vm::Running <-'
//! ```

mod accelerator;
mod boot;
mod command_line;
mod configure;
mod daemon;
mod descriptors;
mod disk;
mod display;
mod drives;
mod firmware;
#[cfg(test)]
mod golden_tests;
mod health;
mod hotplug;
mod image;
mod job;
mod kvm;
mod machine;
mod monitor;
mod names;
mod plan;
mod process;
mod program;
mod qmp;
mod screen;
mod shape;
mod snapshot;
mod start;
mod support;
mod suspend;
mod swtpm;
mod virtiofsd;
mod vm;
mod words;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{
    About, Accelerator, Driver, Error, Features, Health, Info, Instance, Memory, Priority, Result, Snapshot, Vm,
    VmEvent,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::process::Process;
use crate::vm::Running;

/// How long QEMU may take until it answers.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long one that is taken up may take to say whether it runs.
const SAYS_SO: Duration = Duration::from_secs(1);
/// A guest that was not listening yet is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Runs one instance under QEMU.
#[derive(Debug, Default)]
pub struct Qemu {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    instance: Option<Instance>,
    running: Option<Arc<Running>>,
}

impl Qemu {
    pub fn new() -> Self {
        Self::default()
    }

    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn instance(&self) -> Result<Instance> {
        self.state(|state| state.instance.clone()).ok_or_else(|| Error::failed("QEMU driver", "is not configured"))
    }

    /// The VM that is watched; found first if need be.
    async fn running(&self) -> Result<Option<Arc<Running>>> {
        match self.state(|state| state.running.clone()).filter(|running| !running.is_gone()) {
            Some(running) => Ok(Some(running)),
            None => Ok(self.find().await?.map(|(running, _)| running)),
        }
    }

    /// Looks for the VM and starts to watch it.
    async fn find(&self) -> Result<Option<(Arc<Running>, mpsc::Receiver<VmEvent>)>> {
        let dir = self.instance()?.dir;
        let found = find_process(dir.clone()).await?;
        Ok(found.map(|process| self.watch(Running::watch(process, &dir, None, Vec::new()))))
    }

    fn watch(&self, (running, events): (Running, mpsc::Receiver<VmEvent>)) -> (Arc<Running>, mpsc::Receiver<VmEvent>) {
        let running = Arc::new(running);
        self.state(|state| state.running = Some(running.clone()));
        (running, events)
    }

    async fn command(&self, command: &'static str) -> Result<()> {
        let running = self.running().await?.ok_or(Error::NotRunning)?;
        running.qmp.execute(command, None).await.map(drop)
    }

    async fn live(&self) -> Result<Arc<Running>> {
        self.running().await?.ok_or(Error::NotRunning)
    }

    /// A change of the disk would make what was saved worthless.
    fn not_suspended<'a>(&self, instance: &'a Instance) -> Result<&'a Instance> {
        match suspend::saved(&instance.dir)? {
            None => Ok(instance),
            Some(_) => Err(Error::failed("snapshot", "the instance is suspended; start it, or kill it")),
        }
    }

    async fn accelerator(&self, instance: &Instance) -> Result<Accelerator> {
        accelerator::choose(&instance.arch, accelerator::proof_path(&instance.dir)).await
    }
}

#[async_trait]
impl Driver for Qemu {
    fn info(&self) -> Info {
        Info {
            name: "qemu".into(),
            features: Features {
                supported_image_formats: vec!["qcow2".into(), "raw".into()],
                data_disks: true,
                ..Features::default()
            },
            boot_port: names::BOOT_PORT.into(),
            virtio_port: names::GUEST_AGENT_PORT.into(),
            ..Info::default()
        }
    }

    fn about(&self) -> About {
        About { aliases: vec!["qemu2".into()], default: true, priority: Priority::Default }
    }

    async fn health(&self) -> Health {
        health::health().await
    }

    async fn configure(&self, instance: Instance) -> Result<Instance> {
        let instance = configure::configure(instance)?;
        self.state(|state| state.instance = Some(instance.clone()));
        Ok(instance)
    }

    async fn validate(&self) -> Result<()> {
        let instance = self.instance()?;
        let machine = configure::machine(&instance)?;
        let program = program::find(machine).await?;
        plan::check_version(&instance, &program)?;
        if !configure::virtiofs(&instance).is_empty() {
            virtiofsd::find(Path::new(&program.words[0])).await?;
        }
        let accelerator = self.accelerator(&instance).await?;
        program.check_accelerator(&accelerator.name).await?;
        support::check(&instance, machine, &program, &accelerator).await
    }

    async fn create_disk(&self) -> Result<()> {
        let instance = self.instance()?;
        if find_process(instance.dir.clone()).await?.is_some() {
            // QEMU has the disk; it is grown before the next start.
            return Ok(());
        }
        disk::create(&instance.dir, instance.disk).await
    }

    async fn start(&self) -> Result<Vm> {
        let instance = self.instance()?;
        if let Some(process) = find_process(instance.dir.clone()).await? {
            return Err(Error::failed("start", format!("the VM runs already, as process {}", process.pid())));
        }
        if let Some(last) = self.state(|state| state.running.take()) {
            // Its last task is about to remove the sockets that the new one will have.
            let late = |_| Error::Timeout { what: "the end of the last VM".into(), seconds: START_DEADLINE.as_secs() };
            timeout(START_DEADLINE, last.gone()).await.map_err(late)?;
        }
        if let Some(saved) = suspend::saved(&instance.dir)? {
            return self.go_on(&instance, &saved).await;
        }
        self.boot(&instance).await
    }

    async fn attach(&self) -> Result<Option<Vm>> {
        let Some((running, events)) = self.find().await? else { return Ok(None) };
        // One that is busy saving its memory says nothing for a while.
        if timeout(SAYS_SO, snapshot::is_running(&running)).await.is_ok_and(|runs| runs.unwrap_or(false)) {
            // The disk is no longer that of any file.
            suspend::discard(&self.instance()?.dir)?;
        }
        let name = accelerator::of_arguments(&running.process.arguments());
        let now = self.accelerator(&self.instance()?).await.ok();
        let accelerator = name.map(|name| match now {
            Some(now) if now.name == name => now,
            _ => Accelerator { name, reason: "chosen when the VM was started".into() },
        });
        Ok(Some(Vm { pid: Some(running.process.pid()), accelerator, events }))
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        let Some(running) = self.running().await? else { return Ok(()) };
        running.expect_end();
        let deadline = Instant::now() + grace;
        while !running.is_gone() && Instant::now() < deadline {
            let wait = ASK_AGAIN.min(deadline - Instant::now());
            // Cancel-safe: what is lost is an answer that no longer matters.
            tokio::select! {
                () = running.gone() => {}
                () = async { ask_to_power_down(&running).await; tokio::time::sleep(wait).await } => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
        if running.is_gone() { Ok(()) } else { running.kill().await }
    }

    async fn kill(&self) -> Result<()> {
        match self.running().await? {
            Some(running) => running.kill().await,
            None => Ok(()),
        }
    }

    /// A VM that was started without the port has no such socket.
    async fn forward_guest_agent(&self) -> Result<bool> {
        Ok(!self.instance()?.dir.join(names::GUEST_AGENT_SOCK).exists())
    }

    async fn pause(&self) -> Result<()> {
        self.command("stop").await
    }

    async fn resume(&self) -> Result<()> {
        suspend::discard(&self.instance()?.dir)?;
        self.command("cont").await
    }

    async fn reset(&self) -> Result<()> {
        self.command("system_reset").await
    }

    async fn change_display_password(&self, password: &str) -> Result<()> {
        let running = self.running().await?.ok_or(Error::NotRunning)?;
        running.qmp.execute("change-vnc-password", Some(json!({ "password": password }))).await.map(drop)
    }

    async fn display_connection(&self) -> Result<String> {
        let running = self.running().await?.ok_or(Error::NotRunning)?;
        let vnc = running.qmp.execute("query-vnc", None).await?;
        let port = vnc["service"].as_str().filter(|port| port.parse::<u16>().is_ok());
        port.map(str::to_owned).ok_or_else(|| Error::failed("VNC", "the VM has no such display"))
    }
    async fn suspend(&self) -> Result<()> {
        let dir = self.instance()?.dir;
        in_a_task(suspend::suspend(self.live().await?, dir)).await
    }

    async fn is_suspended(&self) -> Result<bool> {
        let instance = self.instance()?;
        Ok(suspend::saved(&instance.dir)?.is_some() && find_process(instance.dir).await?.is_none())
    }

    async fn discard_suspended(&self) -> Result<()> {
        suspend::discard(&self.instance()?.dir)
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let dir = self.instance()?.dir;
        match self.running().await? {
            Some(running) => snapshot::of_running(&running, &dir).await,
            None => snapshot::of_stopped(&dir).await,
        }
    }

    async fn create_snapshot(&self, tag: &str) -> Result<()> {
        let instance = self.instance()?;
        match self.running().await? {
            Some(running) => in_a_task(snapshot::take(running, instance.dir, tag.into())).await,
            None => snapshot::take_stopped(self.not_suspended(&instance)?, tag).await,
        }
    }

    async fn apply_snapshot(&self, tag: &str) -> Result<()> {
        let instance = self.instance()?;
        match self.running().await? {
            Some(running) => in_a_task(snapshot::apply(running, instance.dir, tag.into())).await,
            None => snapshot::apply_stopped(self.not_suspended(&instance)?, tag).await,
        }
    }

    async fn delete_snapshot(&self, tag: &str) -> Result<()> {
        let instance = self.instance()?;
        match self.running().await? {
            Some(running) => in_a_task(snapshot::remove(running, instance.dir, tag.into())).await,
            None => snapshot::remove_stopped(self.not_suspended(&instance)?, tag).await,
        }
    }

    async fn screenshot(&self) -> Result<Vec<u8>> {
        screen::shot(&*self.live().await?, &self.instance()?.dir).await
    }

    async fn memory(&self) -> Result<Memory> {
        screen::memory(&*self.live().await?).await
    }

    async fn resize(&self, cpus: u32, memory: u64) -> Result<()> {
        hotplug::resize(&*self.live().await?, &self.instance()?, cpus, memory).await
    }
}

/// What must not be left in the middle goes on when its caller has given up waiting.
async fn in_a_task(work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    tokio::spawn(work).await.map_err(|error| Error::failed("QEMU driver", error))?
}

/// Reading every process's arguments may block on one that is stuck.
async fn find_process(dir: PathBuf) -> Result<Option<Process>> {
    let runtime = tokio::runtime::Handle::current();
    let find = move || {
        // The pidfd is registered with the runtime.
        let _guard = runtime.enter();
        Process::find(&dir)
    };
    tokio::task::spawn_blocking(find).await.map_err(|error| Error::failed("the search for QEMU", error))
}

async fn ask_to_power_down(running: &Running) {
    // A paused guest sees no button. Asked for now: a VM just taken up may not have told yet.
    let status = running.qmp.execute("query-status", None).await.unwrap_or_default();
    if status["status"] == "paused"
        && let Err(error) = running.qmp.execute("cont", None).await
    {
        tracing::debug!("cont before powering down: {error}");
    }
    if let Err(error) = running.qmp.execute("system_powerdown", None).await {
        tracing::debug!("powering down: {error}");
    }
}
