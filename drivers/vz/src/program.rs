//! The programs on this machine: where they are, which version, whether they may run VMs.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use limafs_driver::{Error, Health, Result};
use tokio::process::Command;
use tokio::time::timeout;

use crate::kind::{Kind, Version};
use crate::network;

const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// Apple's rule for all that make VMs.
const ENTITLEMENT: &str = "com.apple.security.virtualization";
const HYPERVISOR_ENTITLEMENT: &str = "com.apple.security.hypervisor";
const OLDEST_MACOS: Version = Version(13, 0, 0);
/// The first that starts Linux 6.12 and later on Intel's processors (lima-vm/lima#3334).
const INTEL_MACOS: Version = Version(15, 5, 0);
const NESTED_MACOS: Version = Version(15, 0, 0);

/// What the health of the driver depends on.
#[derive(Debug, Clone, Default)]
struct Facts {
    macos: Option<Version>,
    is_intel: bool,
    /// The program's version, or why it tells none.
    program: Option<std::result::Result<String, String>>,
    /// `None` where that cannot be asked.
    entitled: Option<bool>,
    has_gvproxy: bool,
}

/// Where a program is in `$PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| is_program(path))
}

pub(crate) fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Finds the program.
pub(crate) fn find(kind: &Kind) -> Result<PathBuf> {
    let missing = || Error::Missing { what: kind.program.into(), fix: fix(kind) };
    in_path(kind.program).ok_or_else(missing)
}

/// Refuses a machine that cannot run the VM.
pub(crate) async fn check(kind: &Kind, nested: bool) -> Result<()> {
    let path = find(kind)?;
    network::find()?;
    let version = ask(&path, &["--version"]).await?;
    if let Some(found) = Version::parse(&version).filter(|found| *found < kind.oldest) {
        return Err(Error::failed(kind.program, format!("is {found}, at least {} is needed", kind.oldest)));
    }
    match macos().await {
        Some(version) if version < OLDEST_MACOS => Err(Error::failed("macOS", format!("{version} is older than 13"))),
        Some(version) if nested && version < NESTED_MACOS => {
            Err(Error::invalid("nestedVirtualization", format!("needs macOS 15, this is {version}")))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn health(kind: &Kind) -> Health {
    let path = in_path(kind.program);
    let program = match &path {
        Some(path) => Some(ask(path, &["--version"]).await.map_err(|error| error.to_string())),
        None => None,
    };
    let macos = macos().await;
    let entitled = match &path {
        Some(path) if macos.is_some() => entitled(kind, path).await,
        _ => None,
    };
    let is_intel = env::consts::ARCH == "x86_64";
    let facts = Facts { macos, is_intel, program, entitled, has_gvproxy: network::find().is_ok() };
    let mut health = judge(kind, &facts);
    health.doc = kind.doc.into();
    health
}

fn judge(kind: &Kind, facts: &Facts) -> Health {
    let name = kind.program;
    let Some(macos) = facts.macos else {
        let why = format!("{name} runs on macOS only: it needs Apple's hypervisor");
        return Health::failing(facts.program.is_some(), "not-macos", why, "use vmType qemu");
    };
    let version = match &facts.program {
        None => return Health::failing(false, "not-found", format!("there is no {name} in PATH"), kind.fix),
        Some(Err(why)) => return Health::failing(true, "broken", why, kind.fix),
        Some(Ok(text)) => text.trim().to_owned(),
    };
    let failing = |reason: &str, why: String, fix: String| Health {
        version: version.clone(),
        ..Health::failing(true, reason, why, fix)
    };
    if macos < OLDEST_MACOS {
        return failing("old-macos", format!("macOS {macos} is older than 13"), "update macOS".into());
    }
    if let Some(found) = Version::parse(&version).filter(|found| *found < kind.oldest) {
        let why = format!("{name} is {found}, at least {} is needed", kind.oldest);
        return failing("old-version", why, kind.fix.replace("install", "upgrade"));
    }
    if facts.entitled == Some(false) {
        let why = format!("{name} is not signed with an entitlement to make VMs");
        return failing("no-entitlement", why, format!("{}, or codesign it with {ENTITLEMENT}", kind.fix));
    }
    if !facts.has_gvproxy {
        return failing("no-gvproxy", "there is no gvproxy in PATH".into(), network::FIX.into());
    }
    let late = facts.is_intel && macos < INTEL_MACOS;
    let fix = if late { "update macOS to 15.5: Linux 6.12 and later do not start before" } else { "" };
    Health { needs_improvement: late, fix: fix.into(), ..Health::working(version) }
}

fn fix(kind: &Kind) -> String {
    match cfg!(target_os = "macos") {
        true => kind.fix.into(),
        false => "it runs on macOS only, use vmType qemu".into(),
    }
}

async fn macos() -> Option<Version> {
    let program = in_path("sw_vers")?;
    Version::parse(&ask(&program, &["-productVersion"]).await.ok()?)
}

async fn entitled(kind: &Kind, program: &Path) -> Option<bool> {
    let codesign = in_path("codesign")?;
    let path = program.canonicalize().ok()?;
    let text = ask(&codesign, &["-d", "--entitlements", "-", "--xml", &path.to_string_lossy()]).await.ok()?;
    let wanted = if kind.is_krunkit { HYPERVISOR_ENTITLEMENT } else { ENTITLEMENT };
    Some(text.contains(wanted))
}

async fn ask(program: &Path, arguments: &[&str]) -> Result<String> {
    let what = || program.to_string_lossy().into_owned();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PROBE_DEADLINE, command.output())
        .await
        .map_err(|_| Error::Timeout { what: what(), seconds: PROBE_DEADLINE.as_secs() })?
        .map_err(Error::io(program))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Error::failed(what(), text.lines().last().unwrap_or("failed without a word")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::VFKIT;

    fn facts() -> Facts {
        let program = Some(Ok("vfkit version: v0.6.4\n".into()));
        Facts { macos: Some(Version(15, 5, 0)), is_intel: true, program, entitled: Some(true), has_gvproxy: true }
    }

    #[test]
    fn health_names_the_first_thing_that_is_wrong() {
        let word = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            let health = judge(&VFKIT, &facts);
            assert!(!health.healthy && !health.error.is_empty() && !health.fix.is_empty(), "{health:?}");
            (health.installed, health.reason)
        };
        assert_eq!(word(|facts| facts.macos = None), (true, "not-macos".into()));
        assert_eq!(word(|facts| facts.program = None), (false, "not-found".into()));
        assert_eq!(word(|facts| facts.program = Some(Err("killed".into()))), (true, "broken".into()));
        assert_eq!(word(|facts| facts.macos = Some(Version(12, 6, 0))), (true, "old-macos".into()));
        assert_eq!(word(|facts| facts.program = Some(Ok("v0.5.1".into()))), (true, "old-version".into()));
        assert_eq!(word(|facts| facts.entitled = Some(false)), (true, "no-entitlement".into()));
        assert_eq!(word(|facts| facts.has_gvproxy = false), (true, "no-gvproxy".into()));
    }

    #[test]
    fn an_old_macos_on_intel_could_do_better() {
        assert_eq!(judge(&VFKIT, &facts()), Health::working("vfkit version: v0.6.4"));
        let health = judge(&VFKIT, &Facts { macos: Some(Version(14, 0, 0)), ..facts() });
        assert!(health.healthy && health.needs_improvement);
    }

    #[tokio::test]
    async fn on_another_system_the_reason_is_clear() {
        if cfg!(target_os = "macos") {
            return;
        }
        let health = health(&VFKIT).await;
        assert_eq!((health.healthy, health.reason.as_str()), (false, "not-macos"));
        assert!(health.error.contains("macOS only"));
    }
}
