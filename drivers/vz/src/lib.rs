//! The VZ driver: one value runs one instance's VM as a vfkit or krunkit process that outlives us. Compiles wherever
//! there are unix sockets; the programs themselves run on macOS only.
//! Never keeps state that a new value could not find again: the process, its sockets and files are the state.
//!
//! ```text
//!  configure -> plan -> command_line -> process::spawn ---> vfkit ---- net.sock ---- gvproxy
//!                                          |                  | vfkit.sock (REST)       |
//!                            attach ------>`-- vm::Running <--'                         |
//!                                               `-- front: 127.0.0.1:port -- vsock or --'
//! ```

mod command_line;
mod configure;
mod disk;
mod front;
mod kind;
mod names;
mod network;
mod plan;
mod process;
mod program;
mod rest;
mod vm;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{About, Accelerator, Driver, Error, Features, Health, Info, Instance, Result, Vm, VmEvent};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::command_line::{command_line, identity};
use crate::front::Front;
use crate::kind::{KRUNKIT, Kind, VFKIT};
use crate::process::Process;
use crate::rest::{State as VmState, Wish};
use crate::vm::Running;

/// How long the program may take until its VM runs.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// A guest that was not listening yet is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// For a VM that is ended by force, but by its own program.
const HARD_STOP: Duration = Duration::from_secs(5);

/// Runs one instance under vfkit or krunkit.
#[derive(Debug)]
pub struct Vz {
    kind: &'static Kind,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    instance: Option<Instance>,
    running: Option<Arc<Running>>,
}

impl Vz {
    /// The driver `vz`: Apple's Virtualization.framework through vfkit.
    pub fn vfkit() -> Self {
        Self { kind: &VFKIT, state: Mutex::default() }
    }

    /// The driver `krunkit`: libkrun, with a GPU for the guest.
    pub fn krunkit() -> Self {
        Self { kind: &KRUNKIT, state: Mutex::default() }
    }

    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn instance(&self) -> Result<Instance> {
        let what = || format!("{} driver", self.kind.name);
        self.state(|state| state.instance.clone()).ok_or_else(|| Error::failed(what(), "is not configured"))
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
        let instance = self.instance()?;
        let Some(process) = self.find_process(&instance).await? else { return Ok(None) };
        let front = match self.front(&instance).await {
            Ok(front) => Some(front),
            Err(error) => {
                // The VM must be found all the same.
                tracing::warn!("{error}");
                None
            }
        };
        Ok(Some(self.watch(Running::watch(self.kind, process, &instance.dir, front, None))))
    }

    /// Reading every process's arguments takes its time.
    async fn find_process(&self, instance: &Instance) -> Result<Option<Process>> {
        let identity = identity(self.kind, &instance.dir);
        blocking(move || Ok(Process::find(&identity))).await
    }

    async fn front(&self, instance: &Instance) -> Result<Front> {
        let over_vsock = instance.config.ssh.as_ref().and_then(|ssh| ssh.over_vsock) == Some(true);
        Front::bind(instance.ssh_local_port, &instance.dir, over_vsock).await
    }

    fn watch(&self, (running, events): (Running, mpsc::Receiver<VmEvent>)) -> (Arc<Running>, mpsc::Receiver<VmEvent>) {
        let running = Arc::new(running);
        self.state(|state| state.running = Some(running.clone()));
        (running, events)
    }

    fn vm(&self, running: &Running, events: mpsc::Receiver<VmEvent>) -> Vm {
        let name = if self.kind.is_krunkit { "libkrun" } else { "vz" };
        let accelerator = Some(Accelerator { name: name.into(), reason: String::new() });
        Vm { pid: Some(running.process.pid()), accelerator, events }
    }

    async fn change(&self, wish: Wish, wanted: VmState) -> Result<()> {
        self.running().await?.ok_or(Error::NotRunning)?.change(wish, wanted).await
    }
}

#[async_trait]
impl Driver for Vz {
    fn info(&self) -> Info {
        let instance = self.state(|state| state.instance.clone()).unwrap_or_default();
        let options = configure::options(&instance.config).unwrap_or_default();
        let features = Features {
            can_run_gui: configure::has_window(self.kind, &instance.config),
            data_disks: !self.kind.is_krunkit,
            rosetta_enabled: configure::has_rosetta(self.kind, &instance),
            rosetta_bin_fmt: options.rosetta.bin_fmt == Some(true),
            supported_image_formats: vec!["raw".into()],
            ..Features::default()
        };
        let instance_dir = instance.dir.to_string_lossy().into_owned();
        let (name, vsock_port) = (self.kind.name.into(), names::GUEST_AGENT_PORT);
        Info { name, vsock_port, instance_dir, features, ..Info::default() }
    }

    fn about(&self) -> About {
        self.kind.about()
    }

    async fn health(&self) -> Health {
        program::health(self.kind).await
    }

    async fn configure(&self, instance: Instance) -> Result<Instance> {
        let instance = configure::configure(self.kind, instance, std::env::consts::ARCH)?;
        self.state(|state| state.instance = Some(instance.clone()));
        Ok(instance)
    }

    async fn validate(&self) -> Result<()> {
        let nested = self.instance()?.config.nested_virtualization == Some(true);
        program::check(self.kind, nested).await
    }

    async fn create_disk(&self) -> Result<()> {
        let instance = self.instance()?;
        if self.find_process(&instance).await?.is_some() {
            // The VM has the disk; it is grown before the next start.
            return Ok(());
        }
        disk::create(&instance.dir, instance.disk).await?;
        // One that is still to be made is looked at again by the start.
        for disk in plan::additional_disks(&instance).iter().filter(|disk| disk.exists()) {
            disk::make_raw(disk).await?;
        }
        Ok(())
    }

    async fn start(&self) -> Result<Vm> {
        let instance = self.instance()?;
        if instance.ssh_local_port == 0 {
            return Err(Error::invalid("ssh.localPort", "must be known before the start"));
        }
        if let Some(process) = self.find_process(&instance).await? {
            return Err(Error::failed("start", format!("the VM runs already, as process {}", process.pid())));
        }
        if let Some(last) = self.state(|state| state.running.take()) {
            // Its last task is about to remove the sockets that the new one will have.
            let late = |_| Error::Timeout { what: "the end of the last VM".into(), seconds: START_DEADLINE.as_secs() };
            timeout(START_DEADLINE, last.gone()).await.map_err(late)?;
        }
        let (kind, program, dir) = (self.kind, program::find(self.kind)?, instance.dir.clone());
        for disk in plan::additional_disks(&instance) {
            disk::make_raw(&disk).await?;
        }
        let front = self.front(&instance).await?;
        vm::clean(kind, &dir);
        let plan = blocking(move || plan::plan(kind, &instance, program)).await?;
        let network = network::start(&network::find()?, &dir, &plan.mac).await?;
        let words = command_line(&plan);
        let started = Process::spawn(&words, identity(kind, &dir), &dir.join(kind.log));
        let process = started.inspect_err(|_| network::clean(&dir))?;
        let pid = process.pid();
        // Watched before anything is awaited: a start that is dropped from here on leaves a VM that is ours.
        let (running, events) = self.watch(Running::watch(kind, process, &dir, Some(front), Some(network)));
        // For others to see that it runs; nothing is done by it.
        let pid_file = dir.join(kind.pid_file);
        std::fs::write(&pid_file, format!("{pid}\n")).map_err(Error::io(pid_file))?;
        let late =
            |_| Error::Timeout { what: format!("the start of {}", kind.program), seconds: START_DEADLINE.as_secs() };
        if let Err(error) = timeout(START_DEADLINE, running.runs()).await.map_err(late).flatten() {
            running.kill().await?;
            return Err(error);
        }
        Ok(self.vm(&running, events))
    }

    async fn attach(&self) -> Result<Option<Vm>> {
        Ok(self.find().await?.map(|(running, events)| self.vm(&running, events)))
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
                () = async { ask_to_power_down(self.kind, &running).await; sleep(wait).await } => {}
                () = sleep_until(deadline) => {}
            }
        }
        if !running.is_gone() && !self.kind.is_krunkit && running.rest.wish(Wish::HardStop).await.is_ok() {
            // One that does not heed this either is killed.
            let _ = timeout(HARD_STOP, running.gone()).await;
        }
        if running.is_gone() { Ok(()) } else { running.kill().await }
    }

    async fn kill(&self) -> Result<()> {
        match self.running().await? {
            Some(running) => running.kill().await,
            None => Ok(()),
        }
    }

    async fn pause(&self) -> Result<()> {
        match self.kind.is_krunkit {
            // Whatever it is asked for, it stops.
            true => Err(self.unsupported("pause")),
            false => self.change(Wish::Pause, VmState::Paused).await,
        }
    }

    async fn resume(&self) -> Result<()> {
        match self.kind.is_krunkit {
            true => Err(self.unsupported("resume")),
            false => self.change(Wish::Resume, VmState::Running).await,
        }
    }

    async fn forward_guest_agent(&self) -> Result<bool> {
        Ok(false)
    }

    /// The program made the socket when the VM started.
    async fn guest_agent_conn(&self) -> Result<()> {
        self.running().await?.ok_or(Error::NotRunning)?;
        let path = self.instance()?.dir.join(names::GA_SOCK);
        path.metadata().map(drop).map_err(Error::io(path))
    }

    /// The window is there from the start of the VM.
    async fn run_gui(&self) -> Result<()> {
        match configure::has_window(self.kind, &self.instance()?.config) {
            true => Ok(()),
            false => Err(self.unsupported("gui")),
        }
    }

    async fn boot_scripts(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let instance = self.instance()?;
        let mut scripts = BTreeMap::new();
        if configure::has_rosetta(self.kind, &instance) {
            let wanted = configure::options(&instance.config)?.rosetta.bin_fmt == Some(true);
            let text = include_str!("scripts/rosetta.sh").replace("@BINFMT@", &wanted.to_string());
            scripts.insert("boot.Linux/05-rosetta-volume.sh".into(), text.into_bytes());
        }
        if self.kind.is_krunkit {
            scripts.insert("boot.Linux/30-krunkit-gpu.sh".into(), include_bytes!("scripts/gpu.sh").to_vec());
        }
        Ok(scripts)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let run = tokio::task::spawn_blocking(work).await;
    run.map_err(|error| Error::failed("a look at this machine", error))?
}

async fn ask_to_power_down(kind: &Kind, running: &Running) {
    // A paused guest sees no button. Asked for now: a VM just taken up may not have told yet.
    if !kind.is_krunkit
        && running.rest.state().await.is_ok_and(|state: VmState| state == VmState::Paused)
        && let Err(error) = running.rest.wish(Wish::Resume).await
    {
        tracing::debug!("resuming before powering down: {error}");
    }
    if let Err(error) = running.rest.wish(Wish::Stop).await {
        tracing::debug!("powering down: {error}");
    }
}
