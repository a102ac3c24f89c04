//! What of a configuration this driver takes: fills its own defaults, warns of what has no effect, and refuses what a
//! guest would miss. Pure.

use std::path::PathBuf;

use limafs_driver::{Config, Error, Instance, Result};
use serde::Deserialize;

/// The port of a distribution's own sshd: distributions share one network, and nothing is forwarded.
pub(crate) const SSH_PORT: u16 = 22;
/// Ends of the names of archives that wsl.exe imports, some of which it does not know packed but as we unpack them.
const ARCHIVES: &[&str] =
    &[".tar", ".tgz", ".txz", ".tbz2", ".tzst", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zstd", ".tar.zst"];
const PACKED: &[&str] = &[".gz", ".xz", ".bz2", ".zstd", ".zst"];
const DISKS: &[&str] = &[".qcow2", ".raw", ".img", ".iso", ".ipsw"];

/// `vmOpts.wsl2`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Options {
    /// A directory on a drive of Windows', in which the distribution's disk is kept.
    pub location: Option<PathBuf>,
}

/// Returns the instance with this driver's defaults.
pub(crate) fn configure(mut instance: Instance, host_arch: &str) -> Result<Instance> {
    if instance.arch != host_arch {
        return Err(Error::invalid(
            "arch",
            format!("WSL2 runs guests of this machine's architecture only ({host_arch})"),
        ));
    }
    options(&instance.config)?;
    let config = &mut instance.config;
    if config.mount_type.as_deref().is_none_or(|word| word.is_empty() || word == "default") {
        config.mount_type = Some("wsl2".into());
    }
    check(config, host_arch)?;
    for field in without_effect(config) {
        tracing::warn!("{field} has no effect with vmType wsl2");
    }
    instance.ssh_local_port = SSH_PORT;
    Ok(instance)
}

pub(crate) fn options(config: &Config) -> Result<Options> {
    match config.vm_opts.as_ref().and_then(|options| options.get("wsl2")) {
        None | Some(serde_json::Value::Null) => Ok(Options::default()),
        Some(value) => {
            serde_json::from_value(value.clone()).map_err(|error| Error::invalid("vmOpts.wsl2", error.to_string()))
        }
    }
}

fn check(config: &Config, host_arch: &str) -> Result<()> {
    let refuse = |field: &str, why: &str| Err(Error::invalid(field, why));
    if config.mount_type.as_deref() != Some("wsl2") {
        return refuse("mountType", "must be wsl2: Windows itself shows its drives in a distribution");
    }
    if !matches!(config.os.as_deref(), None | Some("" | "default" | "Linux")) {
        return refuse("os", "WSL2 runs Linux only");
    }
    if config.tpm == Some(true) {
        return refuse("tpm", "WSL2 has no TPM");
    }
    if config.user.as_ref().and_then(|user| user.passwordless_sudo) == Some(false) {
        return refuse("user.passwordlessSudo", "cannot be false: whoever may run wsl.exe is root in the guest");
    }
    for (index, image) in config.images.iter().flatten().enumerate() {
        if image.arch.as_deref().is_none_or(|arch| arch == host_arch) {
            let location = image.location.as_deref().unwrap_or_default();
            check_image(location).map_err(|why| Error::invalid(format!("images[{index}].location"), why))?;
        }
    }
    Ok(())
}

fn check_image(location: &str) -> Result<(), String> {
    let ends = |ends: &[&str]| ends.iter().any(|end| location.ends_with(end));
    let inner = PACKED.iter().find_map(|end| location.strip_suffix(end)).unwrap_or(location);
    if ends(ARCHIVES) {
        return Ok(());
    }
    Err(match inner {
        _ if DISKS.iter().any(|end| inner.ends_with(end)) => {
            format!("{location} is a VM's disk; WSL2 imports a tar archive of a root file system")
        }
        _ if inner.ends_with(".squashfs") => {
            format!("{location} is SquashFS; WSL2 imports a tar archive of a root file system, made of it")
        }
        _ => format!("{location} is no tar archive of a root file system (.tar, .tar.gz, .tar.xz and the like)"),
    })
}

/// Fields that Lima's driver, too, leaves alone: Windows decides about all VMs of WSL2 together.
fn without_effect(config: &Config) -> Vec<&'static str> {
    let display = config.video.as_ref().and_then(|video| video.display.as_deref()).unwrap_or_default();
    let audio = config.audio.as_ref().and_then(|audio| audio.device.as_deref()).unwrap_or_default();
    let some = |list: Option<usize>| list.is_some_and(|length| length > 0);
    let table = [
        ("mounts", some(config.mounts.as_ref().map(Vec::len))),
        ("networks", some(config.networks.as_ref().map(Vec::len))),
        ("additionalDisks", some(config.additional_disks.as_ref().map(Vec::len))),
        ("firmware.legacyBIOS", config.firmware.as_ref().and_then(|firmware| firmware.legacy_bios) == Some(true)),
        ("video.display", !["", "none"].contains(&display)),
        ("audio.device", !["", "none"].contains(&audio)),
        ("nestedVirtualization", config.nested_virtualization == Some(true)),
        ("rosetta", config.rosetta.as_ref().and_then(|rosetta| rosetta.enabled) == Some(true)),
        ("ssh.overVsock", config.ssh.as_ref().and_then(|ssh| ssh.over_vsock) == Some(true)),
        ("ssh.localPort", config.ssh.as_ref().and_then(|ssh| ssh.local_port).is_some_and(|port| port > 0)),
        ("images[].kernel", config.images.iter().flatten().any(|image| image.kernel.is_some())),
    ];
    table.into_iter().filter(|(_, set)| *set).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(config: &str) -> Instance {
        let config = serde_json::from_str(config).unwrap();
        Instance { arch: "x86_64".into(), ssh_local_port: 60022, config, ..Instance::default() }
    }

    fn why(config: &str) -> String {
        configure(instance(config), "x86_64").unwrap_err().to_string()
    }

    fn image(location: &str) -> String {
        format!(r#"{{"images": [{{"location": "{location}", "arch": "x86_64"}}]}}"#)
    }

    #[test]
    fn the_defaults_are_limas() {
        let instance = configure(instance("{}"), "x86_64").unwrap();
        assert_eq!((instance.config.mount_type.as_deref(), instance.ssh_local_port), (Some("wsl2"), 22));
    }

    #[test]
    fn what_a_guest_would_miss_is_refused_by_name() {
        for (field, config) in [
            ("mountType", r#"{"mountType": "virtiofs"}"#),
            ("os", r#"{"os": "FreeBSD"}"#),
            ("tpm", r#"{"tpm": true}"#),
            ("user.passwordlessSudo", r#"{"user": {"passwordlessSudo": false}}"#),
            ("vmOpts.wsl2", r#"{"vmOpts": {"wsl2": {"program": "/bin/sh"}}}"#),
        ] {
            assert!(why(config).starts_with(&format!("{field}: ")), "{field}: {}", why(config));
        }
        let error = configure(instance("{}"), "aarch64").unwrap_err().to_string();
        assert_eq!(error, "arch: WSL2 runs guests of this machine's architecture only (aarch64)");
    }

    #[test]
    fn images_are_judged_by_the_end_of_their_names() {
        for end in ARCHIVES {
            configure(instance(&image(&format!("https://host/rootfs{end}"))), "x86_64").unwrap();
        }
        for (location, words) in [
            ("/a/disk.qcow2", "is a VM's disk"),
            ("/a/disk.img.xz", "is a VM's disk"),
            ("/a/root.squashfs.zst", "is SquashFS"),
            ("/a/root.zip", "is no tar archive"),
            ("/a/roottar", "is no tar archive"),
        ] {
            let error = why(&image(location));
            assert!(error.starts_with("images[0].location: ") && error.contains(words), "{error}");
        }
        // Of another architecture it may be what it likes.
        let other = r#"{"images": [{"location": "/a/disk.qcow2", "arch": "riscv64"}]}"#;
        configure(instance(other), "x86_64").unwrap();
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let config: Config = serde_json::from_str(
            r#"{"networks": [{"lima": "user-v2"}], "mounts": [{"location": "/a"}], "video": {"display": "vnc"},
                "audio": {"device": "none"}, "ssh": {"overVsock": true, "localPort": 0}}"#,
        )
        .unwrap();
        assert_eq!(without_effect(&config), ["mounts", "networks", "video.display", "ssh.overVsock"]);
        assert!(without_effect(&Config::default()).is_empty());
    }
}
