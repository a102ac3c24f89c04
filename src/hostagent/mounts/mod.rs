//! Mount entries of type reverse-sshfs: the guest's sshfs, joined over ssh to a server in here that shows it one
//! directory of the host and nothing else.
//!
//! ```text
//! Waiting --sshfs says that it is mounted--> Mounted --it ended--> Failed --a pause--> Waiting
//!    ^------------------- the session is another one: also from the other two -----------'
//! ```
//! Never takes a guest's word for a path, and never tells of a mount that it was not told of by the guest.

pub mod changes;
mod keep;
pub mod sftp;

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use limafs_driver::{Config, Mount};
use tokio::sync::watch;

pub use keep::{keep, take_leave};

/// Who tells of troubles with mounts.
pub const WHO: &str = "mounts";

/// The mount entries of one VM and how they are. Shared by those who mount and those who wait for it.
pub struct Mounts {
    entries: Vec<Entry>,
    shown: watch::Sender<Vec<Shown>>,
    /// The VM is about to be stopped: nothing is mounted any more.
    leaving: watch::Sender<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    location: PathBuf,
    point: String,
    writable: bool,
    cache: bool,
    follow_symlinks: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Waiting,
    Mounted,
    Failed(String),
}

impl Mounts {
    /// Those of a filled configuration that are ours to mount: other types are the guest's own affair.
    pub fn of(config: &Config) -> Self {
        let ours = config.mount_type.as_deref() == Some("reverse-sshfs") && config.plain != Some(true);
        let entries: Vec<Entry> = config.mounts.iter().flatten().filter(|_| ours).filter_map(Entry::of).collect();
        let shown = vec![Shown::Waiting; entries.len()];
        Self { entries, shown: watch::Sender::new(shown), leaving: watch::Sender::new(false) }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A guest that has just booted has none of them.
    pub fn begin_anew(&self) {
        self.shown.send_modify(|shown| shown.fill(Shown::Waiting));
    }

    /// Returns when it is known of each whether it is mounted. Cancel-safe.
    pub async fn settled(&self) {
        // The sender is in `self`: this cannot fail.
        let _ = self.shown.subscribe().wait_for(|shown| !shown.contains(&Shown::Waiting)).await;
    }

    /// A sentence for each that could not be mounted.
    pub fn failures(&self) -> Vec<String> {
        self.told(|shown| match shown {
            Shown::Failed(why) => Some(why.clone()),
            Shown::Waiting | Shown::Mounted => None,
        })
    }

    /// A sentence for each that is not mounted.
    pub fn missing(&self) -> Vec<String> {
        self.told(|shown| match shown {
            Shown::Failed(why) => Some(why.clone()),
            Shown::Waiting => Some("is not mounted yet".into()),
            Shown::Mounted => None,
        })
    }

    fn told(&self, why: impl Fn(&Shown) -> Option<String>) -> Vec<String> {
        let shown = self.shown.borrow();
        let all = self.entries.iter().zip(shown.iter());
        all.filter_map(|(entry, shown)| Some(format!("{}: {}", entry.name(), why(shown)?))).collect()
    }

    fn show(&self, index: usize, now: Shown) {
        self.shown.send_if_modified(|shown| {
            let differs = shown[index] != now;
            shown[index] = now;
            differs
        });
    }
}

impl Entry {
    fn of(mount: &Mount) -> Option<Self> {
        let location = mount.location.clone()?;
        let sshfs = mount.sshfs.clone().unwrap_or_default();
        Some(Self {
            point: mount.mount_point.clone().unwrap_or_else(|| location.clone()),
            location: location.into(),
            writable: mount.writable == Some(true),
            cache: sshfs.cache != Some(false),
            follow_symlinks: sshfs.follow_symlinks == Some(true),
        })
    }

    fn name(&self) -> String {
        format!("mount {} of {}", self.point, self.location.display())
    }

    /// The command that mounts it. Quoted for any shell that a user may have: of all that lima.yaml says there is only
    /// base64 in it.
    fn command(&self) -> String {
        let mut options = "allow_other".to_owned();
        for (option, wanted) in
            [(",ro", !self.writable), (",cache=no", !self.cache), (",follow_symlinks", self.follow_symlinks)]
        {
            options.push_str(if wanted { option } else { "" });
        }
        let script = BASE64_STANDARD.encode(include_str!("mount.sh"));
        let point = BASE64_STANDARD.encode(&self.point);
        format!("sh -c 'eval \"$(echo {script} | base64 -d)\"' limafs-mount {point} {options}")
    }
}

/// The command that unmounts all of them, whoever still uses them.
fn leave_command(entries: &[Entry]) -> String {
    let points: Vec<String> = entries.iter().rev().map(|entry| BASE64_STANDARD.encode(&entry.point)).collect();
    let script = "for word in \"$@\"; do point=$(echo $word | base64 -d); \
                  fusermount3 -u -z \"$point\" || fusermount -u -z \"$point\"; done";
    format!("sh -c '{script}' limafs-unmount {}", points.join(" "))
}

#[cfg(test)]
mod tests;
