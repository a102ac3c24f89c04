//! The process that keeps a distribution running: a wsl.exe whose program in the guest sleeps. Windows ends a
//! distribution in which nobody does anything. It outlives us, and by its arguments it is found again.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use limafs_driver::Result;
use tokio::process::Child;
use tokio::time::sleep;

use crate::wsl::Wsl;

/// As long as every `sleep` takes it.
const LONG: &str = "2147483647";
/// How often one is looked at that is not our child.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) enum Keeper {
    Ours(Child),
    Found { pid: u32, identity: Vec<u8> },
}

impl Keeper {
    pub(crate) fn start(wsl: &Wsl, distribution: &str) -> Result<Self> {
        wsl.spawn(&words(distribution), Stdio::null(), Stdio::null()).map(Self::Ours)
    }

    /// Finds the one of a distribution, where there is a `/proc`.
    pub(crate) fn find(distribution: &str) -> Option<Self> {
        let identity = words(distribution).join("\0").into_bytes();
        let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let pid = pids.into_iter().find(|pid| has(*pid, &identity))?;
        Some(Self::Found { pid, identity })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Ours(child) => child.id(),
            Self::Found { pid, .. } => Some(*pid),
        }
    }

    /// Returns when it has ended. Cancel-safe.
    pub(crate) async fn ended(&mut self) {
        match self {
            Self::Ours(child) => {
                if let Err(error) = child.wait().await {
                    tracing::warn!("wsl.exe: {error}");
                }
            }
            Self::Found { pid, identity } => {
                while has(*pid, identity) {
                    sleep(LOOK).await;
                }
            }
        }
    }
}

fn words(distribution: &str) -> [&str; 7] {
    ["-d", distribution, "--user", "root", "--exec", "sleep", LONG]
}

/// Whole words, and its own user's process. A dead one that nobody has taken in yet has no arguments.
fn has(pid: u32, identity: &[u8]) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = [&[0], identity, &[0]].concat();
    is_own(pid) && arguments.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(unix)]
fn is_own(pid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let owner = |path: &Path| path.metadata().map(|meta| meta.uid()).ok();
    owner(Path::new(&format!("/proc/{pid}"))) == owner(Path::new("/proc/self"))
}

#[cfg(not(unix))]
fn is_own(_: u32) -> bool {
    !Path::new("/proc").exists()
}
