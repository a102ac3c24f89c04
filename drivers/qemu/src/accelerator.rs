//! Which accelerator runs a guest, and why; KVM is proven once per boot of the host and remembered in a file.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use limafs_driver::{Accelerator, Error, Result};
use serde::{Deserialize, Serialize};

use crate::kvm;

/// Overrides the choice: `kvm` or `tcg`.
const OVERRIDE: &str = "LIMAFS_ACCEL";

/// What was proven, for one boot of the host.
#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    boot_id: String,
    /// Empty when KVM works.
    reason: String,
}

/// Where the proof is kept for the instance in `dir`: `$LIMA_HOME/_limafs/kvm.json`.
pub(crate) fn proof_path(dir: &Path) -> PathBuf {
    dir.parent().unwrap_or(dir).join("_limafs/kvm.json")
}

/// Chooses for a guest of `arch`. May run a tiny guest for up to a second.
pub(crate) async fn choose(arch: &str, proof: PathBuf) -> Result<Accelerator> {
    let accelerator = |name: &str, reason: String| Ok(Accelerator { name: name.into(), reason });
    match env::var(OVERRIDE).unwrap_or_default().as_str() {
        "" => {}
        name @ ("kvm" | "tcg") => return accelerator(name, format!("{OVERRIDE}={name}")),
        other => return Err(Error::invalid(OVERRIDE, format!("unknown accelerator {other:?} (kvm, tcg)"))),
    }
    let host = env::consts::ARCH;
    if arch != host {
        return accelerator("tcg", format!("the guest is {arch}, this machine {host}"));
    }
    let reason = tokio::task::spawn_blocking(move || why_not_kvm(&proof))
        .await
        .map_err(|error| Error::failed("the proof of KVM", error))?;
    if reason.is_empty() { accelerator("kvm", reason) } else { accelerator("tcg", reason) }
}

/// The accelerator named by the arguments of a running QEMU.
pub(crate) fn of_arguments(arguments: &[impl AsRef<std::ffi::OsStr>]) -> Option<String> {
    let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    let named = words.windows(2).find_map(|pair| match &*pair[0] {
        "-accel" => pair[1].split(',').next().map(str::to_owned),
        "-machine" => pair[1].split(',').find_map(|option| option.strip_prefix("accel=")).map(str::to_owned),
        _ => None,
    });
    named.or_else(|| words.iter().any(|word| word == "-enable-kvm").then(|| "kvm".into()))
}

fn why_not_kvm(path: &Path) -> String {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let known = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Proof>(&bytes).ok());
    if let Some(proof) = known.filter(|proof| !boot_id.is_empty() && proof.boot_id == boot_id) {
        // Working once is no right to open it now.
        let opens = || fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if !proof.reason.is_empty() || opens() {
            return proof.reason;
        }
    }
    let (reason, lasting) = match kvm::prove() {
        Ok(()) => (String::new(), true),
        Err(refusal) => (refusal.reason, refusal.lasting),
    };
    if lasting {
        let proof = Proof { boot_id, reason: reason.clone() };
        // Not remembered: proven again next time.
        if let Err(error) = remember(path, &proof) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
    reason
}

fn remember(path: &Path, proof: &Proof) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let new = path.with_extension(format!("json.{}", std::process::id()));
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(proof)?)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accelerator_of_a_running_qemu_is_read_from_its_arguments() {
        assert_eq!(of_arguments(&["q", "-machine", "q35,accel=kvm"]).unwrap(), "kvm");
        assert_eq!(of_arguments(&["q", "-machine", "q35", "-accel", "tcg,tb-size=64"]).unwrap(), "tcg");
        assert_eq!(of_arguments(&["q"]), None);
    }

    #[tokio::test]
    async fn a_foreign_guest_is_translated() {
        let foreign = if cfg!(target_arch = "s390x") { "x86_64" } else { "s390x" };
        let choice = choose(foreign, PathBuf::from("/nonexistent/kvm.json")).await.unwrap();
        assert_eq!(choice.name, "tcg");
        assert!(choice.reason.contains("the guest is"));
    }

    #[test]
    fn a_lasting_verdict_is_remembered_and_one_of_another_boot_is_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("_limafs/kvm.json");
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
        remember(&path, &Proof { boot_id, reason: "remembered".into() }).unwrap();
        assert_eq!(why_not_kvm(&path), "remembered");
        remember(&path, &Proof { boot_id: "another".into(), reason: "remembered".into() }).unwrap();
        assert_ne!(why_not_kvm(&path), "remembered");
    }
}
