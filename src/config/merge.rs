//! One document on top of another, as Lima merges `override.yaml`, lima.yaml and `default.yaml` at every load.
//! Pure tables of rules; documents that a lima.yaml is built upon follow others (see `embed`).
//!
//! A value of higher priority wins; maps are merged key by key; lists are joined, the higher first. Mount entries and
//! networks are joined the other way round, because `fill` lets later entries change earlier ones.
//! Merging is associative, so that any number of documents may be merged in any grouping.

use std::collections::{BTreeMap, BTreeSet};

use limafs_driver::{Audio, CaCerts, Config, Containerd, Firmware, HostResolver, Rosetta, Ssh, User, Video, Vnc};

/// `high` on top of `low`.
pub fn merge(high: Config, low: Config) -> Config {
    Config {
        minimum_lima_version: high.minimum_lima_version.or(low.minimum_lima_version),
        base: high.base.or(low.base),
        vm_type: high.vm_type.or(low.vm_type),
        vm_opts: table(high.vm_opts, low.vm_opts),
        os: high.os.or(low.os),
        arch: high.arch.or(low.arch),
        images: joined(high.images, low.images),
        cpu_type: table(high.cpu_type, low.cpu_type),
        cpus: high.cpus.or(low.cpus),
        memory: high.memory.or(low.memory),
        disk: high.disk.or(low.disk),
        additional_disks: joined(high.additional_disks, low.additional_disks),
        mounts: joined(low.mounts, high.mounts),
        mount_types_unsupported: unique(high.mount_types_unsupported, low.mount_types_unsupported),
        mount_type: high.mount_type.or(low.mount_type),
        mount_inotify: high.mount_inotify.or(low.mount_inotify),
        ssh: nested(high.ssh, low.ssh, ssh),
        firmware: nested(high.firmware, low.firmware, firmware),
        audio: nested(high.audio, low.audio, audio),
        video: nested(high.video, low.video, video),
        provision: joined(high.provision, low.provision),
        upgrade_packages: high.upgrade_packages.or(low.upgrade_packages),
        containerd: nested(high.containerd, low.containerd, containerd),
        guest_install_prefix: high.guest_install_prefix.or(low.guest_install_prefix),
        probes: joined(high.probes, low.probes),
        port_forwards: joined(high.port_forwards, low.port_forwards),
        copy_to_host: joined(high.copy_to_host, low.copy_to_host),
        message: high.message.or(low.message),
        networks: joined(low.networks, high.networks),
        env: table(high.env, low.env),
        param: table(high.param, low.param),
        dns: high.dns.filter(|servers| !servers.is_empty()).or(low.dns),
        host_resolver: nested(high.host_resolver, low.host_resolver, host_resolver),
        propagate_proxy_env: high.propagate_proxy_env.or(low.propagate_proxy_env),
        ca_certs: nested(high.ca_certs, low.ca_certs, ca_certs),
        rosetta: nested(high.rosetta, low.rosetta, rosetta),
        plain: high.plain.or(low.plain),
        timezone: high.timezone.or(low.timezone),
        nested_virtualization: high.nested_virtualization.or(low.nested_virtualization),
        user: nested(high.user, low.user, user),
        tpm: high.tpm.or(low.tpm),
        os_opts: table(high.os_opts, low.os_opts),
    }
}

fn ssh(high: Ssh, low: Ssh) -> Ssh {
    Ssh {
        local_port: high.local_port.or(low.local_port),
        load_dot_ssh_pub_keys: high.load_dot_ssh_pub_keys.or(low.load_dot_ssh_pub_keys),
        forward_agent: high.forward_agent.or(low.forward_agent),
        forward_x11: high.forward_x11.or(low.forward_x11),
        forward_x11_trusted: high.forward_x11_trusted.or(low.forward_x11_trusted),
        over_vsock: high.over_vsock.or(low.over_vsock),
    }
}

fn firmware(high: Firmware, low: Firmware) -> Firmware {
    Firmware { legacy_bios: high.legacy_bios.or(low.legacy_bios), images: joined(high.images, low.images) }
}

fn audio(high: Audio, low: Audio) -> Audio {
    Audio { device: high.device.or(low.device), interface: high.interface.or(low.interface) }
}

fn video(high: Video, low: Video) -> Video {
    let vnc = |high: Vnc, low: Vnc| Vnc { display: high.display.or(low.display) };
    Video { display: high.display.or(low.display), vnc: nested(high.vnc, low.vnc, vnc) }
}

fn containerd(high: Containerd, low: Containerd) -> Containerd {
    Containerd {
        system: high.system.or(low.system),
        user: high.user.or(low.user),
        archives: joined(high.archives, low.archives),
    }
}

fn host_resolver(high: HostResolver, low: HostResolver) -> HostResolver {
    HostResolver {
        enabled: high.enabled.or(low.enabled),
        ipv6: high.ipv6.or(low.ipv6),
        hosts: table(high.hosts, low.hosts),
    }
}

fn ca_certs(high: CaCerts, low: CaCerts) -> CaCerts {
    CaCerts {
        remove_defaults: high.remove_defaults.or(low.remove_defaults),
        files: unique(low.files, high.files),
        certs: unique(low.certs, high.certs),
    }
}

fn rosetta(high: Rosetta, low: Rosetta) -> Rosetta {
    Rosetta { enabled: high.enabled.or(low.enabled), bin_fmt: high.bin_fmt.or(low.bin_fmt) }
}

fn user(high: User, low: User) -> User {
    User {
        name: high.name.or(low.name),
        comment: high.comment.or(low.comment),
        home: high.home.or(low.home),
        shell: high.shell.or(low.shell),
        uid: high.uid.or(low.uid),
        passwordless_sudo: high.passwordless_sudo.or(low.passwordless_sudo),
    }
}

fn nested<T>(high: Option<T>, low: Option<T>, merge: fn(T, T) -> T) -> Option<T> {
    match (high, low) {
        (Some(high), Some(low)) => Some(merge(high, low)),
        (high, low) => high.or(low),
    }
}

fn joined<T>(first: Option<Vec<T>>, second: Option<Vec<T>>) -> Option<Vec<T>> {
    nested(first, second, |mut first, second| {
        first.extend(second);
        first
    })
}

/// The same without what is there already.
fn unique(first: Option<Vec<String>>, second: Option<Vec<String>>) -> Option<Vec<String>> {
    let mut list = joined(first, second)?;
    let mut seen = BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
    Some(list)
}

/// A whole value for each key: what is inside is not merged.
fn table<T>(high: Option<BTreeMap<String, T>>, low: Option<BTreeMap<String, T>>) -> Option<BTreeMap<String, T>> {
    nested(high, low, |high, mut low| {
        low.extend(high);
        low
    })
}
