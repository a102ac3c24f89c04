//! What of a configuration this driver takes: fills its own defaults and refuses what it would have to ignore. Pure.

use std::path::Path;

use limafs_driver::{Config, Error, Instance, Result, StringMap, mount_tag};
use serde::Deserialize;

use crate::command_line::Share;
use crate::display::Display;
use crate::machine::{self, Machine};
use crate::program::Version;
use crate::{display, names, virtiofsd};

/// Lima's, and QEMU's most.
const QUEUE_SIZE: i64 = 1024;

/// `vmOpts.qemu`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Options {
    pub minimum_version: Option<String>,
    pub cpu_type: Option<StringMap>,
}

/// Returns the instance with this driver's defaults.
pub(crate) fn configure(mut instance: Instance) -> Result<Instance> {
    let machine = machine(&instance)?;
    let options = options(&instance.config)?;
    if let Some(text) = &options.minimum_version {
        Version::parse(text).ok_or_else(|| Error::invalid("vmOpts.qemu.minimumVersion", "must be a version"))?;
    }
    check_size(&instance)?;
    refuse_unsupported(&instance.config)?;
    display::display(&instance.config)?;
    display::sound(&instance.config, machine)?;
    if instance.config.tpm == Some(true) && machine.tpm.is_none() {
        return Err(Error::invalid("tpm", format!("there is none for {}", machine.arch)));
    }
    let config = &mut instance.config;
    if config.mount_type.as_deref().is_none_or(|kind| kind.is_empty() || kind == "default") {
        let has_9p = !config.mount_types_unsupported.iter().flatten().any(|kind| kind == "9p");
        config.mount_type = Some(if has_9p { "9p" } else { "reverse-sshfs" }.into());
    }
    check_mounts(&instance)?;
    warn(&instance.config, machine);
    Ok(instance)
}

pub(crate) fn machine(instance: &Instance) -> Result<&'static Machine> {
    machine::find(&instance.arch).ok_or_else(|| {
        let known: Vec<&str> = machine::MACHINES.iter().map(|machine| machine.arch).collect();
        Error::invalid("arch", format!("unknown architecture {:?} ({})", instance.arch, known.join(", ")))
    })
}

pub(crate) fn options(config: &Config) -> Result<Options> {
    match config.vm_opts.as_ref().and_then(|options| options.get("qemu")) {
        None | Some(serde_json::Value::Null) => Ok(Options::default()),
        Some(value) => {
            serde_json::from_value(value.clone()).map_err(|error| Error::invalid("vmOpts.qemu", error.to_string()))
        }
    }
}

/// The 9p shares of the mount entries.
pub(crate) fn shares(config: &Config) -> Vec<Share> {
    if !has_mounts(config) || config.mount_type.as_deref() != Some("9p") {
        return Vec::new();
    }
    let share = |mount: &limafs_driver::Mount| {
        let location = mount.location.clone().unwrap_or_default();
        let mount_point = mount.mount_point.clone().unwrap_or_else(|| location.clone());
        let model = mount.nine_p.as_ref().and_then(|options| options.security_model.clone());
        Share {
            tag: mount_tag(&location, &mount_point),
            path: location.into(),
            security_model: model.filter(|model| !model.is_empty()).unwrap_or_else(|| "none".into()),
            writable: mount.writable == Some(true),
        }
    };
    config.mounts.iter().flatten().map(share).collect()
}

/// The virtiofs shares of the mount entries.
pub(crate) fn virtiofs(instance: &Instance) -> Vec<virtiofsd::Share> {
    if !has_mounts(&instance.config) || instance.config.mount_type.as_deref() != Some("virtiofs") {
        return Vec::new();
    }
    let share = |(index, mount): (usize, &limafs_driver::Mount)| {
        let location = mount.location.clone().unwrap_or_default();
        let mount_point = mount.mount_point.clone().unwrap_or_else(|| location.clone());
        virtiofsd::Share {
            tag: mount_tag(&location, &mount_point),
            path: location.into(),
            writable: mount.writable == Some(true),
            queue_size: mount.virtiofs.as_ref().and_then(|options| options.queue_size).unwrap_or(QUEUE_SIZE),
            socket: names::virtiofsd_socket(&instance.dir, index),
        }
    };
    instance.config.mounts.iter().flatten().enumerate().map(share).collect()
}

fn check_size(instance: &Instance) -> Result<()> {
    match (instance.cpus, instance.memory >> 20) {
        (0, _) => Err(Error::invalid("cpus", "must be at least 1")),
        (_, 0) => Err(Error::invalid("memory", "must be at least 1MiB")),
        _ => Ok(()),
    }
}

fn refuse_unsupported(config: &Config) -> Result<()> {
    let refuse = |field: &str| Err(Error::invalid(field, "not supported yet by the QEMU driver of limafs"));
    if let Some(os) = config.os.as_deref().filter(|os| !["", "default", "Linux", "FreeBSD"].contains(os)) {
        return Err(Error::invalid("os", format!("{os} is not supported yet by the QEMU driver of limafs")));
    }
    if config.networks.iter().flatten().any(|network| network.vz_nat == Some(true)) {
        return refuse("networks[].vzNAT");
    }
    if socket_networks(config).any(|socket| !Path::new(socket).is_absolute()) {
        return Err(Error::invalid("networks[].socket", "must be an absolute path"));
    }
    Ok(())
}

/// The sockets that cards are to be connected to.
pub(crate) fn socket_networks(config: &Config) -> impl Iterator<Item = &str> {
    let sockets = config.networks.iter().flatten().filter_map(|network| network.socket.as_deref());
    sockets.filter(|socket| !socket.is_empty())
}

fn has_mounts(config: &Config) -> bool {
    config.plain != Some(true) && config.mounts.as_ref().is_some_and(|mounts| !mounts.is_empty())
}

fn check_mounts(instance: &Instance) -> Result<()> {
    let config = &instance.config;
    let unsupported = config.mount_types_unsupported.as_deref().unwrap_or_default();
    if let Some(kind) = config.mount_type.as_ref().filter(|kind| unsupported.contains(kind)) {
        return Err(Error::invalid("mountType", format!("{kind} is one of mountTypesUnsupported")));
    }
    if !has_mounts(config) {
        return Ok(());
    }
    match config.mount_type.as_deref() {
        Some("9p" | "reverse-sshfs" | "virtiofs") => {}
        other => {
            let why = format!("unknown mount type {:?} (9p, reverse-sshfs, virtiofs)", other.unwrap_or_default());
            return Err(Error::invalid("mountType", why));
        }
    }
    for (index, share) in shares(config).iter().enumerate() {
        if !share.path.is_absolute() {
            return Err(Error::invalid(format!("mounts[{index}].location"), "must be an absolute path"));
        }
        if !["none", "passthrough", "mapped-xattr", "mapped-file"].contains(&share.security_model.as_str()) {
            let why = format!("unknown model {:?}", share.security_model);
            return Err(Error::invalid(format!("mounts[{index}].9p.securityModel"), why));
        }
    }
    for (index, share) in virtiofs(instance).iter().enumerate() {
        if !share.path.is_absolute() {
            return Err(Error::invalid(format!("mounts[{index}].location"), "must be an absolute path"));
        }
        // QEMU's own limits.
        if !(1..=1024).contains(&share.queue_size) || share.queue_size & (share.queue_size - 1) != 0 {
            let why = format!("must be a power of two up to 1024, not {}", share.queue_size);
            return Err(Error::invalid(format!("mounts[{index}].virtiofs.queueSize"), why));
        }
    }
    Ok(())
}

/// What Lima, too, leaves without effect under QEMU.
fn warn(config: &Config, machine: &Machine) {
    if config.firmware.as_ref().and_then(|firmware| firmware.legacy_bios) == Some(true) && !machine.has_bios {
        tracing::warn!("firmware.legacyBIOS has no effect on {}", machine.arch);
    }
    if let Ok(Display::Vnc(address)) = display::display(config)
        && display::is_public(&address)
    {
        tracing::warn!("video.vnc.display {address} can be reached from other machines; VNC passwords are weak");
    }
    if config.ssh.as_ref().and_then(|ssh| ssh.over_vsock) == Some(true) {
        tracing::warn!("ssh.overVsock has no effect under QEMU");
    }
    if config.nested_virtualization == Some(true) {
        tracing::warn!("nestedVirtualization has no effect under QEMU");
    }
    if config.rosetta.as_ref().and_then(|rosetta| rosetta.enabled) == Some(true) {
        tracing::warn!("rosetta has no effect under QEMU");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(config: &str) -> Instance {
        let config = serde_json::from_str(config).unwrap();
        Instance { arch: "x86_64".into(), cpus: 1, memory: 1 << 30, config, ..Instance::default() }
    }

    fn why(config: &str) -> String {
        configure(instance(config)).unwrap_err().to_string()
    }

    #[test]
    fn the_default_configuration_gets_a_mount_type() {
        assert_eq!(configure(instance("{}")).unwrap().config.mount_type.unwrap(), "9p");
        let without = configure(instance(r#"{"mountTypesUnsupported": ["9p"]}"#)).unwrap();
        assert_eq!(without.config.mount_type.unwrap(), "reverse-sshfs");
    }

    #[test]
    fn what_would_have_to_be_ignored_is_refused_by_name() {
        for (field, config) in [
            ("networks[].socket", r#"{"networks": [{"socket": "s"}]}"#),
            ("networks[].vzNAT", r#"{"networks": [{"vzNAT": true}]}"#),
            ("audio.device", r#"{"audio": {"device": "wav,path=/a"}}"#),
            ("audio.interface", r#"{"audio": {"device": "pa", "interface": "ac97"}}"#),
            ("video.display", r#"{"video": {"display": "vnc=:0"}}"#),
            ("video.vnc.display", r#"{"video": {"display": "vnc", "vnc": {"display": "unix:/a"}}}"#),
            ("mountType", r#"{"mountType": "wsl2", "mounts": [{"location": "/a"}]}"#),
            ("mountType", r#"{"mountType": "9p", "mountTypesUnsupported": ["9p"]}"#),
            ("mounts[0].location", r#"{"mountType": "virtiofs", "mounts": [{"location": "a"}]}"#),
            (
                "mounts[0].virtiofs.queueSize",
                r#"{"mountType": "virtiofs", "mounts": [{"location": "/a", "virtiofs": {"queueSize": 1000}}]}"#,
            ),
            ("mounts[0].location", r#"{"mounts": [{"location": "a"}]}"#),
            ("mounts[0].9p.securityModel", r#"{"mounts": [{"location": "/a", "9p": {"securityModel": "x,y"}}]}"#),
            ("vmOpts.qemu.minimumVersion", r#"{"vmOpts": {"qemu": {"minimumVersion": "new"}}}"#),
            ("vmOpts.qemu", r#"{"vmOpts": {"qemu": {"cpuType": 3}}}"#),
            ("vmOpts.qemu", r#"{"vmOpts": {"qemu": {"arguments": ["-s"]}}}"#),
            ("os", r#"{"os": "Darwin"}"#),
        ] {
            assert!(why(config).starts_with(&format!("{field}: ")), "{field}: {}", why(config));
        }
    }

    #[test]
    fn b34_a_tpm_where_there_is_none_is_refused() {
        let config = || serde_json::from_str(r#"{"tpm": true}"#).unwrap();
        let with = |arch: &str| Instance {
            arch: arch.into(),
            cpus: 1,
            memory: 1 << 30,
            config: config(),
            ..Instance::default()
        };
        for arch in ["x86_64", "aarch64", "armv7l", "riscv64"] {
            configure(with(arch)).unwrap();
        }
        for arch in ["s390x", "ppc64le"] {
            assert_eq!(configure(with(arch)).unwrap_err().to_string(), format!("tpm: there is none for {arch}"));
        }
    }

    #[test]
    fn silent_audio_and_no_display_are_fine() {
        configure(instance(r#"{"audio": {"device": ""}, "video": {"display": "none"}, "tpm": false}"#)).unwrap();
    }
}
