//! A real boot, from lima.yaml to all that the VM's process needs. Each step has a name that `status` shows.
//! Starts no VM: the actor does, after the intent was written down.

mod agent;
mod archive;
mod directory;
mod disks;
mod firmware;
mod format;
mod guest;
mod image;
mod iso;
mod mounts;
mod networks;
mod port;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use limafs_driver::{Config, DataDisk, Driver, Features, Instance};
use limafs_guestagent::memory::give_back;
use tokio::sync::mpsc;

use super::dns;
use super::facts::Facts;
use super::line::Line;
use super::mounts::Mounts;
use super::ssh::{self, Login, keys::Identity};
use super::state::{Event, Step};
use super::steps::{Prepared, Steps};
use super::{ready, ready::user_probes};
use crate::cidata;
use crate::config::{self, Context, Loaded};
use crate::drivers;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::{self, Home, Name};
use crate::registry::Registry;
use crate::started::Started;
use crate::store::{self, Kept, Ports, Record};
pub use agent::file as guest_agent;

/// The steps of a real instance.
pub struct Boot {
    pub home: Home,
    pub name: Name,
    pub dir: PathBuf,
    pub host: Host,
    pub registry: Registry,
}

#[async_trait]
impl Steps for Boot {
    async fn prepare(&self, tell: &mpsc::Sender<Event>) -> Result<Prepared> {
        let record = store::record(&self.dir);
        if let Some(record) = record.filter(|record| record.suspended) {
            return self.go_on(&record, tell).await;
        }
        step(tell, "loading lima.yaml").await;
        let config = self.load_with_driver(tell).await?;
        ready::ansible::check(&config)?;
        let name = config.vm_type.clone().unwrap_or_default();
        let driver = self.registry.driver(&name, &self.dir)?;
        let (started, defined) = (Some(Started::with(&config)), config.clone());
        let instance = self.configure(&*driver, config).await?;
        step(tell, &format!("checking {}", driver.info().name)).await;
        driver.validate().await?;
        // From here on there is something of this driver's, and it stays the instance's.
        let _ = tell.send(Event::Driver(name)).await;
        if driver.info().features.own_images {
            step(tell, "making the machine").await;
            driver.create().await?;
        } else {
            driver.create().await?;
            self.make_disk(&driver, &instance.config, tell).await?;
        }
        disks::claim(self, &instance.config).await?;
        let archive = archive::fetch(&instance.config, &self.dir, tell).await?;
        let (archive, disk) = archive.map(|fetched| (fetched.archive, fetched.disk)).unzip();
        let (instance, packed) = with_archive(&driver, instance, disk).await?;
        mounts::make_missing(&instance.config).await?;
        let identity = ssh::keys::ensure(&self.home).await?;
        let (mut iid, mut dns, mut parcel) = (String::new(), None, None);
        if driver.info().features.own_images {
            parcel = Some(guest::parcel(self, &*driver, &instance.config, &identity).await?);
        } else {
            step(tell, "making cidata").await;
            dns = self.dns_ports(&instance.config, &driver.info().features)?;
            let given = guest::Given { dns, networks: networks::join(self, &instance.config).await?, archive, packed };
            iid = guest::write_cidata(self, &*driver, &instance.config, &identity, &given).await?;
        }
        let mut prepared = self.prepared(driver, &instance, identity, iid, true).await?;
        prepared.parcel = parcel;
        prepared.facts.dns = dns;
        prepared.facts.started = started;
        // Of one whose address comes with the VM it is written then.
        if let Some(line) = prepared.line.as_ref().filter(|line| !line.login().address.is_empty()) {
            ssh::config::write(&line.login())?;
        }
        store::set_started(&self.dir, &defined)?;
        step(tell, &format!("starting {}", prepared.facts.driver)).await;
        // A hostagent lives for weeks after its boot.
        give_back();
        Ok(prepared)
    }

    async fn recover(&self, record: Option<&Record>) -> Result<Prepared> {
        let port = self.last_port(record).unwrap_or(0);
        self.recovered(record, self.config_of(record), port).await
    }

    async fn rest(&self) {
        networks::leave(self).await;
        let record = store::record(&self.dir);
        ready::copies::remove(&self.config_of(record.as_ref()));
        if record.is_some_and(|record| record.suspended) {
            // Its disks stay its own until it goes on, or is given up.
            return;
        }
        disks::release(self).await;
        if let Err(error) = store::forget_started(&self.dir) {
            tracing::warn!("{error}");
        }
    }

    async fn await_ready(&self, prepared: &Prepared, lines: mpsc::Receiver<String>, tell: &mpsc::Sender<Event>) {
        ready::await_guest(prepared, lines, tell).await;
        give_back();
    }
}

impl Boot {
    /// The configuration of a start. Of an instance that has no driver yet and names none, the best one is chosen.
    async fn load_with_driver(&self, tell: &mpsc::Sender<Event>) -> Result<Config> {
        let loaded = self.load()?;
        if loaded.names_driver || self.kept_driver() != Kept::Nothing {
            return Ok(loaded.filled);
        }
        step(tell, "choosing a driver").await;
        let choice = self.registry.choose().await;
        tracing::info!("driver {}: {}", choice.driver.as_deref().unwrap_or("as Lima's"), choice.why);
        Ok(self.load_for(choice.driver)?.filled)
    }

    fn kept_driver(&self) -> Kept {
        store::kept_driver(&self.dir, store::record(&self.dir).as_ref())
    }

    fn load(&self) -> Result<Loaded> {
        let kept = match self.kept_driver() {
            Kept::Named(name) => Some(name),
            Kept::Limas | Kept::Nothing => None,
        };
        let loaded = self.load_for(kept)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(loaded)
    }

    /// What a suspended VM needs to go on: nothing that it has seen is made anew, and what lima.yaml says by now waits.
    async fn go_on(&self, record: &Record, tell: &mpsc::Sender<Event>) -> Result<Prepared> {
        step(tell, "going on with the saved memory").await;
        let port = port::choose(None, self.last_port(Some(record)))?;
        let config = self.config_of(Some(record));
        disks::claim(self, &config).await?;
        networks::join(self, &config).await?;
        let mut prepared = self.recovered(Some(record), config, port).await?;
        prepared.facts.started = record.started.clone();
        prepared.facts.dns = record.dns;
        prepared.returned = AtomicBool::new(true);
        if let Some(line) = &prepared.line {
            ssh::config::write(&line.login())?;
        }
        Ok(prepared)
    }

    /// That of the VM that there is, whatever was written to lima.yaml since: edits are pending until it is gone. Of one
    /// that somebody else has started it is lima.yaml's. It must be found even when somebody broke that meanwhile.
    fn config_of(&self, record: Option<&Record>) -> Config {
        if let Some(started) = record.and_then(|record| store::started(&self.dir, record)) {
            return started;
        }
        self.load().map(|loaded| loaded.filled).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            Config { vm_type: record.map(|record| record.driver.clone()), ..Config::default() }
        })
    }

    async fn recovered(&self, record: Option<&Record>, mut config: Config, port: u16) -> Result<Prepared> {
        // The VM that is there is of the driver that started it, whatever was written since.
        let name = record.map(|record| record.driver.clone()).filter(|name| !name.is_empty()).or(config.vm_type);
        let driver = self.registry.driver(name.as_deref().unwrap_or_default(), &self.dir)?;
        config.vm_type = name;
        let instance = self.instance(config, port);
        let instance = driver.configure(instance.clone()).await.unwrap_or(instance);
        let identity = ssh::keys::ensure(&self.home).await?;
        let iid = record.map(|record| record.iid.clone()).unwrap_or_default();
        let mut prepared = self.prepared(driver, &instance, identity, iid, false).await?;
        let record = record.filter(|record| record.boot_id == store::boot_id());
        prepared.facts.started = record.and_then(|record| record.started.clone());
        prepared.facts.dns = record.and_then(|record| record.dns);
        Ok(prepared)
    }

    /// `chosen` is the driver where no document names one.
    fn load_for(&self, chosen: Option<String>) -> Result<Loaded> {
        let path = self.dir.join(names::LIMA_YAML);
        let Some(text) = store::read_small(&path)? else {
            return Err(Error::Missing { what: format!("{}/{}", self.name, names::LIMA_YAML) });
        };
        let layers = store::layers(&self.dir)?;
        let drivers = drivers::Names { chosen, ..self.host.drivers.clone() };
        let host = Host { drivers, ..self.host.clone() };
        config::load(&text, &Context { name: &self.name, dir: self.dir.clone(), host: &host, layers })
    }

    /// Configures the driver for a start, with the port of the guest's ssh. What a program is, it says only then.
    async fn configure(&self, driver: &dyn Driver, config: Config) -> Result<Instance> {
        let wanted = config.ssh.as_ref().and_then(|ssh| ssh.local_port);
        let instance = driver.configure(self.instance(config, 0)).await?;
        let ssh_local_port = match driver.info().features.static_ssh_port {
            true => port::of_driver(driver, &instance).await?,
            false => port::choose(wanted, self.last_port(store::record(&self.dir).as_ref()))?,
        };
        Ok(driver.configure(Instance { ssh_local_port, ..instance }).await?)
    }

    fn last_port(&self, record: Option<&Record>) -> Option<u16> {
        record.map(|record| record.ssh_local_port).filter(|port| *port != 0).or_else(|| ssh::config::port(&self.dir))
    }

    /// Where the guest's name server is to listen, if it has one of ours.
    fn dns_ports(&self, config: &Config, features: &Features) -> Result<Option<Ports>> {
        let wanted = config.host_resolver.as_ref().and_then(|resolver| resolver.enabled);
        // A guest in a network of somebody else's asks whom it is told there.
        if config.plain == Some(true) || wanted != Some(true) || !cidata::has_user_network(features) {
            return Ok(None);
        }
        let last = store::record(&self.dir).and_then(|record| record.dns);
        dns::choose(last).map(Some).map_err(|error| Error::failed("ports for the guest's name server", error))
    }

    fn instance(&self, config: Config, port: u16) -> Instance {
        let bytes = |text: &Option<String>| text.as_deref().and_then(config::size).unwrap_or(0);
        let version = store::read_small(&self.dir.join(names::LIMA_VERSION)).ok().flatten().unwrap_or_default();
        Instance {
            name: self.name.to_string(),
            hostname: self.name.hostname(),
            status: "Stopped".into(),
            dir: self.dir.clone(),
            vm_type: config.vm_type.clone().unwrap_or_default(),
            arch: config.arch.clone().unwrap_or_default(),
            cpus: config.cpus.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1),
            memory: bytes(&config.memory),
            disk: bytes(&config.disk),
            ssh_local_port: port,
            ssh_address: String::new(),
            protected: self.dir.join(names::PROTECTED).exists(),
            lima_version: String::from_utf8_lossy(&version).trim().to_owned(),
            data_disks: vec![],
            config,
        }
    }

    async fn make_disk(&self, driver: &Arc<dyn Driver>, config: &Config, tell: &mpsc::Sender<Event>) -> Result<()> {
        let features = driver.info().features;
        // The host keys of an earlier disk went with it. Without cloud-init its driver has it elsewhere.
        if !self.dir.join(names::DISK).exists() && !features.no_cloud_init {
            ssh::pin::remove(&self.dir.join(names::KNOWN_HOSTS))?;
        }
        image::fetch(config, &features.supported_image_formats, &self.dir, tell).await?;
        firmware::fetch(config, &self.dir, tell).await?;
        step(tell, "making the disk").await;
        Ok(driver.create_disk().await?)
    }

    async fn prepared(
        &self,
        driver: Arc<dyn Driver>,
        instance: &Instance,
        identity: Identity,
        iid: String,
        is_fresh: bool,
    ) -> Result<Prepared> {
        let info = driver.info();
        let features = &info.features;
        // One that is to be asked for after the start may not be an answer before it.
        let address = if features.dynamic_ssh_address { String::new() } else { driver.ssh_address().await? };
        // Where there is no address yet, it comes with the VM.
        let has_guest = features.dynamic_ssh_address || !address.is_empty();
        let line = has_guest.then(|| Arc::new(Line::new(self.login(&address, instance, identity))));
        let facts = Facts {
            driver: instance.vm_type.clone(),
            ssh_address: address,
            ssh_local_port: instance.ssh_local_port,
            iid,
            ..Facts::default()
        };
        // What a guest reported to an earlier hostagent it does not report again.
        let push = is_fresh && !info.boot_port.is_empty();
        let probes = user_probes::of(&instance.config)?;
        let mounts = Arc::new(Mounts::of(&instance.config));
        let (config, returned) = (Arc::new(instance.config.clone()), AtomicBool::new(false));
        Ok(Prepared { driver, facts, config, line, mounts, returned, push, probes, parcel: None })
    }

    fn login(&self, address: &str, instance: &Instance, identity: Identity) -> Login {
        let user = instance.config.user.as_ref().and_then(|user| user.name.clone());
        Login {
            address: address.to_owned(),
            port: instance.ssh_local_port,
            user: user.unwrap_or_else(|| self.host.user.name.clone()),
            key: identity.key,
            identity_file: self.home.config(names::USER_KEY),
            alias: self.name.hostname(),
            known_hosts: self.dir.join(names::KNOWN_HOSTS),
            options: guest::ssh_options(&instance.config),
        }
    }
}

/// Tells the driver of one more disk; where it takes none, returns the file that is to be among those of cidata.
async fn with_archive(
    driver: &Arc<dyn Driver>,
    mut instance: Instance,
    disk: Option<DataDisk>,
) -> Result<(Instance, Option<PathBuf>)> {
    let Some(disk) = disk else { return Ok((instance, None)) };
    let info = driver.info();
    if info.features.own_images {
        let why = format!("the {} driver cannot give its archive to a guest", info.name);
        return Err(Error::unsupported("containerd", why));
    }
    if !info.features.data_disks {
        return Ok((instance, Some(disk.path)));
    }
    instance.data_disks = vec![disk];
    Ok((driver.configure(instance).await?, None))
}

async fn step(tell: &mpsc::Sender<Event>, name: &str) {
    // Nobody listens any more: this boot is being ended.
    let _ = tell.send(Event::Step(Step::named(name))).await;
}
