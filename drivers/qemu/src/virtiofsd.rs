//! virtiofsd: the program that serves a directory to a guest over virtiofs, one process for each mount entry. It ends
//! when its QEMU hangs up; what it leaves is cleared away with what QEMU leaves.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use limafs_driver::{Error, Result};
use serde::Deserialize;

use crate::process::Process;
use crate::program::{self, Version};
use crate::{daemon, names};

const MISSING: &str = "virtiofsd (the one written in Rust)";
const FIX: &str = "apt-get install virtiofsd where there is such a package (Debian 13, Ubuntu 24.04), or set mountType to \
                   9p or reverse-sshfs";

/// A directory of the host as virtiofs has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub tag: String,
    pub path: PathBuf,
    pub writable: bool,
    pub queue_size: i64,
    pub socket: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    path: PathBuf,
    /// It can refuse changes itself; older ones leave that to the guest.
    has_readonly: bool,
}

/// One of the files in which a distribution tells of its vhost-user programs.
#[derive(Deserialize)]
struct Description {
    #[serde(rename = "type")]
    kind: String,
    binary: PathBuf,
}

/// Finds virtiofsd, of which there are two with different options: QEMU's own of old, in C, is none for us.
pub(crate) async fn find(qemu: &Path) -> Result<Daemon> {
    for dir in places(qemu) {
        for binary in described(&dir) {
            if let Some(daemon) = ask(binary).await {
                return Ok(daemon);
            }
        }
    }
    Err(Error::Missing { what: MISSING.into(), fix: FIX.into() })
}

fn places(qemu: &Path) -> Vec<PathBuf> {
    let own = env::var_os("HOME").map(|home| PathBuf::from(home).join(".local"));
    let prefix = qemu.parent().and_then(Path::parent).map(Path::to_owned);
    let prefixes = [own, prefix, Some("/usr".into())];
    prefixes.into_iter().flatten().map(|prefix| prefix.join("share/qemu/vhost-user")).collect()
}

/// The programs that a directory of descriptions names, in the order of the files' names.
fn described(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let read = |file: PathBuf| serde_json::from_slice::<Description>(&fs::read(file).ok()?).ok();
    let found = files.into_iter().filter_map(read).filter(|found| found.kind == "fs" && found.binary.is_absolute());
    found.map(|found| found.binary).collect()
}

async fn ask(path: PathBuf) -> Option<Daemon> {
    let words = [OsString::from(&path)];
    let version = program::ask(&words, &["--version"]).await.ok()?;
    // The other says `virtiofsd version 7.2 using FUSE kernel interface`.
    let number = version.strip_prefix("virtiofsd ")?;
    if !number.starts_with(|c: char| c.is_ascii_digit()) || Version::parse(number).is_none() {
        return None;
    }
    let has_readonly = program::ask(&words, &["--help"]).await.ok()?.contains("--readonly");
    Some(Daemon { path, has_readonly })
}

/// Starts one for each share and returns when QEMU may connect. All are ended if one of them fails.
pub(crate) async fn start(daemon: &Daemon, shares: &[Share]) -> Result<Vec<Process>> {
    let mut started = Vec::new();
    for share in shares {
        match start_one(daemon, share).await {
            Ok(process) => started.push(process),
            Err(error) => {
                started.iter().for_each(daemon::end);
                return Err(error);
            }
        }
    }
    Ok(started)
}

async fn start_one(daemon: &Daemon, share: &Share) -> Result<Process> {
    let what = format!("virtiofsd for {}", share.path.display());
    daemon::start(&what, &arguments(daemon, share), &share.socket).await
}

fn arguments(daemon: &Daemon, share: &Share) -> Vec<OsString> {
    let with = |option: &str, path: &Path| {
        let mut word = OsString::from(option);
        word.push(path);
        word
    };
    let mut words = vec![daemon.path.clone().into(), with(SOCKET, &share.socket), with("--shared-dir=", &share.path)];
    match (share.writable, daemon.has_readonly) {
        (true, _) => {}
        (false, true) => words.push("--readonly".into()),
        (false, false) => {
            tracing::warn!("this virtiofsd leaves it to the guest that {} is only read", share.path.display());
        }
    }
    words
}

/// How a process of an instance is recognised, together with the socket's path.
const SOCKET: &str = "--socket-path=";

/// Ends those of a QEMU that is gone. They write their pids beside their sockets themselves.
pub(crate) fn clean(dir: &Path) {
    for index in 0.. {
        let socket = names::virtiofsd_socket(dir, index);
        let pid_file = socket.with_extension("sock.pid");
        let mut word = OsString::from(SOCKET);
        word.push(&socket);
        if !daemon::clean(dir, socket, pid_file, &[&word]) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A description and the program that it names, a script.
    fn describe(dir: &Path, name: &str, kind: &str, script: &str) -> PathBuf {
        let binary = dir.join(name);
        // By another process: one that other threads fork from meanwhile would keep it open for writing, and so busy.
        let mut writer = std::process::Command::new("sh");
        writer.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$2\" && chmod 755 \"$2\"", "sh", script]);
        assert!(writer.arg(&binary).status().unwrap().success());
        let text = serde_json::json!({ "description": "x", "type": kind, "binary": binary }).to_string();
        fs::write(dir.join(format!("{name}.json")), text).unwrap();
        binary
    }

    #[tokio::test]
    async fn the_one_in_rust_is_found_and_no_other() {
        let prefix = tempfile::tempdir().unwrap();
        let (dir, qemu) = (prefix.path().join("share/qemu/vhost-user"), prefix.path().join("bin/qemu"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("0.json"), "{").unwrap();
        describe(&dir, "1", "gpu", "echo virtiofsd 1.0.0");
        describe(&dir, "2", "fs", "echo virtiofsd version 7.2.22 using FUSE kernel interface version 7.36");
        describe(&dir, "3", "fs", "exit 1");
        assert_eq!(described(&dir).len(), 2);
        let rust = describe(&dir, "4", "fs", "echo virtiofsd 1.13.2; echo --readonly");
        let found = find(&qemu).await.unwrap();
        assert_eq!(found, Daemon { path: rust, has_readonly: true });
    }

    fn share(dir: &Path, writable: bool) -> Share {
        let socket = names::virtiofsd_socket(dir, 0);
        Share { tag: "lima-0".into(), path: "/srv/a,b".into(), writable, queue_size: 1024, socket }
    }

    #[test]
    fn a_share_that_is_only_read_is_said_to_be() {
        let daemon = Daemon { path: "/v".into(), has_readonly: true };
        let words = |writable| arguments(&daemon, &share(Path::new("/h/foo"), writable));
        assert_eq!(words(true), ["/v", "--socket-path=/h/foo/virtiofsd-0.sock", "--shared-dir=/srv/a,b"]);
        assert_eq!(words(false)[3], "--readonly");
    }

    #[tokio::test]
    async fn one_that_cannot_serve_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = describe(dir.path(), "v", "fs", "echo first >&2; echo no such directory >&2; exit 1");
        let daemon = Daemon { path, has_readonly: false };
        let error = start(&daemon, &[share(dir.path(), false)]).await.unwrap_err().to_string();
        assert_eq!(error, "virtiofsd for /srv/a,b: no such directory");
    }

    #[tokio::test]
    async fn what_a_dead_vm_leaves_is_ended_and_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path =
            describe(dir.path(), "v", "fs", "echo $$ >\"${1#*=}.pid\"; : >\"${1#*=}\"; while :; do sleep 1; done");
        let daemon = Daemon { path, has_readonly: false };
        let share = share(dir.path(), true);
        // A script's first argument is another than the program's: the words are found all the same.
        let process = start_one(&daemon, &share).await.unwrap();
        let stranger = names::virtiofsd_socket(dir.path(), 1);
        fs::write(&stranger, "").unwrap();
        fs::write(stranger.with_extension("sock.pid"), std::process::id().to_string()).unwrap();
        clean(dir.path());
        tokio::time::timeout(daemon::START_DEADLINE, process.ended()).await.unwrap();
        assert!(!share.socket.exists() && !stranger.exists());
    }
}
