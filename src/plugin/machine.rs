//! One instance, made, started, stopped and removed as the mount does it.

use std::path::PathBuf;
use std::time::Duration;

use limafs_driver_machine::State as Theirs;
use tokio::time::{Instant, sleep};

use crate::agent;
use crate::config::{self, Context, Loaded};
use crate::drivers::Source;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::{self, Home, Name};
use crate::registry::Registry;
use crate::status::{State, Status, Verb};
use crate::store::{self, Lock};
use crate::view::stand_alone;

/// A first boot may begin with a download.
const START: Duration = Duration::from_secs(30 * 60);
/// A guest has three minutes to power down.
const STOP: Duration = Duration::from_secs(210);
const KILL: Duration = Duration::from_secs(40);
/// A hostagent that has said its last word needs a moment to let go of the instance.
const LEAVING: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);

pub struct Machine {
    home: Home,
    name: Name,
    dir: PathBuf,
}

/// How a machine is reached.
pub struct Login {
    pub address: String,
    pub port: u16,
    pub user: String,
    pub key: PathBuf,
}

/// This machine, with the drivers that it has.
fn host() -> Result<Host> {
    Ok(Host { drivers: Registry::of_process().names(), ..Host::detect()? })
}

impl Machine {
    /// The instance of that name, which may not be there.
    pub fn at(home: PathBuf, name: &str) -> Result<Self> {
        if !home.is_absolute() {
            return Err(Error::failed("the machine", "is not known yet"));
        }
        let (home, name) = (Home::at(home), Name::parse(name)?);
        let dir = home.instance(&name)?;
        Ok(Self { home, name, dir })
    }

    /// Whether such a machine can be made: nothing is.
    pub async fn check(&self, text: &[u8]) -> Result<()> {
        if self.dir.exists() {
            return Err(Error::Exists { what: self.name.to_string() });
        }
        let host = host()?;
        let (_, loaded) = self.load(text, &host).await?;
        let driver = Registry::of_process().driver(loaded.filled.vm_type.as_deref().unwrap_or_default(), &self.dir)?;
        let health = driver.health().await;
        match health.healthy {
            true => Ok(()),
            false => Err(Error::failed(driver.info().name, format!("{}: {}", health.error, health.fix))),
        }
    }

    pub async fn create(&self, text: &[u8]) -> Result<()> {
        let host = host()?;
        store::prepare(&self.home)?;
        let (text, _) = self.load(text, &host).await?;
        store::create(&self.home, &self.name)?;
        store::define(&self.dir, &text)
    }

    /// The document that stands alone, and what it says.
    async fn load(&self, text: &[u8], host: &Host) -> Result<(Vec<u8>, Loaded)> {
        let text = stand_alone(&self.home, &host.user.home, text.to_vec()).await?;
        let loaded = self.parse(&text, host)?;
        Ok((text, loaded))
    }

    fn parse(&self, text: &[u8], host: &Host) -> Result<Loaded> {
        let layers = store::layers(&self.dir)?;
        config::load(text, &Context { name: &self.name, dir: self.dir.clone(), host, layers })
    }

    /// Starts the VM and waits until its guest has booted.
    pub async fn start(&self) -> Result<()> {
        self.command(Verb::Start).await?;
        let is_up = |state| matches!(state, State::Running | State::Degraded);
        self.reach(is_up, START, "starting the machine").await
    }

    pub async fn stop(&self) -> Result<()> {
        self.command(Verb::Stop).await?;
        self.reach(|state| !state.is_live(), STOP, "stopping the machine").await
    }

    pub async fn kill(&self) -> Result<()> {
        self.command(Verb::Kill).await?;
        self.reach(|state| !state.is_live(), KILL, "killing the machine").await
    }

    pub async fn restart(&self) -> Result<()> {
        if !self.present().await.is_live() {
            return self.start().await;
        }
        self.command(Verb::Restart).await?;
        // It leaves Running first, unless it was quicker than whoever looks.
        sleep(AGAIN).await;
        let is_up = |state| matches!(state, State::Running | State::Degraded);
        self.reach(is_up, START, "restarting the machine").await
    }

    /// Takes the instance away, with its VM.
    pub async fn remove(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        if self.dir.join(names::PROTECTED).exists() {
            return Err(Error::forbidden(self.name.to_string(), "is protected"));
        }
        if self.present().await.is_live() {
            self.kill().await?;
        }
        let lock = self.lock().await?;
        agent::remove_elsewhere(&self.home, &self.name).await?;
        store::delete(&self.home, &self.dir)?;
        drop(lock);
        store::sweep(&self.home)
    }

    async fn lock(&self) -> Result<Lock> {
        let deadline = Instant::now() + LEAVING;
        loop {
            match Lock::try_take(&self.dir)? {
                Some(lock) => return Ok(lock),
                None if Instant::now() < deadline => sleep(AGAIN).await,
                None => return Err(Error::busy(self.name.to_string(), "another process has it")),
            }
        }
    }

    pub async fn state(&self) -> Result<Theirs> {
        if !self.dir.exists() {
            return Ok(Theirs::None);
        }
        Ok(match self.present().await {
            State::Uninitialized | State::Stopped => Theirs::Stopped,
            State::Starting => Theirs::Starting,
            State::Running | State::Degraded => Theirs::Running,
            State::Stopping => Theirs::Stopping,
            State::Paused => Theirs::Paused,
            State::Suspended => Theirs::Saved,
            State::Broken => Theirs::Error,
        })
    }

    pub async fn login(&self) -> Result<Login> {
        let Status { ssh_address, ssh_local_port, .. } = agent::status(&self.dir).await?;
        let text = store::read_small(&self.dir.join(names::LIMA_YAML))?.unwrap_or_default();
        let host = host()?;
        let user = self.parse(&text, &host)?.filled.user.and_then(|user| user.name);
        let user = user.unwrap_or_else(|| host.user.name.clone());
        Ok(Login { address: ssh_address, port: ssh_local_port, user, key: self.home.config(names::USER_KEY) })
    }

    /// The state as its hostagent says, or as the last one left it.
    async fn present(&self) -> State {
        match agent::status(&self.dir).await {
            Ok(status) => status.state,
            Err(_) => match store::record(&self.dir) {
                Some(record) if !record.state.is_live() || record.boot_id == store::boot_id() => record.state,
                _ => State::Stopped,
            },
        }
    }

    /// Gives a verb to the hostagent, which is started for a start, or to take up a VM that the last one left.
    async fn command(&self, verb: Verb) -> Result<()> {
        match agent::command(&self.dir, verb).await {
            Err(Error::HostDown { .. }) => {}
            done => return done.map(drop),
        }
        drop(self.lock().await?);
        let left = self.present().await.is_live();
        match verb {
            Verb::Start if !left => agent::spawn(&self.home, &self.name, false).await.map(drop),
            _ if left => {
                agent::spawn(&self.home, &self.name, true).await?;
                match agent::command(&self.dir, verb).await {
                    // It found nothing to take up.
                    Err(Error::HostDown { .. }) if verb != Verb::Start => Ok(()),
                    Err(Error::HostDown { .. }) => agent::spawn(&self.home, &self.name, false).await.map(drop),
                    done => done.map(drop),
                }
            }
            _ => Ok(()),
        }
    }

    async fn reach(&self, is_wanted: impl Fn(State) -> bool, limit: Duration, what: &str) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let state = self.present().await;
            if is_wanted(state) {
                return Ok(());
            }
            let errors = || store::record(&self.dir).map(|record| record.errors.join("; ")).unwrap_or_default();
            match state {
                State::Broken => return Err(Error::failed(what, errors())),
                State::Stopped if limit == START => return Err(Error::failed(what, "it was stopped meanwhile")),
                _ if Instant::now() >= deadline => {
                    return Err(Error::Timeout { what: what.into(), seconds: limit.as_secs() });
                }
                _ => sleep(AGAIN).await,
            }
        }
    }
}
