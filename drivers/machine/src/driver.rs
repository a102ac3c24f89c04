//! A plugin as a driver.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver::{About, Driver, Error, Features, Health, Info, Instance, Priority, Result, SshLogin, Vm, VmEvent};
use tokio::time::{Instant, sleep, timeout};

use crate::flags::{self, Flag};
use crate::hosted::Hosted;
use crate::introduce;
use crate::log::Log;
use crate::plugin::Plugin;
use crate::state::State;
use crate::watch::Watch;

/// As long as docker-machine waits for a state.
const START: Duration = Duration::from_secs(180);
const KILL: Duration = Duration::from_secs(25);
const RESTART: Duration = Duration::from_secs(180);
const AGAIN: Duration = Duration::from_millis(500);

/// Runs one instance by a plugin.
pub struct Machine {
    name: String,
    program: PathBuf,
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    hosted: Option<Arc<Hosted>>,
    watch: Option<Watch>,
}

impl Machine {
    /// `program` is `docker-machine-driver-NAME`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), state: Mutex::default() }
    }

    /// The plugin's create flags, which are the keys of `vmOpts.NAME`. Starts the plugin and ends it again.
    pub async fn flags(&self) -> Result<Vec<Flag>> {
        let plugin = self.try_plugin().await?;
        let answer = plugin.call("GetCreateFlags", crate::hosted::QUICK).await;
        plugin.close().await;
        let answer = answer.map_err(|fault| Error::failed("GetCreateFlags", fault))?;
        flags::parse(&answer).ok_or_else(|| Error::failed("GetCreateFlags", "is no list of flags"))
    }

    async fn try_plugin(&self) -> Result<Plugin> {
        let started = Plugin::start(&self.program, &self.name, &Arc::new(Log::new(None))).await;
        started.map_err(|fault| Error::failed(format!("docker-machine-driver-{}", self.name), fault))
    }

    fn known<T>(&self, use_it: impl FnOnce(&mut Known) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn hosted(&self) -> Result<Arc<Hosted>> {
        let hosted = self.known(|known| known.hosted.clone());
        hosted.ok_or_else(|| Error::failed(format!("driver {}", self.name), "is not configured"))
    }

    fn watched(&self) -> Option<Watch> {
        self.known(|known| known.watch.clone()).filter(|watch| !watch.is_over())
    }

    fn vm(&self, hosted: Arc<Hosted>, is_paused: bool) -> Vm {
        let (watch, events) = Watch::begin(hosted, is_paused);
        self.known(|known| known.watch = Some(watch));
        Vm { pid: None, accelerator: None, events }
    }

    /// Whether there is something to stop or to kill.
    async fn is_down(hosted: &Hosted) -> Result<bool> {
        Ok(!hosted.is_created() || hosted.state().await?.is_down())
    }

    async fn told(&self) {
        if let Some(watch) = self.watched() {
            watch.told().await;
        }
    }
}

#[async_trait]
impl Driver for Machine {
    fn info(&self) -> Info {
        let features = Features {
            dynamic_ssh_address: true,
            static_ssh_port: true,
            no_cloud_init: true,
            own_images: true,
            ..Features::default()
        };
        Info { name: self.name.clone(), features, ..Info::default() }
    }

    /// Never chosen by itself: a machine of another's may cost money.
    fn about(&self) -> About {
        About { aliases: vec![], default: false, priority: Priority::Fallback }
    }

    async fn health(&self) -> Health {
        match self.try_plugin().await {
            Ok(plugin) => {
                plugin.close().await;
                Health::working("docker-machine plugin, version 1")
            }
            Err(error) => {
                Health::failing(self.program.exists(), "no-plugin", error, "run it under docker-machine to see why")
            }
        }
    }

    async fn configure(&self, instance: Instance) -> Result<Instance> {
        let options = instance.config.vm_opts.as_ref().and_then(|options| options.get(&self.name).cloned());
        let hosted = self.known(|known| match &known.hosted {
            Some(hosted) if hosted.dir == instance.dir => Arc::clone(hosted),
            _ => {
                let hosted = Arc::new(Hosted::new(&self.name, self.program.clone(), &instance));
                known.hosted = Some(Arc::clone(&hosted));
                hosted
            }
        });
        hosted.set_options(options.unwrap_or_default());
        Ok(instance)
    }

    async fn validate(&self) -> Result<()> {
        self.hosted()?.settings().await.map(drop)
    }

    /// Makes the machine when there is none. It runs then, as docker-machine has it.
    async fn create(&self) -> Result<()> {
        let hosted = self.hosted()?;
        if hosted.is_created() { Ok(()) } else { hosted.create().await }
    }

    /// The plugin makes its own.
    async fn create_disk(&self) -> Result<()> {
        Ok(())
    }

    async fn start(&self) -> Result<Vm> {
        let hosted = self.hosted()?;
        let state = hosted.state().await?;
        if state != State::Running {
            hosted.act("Start", START).await?;
            reach(&hosted, START, "starting the machine", |state| state == State::Running).await?;
        }
        hosted.keep().await?;
        Ok(self.vm(hosted, false))
    }

    async fn attach(&self) -> Result<Option<Vm>> {
        let hosted = self.hosted()?;
        if !hosted.is_created() {
            return Ok(None);
        }
        let state = hosted.state().await?;
        Ok(state.is_up().then(|| self.vm(hosted, state == State::Paused)))
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        let hosted = self.hosted()?;
        if Self::is_down(&hosted).await? {
            return Ok(());
        }
        if let Some(watch) = self.watched() {
            watch.ends();
        }
        let stopping = async {
            hosted.act("Stop", grace).await?;
            reach(&hosted, grace, "stopping the machine", State::is_down).await
        };
        match timeout(grace, stopping).await {
            Ok(Ok(())) => {
                hosted.keep().await?;
                self.told().await;
                Ok(())
            }
            other => {
                if let Ok(Err(error)) = other {
                    tracing::warn!("{error}; the machine is killed");
                }
                self.kill().await
            }
        }
    }

    async fn kill(&self) -> Result<()> {
        let hosted = self.hosted()?;
        if Self::is_down(&hosted).await? {
            return Ok(());
        }
        if let Some(watch) = self.watched() {
            watch.ends();
        }
        hosted.act("Kill", KILL).await?;
        reach(&hosted, KILL, "killing the machine", State::is_down).await?;
        self.told().await;
        Ok(())
    }

    async fn reset(&self) -> Result<()> {
        self.hosted()?.act("Restart", RESTART).await?;
        if let Some(watch) = self.watched() {
            watch.tell(VmEvent::Reset).await;
        }
        Ok(())
    }

    async fn inspect_status(&self, mut instance: Instance) -> Result<Instance> {
        let hosted = Hosted::new(&self.name, self.program.clone(), &instance);
        if hosted.is_created() {
            let state = hosted.state().await;
            hosted.close().await;
            instance.status = if state?.is_up() { "Running" } else { "Stopped" }.into();
        }
        Ok(instance)
    }

    async fn delete(&self) -> Result<()> {
        self.hosted()?.remove().await
    }

    /// Empty while it is not known: it comes with [`Driver::ssh_login`] when the machine runs.
    async fn ssh_address(&self) -> Result<String> {
        Ok(String::new())
    }

    async fn ssh_login(&self) -> Result<Option<SshLogin>> {
        let place = introduce::place(&*self.hosted()?).await?;
        Ok(Some(SshLogin { address: place.address, port: place.port, user: place.user }))
    }

    async fn additional_setup_for_ssh(&self) -> Result<()> {
        introduce::introduce(&*self.hosted()?).await
    }
}

/// Waits for a state, as docker-machine does.
async fn reach(hosted: &Hosted, limit: Duration, what: &str, is_wanted: impl Fn(State) -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let state = hosted.state().await?;
        if is_wanted(state) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::failed(what, format!("it is {} after {} s", state.word(), limit.as_secs())));
        }
        sleep(AGAIN).await;
    }
}
