//! Lima's builtin defaults: after this every field that has a default has a value.
//! Decides by the document and the host alone; judges nothing (see `validate`).

mod forwards;
mod mounts;
mod networks;
mod scripts;
mod user;

use limafs_driver::{Config, Containerd, File, Firmware, HostResolver, Image, Kernel, Ssh};

use super::expand::Expander;
use super::layers::Stack;
use super::remarks::Remarks;
use super::{Context, format_size};
use crate::host::Host;

const GIB: u64 = 1 << 30;

const NERDCTL_RELEASE: &str = "https://github.com/containerd/nerdctl/releases/download/v2.3.5/nerdctl-full-2.3.5-linux";

/// Architecture, its name in the release, and the SHA-256 of the archive for it; what Lima has by default.
const NERDCTL: [(&str, &str, &str); 2] = [
    ("x86_64", "amd64", "b697295c623639734aaab737523c808fd3cc8d3046039fd94fff1744e4c317aa"),
    ("aarch64", "arm64", "6e4b687f1d138e750a3c8372abc0f81d3d7490b6359c48c0562fc7dfe98859b2"),
];

/// Fills what was not written, and expands variables. `written` is the instance's own document; the stack learns what
/// entries of lists were combined.
pub fn fill(
    mut config: Config,
    written: &Config,
    context: &Context,
    stack: &mut Stack,
    warnings: &mut Remarks,
) -> Config {
    // Texts are expanded with the instance's own parameters only, as in Lima: an override's is for scripts' environment.
    let param = std::mem::replace(&mut config.param, written.param.clone());
    machine(&mut config, context.host);
    images(&mut config);
    user::fill(&mut config, context, warnings);
    let expand = Expander::new(&config, context);
    config.param = param;
    stack.mounts = mounts::fill(&mut config, context, &expand, warnings);
    scripts::fill(&mut config, &expand, warnings);
    forwards::fill(&mut config, context, &expand, warnings);
    stack.networks = networks::fill(&mut config, context, stack);
    guest(&mut config, context.host);
    if config.plain == Some(true) {
        stack.forwards = Some(make_plain(&mut config));
    }
    config
}

/// A default for a field, unless it was written.
pub fn default<T>(field: &mut Option<T>, value: T) {
    field.get_or_insert(value);
}

/// The same for fields where an empty text and the word `default` stand for "not written".
fn default_word(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(|word| word.is_empty() || word == "default") {
        *field = Some(value.to_owned());
    }
}

/// What the machine is made of.
fn machine(config: &mut Config, host: &Host) {
    default_word(&mut config.os, "Linux");
    default_word(&mut config.arch, &host.arch);
    let native = config.arch.as_deref() == Some(&host.arch);
    let limas = if host.os == "Darwin" && native { "vz" } else { "qemu" };
    default_word(&mut config.vm_type, host.drivers.chosen.as_deref().unwrap_or(limas));
    if let Some(own) = config.vm_type.as_ref().and_then(|name| host.drivers.aliases.get(name)) {
        config.vm_type = Some(own.clone());
    }
    default(&mut config.vm_opts, Default::default());
    default(&mut config.os_opts, Default::default());
    default(&mut config.cpus, i64::from(host.cpus.clamp(1, 4)));
    default(&mut config.memory, format_size((host.memory / 2).min(4 * GIB)));
    default(&mut config.disk, format_size(100 * GIB));
    for disk in config.additional_disks.get_or_insert_default() {
        default(&mut disk.format, true);
    }
    default(&mut config.nested_virtualization, false);
    default(&mut config.tpm, false);
    let qemu = config.vm_type.as_deref() == Some("qemu");
    let audio = config.audio.get_or_insert_default();
    default(&mut audio.device, String::new());
    default(&mut audio.interface, String::new());
    let video = config.video.get_or_insert_default();
    default(&mut video.display, "none".into());
    if qemu {
        default(&mut video.vnc.get_or_insert_default().display, "127.0.0.1:0,to=9".into());
    }
}

fn images(config: &mut Config) {
    let Some(arch) = config.arch.clone() else { return };
    for image in config.images.get_or_insert_default() {
        let Image { arch: image_arch, kernel, initrd, .. } = image;
        let image_arch = image_arch.get_or_insert_with(|| arch.clone()).clone();
        if let Some(Kernel { arch, .. }) = kernel {
            default(arch, image_arch.clone());
        }
        if let Some(File { arch, .. }) = initrd {
            default(arch, image_arch);
        }
    }
    let Firmware { legacy_bios, images } = config.firmware.get_or_insert_default();
    default(legacy_bios, false);
    for image in images.get_or_insert_default() {
        default(&mut image.arch, arch.clone());
    }
}

/// What the guest is told, in order of the schema.
fn guest(config: &mut Config, host: &Host) {
    let Ssh { local_port, load_dot_ssh_pub_keys, forward_agent, forward_x11, forward_x11_trusted, over_vsock: _ } =
        config.ssh.get_or_insert_default();
    default(local_port, 0);
    for switch in [load_dot_ssh_pub_keys, forward_agent, forward_x11, forward_x11_trusted] {
        default(switch, false);
    }
    default(&mut config.upgrade_packages, false);
    containerd(config);
    default(&mut config.guest_install_prefix, "/usr/local".into());
    default(&mut config.env, Default::default());
    default(&mut config.param, Default::default());
    default(&mut config.dns, Vec::new());
    let HostResolver { enabled, ipv6, hosts } = config.host_resolver.get_or_insert_default();
    default(enabled, true);
    default(ipv6, false);
    default(hosts, Default::default());
    default(&mut config.propagate_proxy_env, true);
    let certs = config.ca_certs.get_or_insert_default();
    default(&mut certs.remove_defaults, false);
    default(&mut certs.files, Vec::new());
    default(&mut certs.certs, Vec::new());
    default(&mut config.plain, false);
    default(&mut config.timezone, host.timezone.clone());
}

/// Containers without root are there for whoever says nothing, where there is an archive for them and a driver of ours
/// that can give it to the guest.
fn containerd(config: &mut Config) {
    let is = |field: &Option<String>, words: &[&str]| field.as_deref().is_some_and(|word| words.contains(&word));
    let arches = &NERDCTL.map(|(arch, ..)| arch);
    let fits = is(&config.os, &["Linux"]) && is(&config.arch, arches) && is(&config.vm_type, &["qemu", "vz"]);
    let arch = config.arch.clone();
    let Containerd { system, user, archives } = config.containerd.get_or_insert_default();
    default(system, false);
    default(user, fits);
    let archives = archives.get_or_insert_default();
    if archives.is_empty() {
        *archives = NERDCTL.map(|(arch, name, digest)| nerdctl(arch, name, digest)).into();
    }
    for archive in archives {
        archive.arch = archive.arch.take().or(arch.clone());
    }
}

fn nerdctl(arch: &str, name: &str, digest: &str) -> File {
    let location = format!("{NERDCTL_RELEASE}-{name}.tar.gz");
    File { location: Some(location), arch: Some(arch.into()), digest: Some(format!("sha256:{digest}")) }
}

/// A plain guest gets nothing that needs our programs in it. Returns which port forwards stay.
fn make_plain(config: &mut Config) -> Vec<usize> {
    config.mounts = Some(Vec::new());
    config.timezone = Some(String::new());
    if let Some(containerd) = &mut config.containerd {
        containerd.system = Some(false);
        containerd.user = Some(false);
    }
    let rules = config.port_forwards.take().unwrap_or_default();
    let (kept, rules) = rules.into_iter().enumerate().filter(|(_, rule)| rule.is_static == Some(true)).unzip();
    config.port_forwards = Some(rules);
    kept
}
