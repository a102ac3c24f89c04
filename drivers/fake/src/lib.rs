//! A driver whose VM is a sleeping process. For tests only: it can be told to fail, hang, die and refuse.
//! Never touches a process but one whose first argument is this instance's `fake.pid`.
//!
//! Told by `vmOpts.fake` in the configuration, or, at any moment and with precedence, by `fake.json` in the instance
//! directory; see [`Behaviour`].

mod behaviour;
mod process;
mod snapshots;

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{About, Accelerator, Driver, Error, Info, Instance, Memory, Result, Snapshot, Vm, VmEvent};
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::behaviour::behaviour;
use crate::process::Process;

pub use crate::behaviour::Behaviour;

/// Where it is, the next start goes on.
const SAVED: &str = "fake.suspended";

/// Runs one instance as a sleeping process.
#[derive(Debug, Default)]
pub struct Fake {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    instance: Option<Instance>,
    running: Option<Running>,
}

#[derive(Debug, Clone)]
struct Running {
    process: Arc<Process>,
    events: mpsc::WeakSender<VmEvent>,
    /// Whether `stop` asked for the end.
    stopping: Arc<watch::Sender<bool>>,
    gone: watch::Receiver<bool>,
    _tasks: Arc<JoinSet<()>>,
}

impl Fake {
    pub fn new() -> Self {
        Self::default()
    }

    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn instance(&self) -> Result<Instance> {
        self.state(|state| state.instance.clone()).ok_or_else(|| Error::failed("fake driver", "is not configured"))
    }

    fn behaviour(&self) -> Result<Behaviour> {
        let instance = self.instance()?;
        if let Ok(text) = fs::read_to_string(instance.dir.join("fake.json")) {
            return serde_json::from_str(&text).map_err(|error| Error::invalid("fake.json", error.to_string()));
        }
        behaviour(&instance)
    }

    /// Leaves a line of a call that has no other effect in `fake.calls`.
    fn note(&self, call: &str) -> Result<()> {
        use std::io::Write;
        let path = self.instance()?.dir.join("fake.calls");
        let file = fs::File::options().append(true).create(true).mode(0o600).open(&path);
        file.and_then(|mut file| writeln!(file, "{call}")).map_err(Error::io(path))
    }

    fn running(&self) -> Result<Option<Running>> {
        match self.state(|state| state.running.clone()).filter(|running| !*running.gone.borrow()) {
            Some(running) => Ok(Some(running)),
            None => Ok(self.find()?.map(|(running, _)| running)),
        }
    }

    fn find(&self) -> Result<Option<(Running, mpsc::Receiver<VmEvent>)>> {
        let dir = self.instance()?.dir;
        Ok(Process::find(&pid_file(&dir)).map(|process| self.watch(process, &dir)))
    }

    fn watch(&self, process: Process, dir: &Path) -> (Running, mpsc::Receiver<VmEvent>) {
        let (events, receiver) = mpsc::channel(64);
        let (gone_sender, gone) = watch::channel(false);
        let process = Arc::new(process);
        let stopping = Arc::new(watch::Sender::new(false));
        let (weak, dir) = (events.downgrade(), dir.to_owned());
        let powers_off = self.behaviour().is_ok_and(|told| told.power_off_after_ms.is_some());
        let mut tasks = JoinSet::new();
        let (watched, asked) = (process.clone(), stopping.clone());
        tasks.spawn(async move {
            watched.ended().await;
            let last = last_event(&watched, powers_off || *asked.borrow());
            // A missing pid file is what was wanted.
            let _ = fs::remove_file(pid_file(&dir));
            gone_sender.send_replace(true);
            // Nobody may be listening any more.
            let _ = events.send(last).await;
        });
        let running = Running { process, events: weak, stopping, gone, _tasks: Arc::new(tasks) };
        self.state(|state| state.running = Some(running.clone()));
        (running, receiver)
    }

    async fn signal(&self, signal: Signal, event: VmEvent) -> Result<()> {
        let running = self.running()?.ok_or(Error::NotRunning)?;
        running.process.signal(signal).map_err(|error| Error::failed("fake VM", error))?;
        // A signal takes its time on a busy machine, and whoever attaches next looks at the process.
        while !*running.gone.borrow() && running.process.is_paused() != (signal == Signal::STOP) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tell(&running, event).await;
        Ok(())
    }
}

#[async_trait]
impl Driver for Fake {
    fn info(&self) -> Info {
        let told = self.state(|state| state.instance.clone()).and_then(|instance| behaviour(&instance).ok());
        Info { name: "fake".into(), ..told.unwrap_or_default().info }
    }

    fn about(&self) -> About {
        About { aliases: vec!["pretend".into()], ..About::default() }
    }

    async fn configure(&self, mut instance: Instance) -> Result<Instance> {
        let port = behaviour(&instance)?.ssh_port;
        if instance.ssh_local_port == 0 {
            instance.ssh_local_port = port;
        }
        self.state(|state| state.instance = Some(instance.clone()));
        Ok(instance)
    }

    async fn validate(&self) -> Result<()> {
        self.behaviour()?.fail_validate.map_or(Ok(()), |why| Err(Error::failed("validate", why)))
    }

    async fn create(&self) -> Result<()> {
        self.behaviour()?.keeps.map_or(Ok(()), |path| write(&path, ""))
    }

    async fn delete(&self) -> Result<()> {
        self.behaviour()?.keeps.map_or(Ok(()), |path| remove(&path).map(drop))
    }

    async fn create_disk(&self) -> Result<()> {
        let dir = self.instance()?.dir;
        let (image, disk) = (dir.join("image"), dir.join("disk"));
        if disk.exists() || !image.exists() {
            return Ok(());
        }
        fs::rename(&image, &disk).map_err(Error::io(image))
    }

    async fn start(&self) -> Result<Vm> {
        let behaviour = self.behaviour()?;
        if let Some(why) = behaviour.fail_start {
            return Err(Error::failed("start", why));
        }
        if behaviour.hang_start {
            std::future::pending::<()>().await;
        }
        let dir = self.instance()?.dir;
        if let (true, Some(why)) = (dir.join(SAVED).exists(), behaviour.fail_resume) {
            return Err(Error::failed("start", why));
        }
        if Process::find(&pid_file(&dir)).is_some() {
            return Err(Error::failed("start", "the VM runs already"));
        }
        let process = Process::spawn(&pid_file(&dir), behaviour.die_after_ms.or(behaviour.power_off_after_ms))?;
        write(&pid_file(&dir), &format!("{}\n", process.pid()))?;
        let goes_on = remove(&dir.join(SAVED))?;
        write(&dir.join("serial.log"), if goes_on { "the fake VM sleeps on\n" } else { "the fake VM sleeps\n" })?;
        let (running, events) = self.watch(process, &dir);
        for line in behaviour.boot {
            tell(&running, VmEvent::Boot(line)).await;
        }
        Ok(vm(&running, events))
    }

    async fn attach(&self) -> Result<Option<Vm>> {
        let Some((running, events)) = self.find()? else { return Ok(None) };
        if running.process.is_paused() {
            tell(&running, VmEvent::Paused).await;
        }
        Ok(Some(vm(&running, events)))
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        let Some(mut running) = self.running()? else { return Ok(()) };
        tell(&running, VmEvent::PoweringDown).await;
        if !self.behaviour()?.ignore_powerdown {
            running.stopping.send_replace(true);
            // Ended already is what was wanted; a paused one takes the signal when it goes on.
            let _ = running.process.signal(Signal::TERM).and_then(|()| running.process.signal(Signal::CONT));
        }
        let in_time = timeout(grace, running.gone.wait_for(|gone| *gone)).await.is_ok();
        if in_time { Ok(()) } else { self.kill().await }
    }

    async fn kill(&self) -> Result<()> {
        let Some(mut running) = self.running()? else { return Ok(()) };
        running.process.signal(Signal::KILL).map_err(|error| Error::failed("killing the fake VM", error))?;
        // An error means that the watching ended, with the process.
        let _ = running.gone.wait_for(|gone| *gone).await;
        Ok(())
    }

    async fn pause(&self) -> Result<()> {
        if self.behaviour()?.refuse_pause {
            return Err(Error::failed("pause", "refused"));
        }
        self.signal(Signal::STOP, VmEvent::Paused).await
    }

    async fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT, VmEvent::Resumed).await
    }

    async fn reset(&self) -> Result<()> {
        let running = self.running()?.ok_or(Error::NotRunning)?;
        tell(&running, VmEvent::Reset).await;
        Ok(())
    }

    async fn suspend(&self) -> Result<()> {
        let mut running = self.running()?.ok_or(Error::NotRunning)?;
        if let Some(why) = self.behaviour()?.fail_suspend {
            return Err(Error::failed("suspend", why));
        }
        write(&self.instance()?.dir.join(SAVED), "")?;
        running.stopping.send_replace(true);
        // A paused one takes the signal when it goes on.
        let _ = running.process.signal(Signal::TERM).and_then(|()| running.process.signal(Signal::CONT));
        // An error means that the watching ended, with the process.
        let _ = running.gone.wait_for(|gone| *gone).await;
        Ok(())
    }

    async fn is_suspended(&self) -> Result<bool> {
        let dir = self.instance()?.dir;
        Ok(dir.join(SAVED).exists() && Process::find(&pid_file(&dir)).is_none())
    }

    async fn discard_suspended(&self) -> Result<()> {
        remove(&self.instance()?.dir.join(SAVED)).map(drop)
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        snapshots::list(&self.instance()?.dir)
    }

    async fn create_snapshot(&self, tag: &str) -> Result<()> {
        while self.behaviour()?.hang_snapshot {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let told = self.behaviour()?;
        if let Some(why) = told.fail_snapshot {
            return Err(Error::failed("snapshot", why));
        }
        let has_memory = self.running()?.is_some();
        snapshots::take(&self.instance()?.dir, tag, has_memory)
    }

    async fn apply_snapshot(&self, tag: &str) -> Result<()> {
        snapshots::apply(&self.instance()?.dir, tag)
    }

    async fn delete_snapshot(&self, tag: &str) -> Result<()> {
        snapshots::delete(&self.instance()?.dir, tag)
    }

    async fn screenshot(&self) -> Result<Vec<u8>> {
        let told = self.behaviour()?;
        if told.hang_screen {
            std::future::pending::<()>().await;
        }
        let none =
            || Error::Unsupported { driver: "fake".into(), operation: "take a picture of a VM without a display" };
        told.screen.map(String::into_bytes).ok_or_else(none)
    }

    async fn memory(&self) -> Result<Memory> {
        match self.behaviour()?.available {
            Some(available) => Ok(Memory { available: Some(available), ..Memory::default() }),
            None => Err(self.unsupported("memory statistics")),
        }
    }

    async fn resize(&self, cpus: u32, _memory: u64) -> Result<()> {
        match self.behaviour()?.most_cpus {
            0 => Err(self.unsupported("resize")),
            most if cpus > most => Err(Error::invalid("cpus", format!("the VM that runs has room for {most}"))),
            _ => Ok(()),
        }
    }

    /// Empty by default: the guest has no ssh, and is ready when it runs.
    async fn ssh_address(&self) -> Result<String> {
        let address = self.behaviour()?.ssh_address;
        Ok(if self.running()?.is_some() { address } else { String::new() })
    }

    async fn additional_setup_for_ssh(&self) -> Result<()> {
        self.note("additional_setup_for_ssh")
    }

    async fn run_gui(&self) -> Result<()> {
        self.note("run_gui")?;
        self.behaviour()?.refuse_window.map_or(Ok(()), |why| Err(Error::failed("window", why)))
    }
}

fn vm(running: &Running, events: mpsc::Receiver<VmEvent>) -> Vm {
    let accelerator = Accelerator { name: "fake".into(), reason: String::new() };
    Vm { pid: Some(running.process.pid()), accelerator: Some(accelerator), events }
}

fn last_event(process: &Process, expected: bool) -> VmEvent {
    match process.killed_by() {
        Some(signal) if signal != Signal::TERM.as_raw() => {
            VmEvent::Exited { clean: false, reason: format!("killed by signal {signal}") }
        }
        _ if expected => VmEvent::Exited { clean: true, reason: "shut down".into() },
        _ => VmEvent::Exited { clean: false, reason: "told to".into() },
    }
}

async fn tell(running: &Running, event: VmEvent) {
    if let Some(events) = running.events.upgrade() {
        // Nobody may be listening any more.
        let _ = events.send(event).await;
    }
}

/// Says whether there was one.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(path)(error)),
    }
}

fn pid_file(dir: &Path) -> PathBuf {
    dir.join("fake.pid")
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = fs::File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::io(path))
}
