//! `wait/X`: reads that wait until X holds. They hold no lock of the kernel's, any number may wait side by side,
//! and the sweeper ends those whose caller has a signal pending: fuser passes no interrupts on.

use std::fs;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::View;
use super::ino::Key;
use super::io::Answer;
use super::snapshot::{Live, Snapshot};
use crate::error::{Error, Result};
use crate::status::{Goal, State};

/// How often waiting callers are looked at for signals. One look costs some 50 us a caller.
const SWEEP: Duration = Duration::from_millis(250);
/// A caller in another pid namespace cannot be looked at; it is sent away after this long.
const UNSEEN: Duration = Duration::from_secs(30);

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Condition {
    State(&'static str),
    /// The goal is reached, whichever it is.
    Settled,
    /// This host port is forwarded.
    Port(u16),
    /// This snapshot is taken.
    Snapshot(String),
}

impl Condition {
    pub fn parse(name: &str) -> Option<Self> {
        if name == "settled" {
            return Some(Self::Settled);
        }
        if let Some(port) = name.strip_prefix("port:") {
            return port.parse().ok().filter(|port| *port != 0).map(Self::Port);
        }
        if let Some(tag) = name.strip_prefix("snapshot:") {
            return (!tag.is_empty()).then(|| Self::Snapshot(tag.to_owned()));
        }
        State::parse(name).map(|state| Self::State(state.word()))
    }

    /// The line to answer with once it holds; an error when it cannot come to hold any more; else `None`.
    pub fn check(&self, snapshot: &Snapshot) -> Option<Result<String>> {
        let state = snapshot.state();
        match self {
            Self::State(word) if state.word() == *word => Some(Ok(format!("{word}\n"))),
            Self::Port(port) if is_forwarded(snapshot, *port) => Some(Ok(format!("{port}\n"))),
            Self::Snapshot(tag) => check_snapshot(snapshot, tag),
            // A failed start also ends the wait for anything that would come after it.
            _ if state == State::Broken && !matches!(snapshot.live, Live::Lost) => Some(Err(failed(snapshot))),
            Self::State("Running") | Self::Settled if state == State::Degraded => Some(Err(failed(snapshot))),
            Self::Settled if is_settled(snapshot) => Some(Ok(format!("{state}\n"))),
            _ => None,
        }
    }
}

/// One that nobody has asked for is waited for, as a port is.
fn check_snapshot(snapshot: &Snapshot, tag: &str) -> Option<Result<String>> {
    if snapshot.snapshots.iter().any(|taken| taken.tag == tag) {
        return Some(Ok(format!("{tag}\n")));
    }
    let why = snapshot.untaken.get(tag)?;
    Some(Err(Error::failed(format!("snapshot {tag} of {}", snapshot.name), why)))
}

fn is_settled(snapshot: &Snapshot) -> bool {
    if matches!(snapshot.live, Live::Spawning { .. } | Live::Lost) {
        return false;
    }
    match snapshot.goal() {
        Goal::Running => snapshot.state() == State::Running,
        Goal::Paused => snapshot.state() == State::Paused,
        Goal::Suspended => snapshot.state() == State::Suspended,
        Goal::Stopped => matches!(snapshot.state(), State::Stopped | State::Uninitialized),
    }
}

fn is_forwarded(snapshot: &Snapshot, port: u16) -> bool {
    let suffix = format!(":{port}");
    snapshot
        .status()
        .is_some_and(|status| status.forwards.iter().any(|f| f.state == "forwarding" && is_at(&f.host, &suffix)))
}

/// A socket's path has no port, however it ends.
fn is_at(host: &str, suffix: &str) -> bool {
    !host.starts_with('/') && host.ends_with(suffix)
}

fn failed(snapshot: &Snapshot) -> Error {
    let why = snapshot.errors().into_iter().next().unwrap_or_else(|| "failed".into());
    Error::failed(format!("{} is {}", snapshot.name, snapshot.state()), why)
}

/// A read that waits. Its answer is always given: dropping it would leave the caller in the kernel for ever.
pub struct Parked {
    pub pid: u32,
    pub key: Key,
    pub condition: Condition,
    pub answer: Answer,
    pub since: Instant,
}

/// All reads that wait.
#[derive(Default)]
pub struct Waits {
    parked: Mutex<Vec<Parked>>,
    more: Condvar,
}

impl Waits {
    pub fn park(&self, parked: Parked) {
        self.parked.lock().push(parked);
        self.more.notify_one();
    }

    fn take_if(&self, mut test: impl FnMut(&Parked) -> bool) -> Vec<Parked> {
        let mut list = self.parked.lock();
        list.extract_if(.., |parked| test(parked)).collect()
    }

    /// Answers all that are parked with an error; for unmounting.
    pub fn dismiss(&self) {
        for parked in self.take_if(|_| true) {
            (parked.answer)(Err(Error::HostDown { what: "the tree is being unmounted".into() }));
        }
    }

    /// Waits until somebody is parked, then one sweep's time.
    fn rest(&self) {
        let mut list = self.parked.lock();
        while list.is_empty() {
            self.more.wait(&mut list);
        }
        drop(list);
        std::thread::sleep(SWEEP);
    }
}

impl View {
    /// Ends the waits of an instance that hold, or can no longer come to hold.
    pub(super) fn wake(&self, key: Key) {
        let waits = &self.0.waits;
        let mut ended = Vec::new();
        {
            let mut tree = self.0.tree.lock();
            let snapshot = tree.snapshot(key, &self.0.host).ok();
            for parked in waits.take_if(|parked| {
                parked.key == key && snapshot.as_ref().is_none_or(|known| parked.condition.check(known).is_some())
            }) {
                let result = match &snapshot {
                    Some(known) => parked.condition.check(known).unwrap_or_else(|| Ok(String::new())),
                    None => Err(Error::Missing { what: "the instance".into() }),
                };
                ended.push((parked, result));
            }
        }
        for (parked, result) in ended {
            (parked.answer)(result.map(String::into_bytes));
        }
    }

    /// Parks a read, unless what it waits for holds already.
    pub(super) fn park(&self, parked: Parked) {
        let key = parked.key;
        self.0.waits.park(parked);
        // Looked at after it is parked: a change in between is then seen by one of the two.
        self.wake(key);
    }

    /// The sweeper's thread: ends waits whose caller is being killed or interrupted.
    pub fn sweep_for_ever(&self) {
        loop {
            self.0.waits.rest();
            let gone = self.0.waits.take_if(|parked| match parked.pid {
                0 => parked.since.elapsed() > UNSEEN,
                pid => has_signal(pid),
            });
            for parked in gone {
                let interrupted = std::io::Error::from_raw_os_error(libc::EINTR);
                (parked.answer)(Err(Error::Io { path: "wait".into(), source: interrupted }));
            }
        }
    }

    pub fn dismiss_waits(&self) {
        self.0.waits.dismiss();
    }
}

/// Whether a thread has a signal pending that it neither blocks nor ignores, or is gone.
fn has_signal(pid: u32) -> bool {
    signals(pid).is_none_or(|signals| signals.pending & !signals.unheeded != 0)
}

/// Whether a thread is about to die of a signal, or is gone: one that it catches does not kill it.
pub fn is_being_killed(pid: u32) -> bool {
    signals(pid).is_none_or(|signals| signals.pending & !signals.unheeded & !signals.caught & !HARMLESS != 0)
}

/// What a thread does not die of: SIGCHLD, SIGCONT, those that stop it, SIGURG and SIGWINCH.
const HARMLESS: u64 = bit(17) | bit(18) | bit(19) | bit(20) | bit(21) | bit(22) | bit(23) | bit(28);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

struct Signals {
    pending: u64,
    /// Blocked or ignored.
    unheeded: u64,
    caught: u64,
}

/// `None` when there is no such thread.
fn signals(pid: u32) -> Option<Signals> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    Some(Signals {
        pending: mask("SigPnd:") | mask("ShdPnd:"),
        unheeded: mask("SigBlk:") | mask("SigIgn:"),
        caught: mask("SigCgt:"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_nothing_are_no_conditions() {
        assert_eq!(Condition::parse("Running"), Some(Condition::State("Running")));
        assert_eq!(Condition::parse("settled"), Some(Condition::Settled));
        assert_eq!(Condition::parse("snapshot:a"), Some(Condition::Snapshot("a".into())));
        assert_eq!(Condition::parse("port:8080"), Some(Condition::Port(8080)));
        for name in ["running", "port:", "port:0", "port:65536", "port:x", "snapshot:", ""] {
            assert_eq!(Condition::parse(name), None, "{name}");
        }
    }

    #[test]
    fn this_thread_has_no_signal_pending_and_no_thread_is_gone() {
        assert!(!has_signal(std::process::id()));
        assert!(has_signal(u32::MAX));
        assert!(!is_being_killed(std::process::id()));
        assert!(is_being_killed(u32::MAX));
    }
}
