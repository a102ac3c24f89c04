//! The WSL2 driver: one value runs one instance as a distribution of Windows', through `wsl.exe`, which is reachable
//! from inside of WSL2 as well. There the network is one for all distributions, and the guest agent is reached over
//! ssh: Hyper-V's sockets exist on Windows' side only.
//! Never keeps state that a new value could not find again, and never removes a distribution that it did not make.
//!
//! ```text
//!  create_disk: image --wsl.exe --import--> distribution lima-NAME
//!  start: wsl.exe ... sleep (the keeper, outlives us) ; cidata/ --tar over a pipe--> /mnt/lima-cidata ; boot.sh
//! ```

mod address;
mod configure;
mod decode;
mod import;
mod keeper;
mod list;
mod names;
mod vm;
mod wsl;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{
    About, Accelerator, Driver, Error, Features, Health, Info, Instance, Priority, Result, Vm, VmEvent,
};
use tokio::sync::mpsc;

use crate::keeper::Keeper;
use crate::list::State as DistributionState;
use crate::names::{CIDATA_MNT, distribution};
use crate::vm::{End, Running};
use crate::wsl::{DEADLINE, Wsl};

/// The distribution's kernel may have to be started first.
const BOOT_DEADLINE: Duration = Duration::from_secs(50);

/// Runs one instance as a WSL2 distribution.
#[derive(Debug)]
pub struct Wsl2 {
    wsl: Wsl,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    instance: Option<Instance>,
    running: Option<Arc<Running>>,
}

impl Default for Wsl2 {
    fn default() -> Self {
        Self::new()
    }
}

impl Wsl2 {
    /// With the `wsl.exe` and `wslpath` of `$PATH`, or those at their usual places.
    pub fn new() -> Self {
        Self { wsl: Wsl::find(), state: Mutex::default() }
    }

    /// With programs at other places.
    pub fn with_programs(wsl: PathBuf, wslpath: PathBuf) -> Self {
        Self { wsl: Wsl::at(wsl, wslpath), state: Mutex::default() }
    }

    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn instance(&self) -> Result<Instance> {
        self.state(|state| state.instance.clone()).ok_or_else(|| Error::failed("WSL2 driver", "is not configured"))
    }

    /// The VM that is watched; found first if need be.
    fn running(&self) -> Result<Option<Arc<Running>>> {
        match self.state(|state| state.running.clone()).filter(|running| !running.is_gone()) {
            Some(running) => Ok(Some(running)),
            None => Ok(self.find()?.map(|(running, _)| running)),
        }
    }

    /// Looks for the VM, which is ours for as long as its keeper lives, and starts to watch it.
    fn find(&self) -> Result<Option<(Arc<Running>, mpsc::Receiver<VmEvent>)>> {
        let instance = self.instance()?;
        let keeper = Keeper::find(&distribution(&instance.name));
        Ok(keeper.map(|keeper| self.watch(keeper, &instance)))
    }

    fn watch(&self, keeper: Keeper, instance: &Instance) -> (Arc<Running>, mpsc::Receiver<VmEvent>) {
        let (wsl, name) = (self.wsl.clone(), distribution(&instance.name));
        let (running, events) = Running::watch(wsl, name, keeper, instance.dir.clone());
        let running = Arc::new(running);
        self.state(|state| state.running = Some(running.clone()));
        (running, events)
    }

    /// Gives the guest what it is told and starts its boot script. The words need no quoting on their way through
    /// Windows' command line.
    async fn boot(&self, instance: &Instance, running: &Running) -> Result<()> {
        let name = distribution(&instance.name);
        let root = ["-d", &name, "--user", "root", "--exec"];
        self.wsl.tell(&[&root[..], &["rm", "-rf", CIDATA_MNT]].concat(), BOOT_DEADLINE).await?;
        self.wsl.tell(&[&root[..], &["mkdir", "-p", "-m", "700", CIDATA_MNT]].concat(), DEADLINE).await?;
        let dir = instance.dir.join(names::CIDATA_DIR);
        let archive = blocking(move || pack(&dir)).await?;
        let unpack = [&root[..], &["tar", "-x", "-f", "-", "-C", CIDATA_MNT]].concat();
        let unpack: Vec<&OsStr> = unpack.into_iter().map(OsStr::new).collect();
        self.wsl.tell_os(&unpack, &archive, DEADLINE).await?;
        let path = instance.dir.join(names::SERIAL_LOG);
        let log = File::create(&path).map_err(Error::io(&path))?;
        let errors = log.try_clone().map_err(Error::io(&path))?;
        let (mount, script) = (format!("LIMA_CIDATA_MNT={CIDATA_MNT}"), format!("{CIDATA_MNT}/boot.sh"));
        let words = [&root[..], &["env", &mount, &script]].concat();
        running.booting(self.wsl.spawn(&words, log.into(), errors.into())?);
        Ok(())
    }

    async fn end(&self, instance: &Instance, running: &Running, how: End) -> Result<()> {
        running.expect(how);
        self.wsl.tell(&["--terminate", &distribution(&instance.name)], DEADLINE).await?;
        running.gone().await
    }
}

#[async_trait]
impl Driver for Wsl2 {
    fn info(&self) -> Info {
        let dir = self.state(|state| state.instance.as_ref().map(|instance| instance.dir.clone())).unwrap_or_default();
        let features = Features {
            dynamic_ssh_address: true,
            static_ssh_port: true,
            skip_socket_forwarding: true,
            no_cloud_init: true,
            ..Features::default()
        };
        let instance_dir = dir.to_string_lossy().into_owned();
        Info { name: "wsl2".into(), instance_dir, features, ..Info::default() }
    }

    /// Never chosen by itself: who has `wsl.exe` in a Linux has QEMU there, too.
    fn about(&self) -> About {
        About { aliases: vec!["wsl".into()], default: false, priority: Priority::Experimental }
    }

    async fn health(&self) -> Health {
        self.wsl.health().await
    }

    async fn configure(&self, instance: Instance) -> Result<Instance> {
        let instance = configure::configure(instance, std::env::consts::ARCH)?;
        self.state(|state| state.instance = Some(instance.clone()));
        Ok(instance)
    }

    async fn validate(&self) -> Result<()> {
        self.instance()?;
        self.wsl.program()?;
        self.wsl.tell(&["--status"], DEADLINE).await.map(drop)
    }

    /// Imports the archive; the disk is Windows' own affair from then on.
    async fn create_disk(&self) -> Result<()> {
        import::ensure(&self.wsl, &self.instance()?).await.map(drop)
    }

    async fn start(&self) -> Result<Vm> {
        let instance = self.instance()?;
        if let Some(running) = self.running()? {
            let pid = running.pid.map(|pid| format!(", kept by process {pid}")).unwrap_or_default();
            return Err(Error::failed("start", format!("the VM runs already{pid}")));
        }
        if !import::ensure(&self.wsl, &instance).await? {
            let what = format!("{} of {}", names::IMAGE, instance.name);
            return Err(Error::Missing { what, fix: "images in lima.yaml name one".into() });
        }
        let keeper = Keeper::start(&self.wsl, &distribution(&instance.name))?;
        // Watched before anything is awaited: a start that is dropped from here on leaves a VM that is ours.
        let (running, events) = self.watch(keeper, &instance);
        let pid_file = instance.dir.join(names::PID_FILE);
        fs::write(&pid_file, format!("{}\n", running.pid.unwrap_or_default())).map_err(Error::io(pid_file))?;
        if let Err(error) = self.boot(&instance, &running).await {
            self.end(&instance, &running, End::Kill).await?;
            return Err(error);
        }
        Ok(vm(&running, events))
    }

    /// A distribution that somebody merely opened a shell in is not taken up: nothing has booted there.
    async fn attach(&self) -> Result<Option<Vm>> {
        Ok(self.find()?.map(|(running, events)| vm(&running, events)))
    }

    /// There is no button: what is in memory is written, and the distribution ended.
    async fn stop(&self, grace: Duration) -> Result<()> {
        let instance = self.instance()?;
        let Some(running) = self.running()? else { return Ok(()) };
        running.tell(VmEvent::PoweringDown);
        let name = distribution(&instance.name);
        let words = ["-d", &name, "--user", "root", "--exec", "sync"];
        if let Err(error) = self.wsl.tell(&words, grace.min(DEADLINE)).await {
            tracing::warn!("{error}");
        }
        self.end(&instance, &running, End::Stop).await
    }

    async fn kill(&self) -> Result<()> {
        let instance = self.instance()?;
        match self.running()? {
            Some(running) => self.end(&instance, &running, End::Kill).await,
            None => Ok(()),
        }
    }

    async fn inspect_status(&self, mut instance: Instance) -> Result<Instance> {
        let state = self.wsl.state(&distribution(&instance.name)).await;
        instance.status = state.as_ref().map_or("Broken", |state| state.name()).into();
        instance.ssh_local_port = configure::SSH_PORT;
        // Windows decides about these for all distributions together.
        (instance.cpus, instance.memory, instance.disk) = (0, 0, 0);
        if matches!(state, Ok(DistributionState::Running))
            && let Some(address) = address::ask(&self.wsl, &distribution(&instance.name)).await
        {
            instance.ssh_address = address.to_string();
        }
        Ok(instance)
    }

    async fn delete(&self) -> Result<()> {
        let instance = self.instance()?;
        self.kill().await?;
        import::remove(&self.wsl, &instance).await
    }

    async fn boot_scripts(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        // Among the essential ones: without a user nobody can log in to a plain instance either.
        let script = include_bytes!("scripts/user.sh").to_vec();
        Ok(BTreeMap::from([("boot.essential.Linux/00-wsl2-user.sh".into(), script)]))
    }

    /// One network is shared by all distributions and, for the ports that are listened on, by Windows.
    async fn ssh_address(&self) -> Result<String> {
        Ok("127.0.0.1".into())
    }
}

fn vm(running: &Running, events: mpsc::Receiver<VmEvent>) -> Vm {
    let accelerator = Some(Accelerator { name: "hyper-v".into(), reason: String::new() });
    Vm { pid: running.pid, accelerator, events }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::failed("reading the instance directory", error))?
}

/// The files of a directory as an archive, all of root's.
fn pack(dir: &Path) -> Result<Vec<u8>> {
    if !dir.join("boot.sh").exists() {
        let fix = "whoever starts the VM makes it, for drivers with the feature noCloudInit".into();
        return Err(Error::Missing { what: format!("{}/boot.sh", dir.display()), fix });
    }
    let mut archive = tar::Builder::new(Vec::new());
    archive.mode(tar::HeaderMode::Deterministic);
    archive.append_dir_all(".", dir).map_err(Error::io(dir))?;
    archive.into_inner().map_err(Error::io(dir))
}
