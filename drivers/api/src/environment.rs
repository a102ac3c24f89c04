//! What a driver's program gets of our environment: what finds programs and files, and nothing that is a secret.

use std::ffi::OsString;

const KEPT: &[&str] = &[
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    // Windows of VMs.
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    // Windows programs of a WSL2 distribution.
    "WSL_INTEROP",
    "WSL_DISTRO_NAME",
];
/// Settings of Lima, of ours and of QEMU's driver.
const KEPT_PREFIXES: &[&str] = &["LIMA_", "LIMAFS_", "QEMU_SYSTEM_"];

/// The variables of this process's that a driver's program, or a plugin, is started with.
pub fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_kept)).collect()
}

fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s25_a_driver_gets_no_token_and_no_agent() {
        assert!(["HOME", "PATH", "LIMA_HOME", "QEMU_SYSTEM_X86_64"].into_iter().all(is_kept));
        let secrets = ["SSH_AUTH_SOCK", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD", "HTTPS_PROXY"];
        assert!(!secrets.into_iter().any(is_kept));
    }
}
