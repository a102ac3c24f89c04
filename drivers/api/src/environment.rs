//! What a driver's program gets of our environment: what finds programs and files, nothing that is a secret, and what its
//! user names in `LIMAFS_DRIVER_ENV` (names with commas between them: a proxy, a profile of a cloud).

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
/// Lists more names.
const WISHED: &str = "LIMAFS_DRIVER_ENV";

/// The variables of this process's that a driver's program, or a plugin, is started with.
pub fn environment() -> Vec<(OsString, OsString)> {
    let wished = std::env::var(WISHED).unwrap_or_default();
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| is_kept(name, &wished))).collect()
}

fn is_kept(name: &str, wished: &str) -> bool {
    let is_wished = || wished.split(',').any(|word| word.trim() == name);
    KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || is_wished()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s25_a_driver_gets_no_token_and_no_agent() {
        assert!(["HOME", "PATH", "LIMA_HOME", "QEMU_SYSTEM_X86_64"].into_iter().all(|name| is_kept(name, "")));
        let secrets = ["SSH_AUTH_SOCK", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD", "HTTPS_PROXY"];
        assert!(!secrets.into_iter().any(|name| is_kept(name, "")));
        let kept = |name| is_kept(name, "HTTPS_PROXY, AWS_PROFILE");
        assert!(kept("HTTPS_PROXY") && kept("AWS_PROFILE") && !kept("AWS_SECRET_ACCESS_KEY") && !kept(""));
    }
}
