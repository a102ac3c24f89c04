//! Which host address a listener of the guest gets: Lima's rules, in order, the first that matches. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use limafs_driver::PortForward;

const ALL_PORTS: Ports = Ports { first: 1, last: 65535 };
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const SSH: u16 = 22;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    Tcp,
    Udp,
}

impl Proto {
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => None,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Who listens in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    pub proto: Proto,
    pub address: SocketAddr,
}

/// Where the host listens, or, reversed, what it dials.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostEnd {
    Address(SocketAddr),
    Socket(PathBuf),
}

impl fmt::Display for HostEnd {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// What becomes of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// `asked`: a rule of lima.yaml says so, not only the one that is implied.
    Forward {
        host: HostEnd,
        asked: bool,
    },
    Ignored,
    /// A static rule names its port: it is forwarded, or not, whatever listens.
    Static,
}

/// A forward that is there whatever listens in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fixed {
    /// To a TCP address of the guest.
    Tcp { host: HostEnd, guest: SocketAddr },
    /// To a socket of the guest.
    Socket { host: HostEnd, guest: String },
    /// From a socket of the guest to one of the host.
    Reverse { host: PathBuf, guest: String },
}

/// Whether a rule is of a socket in the guest, rather than of ports.
pub fn has_guest_socket(forward: &PortForward) -> bool {
    forward.guest_socket.as_deref().is_some_and(|socket| !socket.is_empty())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    fn of(range: Option<[i64; 2]>) -> Option<Self> {
        let [first, last] = range?;
        Some(Self { first: u16::try_from(first).ok()?, last: u16::try_from(last).ok()? })
    }

    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

#[derive(Debug, Clone)]
struct Rule {
    /// `None` is any.
    proto: Option<Proto>,
    guest_ip: IpAddr,
    must_be_zero: bool,
    guest: Ports,
    host: Host,
    ignore: bool,
    implied: bool,
}

#[derive(Debug, Clone)]
enum Host {
    Ports(IpAddr, u16),
    Socket(PathBuf),
}

/// The rules of one instance in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    list: Vec<Rule>,
    fixed: Vec<Fixed>,
    static_ports: Vec<Ports>,
    quiet: Vec<Proto>,
}

impl Rules {
    /// From `portForwards` as they were filled. A plain instance has its static rules only.
    pub fn new(configured: &[PortForward], ssh_local_port: u16, plain: bool) -> Self {
        let mut rules = Self::default();
        for port in [SSH, ssh_local_port] {
            rules.list.push(Rule::never(port));
        }
        for forward in configured {
            let is_static = forward.is_static == Some(true);
            if is_static || !plain {
                rules.add(forward, is_static);
            }
        }
        rules.quiet = quiet(configured);
        match plain {
            true => rules.list.clear(),
            false => rules.list.push(Rule::otherwise()),
        }
        rules
    }

    fn add(&mut self, forward: &PortForward, is_static: bool) {
        let has_guest_socket = has_guest_socket(forward);
        let Some(rule) = Rule::of(forward) else { return };
        if has_guest_socket || is_static {
            self.static_ports.extend((is_static && !has_guest_socket).then_some(rule.guest));
            if !rule.ignore {
                self.fixed.extend(rule.fixed(forward));
            }
        } else {
            self.list.push(rule);
        }
    }

    /// What is forwarded whatever listens.
    pub fn fixed(&self) -> &[Fixed] {
        &self.fixed
    }

    /// What becomes of a listener of the guest.
    pub fn decide(&self, listener: &Listener) -> Verdict {
        let port = listener.address.port();
        if self.static_ports.iter().any(|ports| ports.contains(port)) {
            return Verdict::Static;
        }
        for rule in self.list.iter().filter(|rule| rule.matches(listener)) {
            if !rule.ignore {
                let asked = !rule.implied;
                return rule.host_of(listener).map_or(Verdict::Ignored, |host| Verdict::Forward { host, asked });
            }
            // Ignoring one address does not hide what listens on all of them.
            if !listener.address.ip().is_unspecified() || rule.guest_ip.is_unspecified() {
                return Verdict::Ignored;
            }
        }
        Verdict::Ignored
    }

    /// Whether the user does not want to hear of what is not forwarded.
    pub fn is_quiet(&self, proto: Proto) -> bool {
        self.quiet.contains(&proto)
    }
}

impl Rule {
    fn never(port: u16) -> Self {
        Self {
            proto: None,
            guest_ip: Ipv4Addr::UNSPECIFIED.into(),
            must_be_zero: false,
            guest: Ports { first: port, last: port },
            host: Host::Ports(LOOPBACK, port),
            ignore: true,
            implied: true,
        }
    }

    fn otherwise() -> Self {
        Self {
            proto: None,
            guest_ip: LOOPBACK,
            must_be_zero: false,
            guest: ALL_PORTS,
            host: Host::Ports(LOOPBACK, ALL_PORTS.first),
            ignore: false,
            implied: true,
        }
    }

    /// `None` for what validation refuses.
    fn of(forward: &PortForward) -> Option<Self> {
        let proto = forward.proto.as_deref().and_then(Proto::parse);
        let guest_ip: IpAddr = forward.guest_ip.as_deref()?.parse().ok()?;
        let host = match forward.host_socket.as_deref() {
            Some(socket) if !socket.is_empty() => Host::Socket(socket.into()),
            _ => Host::Ports(forward.host_ip.as_deref()?.parse().ok()?, Ports::of(forward.host_port_range)?.first),
        };
        Some(Self {
            proto,
            guest_ip,
            must_be_zero: forward.guest_ip_must_be_zero == Some(true),
            guest: Ports::of(forward.guest_port_range)?,
            host,
            ignore: forward.ignore == Some(true),
            implied: false,
        })
    }

    fn matches(&self, listener: &Listener) -> bool {
        let ip = listener.address.ip();
        let address_matches = ip.is_unspecified()
            || ip == self.guest_ip
            || (ip == LOOPBACK_6 && self.guest_ip == LOOPBACK)
            || (self.guest_ip.is_unspecified() && !self.must_be_zero);
        self.proto.is_none_or(|proto| proto == listener.proto)
            && self.guest.contains(listener.address.port())
            && address_matches
    }

    /// `None` where the host has no such port, or no such kind of socket.
    fn host_of(&self, listener: &Listener) -> Option<HostEnd> {
        match &self.host {
            Host::Socket(path) => (listener.proto == Proto::Tcp).then(|| HostEnd::Socket(path.clone())),
            Host::Ports(..) => self.host_at(listener.address.port()),
        }
    }

    /// The host's end for a port in the rule's range.
    fn host_at(&self, port: u16) -> Option<HostEnd> {
        match &self.host {
            Host::Socket(path) => Some(HostEnd::Socket(path.clone())),
            Host::Ports(ip, first) => {
                let port = first.checked_add(port.checked_sub(self.guest.first)?)?;
                Some(HostEnd::Address(SocketAddr::new(*ip, port)))
            }
        }
    }

    /// The forwards of a rule that does not wait for a listener.
    fn fixed(&self, forward: &PortForward) -> Vec<Fixed> {
        let guest_socket = forward.guest_socket.clone().filter(|socket| !socket.is_empty());
        match (guest_socket, &self.host) {
            (Some(guest), Host::Socket(host)) if forward.reverse == Some(true) => {
                vec![Fixed::Reverse { host: host.clone(), guest }]
            }
            (Some(_), _) if forward.reverse == Some(true) => vec![],
            (Some(guest), Host::Socket(host)) => vec![Fixed::Socket { host: HostEnd::Socket(host.clone()), guest }],
            (Some(guest), Host::Ports(ip, port)) => {
                vec![Fixed::Socket { host: HostEnd::Address(SocketAddr::new(*ip, *port)), guest }]
            }
            (None, _) if self.proto == Some(Proto::Udp) => vec![],
            (None, _) => (self.guest.first..=self.guest.last)
                .filter_map(|port| {
                    Some(Fixed::Tcp { host: self.host_at(port)?, guest: SocketAddr::new(self.guest_ip, port) })
                })
                .collect(),
        }
    }
}

/// The protocols that the first rules ignore on all ports: whoever writes that wants to hear nothing more of it.
fn quiet(configured: &[PortForward]) -> Vec<Proto> {
    let everything =
        |forward: &&PortForward| forward.ignore == Some(true) && Ports::of(forward.guest_port_range) == Some(ALL_PORTS);
    let mut quiet = Vec::new();
    for forward in configured.iter().take_while(everything) {
        match forward.proto.as_deref().and_then(Proto::parse) {
            Some(proto) => quiet.push(proto),
            None => quiet.extend([Proto::Tcp, Proto::Udp]),
        }
    }
    quiet
}

#[cfg(test)]
mod tests;
