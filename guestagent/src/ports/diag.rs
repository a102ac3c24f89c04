//! Asks the kernel which sockets listen: sock_diag(7), one dump for each protocol and family. The kernel filters by state.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, socket_with, sockopt};

use super::{PORTS_MAX, Port, Ports, procfs};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST and NLM_F_DUMP.
const DUMP: u16 = 0x301;
const NETLINK_HEAD: usize = 16;
const REQUEST: usize = NETLINK_HEAD + 56;
/// struct inet_diag_msg.
const ANSWER: usize = 72;

/// What is asked for: TCP_LISTEN is 10; a UDP socket without a peer is in TCP_CLOSE, 7.
struct Kind {
    name: &'static str,
    protocol: i32,
    family: i32,
    state: u32,
    /// The same below /proc/net.
    file: &'static str,
    /// Small kernels come without the modules that answer, or without a family.
    is_absent: AtomicBool,
}

const fn kind(name: &'static str, protocol: i32, family: i32, state: u32, file: &'static str) -> Kind {
    Kind { name, protocol, family, state, file, is_absent: AtomicBool::new(false) }
}

static KINDS: [Kind; 4] = [
    kind("tcp", libc::IPPROTO_TCP, libc::AF_INET, 10, "tcp"),
    kind("tcp", libc::IPPROTO_TCP, libc::AF_INET6, 10, "tcp6"),
    kind("udp", libc::IPPROTO_UDP, libc::AF_INET, 7, "udp"),
    kind("udp", libc::IPPROTO_UDP, libc::AF_INET6, 7, "udp6"),
];

/// What listens now, at most [`PORTS_MAX`] entries. The kernel answers at once.
pub fn listening() -> io::Result<Ports> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(2)))?;
    let mut ports = Ports::new();
    let mut failed = None;
    let mut answered = false;
    for kind in &KINDS {
        match list(&socket, kind, &mut ports) {
            Ok(()) => answered = true,
            Err(error) => failed = Some(error),
        }
    }
    failed.filter(|_| !answered).map_or(Ok(ports), Err)
}

fn list(socket: &OwnedFd, kind: &Kind, ports: &mut Ports) -> io::Result<()> {
    if !kind.is_absent.load(Relaxed) {
        match dump(socket, kind, ports) {
            // Asked again, the kernel would start a modprobe each time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => kind.is_absent.store(true, Relaxed),
            listed => return listed,
        }
    }
    procfs::listening(kind.file, kind.name, kind.state, ports)
}

fn dump(socket: &OwnedFd, kind: &Kind, ports: &mut Ports) -> io::Result<()> {
    rustix::net::send(socket, &request(kind), SendFlags::empty())?;
    let mut buffer = vec![0; 32 << 10];
    loop {
        let (count, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        if take(&buffer[..count.min(buffer.len())], kind.name, ports)? {
            return Ok(());
        }
    }
}

/// struct nlmsghdr and struct inet_diag_req_v2, whose socket id is all zeros: any.
fn request(kind: &Kind) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[16] = kind.family as u8;
    request[17] = kind.protocol as u8;
    request[20..24].copy_from_slice(&(1_u32 << kind.state).to_ne_bytes());
    request
}

/// Takes what one read brought. Says whether it was the last of the dump.
fn take(mut messages: &[u8], name: &str, ports: &mut Ports) -> io::Result<bool> {
    while let Some((head, _)) = messages.split_at_checked(NETLINK_HEAD) {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(body) = messages.get(NETLINK_HEAD..length) else { break };
        match u16::from_ne_bytes([head[4], head[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(error(body)),
            SOCK_DIAG_BY_FAMILY if ports.len() < PORTS_MAX => ports.extend(port(body, name)),
            _ => {}
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn error(body: &[u8]) -> io::Error {
    let code = body.first_chunk().map_or(-libc::EPROTO, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(-code)
}

fn port(body: &[u8], name: &str) -> Option<Port> {
    let answer = body.get(..ANSWER)?;
    let number = u16::from_be_bytes([answer[4], answer[5]]);
    let ip = if i32::from(answer[0]) == libc::AF_INET {
        IpAddr::from(Ipv4Addr::from(*answer[8..].first_chunk::<4>()?))
    } else {
        IpAddr::from(Ipv6Addr::from(*answer[8..].first_chunk::<16>()?))
    };
    // A UDP socket that was never bound has no port.
    (number != 0).then(|| Port::new(name, ip, number))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn of(protocol: &str, address: std::net::SocketAddr) -> Port {
        Port::new(protocol, address.ip(), address.port())
    }

    #[test]
    fn listeners_and_unconnected_udp_sockets_are_found_and_nothing_else() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect("127.0.0.1:9").unwrap();
        let found = listening().unwrap();
        assert!(found.contains(&of("tcp", tcp.local_addr().unwrap())));
        assert!(found.contains(&of("udp", udp.local_addr().unwrap())));
        assert!(!found.contains(&of("tcp", client.local_addr().unwrap())));
        assert!(!found.contains(&of("udp", connected.local_addr().unwrap())));
    }

    #[test]
    fn v6_listeners_are_found() {
        let Ok(tcp) = TcpListener::bind("[::1]:0") else { return };
        assert!(listening().unwrap().contains(&of("tcp", tcp.local_addr().unwrap())));
    }

    #[test]
    fn broken_answers_are_no_ports_and_no_panic() {
        let mut whole = 88_u32.to_ne_bytes().to_vec();
        whole.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        whole.resize(88, 7);
        for cut in 0..whole.len() {
            let mut ports = Ports::new();
            assert!(!take(&whole[..cut], "tcp", &mut ports).unwrap());
            assert!(ports.is_empty(), "{cut}");
        }
        let mut ports = Ports::new();
        take(&whole, "tcp", &mut ports).unwrap();
        assert_eq!(ports.len(), 1);
        take(&[0; 64], "tcp", &mut ports).unwrap();
    }
}
