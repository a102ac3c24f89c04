//! A driver that pretends, steps that take no time, and a hostagent around them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use limafs_driver as driver;
use limafs_driver::{Driver, Info, Vm, VmEvent};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::agent::{self, Heard};
use crate::error::{Error, Result};
use crate::hostagent::actor::{End, Request};
use crate::hostagent::facts::Facts;
use crate::hostagent::mounts::Mounts;
use crate::hostagent::state::{Event, Step};
use crate::hostagent::steps::{Prepared, Steps};
use crate::hostagent::{Life, live};
use crate::names::{self, Name};
use crate::status::{State, Status};
use crate::store::{self, Record};

/// No test waits longer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default)]
pub struct Setting {
    pub hang_in_prepare: bool,
    pub fail_in_prepare: Option<&'static str>,
    pub hang_in_start: bool,
    pub ignore_powerdown: bool,
    pub paused_at_attach: bool,
}

pub struct Pretend {
    dir: PathBuf,
    setting: Setting,
    world: Mutex<World>,
    starting: watch::Sender<bool>,
    heeding: watch::Sender<bool>,
}

#[derive(Default)]
struct World {
    vm: usize,
    most: usize,
    starts: usize,
    events: Option<mpsc::Sender<VmEvent>>,
    record_at_start: Option<Record>,
}

impl Pretend {
    pub fn starts(&self) -> usize {
        self.world.lock().starts
    }

    pub fn most_vms(&self) -> usize {
        self.world.lock().most
    }

    pub fn has_vm(&self) -> bool {
        self.world.lock().vm > 0
    }

    pub fn record_at_start(&self) -> Option<Record> {
        self.world.lock().record_at_start.clone()
    }

    pub fn heed_powerdown(&self) {
        self.heeding.send_replace(true);
    }

    /// The VM ends while nobody watches.
    pub fn vanish(&self) {
        self.world.lock().vm = 0;
    }

    pub async fn is_starting(&self) {
        self.starting.subscribe().wait_for(|starting| *starting).await.unwrap();
    }

    pub async fn does(&self, event: VmEvent) {
        if matches!(event, VmEvent::Exited { .. }) {
            self.vanish();
        }
        let events = self.world.lock().events.clone();
        events.unwrap().send(event).await.unwrap();
    }

    fn vm(&self) -> Vm {
        let (sender, events) = mpsc::channel(16);
        self.world.lock().events = Some(sender);
        Vm { pid: Some(4711), accelerator: None, events }
    }
}

#[async_trait]
impl Driver for Pretend {
    fn info(&self) -> Info {
        Info { name: "pretend".into(), ..Info::default() }
    }

    async fn configure(&self, instance: driver::Instance) -> driver::Result<driver::Instance> {
        Ok(instance)
    }

    async fn validate(&self) -> driver::Result<()> {
        Ok(())
    }

    async fn create_disk(&self) -> driver::Result<()> {
        Ok(())
    }

    async fn start(&self) -> driver::Result<Vm> {
        {
            let mut world = self.world.lock();
            world.record_at_start = store::record(&self.dir);
            world.starts += 1;
            world.vm += 1;
            world.most = world.most.max(world.vm);
        }
        self.starting.send_replace(true);
        if self.setting.hang_in_start {
            std::future::pending::<()>().await;
        }
        Ok(self.vm())
    }

    async fn attach(&self) -> driver::Result<Option<Vm>> {
        if !self.has_vm() {
            return Ok(None);
        }
        let vm = self.vm();
        if self.setting.paused_at_attach {
            self.does(VmEvent::Paused).await;
        }
        Ok(Some(vm))
    }

    async fn stop(&self, _grace: Duration) -> driver::Result<()> {
        self.heeding.subscribe().wait_for(|heeding| *heeding).await.unwrap();
        self.kill().await
    }

    async fn kill(&self) -> driver::Result<()> {
        self.vanish();
        Ok(())
    }

    async fn pause(&self) -> driver::Result<()> {
        Ok(())
    }

    async fn resume(&self) -> driver::Result<()> {
        Ok(())
    }
}

struct Pretence {
    driver: Arc<Pretend>,
}

impl Pretence {
    fn prepared(&self, iid: &str) -> Prepared {
        let facts = Facts {
            driver: "pretend".into(),
            ssh_address: "127.0.0.1".into(),
            ssh_local_port: 60022,
            iid: iid.into(),
            ..Facts::default()
        };
        Prepared {
            returned: Default::default(),
            driver: Arc::clone(&self.driver) as _,
            facts,
            config: Arc::default(),
            line: None,
            mounts: Arc::new(Mounts::of(&driver::Config::default())),
            push: false,
            probes: vec![],
            parcel: None,
        }
    }
}

#[async_trait]
impl Steps for Pretence {
    async fn prepare(&self, tell: &mpsc::Sender<Event>) -> Result<Prepared> {
        tell.send(Event::Step(Step::named("making pretence"))).await.unwrap();
        if self.driver.setting.hang_in_prepare {
            std::future::pending::<()>().await;
        }
        match self.driver.setting.fail_in_prepare {
            Some(why) => Err(Error::Document(vec![why.into()])),
            None => Ok(self.prepared("iid-1")),
        }
    }

    async fn recover(&self, _record: Option<&Record>) -> Result<Prepared> {
        Ok(self.prepared("iid-1"))
    }

    async fn await_ready(&self, _: &Prepared, _: mpsc::Receiver<String>, tell: &mpsc::Sender<Event>) {
        tell.send(Event::Ssh).await.unwrap();
        tell.send(Event::Done(vec![])).await.unwrap();
    }
}

/// An instance directory and the driver whose VM it has.
pub struct Instance {
    pub dir: PathBuf,
    pub driver: Arc<Pretend>,
    _home: TempDir,
}

impl Instance {
    pub fn new(setting: Setting) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("foo");
        std::fs::create_dir(&dir).unwrap();
        let driver = Pretend {
            dir: dir.clone(),
            heeding: watch::Sender::new(!setting.ignore_powerdown),
            starting: watch::Sender::new(false),
            setting,
            world: Mutex::default(),
        };
        Self { dir, driver: Arc::new(driver), _home: home }
    }

    pub fn run(&self, adopt: bool) -> Agent {
        let (requests_to, requests) = mpsc::channel(8);
        let life = Life {
            name: Name::parse("foo").unwrap(),
            dir: self.dir.clone(),
            adopt,
            steps: Arc::new(Pretence { driver: Arc::clone(&self.driver) }),
            lima: Box::new(std::io::sink()),
            requests_to: requests_to.clone(),
            requests,
        };
        Agent {
            dir: self.dir.clone(),
            requests: requests_to,
            life: tokio::spawn(live(life)),
            heard: None,
            _follow: JoinSet::new(),
        }
    }
}

/// A hostagent that lives in this process, and someone who follows it.
pub struct Agent {
    dir: PathBuf,
    requests: mpsc::Sender<Request>,
    life: JoinHandle<Result<End>>,
    heard: Option<mpsc::Receiver<Heard>>,
    _follow: JoinSet<()>,
}

impl Agent {
    pub async fn request(&self, request: Request) {
        assert!(self.requests.send(request).await.is_ok());
    }

    /// How it ended.
    pub async fn end(self) -> Result<End> {
        timeout(PATIENCE, self.life).await.unwrap().unwrap()
    }

    pub async fn first(&mut self) -> Status {
        match self.next().await {
            Heard::Status(status) => *status,
            heard => panic!("{heard:?}"),
        }
    }

    /// The next status with that state.
    pub async fn until(&mut self, state: State) -> Status {
        loop {
            let status = self.first().await;
            if status.state == state {
                return status;
            }
        }
    }

    pub async fn next(&mut self) -> Heard {
        if self.heard.is_none() {
            self.follow().await;
        }
        let heard = self.heard.as_mut().unwrap();
        timeout(PATIENCE, heard.recv()).await.unwrap().unwrap_or(Heard::Gone)
    }

    /// Follows from when it listens.
    async fn follow(&mut self) {
        let listens = async {
            while tokio::net::UnixStream::connect(self.dir.join(names::HA_SOCK)).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, listens).await.unwrap();
        let (tx, heard) = mpsc::channel(64);
        let dir = self.dir.clone();
        self._follow.spawn(async move { agent::follow(&dir, tx).await });
        self.heard = Some(heard);
    }
}
