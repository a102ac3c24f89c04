//! Lima's `networks.yaml`: the networks that a lima.yaml may name. Pure: makes no network.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::Deserialize;

use crate::config::document::Document;
use crate::error::{Error, Result};
use crate::names::{NETWORKS_YAML, Name};

/// The document as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Networks {
    pub paths: Paths,
    /// Of the host's users who may start the helper.
    pub group: Option<String>,
    pub networks: BTreeMap<String, Network>,
}

/// Of the helper that makes networks on macOS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Paths {
    #[serde(rename = "socketVMNet")]
    pub socket_vmnet: Option<String>,
    #[serde(rename = "varRun")]
    pub var_run: Option<String>,
    pub sudoers: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    pub mode: Option<Mode>,
    /// The host's, for a bridged one.
    pub interface: Option<String>,
    pub gateway: Option<Ipv4Addr>,
    /// The last address that is given out.
    pub dhcp_end: Option<Ipv4Addr>,
    /// 255.255.255.0 where there is none.
    pub netmask: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Mode {
    UserV2,
    Host,
    Shared,
    Bridged,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::UserV2 => "user-v2",
            Self::Host => "host",
            Self::Shared => "shared",
            Self::Bridged => "bridged",
        })
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(word: String) -> std::result::Result<Self, String> {
        match word.as_str() {
            "user-v2" => Ok(Self::UserV2),
            "host" => Ok(Self::Host),
            "shared" => Ok(Self::Shared),
            "bridged" => Ok(Self::Bridged),
            _ => Err(format!("must be one of user-v2, host, shared, bridged, not {word:?}")),
        }
    }
}

/// More lines than this help nobody.
const MOST_FAULTS: usize = 50;
/// IFNAMSIZ of Linux, with its terminating NUL.
const INTERFACE_MAX: usize = 16;
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// Reads and validates; reports every fault together, as `Error::Document` of lines with their places. Keys that are
/// not known are passed over, as Lima does for documents of its older versions.
pub fn read(text: &[u8]) -> Result<Networks> {
    let document = Document::<Networks>::read(text, NETWORKS_YAML)?;
    let mut faults = Vec::new();
    for (name, network) in &document.value.networks {
        let field = format!("networks.{name}");
        if let Err(error) = Name::parse(name) {
            faults.push(document.fault(&field, &error.to_string()));
        }
        for (key, why) in faults_of(network) {
            faults.push(document.fault(&format!("{field}.{key}"), &why));
        }
    }
    if faults.is_empty() {
        return Ok(document.value);
    }
    let more = faults.len().saturating_sub(MOST_FAULTS);
    faults.truncate(MOST_FAULTS);
    faults.extend((more > 0).then(|| format!("and {more} more")));
    Err(Error::Document(faults))
}

/// What is wrong with a network, by key.
fn faults_of(network: &Network) -> Vec<(&'static str, String)> {
    let missing = match network.mode {
        None => Some("mode"),
        Some(Mode::Host | Mode::Shared) if network.gateway.is_none() => Some("gateway"),
        Some(Mode::Bridged) if network.interface.as_deref().unwrap_or_default().is_empty() => Some("interface"),
        _ => None,
    };
    let interface = network.interface.as_deref().and_then(|name| Some(("interface", interface_fault(name)?)));
    let missing = missing.map(|key| (key, "must be set".into()));
    missing.into_iter().chain(interface).chain(address_fault(network)).collect()
}

fn interface_fault(name: &str) -> Option<String> {
    if name.len() >= INTERFACE_MAX {
        return Some(format!("must have less than {INTERFACE_MAX} bytes"));
    }
    let is_bad = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    name.contains(is_bad).then(|| "must not contain white space or slashes".into())
}

fn address_fault(network: &Network) -> Option<(&'static str, String)> {
    let mask = network.netmask.unwrap_or(NETMASK).to_bits();
    // All ones in front, all zeros behind, and room for a gateway and a guest.
    if mask.leading_ones() + mask.trailing_zeros() != 32 || !(1..=30).contains(&mask.leading_ones()) {
        return Some(("netmask", format!("{} is no mask such as {NETMASK}", Ipv4Addr::from_bits(mask))));
    }
    let gateway = network.gateway?;
    let host = gateway.to_bits() & !mask;
    if gateway.is_loopback() || gateway.is_multicast() || gateway.is_unspecified() || host == 0 || host == !mask {
        return Some(("gateway", format!("{gateway} is no address of a host")));
    }
    let end = network.dhcp_end?;
    let is_within = end.to_bits() & mask == gateway.to_bits() & mask && end.to_bits() & !mask != !mask;
    (!is_within || end <= gateway).then(|| ("dhcpEnd", format!("{end} is not behind {gateway} in its network")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMAS: &str = "paths:\n  socketVMNet: /opt/socket_vmnet\n  varRun: /run/lima\n  sudoers: /etc/sudoers.d/lima\n\
        group: everyone\nnetworks:\n  user-v2: {mode: user-v2, gateway: 192.168.104.1, netmask: 255.255.255.0}\n  \
        shared: {mode: shared, gateway: 192.168.105.1, dhcpEnd: 192.168.105.254, netmask: 255.255.255.0}\n  \
        bridged: {mode: bridged, interface: en0}\n  host: {mode: host, gateway: 192.168.106.1}\n";

    #[test]
    fn what_lima_writes_is_read() {
        let read = read(LIMAS.as_bytes()).unwrap();
        assert_eq!(read.group.as_deref(), Some("everyone"));
        assert_eq!(read.paths.socket_vmnet.as_deref(), Some("/opt/socket_vmnet"));
        assert_eq!(read.networks.keys().collect::<Vec<_>>(), ["bridged", "host", "shared", "user-v2"]);
        let shared = Network {
            mode: Some(Mode::Shared),
            interface: None,
            gateway: Some(Ipv4Addr::new(192, 168, 105, 1)),
            dhcp_end: Some(Ipv4Addr::new(192, 168, 105, 254)),
            netmask: Some(NETMASK),
        };
        assert_eq!(read.networks["shared"], shared);
        assert_eq!(read.networks["bridged"].interface.as_deref(), Some("en0"));
    }

    #[test]
    fn little_is_enough_and_older_keys_pass() {
        for text in ["", "# nothing\n", "networks:\n", "paths: {vdeSwitch: /x}\nnetworks: {n: {mode: user-v2}}\n"] {
            read(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        }
    }

    #[test]
    fn a_fault_names_its_line() {
        for (network, told) in [
            ("mode: shard", "line 2, column 13: networks.n.mode: must be one of user-v2, host, shared, bridged"),
            ("gateway: 10.0.0.1", "line 2, column 3: networks.n.mode: must be set"),
            ("mode: shared", "line 2, column 3: networks.n.gateway: must be set"),
            ("mode: bridged", "networks.n.interface: must be set"),
            ("mode: bridged, interface: a/b", "interface: must not contain white space or slashes"),
            ("mode: bridged, interface: 0123456789abcdef", "interface: must have less than 16 bytes"),
            ("mode: host, gateway: 10.0.0", "networks.n.gateway: invalid IPv4 address"),
            ("mode: host, gateway: '::1'", "networks.n.gateway: invalid IPv4 address"),
            ("mode: host, gateway: 10.0.0.0", "gateway: 10.0.0.0 is no address of a host"),
            ("mode: host, gateway: 10.0.0.255", "gateway: 10.0.0.255 is no address of a host"),
            ("mode: host, gateway: 127.0.0.1", "gateway: 127.0.0.1 is no address of a host"),
            ("mode: host, gateway: 10.0.0.1, netmask: 255.0.255.0", "netmask: 255.0.255.0 is no mask"),
            ("mode: host, gateway: 10.0.0.1, netmask: 255.255.255.254", "netmask: 255.255.255.254 is no mask"),
            ("mode: host, gateway: 10.0.0.1, netmask: 0.0.0.0", "netmask: 0.0.0.0 is no mask"),
            ("mode: host, gateway: 10.0.0.1, dhcpEnd: 10.0.1.9", "dhcpEnd: 10.0.1.9 is not behind 10.0.0.1"),
            ("mode: host, gateway: 10.0.0.9, dhcpEnd: 10.0.0.5", "dhcpEnd: 10.0.0.5 is not behind 10.0.0.9"),
        ] {
            let error = read(format!("networks:\n  n: {{{network}}}\n").as_bytes()).unwrap_err();
            assert_eq!(error.errno(), libc::EINVAL);
            assert!(error.to_string().starts_with("networks.yaml: line 2, "), "{network}: {error}");
            assert!(error.to_string().contains(told), "{network}: {error}");
        }
    }

    #[test]
    fn names_are_those_that_a_lima_yaml_can_name() {
        let error = read(b"networks:\n  ok: {mode: user-v2}\n  a/b: {mode: user-v2}\n  _c: {}\n").unwrap_err();
        let told = error.to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].starts_with("networks.yaml: line 4, column 3: networks._c: name \"_c\": must be"), "{told}");
        assert!(lines[1].starts_with("networks.yaml: line 4, column 3: networks._c.mode: must be set"), "{told}");
        assert!(lines[2].starts_with("networks.yaml: line 3, column 3: networks.a/b: name"), "{told}");
    }

    #[test]
    fn faults_are_bounded() {
        let text: String = (0..500).map(|n| format!("  n{n}: {{}}\n")).collect();
        let told = read(format!("networks:\n{text}").as_bytes()).unwrap_err().to_string();
        assert_eq!(told.lines().count(), MOST_FAULTS + 1);
        assert!(told.ends_with("and 450 more"), "{told}");
    }
}
