//! What of a configuration this driver takes: fills its own defaults and refuses what it would have to ignore. Pure.

use limafs_driver::{Config, Error, Instance, Mount, Result, Rosetta};
use serde::{Deserialize, Serialize};

use crate::kind::Kind;

/// `vmOpts.vz`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Options {
    #[serde(skip_serializing_if = "is_empty")]
    pub rosetta: Rosetta,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_image_format: Option<String>,
}

fn is_empty(rosetta: &Rosetta) -> bool {
    *rosetta == Rosetta::default()
}

/// Returns the instance with this driver's defaults. `host_arch` is this machine's, in Lima's words.
pub(crate) fn configure(kind: &Kind, mut instance: Instance, host_arch: &str) -> Result<Instance> {
    if instance.arch != host_arch {
        let why = format!("{} runs guests of this machine's architecture only ({host_arch})", kind.program);
        return Err(Error::invalid("arch", why));
    }
    check_size(&instance)?;
    check_path(kind, &instance)?;
    let mut options = options(&instance.config)?;
    refuse_unsupported(kind, &instance.config, &options)?;
    let config = &mut instance.config;
    if config.mount_type.as_deref().is_none_or(|word| word.is_empty() || word == "default") {
        config.mount_type = Some("virtiofs".into());
    }
    let ssh = config.ssh.get_or_insert_default();
    ssh.over_vsock = Some(ssh.over_vsock.unwrap_or(kind.ssh_over_vsock));
    if !kind.is_krunkit {
        fill(&mut options, config.rosetta.as_ref());
        let value = serde_json::to_value(&options).map_err(|error| Error::failed("vmOpts.vz", error))?;
        config.vm_opts.get_or_insert_default().insert("vz".into(), value);
    }
    check_mounts(kind, &instance.config)?;
    warn(kind, &instance.config);
    Ok(instance)
}

pub(crate) fn options(config: &Config) -> Result<Options> {
    match config.vm_opts.as_ref().and_then(|options| options.get("vz")) {
        None | Some(serde_json::Value::Null) => Ok(Options::default()),
        Some(value) => {
            serde_json::from_value(value.clone()).map_err(|error| Error::invalid("vmOpts.vz", error.to_string()))
        }
    }
}

/// Whether the guest gets Rosetta, which only Apple's own processors have.
pub(crate) fn has_rosetta(kind: &Kind, instance: &Instance) -> bool {
    let enabled = options(&instance.config).is_ok_and(|options| options.rosetta.enabled == Some(true));
    enabled && instance.arch == "aarch64" && !kind.is_krunkit
}

/// Whether the VM has a window. krunkit draws none.
pub(crate) fn has_window(kind: &Kind, config: &Config) -> bool {
    let display = config.video.as_ref().and_then(|video| video.display.as_deref());
    !kind.is_krunkit && matches!(display, Some("vz" | "default"))
}

pub(crate) fn has_mounts(config: &Config) -> bool {
    config.plain != Some(true) && config.mounts.as_ref().is_some_and(|mounts| !mounts.is_empty())
}

/// The deprecated field counts where the new one says nothing.
fn fill(options: &mut Options, old: Option<&Rosetta>) {
    if is_empty(&options.rosetta) {
        options.rosetta = old.cloned().unwrap_or_default();
    }
    options.rosetta.enabled.get_or_insert(false);
    options.rosetta.bin_fmt.get_or_insert(false);
    options.disk_image_format.get_or_insert_with(|| "raw".into());
}

fn check_size(instance: &Instance) -> Result<()> {
    match (instance.cpus, instance.memory >> 20) {
        (0, _) => Err(Error::invalid("cpus", "must be at least 1")),
        (_, 0) => Err(Error::invalid("memory", "must be at least 1MiB")),
        _ => Ok(()),
    }
}

/// Both programs split their options at commas, and vfkit takes a socket's path for a URL.
fn check_path(kind: &Kind, instance: &Instance) -> Result<()> {
    let path = instance.dir.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-~+@".contains(c);
    match path.chars().find(|c| !is_plain(*c)) {
        Some(c) => Err(Error::invalid(
            "LIMA_HOME",
            format!("{} cannot work in a path that contains {c:?}: {path}", kind.program),
        )),
        None => Ok(()),
    }
}

fn refuse_unsupported(kind: &Kind, config: &Config, options: &Options) -> Result<()> {
    let refuse = |field: &str, why: String| Err(Error::invalid(field, why));
    let without = |what: &str| format!("{} has no {what}", kind.program);
    let is_native = |arch: &Option<String>| arch.is_none() || *arch == config.arch;
    let firmware = config.firmware.clone().unwrap_or_default();
    let audio = config.audio.as_ref().and_then(|audio| audio.device.as_deref()).unwrap_or_default();
    match config {
        _ if !matches!(config.os.as_deref(), None | Some("" | "default" | "Linux")) => {
            refuse("os", format!("{} starts Linux guests only", kind.program))
        }
        _ if config.tpm == Some(true) => refuse("tpm", without("TPM")),
        _ if firmware.images.iter().flatten().any(|image| {
            is_native(&image.arch) && matches!(image.vm_type.as_deref(), None | Some("" | "vz" | "krunkit"))
        }) =>
        {
            refuse("firmware.images", format!("{} brings its own firmware", kind.program))
        }
        _ if ["vz", "default"].contains(&audio) => refuse("audio.device", without("sound device")),
        _ => match options.disk_image_format.as_deref() {
            None | Some("raw") => refuse_networks(kind, config),
            Some("asif") => refuse("vmOpts.vz.diskImageFormat", without("way to make asif images, raw is supported")),
            Some(other) => refuse("vmOpts.vz.diskImageFormat", format!("unknown format {other:?} (raw)")),
        },
    }
}

fn refuse_networks(kind: &Kind, config: &Config) -> Result<()> {
    for (index, network) in config.networks.iter().flatten().enumerate() {
        let text = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
        let field = |name: &str| format!("networks[{index}].{name}");
        if text(&network.lima) {
            return Err(Error::invalid(field("lima"), "networks between instances need QEMU's sockets, use vzNAT"));
        }
        if text(&network.socket) && !kind.is_krunkit {
            return Err(Error::invalid(field("socket"), "vfkit does not speak socket_vmnet's protocol, use vzNAT"));
        }
        if network.vz_nat == Some(true) && kind.is_krunkit {
            return Err(Error::invalid(field("vzNAT"), "krunkit has no NAT"));
        }
        let path = network.socket.as_deref().unwrap_or_default();
        if path.contains([',', '=']) {
            return Err(Error::invalid(field("socket"), "must not contain a comma or an equals sign"));
        }
        if network.mac_address.as_deref().is_none_or(str::is_empty) {
            return Err(Error::invalid(field("macAddress"), "must be known before the start"));
        }
    }
    Ok(())
}

fn check_mounts(kind: &Kind, config: &Config) -> Result<()> {
    if !has_mounts(config) {
        return Ok(());
    }
    match config.mount_type.as_deref() {
        Some("reverse-sshfs") => return Ok(()),
        Some("virtiofs") => {}
        other => {
            let why = format!("{} has reverse-sshfs and virtiofs, not {:?}", kind.program, other.unwrap_or_default());
            return Err(Error::invalid("mountType", why));
        }
    }
    for (index, mount) in config.mounts.iter().flatten().enumerate() {
        let field = format!("mounts[{index}].location");
        let location = mount.location.as_deref().unwrap_or_default();
        if !location.starts_with('/') {
            return Err(Error::invalid(field, "must be an absolute path"));
        }
        if location.contains(',') || kind.is_krunkit && location.contains('=') {
            let why = format!("{} cannot share a path with a comma or an equals sign over virtiofs", kind.program);
            return Err(Error::invalid(field, why));
        }
        warn_writable(kind, mount, index);
    }
    Ok(())
}

fn warn_writable(kind: &Kind, mount: &Mount, index: usize) {
    if mount.writable != Some(true) {
        let program = kind.program;
        tracing::warn!("{program} leaves it to the guest that mounts[{index}] is only read; reverse-sshfs does not");
    }
}

/// What Lima, too, leaves without effect.
fn warn(kind: &Kind, config: &Config) {
    let name = kind.name;
    if config.firmware.as_ref().and_then(|firmware| firmware.legacy_bios) == Some(true) {
        tracing::warn!("firmware.legacyBIOS has no effect with vmType {name}");
    }
    let word = config.video.as_ref().and_then(|video| video.display.as_deref()).unwrap_or_default();
    if !["", "none"].contains(&word) && !has_window(kind, config) {
        tracing::warn!("video.display {word:?} has no effect with vmType {name}");
    }
    if config.ssh.as_ref().and_then(|ssh| ssh.over_vsock) == Some(true) && kind.is_krunkit {
        tracing::warn!("ssh.overVsock is known not to work with krunkit and a recent systemd in the guest");
    }
    if kind.is_krunkit && config.images.iter().flatten().any(|image| image.kernel.is_some()) {
        tracing::warn!("images[].kernel has no effect with krunkit, which starts what is on the disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{KRUNKIT, VFKIT};

    fn instance(config: &str) -> Instance {
        let mut config: Config = serde_json::from_str(config).unwrap();
        config.arch = Some("aarch64".into());
        let (dir, arch) = ("/h/foo".into(), "aarch64".into());
        Instance { dir, arch, cpus: 1, memory: 1 << 30, config, ..Instance::default() }
    }

    fn why(kind: &Kind, config: &str) -> String {
        configure(kind, instance(config), "aarch64").unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_limas() {
        let config = configure(&VFKIT, instance("{}"), "aarch64").unwrap().config;
        assert_eq!((config.mount_type.as_deref(), config.ssh.unwrap().over_vsock), (Some("virtiofs"), Some(true)));
        let options = serde_json::json!({"rosetta": {"enabled": false, "binfmt": false}, "diskImageFormat": "raw"});
        assert_eq!(config.vm_opts.unwrap()["vz"], options);
        let config = configure(&KRUNKIT, instance("{}"), "aarch64").unwrap().config;
        assert_eq!((config.ssh.unwrap().over_vsock, config.vm_opts), (Some(false), None));
    }

    #[test]
    fn the_deprecated_rosetta_counts_where_the_new_one_is_silent() {
        let old = configure(&VFKIT, instance(r#"{"rosetta": {"enabled": true}}"#), "aarch64").unwrap();
        assert!(has_rosetta(&VFKIT, &old));
        let new = r#"{"rosetta": {"enabled": true}, "vmOpts": {"vz": {"rosetta": {"enabled": false}}}}"#;
        assert!(!has_rosetta(&VFKIT, &configure(&VFKIT, instance(new), "aarch64").unwrap()));
    }

    #[test]
    fn what_would_have_to_be_ignored_is_refused_by_name() {
        for (field, config) in [
            ("os", r#"{"os": "Darwin"}"#),
            ("os", r#"{"os": "Windows"}"#),
            ("tpm", r#"{"tpm": true}"#),
            ("firmware.images", r#"{"firmware": {"images": [{"location": "/a", "arch": "aarch64"}]}}"#),
            ("audio.device", r#"{"audio": {"device": "vz"}}"#),
            ("vmOpts.vz.diskImageFormat", r#"{"vmOpts": {"vz": {"diskImageFormat": "asif"}}}"#),
            ("vmOpts.vz.diskImageFormat", r#"{"vmOpts": {"vz": {"diskImageFormat": "qcow2"}}}"#),
            ("vmOpts.vz", r#"{"vmOpts": {"vz": {"arguments": ["-s"]}}}"#),
            ("networks[0].lima", r#"{"networks": [{"lima": "user-v2", "macAddress": "52:55:55:0:0:1"}]}"#),
            ("networks[0].socket", r#"{"networks": [{"socket": "/s", "macAddress": "52:55:55:0:0:1"}]}"#),
            ("networks[0].macAddress", r#"{"networks": [{"vzNAT": true}]}"#),
            ("mountType", r#"{"mountType": "9p", "mounts": [{"location": "/a"}]}"#),
            ("mounts[0].location", r#"{"mounts": [{"location": "a"}]}"#),
            ("mounts[0].location", r#"{"mounts": [{"location": "/a,b"}]}"#),
        ] {
            assert!(why(&VFKIT, config).starts_with(&format!("{field}: ")), "{field}: {}", why(&VFKIT, config));
        }
        let nat = r#"{"networks": [{"vzNAT": true, "macAddress": "52:55:55:0:0:1"}]}"#;
        assert!(why(&KRUNKIT, nat).starts_with("networks[0].vzNAT: "));
        let other = r#"{"firmware": {"images": [{"location": "/a", "vmType": "qemu"}]}, "audio": {"device": "none"}}"#;
        configure(&VFKIT, instance(other), "aarch64").unwrap();
    }

    #[test]
    fn another_architecture_and_a_path_that_would_be_split_are_refused() {
        let error = configure(&VFKIT, instance("{}"), "x86_64").unwrap_err().to_string();
        assert_eq!(error, "arch: vfkit runs guests of this machine's architecture only (x86_64)");
        for c in [',', ' ', '=', '%', '\u{e9}'] {
            let instance = Instance { dir: format!("/h{c}/foo").into(), ..instance("{}") };
            let error = configure(&VFKIT, instance, "aarch64").unwrap_err().to_string();
            assert!(error.starts_with("LIMA_HOME: vfkit cannot work in a path that contains"), "{error}");
        }
    }
}
