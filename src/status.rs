//! The words that mount and hostagent share: states, goals, verbs, and the status of an instance.
//! Plain data; performs nothing.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use limafs_driver::Accelerator;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$word_doc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// The word in `state`.
    State {
        /// A directory without a lima.yaml: a draft.
        Uninitialized = "Uninitialized",
        Stopped = "Stopped",
        Starting = "Starting",
        Running = "Running",
        /// Running, but something that was asked for failed; `errors` says what.
        Degraded = "Degraded",
        Stopping = "Stopping",
        Paused = "Paused",
        Suspended = "Suspended",
        /// Not running because something failed; `errors` says what. `start` tries again.
        Broken = "Broken",
    }
}

words! {
    /// What was asked for.
    Goal {
        Stopped = "Stopped",
        Running = "Running",
        Paused = "Paused",
        Suspended = "Suspended",
    }
}

words! {
    /// A word written to `state`.
    Verb {
        Start = "start",
        Stop = "stop",
        Restart = "restart",
        Kill = "kill",
        Pause = "pause",
        Resume = "resume",
        Suspend = "suspend",
        Reset = "reset",
    }
}

impl Status {
    /// Whether this is the earlier word of the same hostagent, or the same word.
    pub fn is_before(&self, other: &Self) -> bool {
        self.hostagent_pid == other.hostagent_pid && self.revision <= other.revision
    }
}

impl State {
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.word() == word)
    }

    /// Whether a VM is there, or about to be.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Uninitialized | Self::Stopped | Self::Broken | Self::Suspended)
    }
}

impl FromStr for Verb {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|verb| verb.word() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|verb| verb.word()).collect();
            let shown: String = text.chars().take(40).collect();
            Error::invalid("state", format!("unknown verb {shown:?} ({}, restore TAG)", known.join(", ")))
        })
    }
}

/// What a hostagent says of its instance: the body of `GET /v1/status` on ha.sock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub name: String,
    /// Counts the changes that the hostagent `hostagent_pid` has told of: the larger one is the later word.
    #[serde(default)]
    pub revision: u64,
    pub state: State,
    pub goal: Goal,
    /// When `state` last changed.
    pub since: Timestamp,
    /// What a start or stop is waiting for, with progress: `downloading image 34 % 12.3 MiB/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Since when it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_since: Option<Timestamp>,
    /// ssh answers.
    #[serde(default)]
    pub ready: bool,
    pub driver: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// `127.0.0.1`, or where the driver says; empty while unknown.
    #[serde(default)]
    pub ssh_address: String,
    /// 0 while unknown.
    #[serde(default)]
    pub ssh_local_port: u16,
    pub hostagent_pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_pid: Option<u32>,
    /// There is a guest whose files and jobs can be reached.
    #[serde(default)]
    pub guest: bool,
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// Why it is Degraded or Broken; sentences.
    #[serde(default)]
    pub errors: Vec<String>,
}

/// One port forward, a line of `ports`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// `tcp`, `udp` or `unix`.
    pub proto: String,
    /// `127.0.0.1:60022`, or a socket's path; `-` for what is ignored.
    pub host: String,
    /// `127.0.0.1:22`, as the guest sees it.
    pub guest: String,
    /// `forwarding`, `ignored`, or `failed: why`.
    pub state: String,
    /// The guest listens, and the host is dialled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reverse: bool,
}

/// What `POST /v1/command` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    pub verb: Verb,
}

/// What `POST /v1/snapshots` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOrder {
    pub what: SnapshotVerb,
    pub tag: String,
}

/// What is asked of an instance that has no hostagent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestOrder {
    Snapshot(SnapshotOrder),
    /// Gives up the memory of a suspended VM.
    Discard,
}

words! {
    SnapshotVerb {
        Create = "create",
        Apply = "apply",
        Delete = "delete",
    }
}

/// What `POST /v1/resize` takes: a size as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    pub cpus: u32,
    pub memory: String,
}

/// What ha.sock answers when it refuses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    pub message: String,
    pub errno: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_verb_names_the_known_ones() {
        let error = "strat".parse::<Verb>().unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL);
        assert_eq!(
            error.to_string(),
            "state: unknown verb \"strat\" (start, stop, restart, kill, pause, resume, suspend, reset, restore TAG)"
        );
    }

    #[test]
    fn a_status_survives_its_json() {
        let status = Status {
            name: "foo".into(),
            revision: 3,
            state: State::Starting,
            goal: Goal::Running,
            since: Timestamp::UNIX_EPOCH,
            step: Some("waiting for ssh".into()),
            step_since: Some(Timestamp::UNIX_EPOCH),
            ready: false,
            driver: "qemu".into(),
            accelerator: Some(Accelerator { name: "tcg".into(), reason: "no /dev/kvm".into() }),
            ssh_address: "127.0.0.1".into(),
            ssh_local_port: 60022,
            hostagent_pid: 7,
            driver_pid: None,
            guest: true,
            forwards: vec![],
            errors: vec![],
        };
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
