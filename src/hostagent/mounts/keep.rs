//! Mounts what is to be mounted, again with each new session, and says how it went.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::io::duplex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::sftp::{Tree, serve};
use super::{Entry, Mounts, Shown, WHO, leave_command};
use crate::hostagent::line::Line;
use crate::hostagent::ssh::Session;
use crate::hostagent::state::Event;

/// What the guest says when it is mounted; see mount.sh.
const MOUNTED: &str = "limafs-mounted";
/// How long one attempt may take: the guest may have to install sshfs first, and waits for that for 10 min.
const ATTEMPT: Duration = Duration::from_secs(11 * 60);
const START: Duration = Duration::from_secs(30);
/// A session that ends takes its mounts along, a little earlier; that is no fault of theirs.
const GRACE: Duration = Duration::from_secs(2);
/// Before a mount that failed is tried again; doubled up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// Before a VM is stopped without its mounts having been unmounted.
const LEAVE: Duration = Duration::from_secs(5);
const HANDLES_MAX: usize = 4096;
/// Requests that wait for the host's disk. Less, and a slow disk would hold up all else in the session.
const WAITING: usize = 4 << 20;

/// Keeps all of them mounted for as long as it is polled; tells of those that cannot be.
pub async fn keep(mounts: Arc<Mounts>, line: Arc<Line>, tell: mpsc::Sender<Event>) {
    let mut shown = mounts.shown.subscribe();
    let mut tasks = JoinSet::new();
    for index in 0..mounts.entries.len() {
        tasks.spawn(keep_one(Arc::clone(&mounts), Arc::clone(&line), index));
    }
    let mut told = Vec::new();
    // The sender is in `mounts`: this ends with the VM.
    while shown.changed().await.is_ok() {
        let failures = mounts.failures();
        if failures != told && !*mounts.leaving.borrow() {
            told.clone_from(&failures);
            // Nobody listens any more: the VM is gone.
            let _ = tell.send(Event::Trouble(WHO, failures)).await;
        }
    }
}

async fn keep_one(mounts: Arc<Mounts>, line: Arc<Line>, index: usize) {
    let mut pause = PAUSES.0;
    let leaving = mounts.leaving.subscribe();
    while !*leaving.borrow() {
        let session = line.session().await;
        let why = tokio::select! {      // what is lost is a mount in a session that is lost as well
            why = attempt(&mounts, index, &session) => why,
            () = line.outlasted(&session) => String::new(),
        };
        if *leaving.borrow() {
            return;
        }
        if timeout(GRACE, line.outlasted(&session)).await.is_ok() {
            mounts.show(index, Shown::Waiting);
            continue;
        }
        tracing::warn!("{}: {why}", mounts.entries[index].name());
        mounts.show(index, Shown::Failed(why));
        // Tried again after a pause, or at once in another session.
        if timeout(pause, line.outlasted(&session)).await.is_err() {
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Mounts one entry and serves it until its end; why that came.
async fn attempt(mounts: &Mounts, index: usize, session: &Session) -> String {
    let entry = &mounts.entries[index];
    let tree = match tree(entry).await {
        Ok(tree) => tree,
        Err(error) => return error,
    };
    let mut program = match session.start(&entry.command(), START).await {
        Ok(program) => program,
        Err(fault) => return fault.to_string(),
    };
    let (ours, theirs) = duplex(WAITING);
    let mut last = String::new();
    let mounted = tokio::sync::Notify::new();
    let running = async {
        let hear = |line: &str| match line {
            MOUNTED => {
                mounts.show(index, Shown::Mounted);
                mounted.notify_one();
            }
            line => last = clean(line),
        };
        let (served, exit) = tokio::join!(serve(tree, handles(mounts.entries.len()), theirs), program.join(ours, hear));
        if let Err(error) = served {
            tracing::warn!("{}: {error}", entry.name());
        }
        exit
    };
    let late = async {
        if timeout(ATTEMPT, mounted.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let end = tokio::select! {        // what is lost is a mount that nobody waits for any more
        exit = running => Some(exit),
        () = late => None,
    };
    program.close().await;
    match end {
        Some(exit) => why(&last, exit),
        None => format!("is not mounted after {} min", ATTEMPT.as_secs() / 60),
    }
}

async fn tree(entry: &Entry) -> Result<Tree, String> {
    let Entry { location, writable, .. } = entry.clone();
    match tokio::task::spawn_blocking(move || Tree::open(&location, writable)).await {
        Ok(Ok(tree)) => Ok(tree),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// How many files and directories the guest may have open in one of its mounts: all of them together leave half of
/// our descriptors to others.
fn handles(mounts: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = usize::try_from(limit).unwrap_or(usize::MAX) / 2 / mounts.max(1);
    share.min(HANDLES_MAX)
}

fn why(last: &str, exit: Option<u32>) -> String {
    match (last, exit) {
        ("", Some(code)) => format!("sshfs ended with exit code {code}"),
        ("", None) => "sshfs was ended".into(),
        (last, _) => last.to_owned(),
    }
}

/// A guest's words, fit for a sentence of ours.
fn clean(line: &str) -> String {
    let plain = |char: char| if char.is_control() { '?' } else { char };
    line.trim().chars().take(200).map(plain).collect()
}

/// Before a VM is stopped: unmounts everything while there is somebody to answer what is still to be written.
pub async fn take_leave(mounts: &Mounts, line: &Line) {
    if mounts.is_empty() {
        return;
    }
    mounts.leaving.send_replace(true);
    let leaving = async { line.session().await.exec(&leave_command(&mounts.entries), LEAVE).await };
    // Without it they end with the guest.
    match timeout(LEAVE, leaving).await {
        Ok(Ok(_)) => {}
        Ok(Err(fault)) => tracing::info!("unmounting: {fault}"),
        Err(_) => tracing::info!("unmounting: the guest does not answer"),
    }
}
