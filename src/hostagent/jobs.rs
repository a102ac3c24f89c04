//! Runs the jobs that the mount asks for, in the guest: starts, signals and ends them, and fetches what they print. Both
//! sides' truth is files (`crate::jobs` here, `script` there), so that a new hostagent goes on where the last one was.

mod script;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::line::Line;
use super::ssh::{Fault, Session};
use crate::error::{Error, Result};
use crate::jobs::{self, CMD, EXIT, PID, STDERR, STDOUT};
use crate::names::Name;
use crate::sftp::{Client, OPEN_READ};

/// Between two looks at jobs that run.
const LOOK: Duration = Duration::from_millis(300);
/// Between two looks at the host's side where nothing runs and nobody says that there is something.
const REST: Duration = Duration::from_secs(5);
/// Between two attempts to go on after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two looks for jobs that nobody keeps any more.
const LOST: Duration = Duration::from_secs(30);
const OPEN: Duration = Duration::from_secs(5);
/// A script for so many jobs takes no longer.
const SCRIPT: Duration = Duration::from_secs(60);
const BATCH: usize = 20;
/// Jobs that are looked at at once.
const SIDE_BY_SIDE: usize = 32;
/// Bytes of one stream that are fetched in a turn: no job has all the others wait.
const TURN: u64 = 1 << 20;

/// The jobs as they are known to this process.
#[derive(Default)]
struct Known {
    /// Jobs that run, or are to run, with their ids in the guest.
    active: BTreeMap<Name, Active>,
    /// Ids of jobs that have ended.
    ended: HashSet<String>,
    /// Ids of jobs that were removed.
    gone: Vec<String>,
    /// Ids and command lines of those that may not have been started.
    fresh: Vec<(String, String)>,
    signals: Vec<(String, u8)>,
}

struct Active {
    id: String,
    has_pid: bool,
    /// When this process first saw it.
    since: Instant,
}

/// Tends the jobs for as long as it is polled. Without any, the guest is not bothered.
pub async fn keep(line: Arc<Line>, dir: PathBuf) {
    loop {
        if let Err(error) = tend(&line, &dir).await {
            tracing::info!("jobs: {error}");
            sleep(AGAIN).await;
        }
    }
}

/// Comes back when nothing runs any more and nothing is to be done.
async fn tend(line: &Line, dir: &Path) -> Result<()> {
    let mut known = Known::default();
    loop {
        known = look(known, dir).await?;
        if !known.active.is_empty() || !known.gone.is_empty() {
            break;
        }
        rest(line, REST).await;
    }
    let session = line.session().await;
    let stream = session.subsystem("sftp", OPEN).await.map_err(|fault| unreached(&fault))?;
    let client = Client::begin(stream).await.map_err(|fault| Error::failed("sftp", fault))?;
    let guest = Guest { session, client, dir: dir.to_owned() };
    guest.sweep(&mut known).await?;
    let mut checked: Option<Instant> = None;
    loop {
        guest.command(&mut known).await?;
        if checked.is_none_or(|when| when.elapsed() > LOST) {
            guest.find_lost(&mut known).await?;
            checked = Some(Instant::now());
        }
        let begun = Instant::now();
        let is_all = guest.fetch_all(&mut known).await?;
        known = look(known, dir).await?;
        if known.active.is_empty() && known.gone.is_empty() {
            return Ok(());
        }
        // A thousand jobs take their time; the guest has other things to do, too. What is there already is fetched on.
        let pause = if is_all { LOOK.max(begun.elapsed() * 2) } else { begun.elapsed() };
        rest(line, pause).await;
        known = look(known, dir).await?;
    }
}

/// Until somebody says that there is something to do, or the time is over.
async fn rest(line: &Line, time: Duration) {
    // Being late is no fault.
    let _ = timeout(time, line.nudged.notified()).await;
}

fn unreached(fault: &Fault) -> Error {
    Error::failed("the guest", fault)
}

/// Takes in what the mount has asked for since.
async fn look(known: Known, dir: &Path) -> Result<Known> {
    let dir = dir.to_owned();
    blocking(move || known.look(&dir)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::failed("disk", error)))
}

impl Known {
    fn look(mut self, dir: &Path) -> Result<Self> {
        self.gone = jobs::gone(dir)?;
        let names = jobs::list(dir)?;
        for name in &names {
            // One that is just being made or removed has no id.
            let Ok(id) = jobs::id(dir, name) else { continue };
            if self.ended.contains(&id) {
                continue;
            }
            if self.active.get(name).is_none_or(|active| active.id != id) {
                self.take_in(dir, name, id)?;
            } else {
                let signals = jobs::take_signals(dir, name);
                self.signals.extend(signals.into_iter().map(|signal| (id.clone(), signal)));
            }
        }
        let names: HashSet<Name> = names.into_iter().collect();
        self.active.retain(|name, _| names.contains(name));
        Ok(self)
    }

    fn take_in(&mut self, dir: &Path, name: &Name, id: String) -> Result<()> {
        if jobs::small(dir, name, EXIT)?.is_some() {
            self.ended.insert(id);
        } else if let Some(line) = jobs::small(dir, name, CMD)? {
            let has_pid = jobs::small(dir, name, PID)?.is_some();
            // One that ran is never run again, even where a guest that was cut off has lost all there was of it.
            if !has_pid {
                self.fresh.push((id.clone(), line));
            }
            self.active.insert(name.clone(), Active { id, has_pid, since: Instant::now() });
        }
        Ok(())
    }
}

/// The guest as jobs see it.
struct Guest {
    session: Arc<Session>,
    client: Client,
    dir: PathBuf,
}

impl Guest {
    /// Removes what is in the guest and on no list here: of jobs that were removed while it did not run.
    async fn sweep(&self, known: &mut Known) -> Result<()> {
        let Ok(entries) = self.client.list(&self.path("", "")).await else { return Ok(()) };
        let of_ours: HashSet<&str> =
            known.active.values().map(|active| &active.id).chain(&known.ended).map(String::as_str).collect();
        for entry in entries {
            let Ok(id) = String::from_utf8(entry.name) else { continue };
            if jobs::is_id(&id) && !of_ours.contains(id.as_str()) {
                known.gone.push(id);
            }
        }
        Ok(())
    }

    /// Carries out what is to be done: ends, starts, signals.
    async fn command(&self, known: &mut Known) -> Result<()> {
        for ids in std::mem::take(&mut known.gone).chunks(BATCH) {
            self.run(&script::remove(ids)).await?;
            // Those of a sweep are on no list.
            ids.iter().for_each(|id| drop(jobs::forget(&self.dir, id)));
        }
        for fresh in std::mem::take(&mut known.fresh).chunks(BATCH) {
            for id in self.run(&script::start(fresh)).await?.lines() {
                self.end(known, id, "failed: it could not be started in the guest")?;
            }
        }
        // One without a pid is not there yet.
        let (ready, early): (Vec<_>, Vec<_>) = std::mem::take(&mut known.signals)
            .into_iter()
            .partition(|(id, _)| known.active.values().any(|active| active.id == *id && active.has_pid));
        known.signals = early;
        known.signals.retain(|(id, _)| known.active.values().any(|active| active.id == *id));
        for signals in ready.chunks(BATCH) {
            self.run(&script::signal(signals)).await?;
        }
        Ok(())
    }

    async fn find_lost(&self, known: &mut Known) -> Result<()> {
        // One that is just being started has nobody yet.
        let counts = |active: &&Active| active.has_pid || active.since.elapsed() > LOST;
        let ids: Vec<String> = known.active.values().filter(counts).map(|active| active.id.clone()).collect();
        for ids in ids.chunks(BATCH) {
            for id in self.run(&script::lost(ids)).await?.lines() {
                self.end(known, id, "lost: the guest was booted again")?;
            }
        }
        Ok(())
    }

    async fn run(&self, script: &str) -> Result<String> {
        let ran = self.session.exec_with("sh -s", script.as_bytes(), SCRIPT).await;
        ran.map(|output| output.stdout).map_err(|fault| unreached(&fault))
    }

    fn end(&self, known: &mut Known, id: &str, how: &str) -> Result<()> {
        let Some(name) = known.active.iter().find(|(_, active)| active.id == id).map(|(name, _)| name.clone()) else {
            return Ok(());
        };
        known.active.remove(&name);
        known.ended.insert(id.to_owned());
        still_there(jobs::note(&self.dir, &name, EXIT, how))
    }

    /// Fetches what there is of all jobs; those that have ended are done with. Whether no more of any was there.
    async fn fetch_all(&self, known: &mut Known) -> Result<bool> {
        let active: Vec<(&Name, &mut Active)> = known.active.iter_mut().collect();
        let (mut ended, mut is_all) = (Vec::new(), true);
        let mut active = active.into_iter().peekable();
        while active.peek().is_some() {
            let some: Vec<_> = active.by_ref().take(SIDE_BY_SIDE).collect();
            for done in join_all(some.into_iter().map(|(name, job)| self.fetch(name, job))).await {
                let (all, end) = done?;
                is_all &= all;
                ended.extend(end);
            }
        }
        for (id, how) in ended {
            self.end(known, &id, &how)?;
        }
        Ok(is_all)
    }

    /// Fetches a part of what there is of one. Whether that was all, and once it is and has ended, its id and how.
    async fn fetch(&self, name: &Name, job: &mut Active) -> Result<(bool, Option<(String, String)>)> {
        if !self.client.is_open() {
            return Err(Error::failed("sftp", "the connection is gone"));
        }
        // The end is looked for first: what was printed before it is there then.
        let exit = self.small(&job.id, EXIT).await;
        if !job.has_pid
            && let Some(pid) = self.small(&job.id, PID).await.and_then(|text| text.parse::<u32>().ok())
        {
            still_there(jobs::note(&self.dir, name, PID, &pid.to_string()))?;
            job.has_pid = true;
        }
        let mut is_all = true;
        for stream in [STDOUT, STDERR] {
            is_all &= self.fetch_stream(name, &job.id, stream).await?;
        }
        let Some(exit) = exit.filter(|_| is_all) else { return Ok((is_all, None)) };
        let how = exit.parse().map_or_else(|_| "lost: its exit code cannot be read".into(), jobs::ended);
        Ok((true, Some((job.id.clone(), how))))
    }

    /// Says whether all there was is here now.
    async fn fetch_stream(&self, name: &Name, id: &str, stream: &str) -> Result<bool> {
        let path = self.path(id, stream);
        // One that cannot be looked at is not there yet, or its guest is gone, which the next call says.
        let Ok(attrs) = self.client.lstat(&path).await else { return Ok(true) };
        let (size, fetched) = (attrs.size.unwrap_or(0), jobs::fetched(&self.dir, name, stream));
        if size <= fetched {
            return Ok(true);
        }
        let Ok(handle) = self.client.open(&path, OPEN_READ, 0).await else { return Ok(true) };
        let wanted = TURN.min(size - fetched);
        let read = self.client.read(&handle, fetched, wanted as usize).await;
        self.client.forget(&handle);
        let bytes = read.map_err(|fault| Error::failed("sftp", fault))?;
        still_there(jobs::append(&self.dir, name, stream, &bytes))?;
        Ok(bytes.is_empty() || fetched + bytes.len() as u64 >= size)
    }

    /// A file of a line.
    async fn small(&self, id: &str, file: &str) -> Option<String> {
        let handle = self.client.open(&self.path(id, file), OPEN_READ, 0).await.ok()?;
        let read = self.client.read(&handle, 0, 64).await;
        self.client.forget(&handle);
        Some(String::from_utf8_lossy(&read.ok()?).trim().to_owned())
    }

    fn path(&self, id: &str, file: &str) -> Vec<u8> {
        let below = [script::JOBS, id, file].join("/");
        [self.client.home(), b"/", below.trim_end_matches('/').as_bytes()].concat()
    }
}

/// A job that is removed meanwhile takes its files along; that is no fault.
fn still_there(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if error.errno() == libc::ENOENT => Ok(()),
        done => done,
    }
}
