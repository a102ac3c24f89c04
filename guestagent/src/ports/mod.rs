//! What listens in the guest: sockets of its own network namespace and services of Kubernetes.
//!
//! ```text
//! events (a thread sleeps until the kernel tells) --> diag (asks the kernel which sockets) --\
//!                                                           kubernetes (kubectl --watch) -----> state: GetInfo, GetEvents
//! ```
//! Nobody here asks again and again where the kernel can tell.

pub mod diag;
pub mod kubernetes;
pub mod perf;
mod procfs;
pub mod state;
pub mod watch;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::proto::IpPort;

/// A message of gRPC has at most 4 MiB; so many entries have a tenth of that.
pub const PORTS_MAX: usize = 16_384;

/// An entry, in the words of the protocol and of `event-state.json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    pub protocol: String,
    pub ip: String,
    pub port: u16,
}

pub type Ports = BTreeSet<Port>;

impl Default for Port {
    fn default() -> Self {
        Self::new("tcp", Ipv4Addr::UNSPECIFIED.into(), 0)
    }
}

impl Port {
    /// A v4 address that was mapped to v6 is said as v4.
    pub fn new(protocol: &str, ip: IpAddr, port: u16) -> Self {
        Self { protocol: protocol.to_owned(), ip: ip.to_canonical().to_string(), port }
    }
}

impl From<Port> for IpPort {
    fn from(Port { protocol, ip, port }: Port) -> Self {
        Self { protocol, ip, port: port.into() }
    }
}

/// The sockets, and those services whose port number no socket has.
pub fn merge(sockets: &Ports, services: &Ports) -> Ports {
    let taken: BTreeSet<u16> = sockets.iter().map(|port| port.port).collect();
    let free = services.iter().filter(|service| !taken.contains(&service.port));
    sockets.iter().chain(free).take(PORTS_MAX).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: &str, ip: &str, port: u16) -> Port {
        Port::new(protocol, ip.parse().unwrap(), port)
    }

    #[test]
    fn a_mapped_address_is_said_as_v4() {
        assert_eq!(port("tcp", "::ffff:127.0.0.1", 1).ip, "127.0.0.1");
        assert_eq!(port("tcp", "::", 1).ip, "::");
    }

    #[test]
    fn a_service_whose_number_is_taken_is_left_out_whatever_its_protocol() {
        let sockets = Ports::from([port("tcp", "127.0.0.1", 80)]);
        let services = Ports::from([port("udp", "0.0.0.0", 80), port("tcp", "0.0.0.0", 443)]);
        let expected = Ports::from([port("tcp", "127.0.0.1", 80), port("tcp", "0.0.0.0", 443)]);
        assert_eq!(merge(&sockets, &services), expected);
    }
}
