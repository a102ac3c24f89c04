//! The `KEY=VALUE` files: lima.env, param.env, etc_environment.
//! Read line by line in the guest and never by a shell, so that values need no quoting; they must not contain line breaks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use limafs_driver::Config;

use super::{ARCHIVE_SERIAL, Archive, Entry, Guest, certificates, has_user_network, one_line, provision, required};
use crate::error::{Error, Result};

/// Begins a line that is on every disk of ours and on none of Lima's.
pub const MARK: &str = "LIMAFS_BOOT_PORT=";

const PROXIES: [&str; 4] = ["ftp_proxy", "http_proxy", "https_proxy", "no_proxy"];
// What the drivers' user network looks like from the guest.
pub const GATEWAY: &str = "192.168.5.2";
const DNS: &str = "192.168.5.3";
pub const ADDRESS: &str = "192.168.5.15";

pub fn entries(guest: &Guest, iid: &str) -> Result<[Entry; 3]> {
    let mut param_env = params(guest.config)?.join("\n");
    param_env.extend((!param_env.is_empty()).then_some('\n'));
    Ok([
        Entry::text("lima.env", lima_env(guest, iid)?),
        Entry::text("param.env", param_env),
        Entry::text("etc_environment", environment(guest)?),
    ])
}

/// `PARAM_NAME=VALUE`, in the order of names.
pub fn params(config: &Config) -> Result<Vec<String>> {
    let line = |(key, value): (&String, &String)| {
        let what = format!("param.{key}");
        is_name(key).then_some(()).ok_or_else(|| Error::invalid(&*what, "is no valid name"))?;
        Ok(format!("PARAM_{key}={}", one_line(&what, value)?))
    };
    config.param.iter().flatten().map(line).collect()
}

/// What logins find in their environment, a line each: `env` and the proxies.
pub fn environment(guest: &Guest) -> Result<String> {
    let mut values = BTreeMap::new();
    for (key, value) in guest.config.env.iter().flatten() {
        let what = format!("env.{key}");
        is_name(key).then_some(()).ok_or_else(|| Error::invalid(&*what, "is no valid name"))?;
        values.insert(key.clone(), one_line(&what, value)?.to_owned());
    }
    add_proxies(&mut values, guest)?;
    Ok(values.iter().map(|(key, value)| format!("{key}={value}\n")).collect())
}

/// The host's proxies win over `env`, lower case over upper case; both spellings are set.
fn add_proxies(values: &mut BTreeMap<String, String>, guest: &Guest) -> Result<()> {
    let propagate = guest.config.propagate_proxy_env.unwrap_or(true);
    let gateway = has_user_network(guest.features).then_some(GATEWAY);
    for lower in PROXIES {
        let upper = lower.to_ascii_uppercase();
        let of_host = [lower, &upper].into_iter().filter(|_| propagate).find_map(|key| guest.host_env.get(key));
        let found = of_host.or_else(|| values.get(lower)).or_else(|| values.get(&upper)).cloned();
        values.retain(|key, _| key != lower && *key != upper);
        let Some(value) = found.filter(|value| !value.is_empty()) else { continue };
        let seen = if lower == "no_proxy" { Some(value) } else { seen_from_guest(&value, gateway) };
        let Some(value) = seen else { continue };
        one_line(lower, &value)?;
        values.extend([lower.to_owned(), upper].map(|key| (key, value.clone())));
    }
    Ok(())
}

/// A proxy on the host's loopback is at the gateway for the guest, and out of reach where that is not known.
fn seen_from_guest(url: &str, gateway: Option<&str>) -> Option<String> {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, address) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let end = if address.starts_with('[') { address.find(']').map(|at| at + 1) } else { address.find(':') };
    let (host, port) = address.split_at(end.unwrap_or(address.len()));
    let is_local = host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
        || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback());
    if !is_local {
        return Some(url.to_owned());
    }
    let gateway = gateway?;
    let separator = if scheme.is_empty() { "" } else { "://" };
    Some(format!("{scheme}{separator}{user}{gateway}{port}{path}"))
}

fn lima_env(guest: &Guest, iid: &str) -> Result<String> {
    let config = guest.config;
    let user = config.user.clone().unwrap_or_default();
    let containerd = config.containerd.clone().unwrap_or_default();
    let flag = |on: Option<bool>| if on.unwrap_or(false) { "1" } else { "" }.to_owned();
    let text = |key: &str, value: Option<&str>| Ok::<_, Error>(one_line(key, value.unwrap_or_default())?.to_owned());
    let features = guest.features;
    let has_network = has_user_network(features);
    let address = |address: &str| if has_network { address } else { "" }.to_owned();
    // Not as the other flags: Lima's scripts look for these words.
    let rosetta = |on: bool| (on && config.plain != Some(true)).to_string();
    let uid = user.uid.ok_or_else(|| Error::invalid("user.uid", "is not set"))?;
    let mut lines: Vec<(String, String)> = [
        ("IID", iid.to_owned()),
        ("NAME", guest.name.to_string()),
        ("USER", required("user.name", user.name.as_deref())?.to_owned()),
        ("UID", uid.to_string()),
        ("COMMENT", text("user.comment", user.comment.as_deref())?),
        ("HOME", required("user.home", user.home.as_deref())?.to_owned()),
        ("SHELL", required("user.shell", user.shell.as_deref())?.to_owned()),
        ("MOUNTTYPE", text("mountType", config.mount_type.as_deref())?),
        ("GUEST_INSTALL_PREFIX", text("guestInstallPrefix", config.guest_install_prefix.as_deref())?),
        ("UPGRADE_PACKAGES", flag(config.upgrade_packages)),
        ("CONTAINERD_USER", flag(containerd.user)),
        ("CONTAINERD_SYSTEM", flag(containerd.system)),
        ("SLIRP_DNS", address(DNS)),
        ("SLIRP_GATEWAY", address(GATEWAY)),
        ("SLIRP_IP_ADDRESS", address(ADDRESS)),
        ("UDP_DNS_LOCAL_PORT", guest.dns.map_or_else(String::new, |(udp, _)| udp.to_string())),
        ("TCP_DNS_LOCAL_PORT", guest.dns.map_or_else(String::new, |(_, tcp)| tcp.to_string())),
        ("ROSETTA_ENABLED", rosetta(features.rosetta_enabled)),
        ("ROSETTA_BINFMT", rosetta(features.rosetta_bin_fmt)),
        ("VMTYPE", text("vmType", config.vm_type.as_deref())?),
        ("VSOCK_PORT", guest.vsock_port.to_string()),
        ("VIRTIO_PORT", text("virtio port", Some(guest.virtio_port))?),
        ("PLAIN", flag(config.plain)),
        ("NO_CLOUD_INIT", flag(Some(features.no_cloud_init))),
        ("SKIP_DEFAULT_DEPENDENCY_RESOLUTION", flag(Some(provision::skips_packages(config)))),
        ("PASSWORDLESS_SUDO", flag(Some(user.passwordless_sudo.unwrap_or(true)))),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    lines.extend(mounts(config)?);
    lines.extend(disks(config)?);
    lines.extend(networks(guest)?);
    lines.extend(provision::files_env(config)?);
    let mut text: String = lines.iter().map(|(key, value)| format!("LIMA_CIDATA_{key}={value}\n")).collect();
    let remove = if certificates::removes_defaults(config) { "1" } else { "" };
    let zone = one_line("timezone", config.timezone.as_deref().unwrap_or_default())?;
    let port = one_line("boot port", guest.boot_port)?;
    text.push_str(&format!("{MARK}{port}\nLIMAFS_TIMEZONE={zone}\nLIMAFS_CA_REMOVE_DEFAULTS={remove}\n"));
    if let Some(Archive { id, size }) = guest.archive {
        let id = one_line("archive", id)?;
        for (key, value) in [("SERIAL", ARCHIVE_SERIAL), ("ID", id), ("SIZE", &size.to_string())] {
            text.push_str(&format!("LIMAFS_ARCHIVE_{key}={value}\n"));
        }
    }
    text.push_str(&super::mounts::env(config)?);
    Ok(text)
}

fn mounts(config: &Config) -> Result<Vec<(String, String)>> {
    let mounts = config.mounts.as_deref().unwrap_or_default();
    let mut lines = vec![("MOUNTS".to_owned(), mounts.len().to_string())];
    for (index, mount) in mounts.iter().enumerate() {
        let point = mount.mount_point.as_deref().or(mount.location.as_deref());
        let point = required(&format!("mounts[{index}].mountPoint"), point)?;
        lines.push((format!("MOUNTS_{index}_MOUNTPOINT"), point.to_owned()));
    }
    Ok(lines)
}

fn networks(guest: &Guest) -> Result<Vec<(String, String)>> {
    let mut lines = vec![("NETS".to_owned(), guest.networks.len().to_string())];
    for (index, network) in guest.networks.iter().enumerate() {
        let interface = one_line(&format!("networks[{index}].interface"), &network.interface)?;
        let mac = one_line(&format!("networks[{index}].macAddress"), &network.mac)?.to_ascii_lowercase();
        let fields = [("INTERFACE", interface.to_owned()), ("MAC", mac), ("ADDRESS", network.address.clone())];
        lines.extend(fields.map(|(key, value)| (format!("NET_{index}_{key}"), value)));
    }
    Ok(lines)
}

/// `DEVICE` is what Lima says; our own scripts go by the serial number.
fn disks(config: &Config) -> Result<Vec<(String, String)>> {
    let disks = config.additional_disks.as_deref().unwrap_or_default();
    let mut lines = vec![("DISKS".to_owned(), disks.len().to_string())];
    for (index, (disk, letter)) in disks.iter().zip('b'..='z').enumerate() {
        let field = |name: &str| format!("additionalDisks[{index}].{name}");
        let args = disk.fs_args.as_deref().unwrap_or_default().join(" ");
        let fields = [
            ("NAME", one_line(&field("name"), &disk.name)?.to_owned()),
            ("DEVICE", format!("vd{letter}")),
            ("FORMAT", disk.format.unwrap_or(true).to_string()),
            ("FSTYPE", one_line(&field("fsType"), disk.fs_type.as_deref().unwrap_or("ext4"))?.to_owned()),
            ("FSARGS", one_line(&field("fsArgs"), &args)?.to_owned()),
        ];
        lines.extend(fields.map(|(key, value)| (format!("DISK_{index}_{key}"), value)));
    }
    Ok(lines)
}

/// What every shell accepts as the name of a variable.
fn is_name(key: &str) -> bool {
    let mut bytes = key.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
