//! Keeps the tree true: finds instances and hostagents, follows each hostagent, has VMs taken up again whose hostagent
//! died, and writes the root's events. Runs no VM and decides nothing about one.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::View;
use super::ino::Key;
use super::snapshot::{Live, Snapshot};
use super::watch::Watch;
use crate::agent::{self, Heard};
use crate::error::{Error, Result};
use crate::names::{self, Name};
use crate::store::{self, Lock};

/// So many hostagents of one instance may die within [`ADOPTION_WINDOW`] before it is left alone.
const ADOPTIONS: usize = 3;
const ADOPTION_WINDOW: Duration = Duration::from_secs(60);
/// Bytes of the root's events before they are rotated.
const EVENTS_LIMIT: u64 = 1 << 20;

#[derive(Default)]
pub struct Fleet {
    following: Mutex<HashSet<Key>>,
    adoptions: Mutex<HashMap<Key, Vec<Instant>>>,
    runtime: OnceLock<Handle>,
    pub watch: OnceLock<Watch>,
}

impl View {
    /// Fills the tree from the home and begins to keep it true. Called once, on the runtime that serves it.
    pub fn start(&self) -> Result<()> {
        // Set once: a view is started once.
        let _ = self.0.fleet.runtime.set(Handle::current());
        store::prepare(&self.0.home)?;
        store::sweep(&self.0.home)?;
        let watch = Watch::new(self.clone())?;
        let _ = self.0.fleet.watch.set(watch);
        for name in store::list(&self.0.home)? {
            self.0.tree.lock().add(&name)?;
        }
        let found: Vec<_> = self.0.tree.lock().names().map(|(name, key)| (name.clone(), key)).collect();
        for (name, key) in &found {
            self.watch(*key, name);
            if self.is_live(name) {
                self.find_agent(*key);
            }
        }
        self.load_in_background(found.into_iter().map(|(_, key)| key).collect());
        Ok(())
    }

    /// Reads instances that nobody has asked for yet, so that the first `cat list` finds them read.
    fn load_in_background(&self, keys: Vec<Key>) {
        let view = self.clone();
        tokio::task::spawn_blocking(move || {
            for key in keys {
                // Locked and let go for each: requests come in between. One that is gone is left out.
                let _ = view.0.tree.lock().snapshot(key, &view.0.host);
            }
        });
    }

    /// Whether the directory shows signs of a hostagent or a VM. Cheap: a thousand of these are asked at each mount.
    fn is_live(&self, name: &Name) -> bool {
        let dir = self.0.home.path().join(name.as_str());
        [names::HA_SOCK, names::HA_PID].iter().any(|file| dir.join(file).exists())
            || Lock::is_held(&dir)
            || has_driver_pid(&dir)
            || store::record(&dir).is_some_and(|record| record.state.is_live())
    }

    /// Follows the instance's hostagent, or has one take its VM up.
    pub(super) fn find_agent(&self, key: Key) {
        let Ok(snapshot) = self.snapshot(key) else { return };
        let listens = UnixStream::connect(snapshot.dir.join(names::HA_SOCK)).is_ok();
        if !listens && !self.must_adopt(&snapshot) {
            return;
        }
        self.changed(key, |snapshot| {
            // Until a hostagent speaks, the record's last word counts.
            if matches!(snapshot.live, Live::None) {
                snapshot.live = Live::Lost;
            }
        });
        self.follow(key, !listens);
    }

    fn must_adopt(&self, snapshot: &Snapshot) -> bool {
        let recorded = snapshot.record.as_ref().is_some_and(|record| record.state.is_live());
        recorded && snapshot.is_record_of_this_boot() || has_driver_pid(&snapshot.dir)
    }

    /// Listens to the instance's hostagent from now on; `adopt` has one started first that takes the VM up.
    pub(super) fn follow(&self, key: Key, mut adopt: bool) {
        let Some(runtime) = self.0.fleet.runtime.get() else { return };
        if self.0.fleet.following.lock().insert(key) {
            let view = self.clone();
            runtime.spawn(async move {
                loop {
                    if adopt && let Err(error) = view.adopt(key).await {
                        view.heard(key, Live::None);
                        view.refuse(Some(key), &error);
                        break;
                    }
                    let spawned = view.spawned(key);
                    view.listen(key).await;
                    if view.spawned(key).is_some_and(|since| Some(since) != spawned) {
                        // It left, and somebody has started the next one meanwhile.
                        break;
                    }
                    adopt = view.was_lost(key);
                    if !adopt {
                        break;
                    }
                }
                view.0.fleet.following.lock().remove(&key);
                // Who started the next one may have found the instance followed already, by this.
                if view.spawned(key).is_some() {
                    view.find_agent(key);
                }
                view.wake(key);
            });
        }
    }

    /// Starts a hostagent that takes up the VM of one that died.
    async fn adopt(&self, key: Key) -> Result<()> {
        let name = self.name(key)?;
        {
            let mut adoptions = self.0.fleet.adoptions.lock();
            let recent = adoptions.entry(key).or_default();
            recent.retain(|when| when.elapsed() < ADOPTION_WINDOW);
            if recent.len() >= ADOPTIONS {
                return Err(Error::failed("hostagent", format!("died {ADOPTIONS} times within a minute; see log")));
            }
            recent.push(Instant::now());
        }
        agent::spawn(&self.0.home, &name, true).await.map(|_| ())
    }

    /// Listens until the hostagent is gone.
    async fn listen(&self, key: Key) {
        let Ok(snapshot) = self.snapshot(key) else { return };
        let (send, mut heard) = mpsc::channel(16);
        let following = agent::follow(&snapshot.dir, send);
        let hearing = async {
            while let Some(word) = heard.recv().await {
                match word {
                    Heard::Status(status) => self.heard(key, Live::Agent(status)),
                    Heard::Foreign { ssh_local_port } => self.heard(key, Live::Foreign { ssh_local_port }),
                    Heard::Gone => break,
                }
            }
        };
        tokio::join!(following, hearing);
    }

    /// After a hostagent is gone: takes over what it left. Says whether another one has to take the VM up.
    fn was_lost(&self, key: Key) -> bool {
        self.changed(key, Snapshot::reread);
        let Ok(snapshot) = self.snapshot(key) else { return false };
        let lost = !matches!(snapshot.live, Live::Foreign { .. }) && self.must_adopt(&snapshot);
        self.heard(key, if lost { Live::Lost } else { Live::None });
        lost
    }

    /// Since when a hostagent is on its way.
    fn spawned(&self, key: Key) -> Option<Timestamp> {
        match self.snapshot(key).ok()?.live {
            Live::Spawning { since } => Some(since),
            _ => None,
        }
    }

    pub(super) fn heard(&self, key: Key, live: Live) {
        let mut told = None;
        self.changed(key, |snapshot| {
            let before = (snapshot.state(), snapshot.goal());
            snapshot.live = live;
            let after = (snapshot.state(), snapshot.goal());
            if before != after {
                told = Some((snapshot.name.clone(), after));
            }
        });
        if let Some((name, (state, goal))) = told {
            self.tell(&name, json!({ "time": Timestamp::now(), "state": state, "goal": goal }));
        }
        self.watch_logs(key);
    }

    /// Adds a line to the root's events.
    pub(super) fn happened(&self, name: &Name, change: &str) {
        self.tell(name, json!({ "time": Timestamp::now(), "change": change }));
    }

    fn tell(&self, name: &Name, event: Value) {
        let line = format!("{}\n", json!({ "instance": name.as_str(), "event": event }));
        let path = self.0.home.ours(names::ROOT_EVENTS);
        if let Err(error) = append(&path, line.as_bytes()) {
            tracing::warn!("{}: {error}", path.display());
        }
    }
}

fn append(path: &Path, line: &[u8]) -> std::io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > EVENTS_LIMIT) {
        fs::rename(path, path.with_extension("jsonl.1"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(line)
}

/// Whether there is a pid file of a driver: of Lima's or of ours, alive or not.
fn has_driver_pid(dir: &Path) -> bool {
    ["qemu.pid", "fake.pid", "vz.pid"].iter().any(|file| dir.join(file).exists())
}
