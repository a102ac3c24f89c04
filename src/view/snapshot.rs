//! All that is known of one instance, gathered so that nodes can be rendered without asking anybody.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use crate::config::{self, Context, Layers, Loaded};
use crate::drivers::Choice;
use crate::host::Host;
use crate::names::{self, Home, Name};
use crate::started::{Machine, Started};
use crate::status::{Goal, State, Status};
use crate::store::{self, Kept, Record};

/// What is heard of a running instance.
#[derive(Debug, Clone, Default)]
pub enum Live {
    /// No hostagent, none expected.
    #[default]
    None,
    /// A hostagent was started and has not spoken yet.
    Spawning { since: Timestamp, listens: bool },
    /// The hostagent died under a running VM; another one is taking it up. Holds the record's last word.
    Lost,
    /// Lima's own hostagent runs it.
    Foreign { ssh_local_port: u16 },
    /// Our hostagent's latest word.
    Agent(Box<Status>),
}

/// lima.yaml, as far as it goes.
#[derive(Debug, Clone)]
pub enum Definition {
    /// There is none yet.
    Draft,
    Valid {
        text: Arc<[u8]>,
        loaded: Arc<Loaded>,
    },
    /// Somebody else wrote one that is refused; the sentences say why.
    Invalid {
        text: Arc<[u8]>,
        faults: String,
    },
}

/// What the pid files of an instance say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pids {
    pub hostagent: Option<u32>,
    pub driver: Option<u32>,
    /// When the hostagent wrote its own.
    pub since: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub name: Name,
    pub dir: PathBuf,
    pub host: Host,
    /// What applies to every instance of the home.
    pub layers: Layers,
    /// Of the instance directory.
    pub created: SystemTime,
    pub definition: Definition,
    /// `effective.origins.yaml` of this definition, once it was asked for.
    pub origins: OnceLock<String>,
    /// Of lima.yaml, or of the directory while there is none.
    pub defined: SystemTime,
    pub protected: bool,
    /// `ssh.config` as the last hostagent wrote it.
    pub ssh_config: Option<Arc<str>>,
    /// `lima-version` as it was made; empty while there is none.
    pub lima_version: String,
    /// What Lima's pid files say; counts only while Lima's hostagent runs it.
    pub pids: Pids,
    /// Of this boot of the host only.
    pub record: Option<Record>,
    /// The driver that it would have if it names none and has none yet.
    choice: Choice,
    /// The driver that it has.
    kept: Kept,
    /// As its driver last told of them.
    pub snapshots: Vec<limafs_driver::Snapshot>,
    /// Being taken, and since when.
    pub taking: Vec<(String, SystemTime)>,
    /// Could not be taken, and why.
    pub untaken: BTreeMap<String, String>,
    /// What its guest made of its memory, when somebody asked.
    pub memory: Option<(limafs_driver::Memory, Instant)>,
    pub live: Live,
    /// The latest refused write, until something succeeds.
    pub refusal: Option<(Timestamp, String)>,
}

impl Snapshot {
    /// Reads an instance directory. Never fails: what cannot be read is shown as broken.
    pub fn read(home: &Home, host: &Host, name: &Name, choice: Choice) -> Self {
        let dir = home.path().join(name.as_str());
        let created = fs::metadata(&dir).ok().and_then(|meta| meta.modified().ok()).unwrap_or(UNIX_EPOCH);
        let mut snapshot = Self {
            name: name.clone(),
            host: host.clone(),
            layers: Layers::default(),
            created,
            definition: Definition::Draft,
            origins: OnceLock::new(),
            defined: created,
            protected: false,
            ssh_config: None,
            lima_version: String::new(),
            pids: Pids::default(),
            record: None,
            choice,
            kept: Kept::Nothing,
            snapshots: Vec::new(),
            taking: Vec::new(),
            untaken: BTreeMap::new(),
            memory: None,
            live: Live::None,
            refusal: None,
            dir,
        };
        snapshot.reread();
        snapshot
    }

    /// Takes in what changed on disk; what is heard from a hostagent stays.
    pub fn reread(&mut self) {
        self.protected = self.dir.join(names::PROTECTED).exists();
        self.record = store::record(&self.dir);
        self.kept = store::kept_driver(&self.dir, self.record.as_ref());
        self.snapshots = store::snapshots(&self.dir);
        self.read_ssh_config();
        self.lima_version = self.read_text(names::LIMA_VERSION).unwrap_or_default().trim().to_owned();
        self.read_definition();
        self.pids = self.read_pids();
    }

    /// Takes in how the guest is reached.
    pub fn read_ssh_config(&mut self) {
        self.ssh_config = self.read_text(names::SSH_CONFIG).map(Into::into);
    }

    fn read_text(&self, file: &str) -> Option<String> {
        let bytes = store::read_small(&self.dir.join(file)).ok()??;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn read_pids(&self) -> Pids {
        let pid = |file: &str| self.read_text(file).and_then(|text| text.trim().parse().ok());
        let written = fs::metadata(self.dir.join(names::HA_PID)).ok();
        let driver = self.loaded().and_then(|loaded| loaded.filled.vm_type.clone());
        Pids {
            hostagent: pid(names::HA_PID),
            driver: driver.and_then(|driver| pid(&format!("{driver}.pid"))),
            since: written.and_then(|meta| Timestamp::try_from(time_of(&meta)).ok()),
        }
    }

    fn read_definition(&mut self) {
        let path = self.dir.join(names::LIMA_YAML);
        if let Ok(meta) = fs::metadata(&path) {
            self.defined = time_of(&meta);
        }
        let text: Arc<[u8]> = match store::read_small(&path) {
            Ok(None) => {
                self.set_definition(Definition::Draft);
                return;
            }
            Ok(Some(bytes)) => bytes.into(),
            Err(error) => {
                self.set_definition(Definition::Invalid { text: Arc::from([]), faults: error.to_string() });
                return;
            }
        };
        let layers = match store::layers(&self.dir) {
            Ok(layers) => layers,
            Err(error) => {
                self.set_definition(Definition::Invalid { text, faults: error.to_string() });
                return;
            }
        };
        // Most rereads are for something else than lima.yaml.
        let chosen = self.chosen();
        let same_around = self.layers == layers && self.host.drivers.chosen == chosen;
        self.layers = layers;
        self.host.drivers.chosen = chosen;
        if same_around && matches!(&self.definition, Definition::Valid { text: known, .. } if *known == text) {
            return;
        }
        let definition = match config::load(&text, &self.context()) {
            Ok(loaded) => Definition::Valid { text, loaded: Arc::new(loaded) },
            Err(error) => Definition::Invalid { text, faults: error.to_string() },
        };
        self.set_definition(definition);
    }

    /// The driver where no document names one.
    fn chosen(&self) -> Option<String> {
        match &self.kept {
            Kept::Named(name) => Some(name.clone()),
            Kept::Limas => None,
            Kept::Nothing => self.choice.driver.clone(),
        }
    }

    /// Takes in what would be chosen now.
    pub fn set_choice(&mut self, choice: Choice) {
        self.choice = choice;
        if self.chosen() != self.host.drivers.chosen {
            self.read_definition();
        }
    }

    /// Whether its driver is what is chosen when it is started.
    pub fn is_undecided(&self) -> bool {
        self.kept == Kept::Nothing && self.loaded().is_some_and(|loaded| !loaded.names_driver)
    }

    /// The driver of its definition.
    pub fn driver(&self) -> Option<&str> {
        self.loaded()?.filled.vm_type.as_deref()
    }

    /// Why it has the driver that no document names; empty where one does.
    pub fn why_driver(&self) -> &str {
        match (&self.kept, self.loaded()) {
            (_, None) => "",
            (_, Some(loaded)) if loaded.names_driver => "",
            (Kept::Named(_), _) => "as at its first start",
            (Kept::Limas, _) => "as Lima chooses",
            (Kept::Nothing, _) => &self.choice.why,
        }
    }

    fn set_definition(&mut self, definition: Definition) {
        self.definition = definition;
        self.origins = OnceLock::new();
    }

    pub fn context(&self) -> Context<'_> {
        Context { name: &self.name, dir: self.dir.clone(), host: &self.host, layers: self.layers.clone() }
    }

    pub fn loaded(&self) -> Option<&Loaded> {
        match &self.definition {
            Definition::Valid { loaded, .. } => Some(loaded),
            Definition::Draft | Definition::Invalid { .. } => None,
        }
    }

    /// What the running VM was started with; `None` when there is none, or not of ours.
    fn started(&self) -> Option<&Started> {
        let ours = matches!(self.live, Live::Agent(_) | Live::Lost) && self.is_record_of_this_boot();
        let ours = ours || self.is_suspended();
        self.record.as_ref().filter(|_| ours)?.started.as_ref()
    }

    /// The size of the VM that runs, else of the one that is defined.
    pub fn machine(&self) -> Option<Machine> {
        let running = self.started().map(|started| started.machine.clone());
        running.or_else(|| self.loaded().map(|loaded| Machine::of(&loaded.filled)))
    }

    /// The top-level fields of the definition that wait for a restart.
    pub fn pending(&self) -> Vec<String> {
        match (self.started(), self.loaded()) {
            (Some(started), Some(loaded)) => started.differing(&loaded.filled),
            _ => Vec::new(),
        }
    }

    pub fn text(&self) -> Arc<[u8]> {
        match &self.definition {
            Definition::Valid { text, .. } | Definition::Invalid { text, .. } => text.clone(),
            Definition::Draft => Arc::from([]),
        }
    }

    pub fn status(&self) -> Option<&Status> {
        match &self.live {
            Live::Agent(status) => Some(status),
            _ => None,
        }
    }

    pub fn state(&self) -> State {
        match &self.live {
            Live::Agent(status) => status.state,
            Live::Spawning { .. } => State::Starting,
            Live::Foreign { .. } => State::Running,
            Live::Lost => self.record.as_ref().map_or(State::Running, |record| record.state),
            Live::None => match (&self.definition, &self.record) {
                (Definition::Draft, _) => State::Uninitialized,
                (Definition::Invalid { .. }, _) => State::Broken,
                // A live state without a hostagent is a record that nobody could take up any more.
                (_, Some(record))
                    if record.state == State::Broken || record.state.is_live() && self.is_record_of_this_boot() =>
                {
                    State::Broken
                }
                (_, Some(record)) if record.state == State::Suspended => State::Suspended,
                _ => State::Stopped,
            },
        }
    }

    /// There is no VM, but the memory of one: also of one that could not go on.
    pub fn is_suspended(&self) -> bool {
        matches!(self.live, Live::None) && self.record.as_ref().is_some_and(|record| record.suspended)
    }

    pub fn is_record_of_this_boot(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.boot_id == store::boot_id())
    }

    pub fn goal(&self) -> Goal {
        match &self.live {
            Live::Agent(status) => status.goal,
            Live::Spawning { .. } | Live::Foreign { .. } => Goal::Running,
            Live::Lost => self.record.as_ref().map_or(Goal::Running, |record| record.goal),
            Live::None => {
                let failed = |record: &&Record| matches!(record.state, State::Broken | State::Suspended);
                self.record.as_ref().filter(failed).map_or(Goal::Stopped, |record| record.goal)
            }
        }
    }

    /// When the state last changed.
    pub fn since(&self) -> Timestamp {
        let known = match &self.live {
            Live::Agent(status) => Some(status.since),
            Live::Spawning { since, .. } => Some(*since),
            Live::Foreign { .. } => self.pids.since,
            Live::None | Live::Lost => self.record.as_ref().map(|record| record.since),
        };
        known.unwrap_or_else(|| Timestamp::try_from(self.defined).unwrap_or(Timestamp::UNIX_EPOCH))
    }

    /// The hostagent's process and the VM's.
    pub fn processes(&self) -> (Option<u32>, Option<u32>) {
        match &self.live {
            Live::Agent(status) => (Some(status.hostagent_pid), status.driver_pid),
            Live::Foreign { .. } => (self.pids.hostagent, self.pids.driver),
            _ => (None, None),
        }
    }

    /// Why it is Broken or Degraded; sentences.
    pub fn errors(&self) -> Vec<String> {
        match (&self.live, &self.definition) {
            (Live::Agent(status), _) => status.errors.clone(),
            (Live::None, Definition::Invalid { faults, .. }) => vec![faults.clone()],
            (Live::None | Live::Lost, _) => {
                self.record.as_ref().map(|record| record.errors.clone()).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Where the guest's ssh is: here, unless its VM is elsewhere.
    pub fn ssh_address(&self) -> &str {
        match &self.live {
            Live::Agent(status) if !status.ssh_address.is_empty() => &status.ssh_address,
            _ => "127.0.0.1",
        }
    }

    pub fn ssh_local_port(&self) -> u16 {
        match &self.live {
            Live::Agent(status) => status.ssh_local_port,
            Live::Foreign { ssh_local_port } => *ssh_local_port,
            Live::Spawning { .. } | Live::Lost => self.record.as_ref().map_or(0, |record| record.ssh_local_port),
            Live::None => self.last_port(),
        }
    }

    /// As `limactl list` has it for what is stopped: the port that is asked for, else the one of the last boot.
    fn last_port(&self) -> u16 {
        let asked = self.loaded().and_then(|loaded| loaded.filled.ssh.as_ref()?.local_port);
        let last = || {
            let text = self.ssh_config.as_deref()?;
            text.lines().find_map(|line| line.trim().strip_prefix("Port ")?.trim().parse().ok())
        };
        asked.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).or_else(last).unwrap_or(0)
    }
}

fn time_of(meta: &fs::Metadata) -> SystemTime {
    UNIX_EPOCH + Duration::new(meta.mtime().max(0) as u64, meta.mtime_nsec().max(0) as u32)
}
