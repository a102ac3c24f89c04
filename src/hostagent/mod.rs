//! The process beside one running instance: owns its live state in one actor, waits for its guest, answers on ha.sock.
//! Never touches the mount, and never ends a VM that it was not told to end.

mod actor;
mod attach;
mod boot;
mod display;
mod dns;
mod events;
mod facts;
mod forward;
mod guest;
mod jobs;
mod line;
mod logs;
pub mod mounts;
mod process;
mod ready;
pub mod rest;
mod serve;
mod ssh;
mod state;
mod steps;
mod tasks;
mod wishes;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use actor::{Actor, End, Request, Setup};
use attach::Attached;
pub use boot::guest_agent;
use events::Journal;
use state::{Event, Found};
use steps::Steps;

use crate::drivers::Source;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::{self, Home, Name};
use crate::registry::Registry;
use crate::status::{Goal, State, Verb};
use crate::store::{self, Lock, Record};

/// How long a hostagent that is about to exit may still hold the instance.
const HANDOVER: Duration = Duration::from_secs(1);
/// How long a driver may look for a VM of an earlier hostagent.
const ATTACH: Duration = Duration::from_secs(5);

/// `limafs hostagent NAME [--adopt]`: runs an instance until its VM is gone. With `adopt` it takes up a VM that runs
/// already and starts none.
pub fn run(home: Home, name: Name, adopt: bool) -> Result<()> {
    process::leave_session();
    process::raise_descriptors();
    logs::init();
    process::allow_many_files();
    let dir = home.instance(&name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("the hostagent's runtime", error))?;
    let result = runtime.block_on(async {
        let registry = Registry::of_process();
        let host = Host { drivers: registry.names(), ..Host::detect()? };
        let steps = Arc::new(boot::Boot { home, name: name.clone(), dir: dir.clone(), host, registry });
        let (requests_to, requests) = mpsc::channel(32);
        let mut signals = JoinSet::new();
        signals.spawn(pass_signals(requests_to.clone())?);
        live(Life { name, dir, adopt, steps, lima: Box::new(io::stdout()), requests_to, requests }).await
    });
    // Without waiting for file work that a task left behind.
    runtime.shutdown_background();
    if let Err(error) = &result {
        tracing::error!("{error}");
    }
    result.map(|_| ())
}

/// Has the driver of an instance at rest remove what it keeps outside the instance directory. The caller holds the lock.
pub fn remove(home: Home, name: &Name) -> Result<()> {
    let dir = home.instance(name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("the runtime", error))?;
    runtime.block_on(async {
        let registry = Registry::of_process();
        let host = Host { drivers: registry.names(), ..Host::detect()? };
        let boot = boot::Boot { home, name: name.clone(), dir: dir.clone(), host, registry };
        let prepared = boot.recover(store::record(&dir).as_ref()).await?;
        Ok(prepared.driver.delete().await?)
    })
}

/// What the life of a hostagent is made of.
struct Life {
    name: Name,
    dir: PathBuf,
    adopt: bool,
    steps: Arc<dyn Steps>,
    lima: Box<dyn Write + Send>,
    requests_to: mpsc::Sender<Request>,
    requests: mpsc::Receiver<Request>,
}

async fn live(life: Life) -> Result<End> {
    let Life { name, dir, adopt, steps, lima, requests_to, requests } = life;
    let lock = take_over(&name, &dir).await?;
    let record = store::record(&dir);
    let listener = serve::listen(&dir.join(names::HA_SOCK))?;
    let pid = dir.join(names::HA_PID);
    store::replace(&pid, format!("{}\n", std::process::id()).as_bytes(), 0o644)?;

    let journal = Journal::new(name.as_str(), &dir, lima);
    let events = journal.listen();
    let resting = Arc::clone(&steps);
    let mut actor = Actor::new(Setup { name, dir: dir.clone(), steps, record: record.clone(), journal, requests });
    let first = begin(&mut actor, adopt, record).await;
    let sources = serve::Sources::new(actor.watch(), events, requests_to, actor.line(), actor.driver_watch());
    let (last_call, called) = oneshot::channel();
    let mut beside = JoinSet::new();
    beside.spawn(logs::keep_within_limits(dir.clone()));
    let mut server = JoinSet::new();
    server.spawn(serve::serve(listener, sources, called));

    let end = match first {
        Ok(first) => actor.run(first).await,
        Err(error) => {
            retire(&dir, lock);
            return Err(error);
        }
    };
    beside.abort_all();
    if end == End::AtRest {
        resting.rest().await;
    }
    // The next hostagent may come as soon as followers see the last status.
    retire(&dir, lock);
    actor.close();
    // The server may have failed already.
    let _ = last_call.send(());
    let _ = server.join_next().await;
    Ok(end)
}

/// Removes what says that a hostagent is there, then lets go of the instance.
fn retire(dir: &Path, lock: Lock) {
    for name in [names::HA_SOCK, names::HA_PID] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!("{}: {error}", path.display()),
            _ => {}
        }
    }
    drop(lock);
}

/// Takes the instance, or says who has it: another hostagent of ours, or Lima's, which knows no lock.
async fn take_over(name: &Name, dir: &Path) -> Result<Lock> {
    let taken = || {
        let pid = fs::read_to_string(dir.join(names::HA_PID)).unwrap_or_default();
        let who = match pid.trim() {
            "" => "another process has it".to_owned(),
            pid => format!("the hostagent with pid {pid} has it"),
        };
        Error::busy(name.to_string(), who)
    };
    let waiting = async {
        loop {
            match Lock::try_take(dir)? {
                Some(lock) => return Ok::<_, Error>(lock),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let lock = timeout(HANDOVER, waiting).await.map_err(|_| taken())??;
    match timeout(HANDOVER, UnixStream::connect(dir.join(names::HA_SOCK))).await {
        Ok(Err(_)) => Ok(lock),
        Ok(Ok(_)) | Err(_) => Err(taken()),
    }
}

/// The first events: the VM that an earlier hostagent left, if there is one, and what this one was started for.
async fn begin(actor: &mut Actor, adopt: bool, record: Option<Record>) -> Result<Vec<Event>> {
    let late = |_| Error::Timeout { what: "looking for a running VM".into(), seconds: ATTACH.as_secs() };
    let attached = match timeout(ATTACH, actor.attach(record.as_ref())).await.map_err(late).flatten() {
        Ok(attached) => attached,
        // Without a driver that answers no VM can have been ours; the boot will say the same in full, where it is seen.
        Err(error) if !adopt && !is_live(record.as_ref()) => {
            tracing::warn!("{error}");
            Attached::Nothing
        }
        Err(error) => return Err(error),
    };
    let mut events = Vec::new();
    if attached != Attached::Nothing || adopt {
        events.push(Event::Adopt(found(attached, record)));
    }
    if !adopt {
        events.push(Event::Verb(Verb::Start));
    }
    Ok(events)
}

fn is_live(record: Option<&Record>) -> bool {
    record.is_some_and(|record| record.state.is_live() && record.boot_id == store::boot_id())
}

fn found(attached: Attached, record: Option<Record>) -> Found {
    let (vm, paused) = (attached != Attached::Nothing, attached == Attached::Paused);
    match record {
        Some(record) => Found {
            vm,
            paused,
            state: record.state,
            goal: record.goal,
            same_boot: record.boot_id == store::boot_id(),
            launched: record.driver_pid.is_some(),
            step: record.step,
            errors: record.errors,
        },
        None => Found {
            vm,
            paused,
            state: State::Stopped,
            goal: Goal::Stopped,
            same_boot: true,
            launched: false,
            step: None,
            errors: vec![],
        },
    }
}

/// SIGINT is what `limactl stop` sends: stop the VM. SIGTERM leaves it running.
fn pass_signals(requests: mpsc::Sender<Request>) -> Result<impl Future<Output = ()> + Send> {
    let listen = |kind| signal(kind).map_err(|error| Error::failed("signals", error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        loop {
            let request = tokio::select! {      // cancel-safe: signals are counted
                _ = interrupt.recv() => Request::Interrupt,
                _ = terminate.recv() => Request::Detach,
            };
            if requests.send(request).await.is_err() {
                return;
            }
        }
    })
}
