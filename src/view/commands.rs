//! What waits for the disk or for a hostagent: create, define, delete, rename, and the verbs.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::bases::{self, Patience};
use super::ino::{Key, Target};
use super::node::Command;
use super::snapshot::{Definition, Live, Snapshot};
use super::{Attr, View};
use crate::config::Context;
use crate::error::{Error, Result};
use crate::names::{self, Name};
use crate::status::{Goal, RestOrder, State, Verb};
use crate::store::{self, Lock, Record};
use crate::{agent, config, host};

/// A hostagent that has said its last word needs a moment to let go of the instance.
const LEAVING: Duration = Duration::from_secs(3);
/// One that died is replaced by another one within this.
const REPLACED: Duration = Duration::from_secs(8);

/// Held by file work alone, while a lima.yaml is made of the present one and put in its place.
static DEFINING: Mutex<()> = Mutex::new(());

/// How often it is tried again meanwhile.
const AGAIN: Duration = Duration::from_millis(20);

impl View {
    /// mkdir(2) of an instance.
    pub(super) async fn create(&self, name: Name) -> Result<Attr> {
        let (home, made) = (self.0.home.clone(), name.clone());
        let created = blocking(move || store::create(&home, &made)).await;
        if let Err(error) = created {
            if !matches!(error, Error::Exists { .. }) {
                self.refuse(None, &error);
            }
            return Err(error);
        }
        let attr = self.show(&name)?;
        self.happened(&name, "created");
        self.announce_list();
        Ok(attr)
    }

    /// Makes `bytes` the instance's lima.yaml, or leaves the old one and says why.
    pub(super) async fn define(&self, key: Key, bytes: Vec<u8>, patience: Patience) -> Result<()> {
        let snapshot = self.snapshot(key)?;
        let embedded = bases::embedded(&self.0.home, &snapshot, bytes.clone(), patience).await;
        let view = self.clone();
        self.redefine(key, move |snapshot| {
            let text = embedded?;
            // Places in what nobody has seen help nobody.
            match view.check_definition(snapshot, &text) {
                Err(error) if text != bytes => Err(bases::without_places(error)),
                Err(error) => Err(error),
                Ok(()) => Ok(text),
            }
        })
        .await
    }

    /// The same for a document that is made of the present one.
    async fn redefine(&self, key: Key, edit: impl FnOnce(&Snapshot) -> Result<Vec<u8>> + Send + 'static) -> Result<()> {
        let snapshot = self.snapshot(key)?;
        let done = blocking(move || {
            // Two edits at once must both count.
            let _turn = DEFINING.lock();
            let text = edit(&snapshot)?;
            store::define(&snapshot.dir, &text)
        })
        .await;
        match done {
            Ok(()) => {
                self.changed(key, |snapshot| {
                    snapshot.refusal = None;
                    // A new document clears the failure of the old one; a running VM keeps its own.
                    snapshot.reread();
                });
                self.happened(&self.name(key)?, "defined");
                self.ask_for_choice();
                Ok(())
            }
            Err(error) => {
                self.refuse(Some(key), &error);
                Err(error)
            }
        }
    }

    /// rmdir(2) of an instance.
    pub(super) async fn delete(&self, key: Key) -> Result<()> {
        let snapshot = self.snapshot(key)?;
        let done = self.try_delete(key, snapshot).await;
        if let Err(error) = &done {
            self.refuse(Some(key), error);
        }
        done
    }

    async fn try_delete(&self, key: Key, snapshot: Snapshot) -> Result<()> {
        let name = snapshot.name.clone();
        may_be_deleted(&snapshot)?;
        let lock = take_lock(&snapshot).await?;
        let (home, dir) = (self.0.home.clone(), snapshot.dir);
        agent::remove_elsewhere(&home, &name).await?;
        blocking(move || store::delete(&home, &dir)).await?;
        drop(lock);
        self.0.tree.lock().remove(key);
        self.wake(key);
        self.happened(&name, "deleted");
        self.announce_list();
        let home = self.0.home.clone();
        // The instance is gone already; what is left of its bytes is tried again at the next mount.
        tokio::task::spawn_blocking(move || store::sweep(&home));
        Ok(())
    }

    /// Whether rmdir(2) of the instance would be refused, by what is known.
    pub(super) fn may_be_deleted(&self, key: Key) -> Result<()> {
        may_be_deleted(&self.snapshot(key)?).inspect_err(|error| self.refuse(Some(key), error))
    }

    /// rename(2) of an instance.
    pub(super) async fn move_to(&self, key: Key, to: Name) -> Result<()> {
        let snapshot = self.snapshot(key)?;
        let done = self.try_move(key, snapshot, &to).await;
        if let Err(error) = &done {
            self.refuse(Some(key), error);
        }
        done
    }

    async fn try_move(&self, key: Key, snapshot: Snapshot, to: &Name) -> Result<()> {
        let from = snapshot.name.clone();
        if snapshot.state().is_live() || snapshot.is_suspended() {
            let state = snapshot.state();
            return Err(Error::busy(from.to_string(), format!("is {state}; only a stopped instance can be renamed")));
        }
        let target = self.0.home.instance(to)?;
        let lock = take_lock(&snapshot).await?;
        let home = self.0.home.clone();
        blocking(move || store::rename(&home, &snapshot.dir, &target)).await?;
        drop(lock);
        self.renamed(key, &from, to);
        Ok(())
    }

    /// Takes in and tells of a rename that was made on disk.
    pub(super) fn renamed(&self, key: Key, from: &Name, to: &Name) {
        let changes = self.0.tree.lock().rename(key, to, &self.0.host);
        self.0.announcer.announce(changes);
        self.happened(from, &format!("renamed to {to}"));
        self.announce_list();
    }

    /// A write to a control node.
    pub(super) async fn carry_out(&self, key: Key, command: Command) -> Result<()> {
        let done = match command {
            Command::Set { key: field, value } => {
                let view = self.clone();
                self.redefine(key, move |snapshot| view.edited(snapshot, field, &value)).await?;
                if field != "disk" {
                    self.resize_running(key).await;
                }
                return Ok(());
            }
            Command::Verb(verb) => self.verb(key, verb).await,
            Command::Restore(tag) => {
                return self.restore(key, &tag).await.inspect_err(|error| self.refuse(Some(key), error));
            }
            Command::Protect(protected) => {
                let dir = self.snapshot(key)?.dir;
                blocking(move || store::protect(&dir, protected)).await
            }
        };
        match &done {
            Ok(()) => self.changed(key, |snapshot| {
                snapshot.refusal = None;
                snapshot.reread();
            }),
            Err(error) => self.refuse(Some(key), error),
        }
        done
    }

    /// Gives a verb to the instance's hostagent. One that dies meanwhile is waited for to be replaced: verbs are
    /// idempotent, so that one which was carried out already does no harm.
    async fn verb(&self, key: Key, verb: Verb) -> Result<()> {
        let deadline = Instant::now() + REPLACED;
        loop {
            let snapshot = self.snapshot(key)?;
            if matches!(snapshot.live, Live::None) && Lock::is_held(&snapshot.dir) && Instant::now() < deadline {
                // A hostagent that is about to leave, or one that has just come and nobody has heard of.
                self.find_agent(key);
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            let done = match (&snapshot.live, verb) {
                // Whoever reads `state` after the write must not read what was before it.
                (Live::Agent(_), _) => {
                    agent::command(&snapshot.dir, verb).await.map(|status| self.caught_up(key, status))
                }
                (Live::Spawning { .. }, Verb::Start) => Ok(()),
                (Live::Spawning { .. } | Live::Lost, _) => Err(Error::HostDown { what: "the hostagent".into() }),
                (Live::Foreign { .. }, Verb::Stop) => agent::interrupt(&snapshot.dir),
                (Live::Foreign { .. }, Verb::Start) => Ok(()),
                (Live::Foreign { .. }, _) => Err(Error::unsupported(
                    "state",
                    format!("{verb}: limactl runs this instance, and can only stop it"),
                )),
                (Live::None, _) => self.verb_at_rest(key, &snapshot, verb).await,
            };
            match done {
                Err(Error::HostDown { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(AGAIN).await;
                }
                done => return done,
            }
        }
    }

    /// A verb for an instance without a hostagent.
    async fn verb_at_rest(&self, key: Key, snapshot: &Snapshot, verb: Verb) -> Result<()> {
        match verb {
            Verb::Start => self.start_agent(key, snapshot).await,
            Verb::Resume if snapshot.is_suspended() => self.start_agent(key, snapshot).await,
            Verb::Suspend if snapshot.state() == State::Suspended => Ok(()),
            Verb::Stop if snapshot.is_suspended() => {
                let way_out = "write start to go on, or kill to give up its memory";
                Err(Error::busy("state", format!("stop: {} is suspended; {way_out}", snapshot.name)))
            }
            Verb::Kill if snapshot.is_suspended() => {
                agent::at_rest(&self.0.home, &snapshot.name, &RestOrder::Discard).await
            }
            Verb::Stop | Verb::Kill => self.settle(snapshot).await,
            Verb::Restart | Verb::Pause | Verb::Resume | Verb::Suspend | Verb::Reset => Err(Error::busy(
                "state",
                format!("{verb}: {} is {}; write start first", snapshot.name, snapshot.state()),
            )),
        }
    }

    async fn start_agent(&self, key: Key, snapshot: &Snapshot) -> Result<()> {
        match &snapshot.definition {
            Definition::Draft => return Err(Error::busy("state", format!("{} has no lima.yaml yet", snapshot.name))),
            Definition::Invalid { faults, .. } => return Err(Error::invalid("state", faults.clone())),
            Definition::Valid { .. } => {}
        }
        drop(take_lock(snapshot).await?);
        let since = Timestamp::now();
        self.heard(key, Live::Spawning { since, listens: false });
        let spawned = agent::spawn(&self.0.home, &snapshot.name, false).await;
        self.came_up(key, since, spawned.is_ok());
        spawned.map(|_| ())
    }

    /// stop and kill where nothing runs: the goal is reached already, and a failure is no longer of interest.
    async fn settle(&self, snapshot: &Snapshot) -> Result<()> {
        if snapshot.state() != State::Broken {
            return Ok(());
        }
        let Some(record) = snapshot.record.clone() else { return Ok(()) };
        let lock = take_lock(snapshot).await?;
        let dir = snapshot.dir.clone();
        let settled = Record {
            state: State::Stopped,
            goal: Goal::Stopped,
            since: Timestamp::now(),
            driver_pid: None,
            started: None,
            errors: Vec::new(),
            ..record
        };
        blocking(move || store::set_record(&dir, &settled)).await?;
        drop(lock);
        Ok(())
    }

    /// Notes a refusal in `error`, or in `.error` where there is no instance.
    pub(super) fn refuse(&self, key: Option<Key>, error: &Error) {
        let sentence = error.to_string();
        tracing::info!("refused: {sentence}");
        match key {
            Some(key) => self.changed(key, |snapshot| snapshot.refusal = Some((Timestamp::now(), sentence))),
            None => {
                let changes = self.0.tree.lock().set_error(&sentence);
                self.0.announcer.announce(changes);
            }
        }
    }

    /// A copy of what is known of an instance.
    pub(super) fn snapshot(&self, key: Key) -> Result<Snapshot> {
        self.0.tree.lock().snapshot(key, &self.0.host).cloned()
    }

    pub(super) fn name(&self, key: Key) -> Result<Name> {
        Ok(self.0.tree.lock().instance(key)?.name.clone())
    }

    /// Changes what is known of an instance and tells whoever watches.
    pub(super) fn changed(&self, key: Key, change: impl FnOnce(&mut Snapshot)) {
        let changes = self.0.tree.lock().update(key, &self.0.host, change);
        // An instance that is gone by now has nobody to tell.
        if let Ok(changes) = changes {
            self.0.announcer.announce(changes);
        }
        self.wake(key);
    }

    pub(super) fn announce_list(&self) {
        let id = super::node::ROOT_LIST;
        let ino = self.0.tree.lock().number(&Target::RootNode(id));
        self.0.announcer.announce([super::announce::Change::Content { ino, path: id.root_node().name.into() }]);
    }
}

impl View {
    /// lima.yaml as it is on disk now, with one value changed.
    fn edited(&self, snapshot: &Snapshot, field: &str, value: &str) -> Result<Vec<u8>> {
        let Some(bytes) = store::read_small(&snapshot.dir.join(names::LIMA_YAML))? else {
            return Err(Error::busy(field, format!("{} has no lima.yaml yet", snapshot.name)));
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::invalid(names::LIMA_YAML, "is not UTF-8"))?;
        let text = config::edit::set(text, field, value)?.into_bytes();
        self.check_definition(snapshot, &text)?;
        Ok(text)
    }

    /// Whether a document may replace the present one: valid, and nothing that the existing disk cannot follow.
    fn check_definition(&self, snapshot: &Snapshot, text: &[u8]) -> Result<()> {
        let context = Context { layers: store::layers(&snapshot.dir)?, ..snapshot.context() };
        let new = config::load(text, &context)?.filled;
        let runs_here = |item: &limafs_driver::Provision| item.mode.as_deref() == Some("ansible");
        if new.provision.iter().flatten().any(runs_here) && !host::allows_ansible() {
            return Err(Error::invalid("provision", host::NO_ANSIBLE));
        }
        let is_directory = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.is_dir());
        config::check_host(text, &context, is_directory, |driver| self.lacks_driver(driver))?;
        match snapshot.loaded() {
            Some(old) if snapshot.dir.join(names::DISK).exists() => config::check_change(&old.filled, &new),
            _ => Ok(()),
        }
    }
}

fn may_be_deleted(snapshot: &Snapshot) -> Result<()> {
    let name = snapshot.name.to_string();
    if snapshot.protected {
        return Err(Error::forbidden(name, "is protected; write 0 to its file protected first"));
    }
    match snapshot.state() {
        state if state.is_live() => {
            Err(Error::busy(name, format!("is {state}; write stop or kill to its state first")))
        }
        _ if snapshot.is_suspended() => {
            Err(Error::busy(name, "is suspended; write kill to its state first, which gives up its memory"))
        }
        _ => Ok(()),
    }
}

async fn take_lock(snapshot: &Snapshot) -> Result<Lock> {
    let deadline = Instant::now() + LEAVING;
    loop {
        if let Some(lock) = Lock::try_take(&snapshot.dir)? {
            return Ok(lock);
        }
        if Instant::now() > deadline {
            return Err(Error::busy(snapshot.name.to_string(), "a hostagent holds it"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::failed("disk", error)),
    }
}
