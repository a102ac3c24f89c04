//! Keeps the tree true: finds instances and hostagents, follows each hostagent, has VMs taken up again whose hostagent
//! died, and writes the root's events. Runs no VM and decides nothing about one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
use crate::status::Status;
use crate::store::{self, Lock};

/// So many hostagents of one instance may die within [`ADOPTION_WINDOW`] before the next one has to wait.
const ADOPTIONS: usize = 5;
const ADOPTION_WINDOW: Duration = Duration::from_secs(60);
/// Less than a verb waits for a hostagent.
const ADOPTION_PAUSE: Duration = Duration::from_secs(5);
/// Between the socket and the listener of a hostagent.
const COMING_UP: Duration = Duration::from_secs(1);
/// Bytes of the root's events before they are rotated.
const EVENTS_LIMIT: u64 = 1 << 20;

#[derive(Default)]
pub struct Fleet {
    /// Who is followed, and whether to look once more at the end.
    following: Mutex<HashMap<Key, bool>>,
    adoptions: Mutex<HashMap<Key, Vec<Instant>>>,
    runtime: OnceLock<Handle>,
    pub watch: OnceLock<Watch>,
}

impl Fleet {
    pub fn runtime(&self) -> Option<&Handle> {
        self.runtime.get()
    }
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
        self.watch_templates();
        self.config_changed();
        self.start_drivers();
        for name in store::list(&self.0.home)? {
            self.0.tree.lock().add(&name)?;
        }
        self.reread_disks();
        let found: Vec<_> = self.0.tree.lock().names().map(|(name, key)| (name.clone(), key)).collect();
        for (name, key) in &found {
            self.watch(*key, name);
            if self.is_live(name) {
                self.find_agent(*key);
            }
        }
        self.start_images()?;
        self.load_in_background(found.into_iter().map(|(_, key)| key).collect());
        Ok(())
    }

    /// Does something beside whoever asks.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = self.0.fleet.runtime.get() {
            runtime.spawn(work);
        }
    }

    /// Reads instances that nobody has asked for yet, so that the first `cat list` finds them read.
    fn load_in_background(&self, keys: Vec<Key>) {
        let view = self.clone();
        tokio::task::spawn_blocking(move || {
            for key in keys {
                // Locked and let go for each: requests come in between. One that is gone is left out.
                let _ = view.0.tree.lock().snapshot(key, &view.0.host);
            }
            view.ask_for_choice();
        });
    }

    /// Whether the directory shows signs of a hostagent or a VM. Cheap: a thousand of these are asked at each mount.
    fn is_live(&self, name: &Name) -> bool {
        let dir = self.0.home.path().join(name.as_str());
        [names::HA_SOCK, names::HA_PID].iter().any(|file| dir.join(file).exists())
            || Lock::is_held(&dir)
            || has_driver(&dir)
            || store::record(&dir).is_some_and(|record| record.state.is_live())
    }

    /// Follows a hostagent that is coming up: Lima's makes its socket before it listens, and tells nobody when it does.
    pub(super) fn expect_agent(&self, key: Key) {
        let (Some(runtime), Ok(snapshot)) = (self.0.fleet.runtime.get(), self.snapshot(key)) else { return };
        let (view, socket) = (self.clone(), snapshot.dir.join(names::HA_SOCK));
        runtime.spawn(async move {
            let deadline = Instant::now() + COMING_UP;
            while socket.exists() && Instant::now() < deadline {
                if UnixStream::connect(&socket).is_ok() {
                    return view.follow(key);
                }
                tokio::time::sleep(COMING_UP / 50).await;
            }
        });
    }

    /// Follows the instance's hostagent, or has one take its VM up, if there is either.
    pub(super) fn find_agent(&self, key: Key) {
        let Ok(snapshot) = self.snapshot(key) else { return };
        if listens(&snapshot) || has_vm(&snapshot) {
            self.changed(key, |snapshot| {
                // Until a hostagent speaks, the record's last word counts.
                if matches!(snapshot.live, Live::None) {
                    snapshot.live = Live::Lost;
                }
            });
            self.follow(key);
        }
    }

    /// Listens to the instance's hostagents from now on, as long as there is one, or a VM that needs one. Whoever asks
    /// while that is done already, has it looked at once more: what was found may be about to end.
    pub(super) fn follow(&self, key: Key) {
        let Some(runtime) = self.0.fleet.runtime.get() else { return };
        match self.0.fleet.following.lock().entry(key) {
            Entry::Occupied(mut again) => {
                again.insert(true);
                return;
            }
            Entry::Vacant(vacant) => vacant.insert(false),
        };
        let view = self.clone();
        runtime.spawn(async move {
            view.jobs_changed(key);
            loop {
                view.follow_until_rest(key).await;
                view.wake(key);
                let mut following = view.0.fleet.following.lock();
                if following.insert(key, false) != Some(true) {
                    following.remove(&key);
                    return;
                }
            }
        });
    }

    async fn follow_until_rest(&self, key: Key) {
        while let Ok(snapshot) = self.snapshot(key) {
            if listens(&snapshot) {
                // One that says nothing, or nonsense, is not asked all the time.
                if !self.listen(key).await {
                    tokio::time::sleep(COMING_UP).await;
                }
            } else if has_vm(&snapshot)
                && let Err((attempt, error)) = self.adopt(key).await
            {
                // One that was killed while it came up is one more that died.
                if attempt < ADOPTIONS {
                    continue;
                }
                self.heard(key, Live::None);
                return self.refuse(Some(key), &error);
            }
            if !self.was_lost(key, &snapshot.live) {
                return;
            }
        }
    }

    /// Starts a hostagent that takes up the VM of one that died. Fails with the number of attempts of late.
    async fn adopt(&self, key: Key) -> std::result::Result<(), (usize, Error)> {
        let name = self.name(key).map_err(|error| (ADOPTIONS, error))?;
        let recent = {
            let mut adoptions = self.0.fleet.adoptions.lock();
            let recent = adoptions.entry(key).or_default();
            recent.retain(|when| when.elapsed() < ADOPTION_WINDOW);
            recent.push(Instant::now());
            recent.len()
        };
        if recent > ADOPTIONS {
            tracing::warn!("{name}: {recent} hostagents died within {ADOPTION_WINDOW:?}; the next one has to wait");
            tokio::time::sleep(ADOPTION_PAUSE).await;
        }
        agent::spawn(&self.0.home, &name, true).await.map(|_| ()).map_err(|error| (recent, error))
    }

    /// Listens until the hostagent is gone. Says whether it was heard at all.
    async fn listen(&self, key: Key) -> bool {
        let Ok(snapshot) = self.snapshot(key) else { return false };
        let (send, mut heard) = mpsc::channel(16);
        let following = agent::follow(&snapshot.dir, send);
        let hearing = async {
            let mut any = false;
            while let Some(word) = heard.recv().await {
                match word {
                    Heard::Status(status) => self.heard(key, Live::Agent(status)),
                    Heard::Foreign { ssh_local_port } => self.heard(key, Live::Foreign { ssh_local_port }),
                    Heard::Gone => break,
                }
                any = true;
            }
            any
        };
        tokio::join!(following, hearing).1
    }

    /// After a hostagent is gone: takes over what it left. Says whether another one has to take the VM up. Somebody may
    /// have started the next one meanwhile: one that is on its way, or was not in what was `known` before, is let be.
    fn was_lost(&self, key: Key, known: &Live) -> bool {
        self.changed(key, Snapshot::reread);
        let Ok(snapshot) = self.snapshot(key) else { return false };
        let is_foreign = matches!(snapshot.live, Live::Foreign { .. });
        let lost = !is_foreign && has_vm(&snapshot) && is_recorded(&snapshot);
        let next = if lost { Live::Lost } else { Live::None };
        let mut is_let_be = false;
        self.take_in(key, next, |now| {
            is_let_be = match (now, known) {
                (Live::Spawning { listens: false, .. }, _) => true,
                (Live::Spawning { since: now, .. }, Live::Spawning { since: known, .. }) => now != known,
                (Live::Spawning { .. }, _) => true,
                _ => false,
            };
            !is_let_be
        });
        lost && !is_let_be
    }

    /// Notes what became of the hostagent that is on its way `since` then.
    pub(super) fn came_up(&self, key: Key, since: Timestamp, listens: bool) {
        let live = if listens { Live::Spawning { since, listens } } else { Live::None };
        self.take_in(key, live, |known| matches!(known, Live::Spawning { since: known, .. } if *known == since));
        self.follow(key);
    }

    /// Takes in a hostagent's answer, which may have overtaken what is followed, or be overtaken by its end.
    pub(super) fn caught_up(&self, key: Key, status: Status) {
        let pid = status.hostagent_pid;
        self.take_in(
            key,
            Live::Agent(Box::new(status)),
            |known| matches!(known, Live::Agent(known) if known.hostagent_pid == pid),
        );
    }

    pub(super) fn heard(&self, key: Key, live: Live) {
        self.take_in(key, live, |_| true);
    }

    fn take_in(&self, key: Key, live: Live, fits: impl FnOnce(&Live) -> bool) {
        let mut told = None;
        self.changed(key, |snapshot| {
            let is_late = match (&live, &snapshot.live) {
                (Live::Agent(new), Live::Agent(known)) => new.is_before(known),
                _ => false,
            };
            if is_late || !fits(&snapshot.live) {
                return;
            }
            let before = (snapshot.state(), snapshot.goal());
            let place = |snapshot: &Snapshot| (snapshot.ssh_address().to_owned(), snapshot.ssh_local_port());
            let was_at = place(snapshot);
            snapshot.live = live;
            if place(snapshot) != was_at {
                // Written before it was said: whoever reads where the guest is may use it at once.
                snapshot.read_ssh_config();
            }
            if !snapshot.state().is_live() {
                snapshot.memory = None;
            }
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

fn listens(snapshot: &Snapshot) -> bool {
    UnixStream::connect(snapshot.dir.join(names::HA_SOCK)).is_ok()
}

fn append(path: &Path, line: &[u8]) -> std::io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > EVENTS_LIMIT) {
        fs::rename(path, path.with_extension("jsonl.1"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(line)
}

/// Whether a VM runs, as far as can be seen without a driver.
fn has_vm(snapshot: &Snapshot) -> bool {
    // Where the document is gone somebody is deleting the instance: a hostagent would write into what vanishes.
    snapshot.dir.join(names::LIMA_YAML).exists() && (is_recorded(snapshot) || has_driver(&snapshot.dir))
}

/// Whether the last hostagent left a VM.
fn is_recorded(snapshot: &Snapshot) -> bool {
    snapshot.record.as_ref().is_some_and(|record| record.state.is_live()) && snapshot.is_record_of_this_boot()
}

/// Whether the pid file of a driver, Lima's or ours, names a process. It may be another one by now, which the driver
/// finds out.
fn has_driver(dir: &Path) -> bool {
    ["qemu.pid", "fake.pid", "vz.pid", "krunkit.pid", "wsl2.pid"].iter().any(|file| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.trim().parse::<u32>().is_ok_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
    })
}
