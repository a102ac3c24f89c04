//! `jobs/`: command lines that run in the guest, a directory each. What is written goes to files on the host, and the
//! hostagent is told to look; no write waits for the guest. Names come from memory, bytes from those files.

mod command;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::announce::Change;
use super::commands::blocking;
use super::guest::is_up;
use super::handle::{GrowingFile, Open};
use super::ino::{Ino, Key, Target};
use super::look::missing;
use super::open::Mode;
use super::tree::Tree;
use super::{Attr, Caller, Kind, Outcome, View};
use crate::agent;
use crate::error::{Error, Result};
use crate::jobs;
use crate::names::Name;

pub use command::CommandLine;

/// A file of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobFile {
    Cmd,
    Stdout,
    Stderr,
    Exit,
    Pid,
    Signal,
}

impl JobFile {
    pub const ALL: [Self; 6] = [Self::Cmd, Self::Stdout, Self::Stderr, Self::Exit, Self::Pid, Self::Signal];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cmd => jobs::CMD,
            Self::Stdout => jobs::STDOUT,
            Self::Stderr => jobs::STDERR,
            Self::Exit => jobs::EXIT,
            Self::Pid => jobs::PID,
            Self::Signal => "signal",
        }
    }

    pub fn doc(self) -> &'static str {
        match self {
            Self::Cmd => "takes the command line, once; closed, it runs in the guest as the user, in a login shell",
            Self::Stdout => "what it has printed; grows (tail -f); the latest 16 MiB at least",
            Self::Stderr => "the same of its standard error",
            Self::Exit => "empty until it has ended; then its code, signal N, or lost or failed with the reason",
            Self::Pid => "empty until it runs; then its process in the guest",
            Self::Signal => "takes TERM, KILL, 15, ...: sent to its process group",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.name() == name)
    }

    pub fn takes_writes(self) -> bool {
        matches!(self, Self::Cmd | Self::Signal)
    }
}

/// The jobs of an instance.
#[derive(Debug, Clone)]
pub struct Jobs {
    names: BTreeMap<Name, SystemTime>,
    changed: SystemTime,
}

impl Jobs {
    /// As they are on disk; what was known before keeps its time.
    fn read(dir: &Path, known: Option<&Self>) -> Self {
        let now = SystemTime::now();
        let since = |name: &Name| known.and_then(|known| known.names.get(name).copied()).unwrap_or(now);
        // Those that cannot be listed are none.
        let names: BTreeMap<Name, SystemTime> =
            jobs::list(dir).unwrap_or_default().into_iter().map(|name| (name.clone(), since(&name))).collect();
        let same = known.filter(|known| known.names == names).map(|known| known.changed);
        Self { names, changed: same.unwrap_or(now) }
    }
}

impl Tree {
    /// The jobs of an instance; its directory is read at the first look.
    pub fn jobs(&mut self, key: Key) -> Result<&Jobs> {
        let home = self.home.path().to_owned();
        let instance = self.instance_mut(key)?;
        let dir = home.join(instance.name.as_str());
        Ok(instance.jobs.get_or_insert_with(|| Jobs::read(&dir, None)))
    }

    /// Whether there is a job of that name.
    pub fn has_job(&mut self, key: Key, name: &str) -> bool {
        let Ok(name) = Name::parse(name) else { return false };
        self.jobs(key).is_ok_and(|jobs| jobs.names.contains_key(&name))
    }

    pub fn job_entries(&mut self, key: Key) -> Result<Vec<(String, Target, Kind)>> {
        let entry = |name: &Name| (name.to_string(), Target::Job(key, name.to_string()), Kind::Directory);
        Ok(self.jobs(key)?.names.keys().map(entry).collect())
    }
}

impl View {
    /// Attributes of `jobs` and what is in it.
    pub(super) fn job_attr(&self, tree: &mut Tree, ino: Ino, target: &Target) -> Result<Attr> {
        Ok(match target {
            Target::Job(key, name) => {
                let name = Name::parse(name)?;
                let since = tree.jobs(*key)?.names.get(&name).copied().ok_or_else(|| missing(name.as_str()))?;
                Attr::directory(ino, 0, since, 0o700).uncached()
            }
            Target::JobFile(key, job, file) => {
                let since = tree.instance(*key)?.changed;
                let perm = if file.takes_writes() { 0o600 } else { 0o400 };
                let meta = fs::metadata(job_path(tree, *key, job, *file)?).ok().filter(|meta| meta.is_file());
                let modified = meta.as_ref().and_then(|meta| meta.modified().ok()).unwrap_or(since);
                Attr::file(ino, meta.map_or(0, |meta| meta.len()), modified, perm).uncached()
            }
            target => {
                let key = target.key().ok_or_else(|| missing("jobs"))?;
                let jobs = tree.jobs(key)?;
                Attr::directory(ino, jobs.names.len(), jobs.changed, 0o700).uncached()
            }
        })
    }

    pub(super) fn open_job_file(&self, caller: Caller, at: (Key, &str), file: JobFile, mode: Mode) -> Result<Open> {
        let (key, job) = at;
        let path = job_path(&self.0.tree.lock(), key, job, file)?;
        match file {
            _ if !mode.write => Ok(Open::Log(GrowingFile::new(path))),
            JobFile::Cmd => Ok(Open::CommandLine(CommandLine::new(key, job, mode.append, caller.pid))),
            JobFile::Signal => Ok(Open::Signal { key, job: job.into() }),
            _ => Err(Error::Denied { what: file.name().into() }),
        }
    }

    /// mkdir(2) in `jobs`.
    pub(super) fn make_job(&self, key: Key, name: &str) -> Outcome<Attr> {
        let (view, text) = (self.clone(), name.to_owned());
        Outcome::later(async move {
            let done = async {
                let (dir, name) = (view.up(key)?, Name::parse(&text)?);
                blocking(move || jobs::create(&dir, &name)).await
            };
            view.noted_job(key, done.await)?;
            view.jobs_changed(key);
            view.attr_of(&mut view.0.tree.lock(), &Target::Job(key, text))
        })
    }

    /// rmdir(2) in `jobs`; it need not run, nor its guest. As a part of `rm -r` of the whole instance it loses nothing that
    /// the rmdir of that would keep: it is refused as that will be.
    pub(super) fn remove_job(&self, caller: Caller, key: Key, name: &str) -> Outcome<()> {
        let removes_all = self.0.tree.lock().instance_mut(key).is_ok_and(|known| known.unlinked.goes_on(caller.pid));
        if removes_all {
            return self.may_be_deleted(key).into();
        }
        let (view, text) = (self.clone(), name.to_owned());
        Outcome::later(async move {
            let done = async {
                let (dir, name) = (view.snapshot(key)?.dir, Name::parse(&text)?);
                blocking(move || jobs::remove(&dir, &name)).await
            };
            view.noted_job(key, done.await)?;
            view.jobs_changed(key);
            // It looks by itself, too; without a hostagent the next one finds it.
            if let Ok(dir) = view.up(key) {
                let _ = agent::nudge(&dir).await;
            }
            Ok(())
        })
    }

    /// A write to `signal`.
    pub(super) fn signal_job(&self, key: Key, job: &str, data: &[u8]) -> Outcome<usize> {
        let (taken, data) = (data.len(), data.to_vec());
        let done = self.tell_job(key, job.to_owned(), move |dir, name| signal(dir, name, &data));
        Outcome::later(async move { done.await.map(|()| taken) })
    }

    /// Has a job run.
    fn run_job(&self, key: Key, job: String, line: Vec<u8>) -> Outcome<()> {
        Outcome::later(self.tell_job(key, job, move |dir, name| jobs::set_command(dir, name, &line)))
    }

    fn tell_job(
        &self,
        key: Key,
        job: String,
        tell: impl FnOnce(&Path, &Name) -> Result<()> + Send + 'static,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let view = self.clone();
        async move {
            let done = async {
                let (dir, name) = (view.up(key)?, Name::parse(&job)?);
                let at = dir.clone();
                blocking(move || tell(&at, &name)).await?;
                // What is on disk is done: one that has died meanwhile is replaced, and the next one finds it.
                let _ = agent::nudge(&dir).await;
                Ok(())
            };
            view.noted_job(key, done.await)
        }
    }

    /// The instance's directory; EHOSTDOWN where nothing can run.
    fn up(&self, key: Key) -> Result<PathBuf> {
        let snapshot = self.snapshot(key)?;
        if is_up(&snapshot) { Ok(snapshot.dir) } else { Err(Error::HostDown { what: snapshot.name.to_string() }) }
    }

    fn noted_job(&self, key: Key, done: Result<()>) -> Result<()> {
        done.inspect_err(|error| self.refuse(Some(key), error))
    }

    /// Looks at the jobs on disk again.
    pub(super) fn jobs_changed(&self, key: Key) {
        let names: Vec<Name> = {
            let mut tree = self.0.tree.lock();
            let home = tree.home.path().to_owned();
            let Ok(instance) = tree.instance_mut(key) else { return };
            let jobs = Jobs::read(&home.join(instance.name.as_str()), instance.jobs.as_ref());
            let names = jobs.names.keys().cloned().collect();
            instance.jobs = Some(jobs);
            names
        };
        self.watch_jobs(key, &names);
    }

    /// Tells of a file of a job that has changed on disk.
    pub(super) fn job_changed(&self, key: Key, job: &Name, file: JobFile) {
        let mut tree = self.0.tree.lock();
        let ino = tree.number(&Target::JobFile(key, job.to_string(), file));
        let path = tree.path(key, &format!("{}/{job}/{}", super::node::JOBS_DIR, file.name()));
        drop(tree);
        self.0.announcer.announce([Change::Content { ino, path }]);
    }
}

fn job_path(tree: &Tree, key: Key, job: &str, file: JobFile) -> Result<PathBuf> {
    let dir = tree.home.path().join(tree.instance(key)?.name.as_str());
    let on_disk = if file == JobFile::Signal { "signal" } else { file.name() };
    Ok(jobs::dir(&dir).join(job).join(on_disk))
}

fn signal(dir: &Path, name: &Name, data: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(data);
    let word = text.trim();
    let signal = jobs::signal(word)
        .ok_or_else(|| Error::invalid("signal", format!("takes a signal such as TERM or 15, not {word:.20?}")))?;
    jobs::add_signal(dir, name, signal)
}
