//! One machine by its plugin: its process is started when it is needed and kept, started anew when it has died, and told
//! each time what was kept of the machine.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use limafs_driver::{Error, Instance, Result};
use serde_json::Value as Json;

use crate::client::Fault;
use crate::flags::{self, Flag, Setting};
use crate::gob::Value;
use crate::log::Log;
use crate::plugin::Plugin;
use crate::state::State;
use crate::store::Store;
use crate::wire::{BYTES, OPTIONS};

/// What plugins print, in the instance directory.
const LOG: &str = "driver.stderr.log";
/// What a plugin answers from its memory, or asks its hypervisor.
pub const QUICK: Duration = Duration::from_secs(9);
const CHECK: Duration = Duration::from_secs(120);
/// Making a machine may begin with a download.
const CREATE: Duration = Duration::from_secs(30 * 60);
const REMOVE: Duration = Duration::from_secs(60);

/// The machine of one instance.
pub struct Hosted {
    name: String,
    program: PathBuf,
    store: Store,
    /// The instance directory.
    pub dir: PathBuf,
    /// `vmOpts.NAME`.
    options: Mutex<Json>,
    log: Arc<Log>,
    plugin: Mutex<Option<Arc<Plugin>>>,
}

impl Hosted {
    pub fn new(name: &str, program: PathBuf, instance: &Instance) -> Self {
        let log = Arc::new(Log::new(Some(&instance.dir.join(LOG))));
        let (store, dir) = (Store::of(instance), instance.dir.clone());
        let (options, plugin) = (Mutex::new(Json::Null), Mutex::new(None));
        Self { name: name.to_owned(), program, store, dir, options, log, plugin }
    }

    /// What the next machine is made with.
    pub fn set_options(&self, options: Json) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// The plugin, which knows its machine.
    async fn plugin(&self) -> Result<Arc<Plugin>> {
        let present = self.slot(|plugin| plugin.clone()).filter(|plugin| plugin.is_alive());
        if let Some(plugin) = present {
            return Ok(plugin);
        }
        let failed = |fault| self.failed("starting the plugin", fault);
        let plugin = Plugin::start(&self.program, &self.name, &self.log).await.map_err(failed)?;
        let plugin = Arc::new(plugin);
        let config = self.store.driver()?.unwrap_or_else(|| self.store.bare());
        self.configure(&plugin, &config).await?;
        // Somebody else may have been faster; one process is enough.
        let chosen = self.slot(|slot| match slot {
            Some(other) if other.is_alive() => Arc::clone(other),
            slot => Arc::clone(slot.insert(Arc::clone(&plugin))),
        });
        if !Arc::ptr_eq(&chosen, &plugin) {
            plugin.close().await;
        }
        Ok(chosen)
    }

    async fn configure(&self, plugin: &Plugin, config: &Json) -> Result<()> {
        let text = serde_json::to_vec(config).map_err(|error| Error::failed("config.json", error))?;
        let told = plugin.tell("SetConfigRaw", &BYTES, Value::Bytes(text), QUICK).await;
        told.map_err(|fault| self.failed("SetConfigRaw", fault))
    }

    fn slot<T>(&self, use_it: impl FnOnce(&mut Option<Arc<Plugin>>) -> T) -> T {
        use_it(&mut self.plugin.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the plugin's process; the next call starts another.
    pub async fn close(&self) {
        if let Some(plugin) = self.slot(Option::take) {
            plugin.close().await;
        }
    }

    pub fn is_created(&self) -> bool {
        self.store.is_created()
    }

    pub async fn flags(&self) -> Result<Vec<Flag>> {
        let plugin = self.plugin().await?;
        let answer = plugin.call("GetCreateFlags", QUICK).await;
        let answer = answer.map_err(|fault| self.failed("GetCreateFlags", fault))?;
        flags::parse(&answer).ok_or_else(|| self.failed("GetCreateFlags", Fault::Misfit))
    }

    /// The settings of a machine to be made, by the plugin's flags and `vmOpts`.
    pub async fn settings(&self) -> Result<Vec<(String, Setting)>> {
        let flags = self.flags().await?;
        let settings = flags::settings(&flags, &self.options.lock().unwrap_or_else(PoisonError::into_inner));
        settings.map_err(|why| Error::invalid(format!("vmOpts.{}", self.name), why))
    }

    /// Makes the machine, which runs then. What is left of one that was not made to its end is removed first.
    pub async fn create(&self) -> Result<()> {
        if self.store.driver()?.is_some() {
            if let Err(error) = self.act("Remove", REMOVE).await {
                tracing::warn!("{error}");
            }
            self.close().await;
            self.store.remove()?;
        }
        let mut settings = self.settings().await?;
        settings.extend(of_docker_machine());
        let plugin = self.plugin().await?;
        let told = plugin.tell("SetConfigFromFlags", &OPTIONS, flags::arguments(&settings), QUICK).await;
        told.map_err(|fault| self.failed("SetConfigFromFlags", fault))?;
        self.act("PreCreateCheck", CHECK).await?;
        self.keep().await?;
        self.act("Create", CREATE).await?;
        self.keep().await?;
        self.store.set_created()
    }

    /// Removes the machine and what was kept of it.
    pub async fn remove(&self) -> Result<()> {
        if self.store.driver()?.is_some() {
            self.act("Remove", REMOVE).await?;
        }
        self.close().await;
        self.store.remove()
    }

    /// Keeps what the plugin says of its machine now.
    pub async fn keep(&self) -> Result<()> {
        let plugin = self.plugin().await?;
        let answer = plugin.call("GetConfigRaw", QUICK).await;
        let Value::Bytes(text) = answer.map_err(|fault| self.failed("GetConfigRaw", fault))? else {
            return Err(self.failed("GetConfigRaw", Fault::Misfit));
        };
        let config: Json = serde_json::from_slice(&text).map_err(|error| Error::failed("GetConfigRaw", error))?;
        self.store.keep(&self.name, &config)
    }

    /// Calls a method that answers nothing.
    pub async fn act(&self, method: &str, limit: Duration) -> Result<()> {
        let plugin = self.plugin().await?;
        plugin.call(method, limit).await.map(drop).map_err(|fault| self.failed(method, fault))
    }

    pub async fn state(&self) -> Result<State> {
        let plugin = self.plugin().await?;
        let number = plugin.int("GetState", QUICK).await.map_err(|fault| self.failed("GetState", fault))?;
        State::from_number(number).ok_or_else(|| self.failed("GetState", Fault::Misfit))
    }

    pub async fn text(&self, method: &str) -> Result<String> {
        let plugin = self.plugin().await?;
        plugin.text(method, QUICK).await.map_err(|fault| self.failed(method, fault))
    }

    pub async fn int(&self, method: &str) -> Result<i64> {
        let plugin = self.plugin().await?;
        plugin.int(method, QUICK).await.map_err(|fault| self.failed(method, fault))
    }

    fn failed(&self, what: &str, fault: Fault) -> Error {
        Error::failed(format!("docker-machine-driver-{}: {what}", self.name), fault)
    }
}

/// What docker-machine itself tells each plugin.
fn of_docker_machine() -> [(String, Setting); 4] {
    [
        ("swarm-master", Setting::Bool(false)),
        ("swarm-host", Setting::Text("tcp://0.0.0.0:3376".into())),
        ("swarm-discovery", Setting::Text(String::new())),
        ("engine-install-url", Setting::Text(String::new())),
    ]
    .map(|(name, setting)| (name.to_owned(), setting))
}
